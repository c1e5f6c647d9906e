"""The Arrow stream format, which has no footer: read in parts by the places of its messages."""

from __future__ import annotations

import re
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.errors import ChunkReadError
from streamgmm.sources import limit_chunks, open_source
from streamgmm.stream.connectors import connect
from tests.helpers.chunks import check_chunks, read

RNG = np.random.default_rng(2)
X = RNG.normal(size=(1000, 3))
HOLES = np.arange(1000) % 50 == 7


def batches(x=X, rows=100):
    """Doubles, a column with nulls, numbers in a dictionary that grows from batch to batch, and lists."""
    for i in range(0, len(x), rows):
        part = x[i : i + rows]
        code = pa.array(np.arange(len(part)) // 10 + i // 100, pa.int32()).dictionary_encode()
        lists = pa.array(part[:, 1:].tolist(), pa.list_(pa.float64()))
        yield pa.record_batch(
            {"a": part[:, 0], "b": pa.array(part[:, 1], mask=HOLES[i : i + rows]), "code": code, "v": lists}
        )


def expected(x=X, rows=100):
    code = np.concatenate([np.arange(len(x[i : i + rows])) // 10 + i // 100 for i in range(0, len(x), rows)])
    return np.column_stack([x[:, 0], np.where(HOLES[: len(x)], np.nan, x[:, 1]), code, x[:, 1:]])


def write(path, parts, compression=None, deltas=False, legacy=False):
    version = {"use_legacy_format": True, "metadata_version": pa.ipc.MetadataVersion.V4} if legacy else {}
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=deltas, **version)
    parts = list(parts)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, parts[0].schema, options=options) as writer:
        for part in parts:
            writer.write_batch(part)
    return path


@pytest.mark.parametrize("options", [{}, {"deltas": True}, {"compression": "lz4"}, {"legacy": True}], ids=str)
@pytest.mark.parametrize("suffix", ["arrows", "arrow"])
def test_rows_in_any_chunks(options, suffix, tmp_path):
    path = write(tmp_path / f"x.{suffix}", batches(), **options)
    for chunk_rows in (None, 30, 100, 250):
        source = open_source(path, chunk_rows=chunk_rows)
        assert source.feature_names == ("a", "b", "code", "v_0", "v_1")
        check_chunks(source, expected())
    check_chunks(limit_chunks(source, 64), expected())
    check_chunks(open_source(path, columns=["v_1", "code"]), expected()[:, [4, 2]])
    _, weights = read(open_source(path, columns=["a"], weight="code", chunk_rows=130))
    np.testing.assert_array_equal(weights, expected()[:, 2])


def test_a_batch_is_read_without_the_others(tmp_path):
    path = write(tmp_path / "x.arrows", batches())
    chunk = list(open_source(path, columns=["a", "code"], chunk_rows=100).chunks())[6]
    assert sum(length for _, length in chunk.group.segments) < path.stat().st_size / 4
    np.testing.assert_array_equal(chunk.load()[0], expected()[600:700, [0, 2]])


def test_float32_row_labels_and_folders(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(X.astype("f4"), columns=list("abc"), index=pd.Index(np.arange(1000) * 3, name="id"))
    parts = tmp_path / "parts"
    parts.mkdir()
    table = pa.Table.from_pandas(frame, preserve_index=True)
    for i, name in enumerate(["0.arrows", "1.arrow", "2"]):  # a stream under any name
        write(parts / name, table.slice(334 * i, 334).to_batches())
    (parts / "README.txt").write_text("made by night\n")
    (parts / ".0.arrows.crc").write_bytes(b"crc")
    (parts / "_SUCCESS").touch()
    source = open_source(parts)
    assert source.left_out == ("id",) and source.feature_names == ("a", "b", "c") and source.dtype == np.float32
    check_chunks(source, X.astype("f4"), np.float32)


def test_no_rows(tmp_path):
    path = write(tmp_path / "x.arrows", [pa.record_batch({"a": X[:0, 0], "b": X[:0, 1]})])
    assert read(open_source(path))[0].shape == (0, 2)


def test_damage_is_named(tmp_path):
    content = write(tmp_path / "x.arrows", batches(X[:300])).read_bytes()
    path = tmp_path / "y.arrow"
    for length in (len(content) - 9, len(content) // 2, 100, 6, 3, 0):
        path.write_bytes(content[:length])
        with pytest.raises(ChunkReadError, match=r"y\.arrow is no whole arrow file"):
            open_source(path)
    path.write_bytes(content[:-8])  # a writer that was stopped between two batches
    check_chunks(open_source(path), expected(X[:300]))
    path.write_bytes(content + content)
    with pytest.raises(ChunkReadError, match="bytes follow the end of the stream"):
        open_source(path)
    path.write_bytes(b"ARR0" + bytes(100))
    with pytest.raises(ChunkReadError, match="no Arrow stream"):
        open_source(path)
    path.write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(ValueError, match="version 1 of Feather"):
        open_source(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 600, 60):  # any byte of the headers
        broken = bytearray(content)
        broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            read(open_source(path))
        except (ChunkReadError, ValueError):
            continue


def test_a_stream_that_changes_is_noticed(tmp_path):
    path = write(tmp_path / "x.arrows", batches())
    source = open_source(path)
    write(path, batches(X[:500]))
    with pytest.raises(ChunkReadError, match="has changed since it was opened"):
        read(source)


def test_fits_at_both_ends(tmp_path, capsys):
    path = write(tmp_path / "x.arrows", batches())
    right = sg.GaussianMixture(1, missing="marginalize", random_state=0).fit(expected())
    gm = sg.GaussianMixture(1, missing="marginalize", random_state=0, memory_limit="300MB").fit(path)
    np.testing.assert_allclose(gm.means_, right.means_, rtol=1e-12)
    assert run(["data", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"rows +1,000\b", out) and re.search(r"nan +20\b", out)
    done = ["fit", str(path), "-k", "1", "--set", "missing=marginalize", "--out", str(tmp_path / "m")]
    assert run(done) == 0
    np.testing.assert_allclose(sg.load(tmp_path / "m").means_, gm.means_, rtol=1e-12)


@pytest.mark.parametrize("form", ["stream", "file"])
def test_streams_read_both_forms_with_nested_columns(form, tmp_path, capsys):
    path = tmp_path / "x.arrow"
    if form == "stream":
        write(path, batches())
    else:
        parts = list(batches())
        merged = pa.Table.from_batches(parts).unify_dictionaries()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, merged.schema) as writer:
            writer.write_table(merged, max_chunksize=100)

    def read_on(position, **choices):
        stream = connect("arrow", path=str(path), **choices)
        with closing(stream):
            return list(stream.open(position))

    found = read_on(None)
    assert found[0].names == ("a", "b", "code", "v_0", "v_1")
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in found]), expected())
    rest = read_on(300, columns=["v_1", "code"])
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in rest]), expected()[300:, [4, 2]])
    assert run(["stream", str(path), "-k", "1", "--columns", "a,code", "--json"]) == 0
    assert '"rows": 1000' in capsys.readouterr().out
