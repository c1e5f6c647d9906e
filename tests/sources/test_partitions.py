"""Columns in the names of folders (``level=1/``), and files in a folder that are no data."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.sources import limit_chunks, open_source
from streamgmm.sources.formats.tables import NotNumbersError
from streamgmm.stream.connectors import connect
from tests.helpers.chunks import check_chunks, read

RNG = np.random.default_rng(6)
FRAME = pd.DataFrame(
    {
        "a": RNG.normal(size=400), "b": RNG.normal(size=400), "level": np.repeat([1, 5], 200),
        "share": np.tile([0.5, -2.0], 200), "day": np.tile(["2024-01-01", "x y/z"], 200),
    }
)  # fmt: skip


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def hive(kind, keys, frame=FRAME, folder="hive"):
    """`frame` in a file for each value of the columns `keys`; its rows in their order."""
    if kind == "parquet":
        frame.to_parquet(folder, partition_cols=keys)
        return pd.read_parquet(folder)[list(frame)].astype(frame.dtypes)
    parts = []
    for values, part in frame.groupby(keys):
        quoted = [f"{key}={str(value).replace('/', '%2F')}" for key, value in zip(keys, values, strict=True)]
        path = Path(folder, *quoted)
        path.mkdir(parents=True)
        rest = part.drop(columns=keys)
        if kind == "csv":
            rest.to_csv(path / "part.csv", index=False)
        else:
            rest.to_feather(path / "part.feather")
        parts.append((str(path), part))
    return pd.concat([part for _, part in sorted(parts, key=lambda pair: pair[0])])


@pytest.mark.parametrize("kind", ["parquet", "csv", "feather"])
@pytest.mark.parametrize("data", ["hive", "hive/level=*", "hive/*/*", "**"])
def test_partition_columns_are_columns(kind, data):
    frame = hive(kind, ["level", "share"], FRAME.drop(columns="day"))
    if data == "**":
        data = sorted(str(path) for path in Path("hive").rglob("*.*") if path.is_file())
    source = open_source(data)
    assert source.feature_names[:2] == ("a", "b") and set(source.feature_names[2:]) == {"level", "share"}
    names = list(source.feature_names)
    check_chunks(source, frame[names].to_numpy(np.float64))
    check_chunks(limit_chunks(source, 50), frame[names].to_numpy(np.float64))
    for some in (["level", "b"], ["share"], ["b", "a"]):
        chosen = open_source(data, columns=some, chunk_rows=70)
        assert chosen.feature_names == tuple(some)
        check_chunks(chosen, frame[some].to_numpy(np.float64))
    assert open_source(data, exclude=["level", "a"]).feature_names == ("b", "share")
    rows, weights = read(open_source(data, weight="level"))
    np.testing.assert_array_equal(weights, frame.level)
    np.testing.assert_array_equal(rows, frame[["a", "b", "share"]])
    rows, weights = read(open_source(data, weight=np.arange(400.0), columns=["level"]))
    np.testing.assert_array_equal(weights, np.arange(400))
    right = sg.GaussianMixture(1).fit(frame[names])
    gm = sg.GaussianMixture(1).fit(data)
    np.testing.assert_allclose(gm.means_, right.means_, rtol=1e-12)
    assert right.score(data) == pytest.approx(right.score(frame[names]), rel=1e-12)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_text_in_names_is_left_out_with_a_notice(kind, caplog, capsys):
    hive(kind, ["level", "day"])
    source = open_source("hive")
    assert source.feature_names == ("a", "b", "share", "level")
    assert "left out the partition columns 'day', because they hold no numbers" in caplog.text
    with pytest.raises(NotNumbersError, match=r"the partition column 'day' holds text, '2024-01-01'"):
        open_source("hive", columns=["a", "day"])
    assert run(["data", "check", "hive"]) == 0
    assert "left out the partition columns 'day'" in capsys.readouterr().err
    assert run(["fit", "hive", "-k", "1", "--columns", "level,b", "--out", "m"]) == 0
    np.testing.assert_allclose(sg.load("m").means_[0], FRAME[["level", "b"]].mean(), rtol=1e-12)


def test_text_beside_partitions_is_left_out_at_the_command_line():
    hive("parquet", ["level"], FRAME.drop(columns="share"))
    with pytest.raises(NotNumbersError, match="'day' holds text"):
        open_source("hive")
    assert run(["fit", "hive", "-k", "1", "--out", "m"]) == 0
    assert list(sg.load("m").feature_names_in_) == ["a", "b", "level"]


def test_missing_values_of_partitions():
    for value in ("3", "8", "__HIVE_DEFAULT_PARTITION__"):
        os.makedirs(f"hive/level={value}")
        np.save(f"hive/level={value}/x.npy", FRAME[["a", "b"]].to_numpy())
    rows, _ = read(open_source("hive"))
    assert open_source("hive").feature_names is None and rows.shape == (1200, 3)
    np.testing.assert_array_equal(rows[:, 2], np.repeat([3, 8, np.nan], 400))
    with pytest.raises(ValueError, match="NaN"):
        sg.GaussianMixture(1).fit("hive")
    gm = sg.GaussianMixture(1, missing="marginalize").fit("hive")
    assert gm.means_[0, 2] == pytest.approx(5.5)


def test_partitions_differ_and_names_that_are_none():
    hive("csv", ["level", "share"], FRAME.drop(columns="day"))
    os.makedirs("hive/level=7")
    FRAME[["a", "b"]].to_csv("hive/level=7/part.csv", index=False)
    with pytest.raises(ValueError, match=r"expected the partition columns \['level', 'share'\].*found \['level'\]"):
        open_source("hive")
    os.makedirs("run=5/x")  # what all files have in common tells nothing apart
    for i in range(2):
        FRAME[["a", "b"]].to_csv(f"run=5/x/{i}.csv", index=False)
    for data in ("run=5", "run=5/x/*.csv", ["run=5/x/0.csv", "run=5/x/1.csv"], "run=5/x/0.csv"):
        assert open_source(data).feature_names == ("a", "b")


def test_a_column_that_is_in_the_file_too():
    os.makedirs("hive/level=1")
    FRAME[:200][["a", "level"]].to_parquet("hive/level=1/x.parquet")
    os.makedirs("hive/level=5")
    FRAME[200:][["a", "level"]].to_parquet("hive/level=5/x.parquet")
    check_chunks(open_source("hive"), FRAME[["a", "level"]].to_numpy())


@pytest.mark.parametrize("columns", [None, ["level", "b"]])
def test_a_stream_of_partitions(columns, capsys):
    frame = hive("parquet", ["level", "day"])
    found = list(connect("parquet", path="hive", columns=columns).open(None))
    names = columns or ["a", "b", "share", "level"]
    assert found[0].names == tuple(names)
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in found]), frame[names])
    rest = list(connect("parquet", path="hive", columns=columns).open(found[1].end))
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in rest]), frame[names][200:])
    assert run(["stream", "hive", "-k", "1", "--out", "m"]) == 0
    assert run(["stream", "hive", "-k", "1", "--out", "m"]) == 0  # from the snapshot on
    capsys.readouterr()


# Files that are no data -----------------------------------------------------------------------------------------------

CLUTTER = ["README", "README.txt", "notes.txt", "_SUCCESS", ".part.crc", "_metadata.json", "x.parquet.crc", "log.md",
           ".hidden.csv", ".hidden.parquet", "_temporary/x.csv", "schema.json"]  # fmt: skip


def one_file(path, frame):
    kind, X = path.rpartition(".")[2], frame.to_numpy()
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["x"] = X
    elif kind == "arrows":
        table = pa.Table.from_pandas(frame)
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "zarr":
        zarr.create_array(path, data=X)
    elif kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, X)
    else:
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy", "arrows", "h5", "zarr", "npz"])
def test_files_that_are_no_data_are_passed_over(kind):
    X = FRAME[["a", "b"]].to_numpy()
    os.mkdir("data")
    for i, part in enumerate(np.split(X, 2)):
        one_file(f"data/{i}.{kind}", pd.DataFrame(part, columns=["a", "b"]))
    for name in CLUTTER:
        Path("data", name).parent.mkdir(exist_ok=True)
        Path("data", name).write_text("this is no data\n")
    check_chunks(open_source("data"), X)
    assert run(["data", "check", "data"]) == 0
