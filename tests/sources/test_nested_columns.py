"""Parquet and Arrow: lists and structs as columns, and folders whose files differ in what does not matter."""

import json
import subprocess
import sys

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli import main
from streamgmm.sources.features import open_features

pa = pytest.importorskip("pyarrow")
import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

X = np.random.default_rng(0).normal(size=(300, 3))


def write(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=120)
    else:
        feather.write_feather(table, path, chunksize=120)
    return path


def read(source):
    return np.concatenate([chunk.load()[0] for chunk in source.chunks()])


def lists(kind, values=X):
    return pa.array(values.tolist(), kind)


def struct():
    return pa.StructArray.from_arrays([pa.array(X[:, 0]), pa.array(X[:, 1])], ["x", "y"])


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize("chunk_rows", [None, 50])
@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
def test_elements_of_lists_are_columns(kind, chunk_rows, suffix, tmp_path):
    kind = {
        "list": pa.list_(pa.float64()), "large": pa.large_list(pa.float64()), "fixed": pa.list_(pa.float64(), 3)
    }[kind]  # fmt: skip
    path = write(pa.table({"a": X[:, 0], "embedding": lists(kind)}), tmp_path / f"t{suffix}")
    source = sg.open_source(path, chunk_rows=chunk_rows)
    assert source.feature_names == ("a", "embedding_0", "embedding_1", "embedding_2")
    np.testing.assert_array_equal(read(source), np.c_[X[:, :1], X])
    chosen = sg.open_source(path, columns=["embedding_2", "a"], chunk_rows=chunk_rows)
    np.testing.assert_array_equal(read(chosen), X[:, [2, 0]])


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_fields_of_structs_are_columns(suffix, tmp_path):
    path = write(pa.table({"point": struct(), "z": X[:, 2]}), tmp_path / f"t{suffix}")
    source = sg.open_source(path, weight=np.ones(300))
    assert source.feature_names == ("point.x", "point.y", "z")
    np.testing.assert_array_equal(read(source), X)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_a_list_that_is_missing_is_missing_numbers(suffix, tmp_path):
    rows = X.tolist()
    rows[0] = None
    path = write(pa.table({"e": pa.array(rows, pa.list_(pa.float64()))}), tmp_path / f"t{suffix}")
    found = read(sg.open_source(path))
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1:], X[1:])


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize("at", [1, 299])
@pytest.mark.parametrize("length", [1, 5])
def test_lists_of_other_lengths_are_refused(length, at, suffix, tmp_path):
    rows = X.tolist()
    rows[at] = [0.0] * length
    path = write(pa.table({"e": pa.array(rows, pa.list_(pa.float64()))}), tmp_path / f"t{suffix}")
    with pytest.raises(
        sg.ChunkReadError,
        match=f"column 'e': expected lists of 3 numbers.*found one of {length}.*leave the column out.$",
    ):
        read(sg.open_source(path))


def test_files_of_other_precision_and_with_more_columns(tmp_path):
    write(pa.table({"a": X[:, 0], "b": X[:, 1]}), tmp_path / "0.parquet")
    write(pa.table({"b": X[:, 1].astype(np.float32), "a": X[:, 0], "note": ["x"] * 300}), tmp_path / "1.parquet")
    source = sg.open_source(tmp_path, columns=["a", "b"])
    expected = np.r_[X[:, :2], np.c_[X[:, 0], X[:, 1].astype(np.float32)]]
    assert source.dtype == np.float64
    np.testing.assert_array_equal(read(source), expected)
    with pytest.raises(ValueError, match="differ in note"):
        sg.open_source(tmp_path)


def test_the_command_line_takes_them_too(tmp_path, capsys):
    path = write(pa.table({"e": lists(pa.list_(pa.float64()))}), tmp_path / "t.parquet")
    with pytest.raises(SystemExit) as end:
        main(["data", "check", str(path), "--json"])
    assert end.value.code == 0
    assert list(json.loads(capsys.readouterr().out)["min"]) == ["e_0", "e_1", "e_2"]


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_folders_as_jobs_write_them(suffix, tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(2):
        write(pa.table({"a": X[:, 0], "b": X[:, 1] + i}), tmp_path / f"t{suffix}").rename(folder / f"00000{i}_0")
    for name in ("_SUCCESS", "_metadata", ".part.crc", "README.txt", "LICENSE"):
        (folder / name).write_text("made by the nightly job")
    source = sg.open_source(folder)
    assert source.feature_names == ("a", "b")
    np.testing.assert_array_equal(read(source), np.r_[X[:, :2], X[:, :2] + [0, 1]])


def extensions():
    """Numbers in extension types, and numbers that are none: days since 1970, bounds of intervals."""
    import pandas as pd

    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(X))
    truth = pa.ExtensionArray.from_storage(pa.bool8(), pa.array((X[:, 0] > 0).astype(np.int8)))
    odd = pd.DataFrame({"day": pd.period_range("2020", periods=300, freq="D"), "span": pd.interval_range(0, 300)})
    return pa.Table.from_pandas(odd).append_column("b", truth).append_column("t", tensors)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize("registered", [True, False])
def test_extension_types(registered, suffix, tmp_path):
    path = write(extensions(), tmp_path / f"t{suffix}")
    right = np.c_[X[:, 0] > 0, X].tolist()
    if registered:
        source = open_features(path)
        assert source.feature_names == ("b", "t_0", "t_1", "t_2") and set(source.not_numbers) == {"day", "span"}
        np.testing.assert_array_equal(read(source), right)
        with pytest.raises(ValueError, match=r"'day' holds values of type pandas.period; expected numbers"):
            sg.open_source(path, columns=["day", "b"])
        return
    code = (  # a process that has not imported pandas sees the storage, int64, and the name of the type beside it
        "import sys, json; from streamgmm.sources.features import open_features; s = open_features(sys.argv[1]);"
        "assert 'pandas' not in sys.modules;"
        "print(json.dumps([s.feature_names, next(s.chunks()).load()[0].tolist()]))"
    )
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    names, rows = json.loads(found)
    assert names == ["b", "t_0", "t_1", "t_2"] and rows == right[: len(rows)]


def test_extension_types_in_memory_and_without_their_registration():
    table = extensions()
    source = open_features(table)
    assert source.feature_names == ("b", "t_0", "t_1", "t_2")
    np.testing.assert_array_equal(read(source), np.c_[X[:, 0] > 0, X])
    field = pa.field("day", pa.int64(), metadata={"ARROW:extension:name": "pandas.period"})
    bare = pa.table([np.arange(300), X[:, 0]], schema=pa.schema([field, ("a", pa.float64())]))
    assert open_features(bare).feature_names == ("a",)
    nested = pa.struct([field, ("x", pa.float64())])
    rows = [{"day": i, "x": x} for i, x in enumerate(X[:, 0])]
    inner = pa.table([pa.array(rows, nested)], schema=pa.schema([pa.field("s", nested)]))
    assert open_features(inner).feature_names == ("s.x",)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_stream_refuses_periods_and_takes_tensors(cli, suffix, tmp_path):
    table, path = extensions(), tmp_path / f"t{suffix}"
    write(table.select(["b", "t"]), path)
    code, out, _ = cli("stream", path, "-k", 1, "--out", "run", "--json")
    assert code == 0 and json.loads(out)["feature_names"] == ["b", "t_0", "t_1", "t_2"]
    write(table.select(["day", "b"]), path)
    code, out, err = cli("stream", path, "-k", 1, "--out", "other", "--json")
    assert code == 1 and "number" in err
