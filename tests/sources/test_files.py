"""Several files as one source: lists, patterns, folders, in Python and at the command line."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.errors import ChunkReadError

X = np.random.default_rng(0).normal(size=(300, 2)) + np.repeat([[0, 0], [9, 9]], 150, 0)
PARTS = np.split(X, 3)


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows_of(source):
    return np.concatenate([chunk.load()[0] for chunk in source.chunks()])


def csv(path, rows, columns=("a", "b")):
    pd.DataFrame(rows, columns=list("ab"))[list(columns)].to_csv(path, index=False)


def parquet(path, rows, columns=("a", "b")):
    pd.DataFrame(rows, columns=list("ab"))[list(columns)].to_parquet(path)


def npy(path, rows, columns=("a", "b")):
    np.save(path, rows)


WRITERS = {"csv": csv, "parquet": parquet, "npy": npy}


def days(*kinds, folder="days", columns=(("a", "b"),) * 3):
    os.mkdir(folder)
    paths = []
    for i, (part, order) in enumerate(zip(PARTS, columns, strict=True)):
        kind = kinds[i % len(kinds)]
        paths.append(f"{folder}/day{i}.{kind}")
        WRITERS[kind](paths[-1], part, order)
    return paths


@pytest.mark.parametrize(
    "kinds", [("csv",), ("parquet",), ("npy",), ("csv", "npy"), ("parquet", "csv", "npy")], ids=" ".join
)
def test_lists_patterns_and_folders_give_all_rows_in_order(kinds):
    paths = days(*kinds)
    Path("days/_SUCCESS").touch()
    Path("days/.hidden.csv").write_text("9,9\n")
    Path("days/notes.md").write_text("hm")
    whole = sg.GaussianMixture(2, random_state=0).fit(sg.open_source(X, chunk_rows=100))
    for data in (paths, list(map(Path, paths)), tuple(paths), "days/day*", "days", "days/", "d*/day[0-2].*"):
        source = sg.open_source(data)
        np.testing.assert_array_equal(rows_of(source), X)
        assert [chunk.index for chunk in source.chunks()] == list(range(source.n_chunks))
        gm = sg.GaussianMixture(2, random_state=0).fit(data)
        np.testing.assert_allclose(np.sort(gm.means_, 0), np.sort(whole.means_, 0), rtol=0, atol=1e-9)
        labels = np.concatenate(list(gm.predict(data)))
        assert len(labels) == 300 and len(set(labels[:150])) == len(set(labels[150:])) == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_are_matched_by_name(kind):
    paths = days(kind, columns=(("a", "b"), ("b", "a"), ("a", "b")))
    np.testing.assert_array_equal(rows_of(sg.open_source(paths)), X)
    np.testing.assert_array_equal(rows_of(sg.open_source(paths, columns=["b"])), X[:, 1:])
    np.testing.assert_array_equal(rows_of(sg.open_source(paths, exclude=["b"])), X[:, :1])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_columns_are_an_error_with_both_lists(kind):
    paths = days(kind)
    frame = pd.DataFrame(PARTS[1], columns=["a", "c"])
    (frame.to_csv if kind == "csv" else frame.to_parquet)(paths[1], index=False)
    with pytest.raises(ValueError, match=r"'a', 'b'; found 'a', 'c'; missing: 'b'; not in the other: 'c'.*\['a'\]"):
        sg.open_source(paths)
    np.testing.assert_array_equal(rows_of(sg.open_source(paths, columns=["a"])), X[:, :1])
    np.save("wide.npy", np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"expected 2 columns, as in .*; found 3"):
        sg.open_source([paths[0], "wide.npy"])


@pytest.mark.parametrize("kinds", [("csv",), ("npy", "csv"), ("parquet", "npy")], ids=" ".join)
def test_weights_limits_and_checkpoints(kinds, tmp_path):
    paths = days(*kinds)
    w = np.random.default_rng(1).uniform(size=300)
    source = sg.open_source(paths, weight=w, chunk_rows=30)
    assert (source.n_rows, source.n_chunks, source.max_chunk_rows) == (300, 12, 30)
    np.testing.assert_array_equal(np.concatenate([chunk.load()[1] for chunk in source.chunks()]), w)
    assert [chunk.start for chunk in source.chunks()] == [
        day + start for day in (0, 100, 200) for start in (0, 30, 60, 90)
    ]
    np.testing.assert_array_equal(rows_of(source.limited(7)), X)
    with pytest.raises(ValueError, match="one for each row"):
        sg.open_source(paths, weight=w[1:])
    one = sg.GaussianMixture(2, random_state=0, checkpoint=tmp_path / "kept").fit(paths)
    two = sg.GaussianMixture(2, random_state=0, checkpoint=tmp_path / "kept").fit(paths)
    np.testing.assert_array_equal(one.means_, two.means_)
    assert len({path.name.rpartition("-")[0] for path in (tmp_path / "kept").iterdir()}) == 1
    sg.GaussianMixture(2, random_state=0, memory_limit="200MB").fit(paths)
    assert sg.open_source(paths).fingerprint() != sg.open_source(paths[::-1]).fingerprint()


def test_a_file_that_changes_is_noticed():
    paths = days("csv")
    source = sg.open_source(paths)
    np.testing.assert_array_equal(np.concatenate([pickle.loads(pickle.dumps(c)).load()[0] for c in source.chunks()]), X)
    csv(paths[2], PARTS[2][1:])
    with pytest.raises(ChunkReadError, match=r"day2\.csv has changed since it was opened"):
        rows_of(source)


def test_nothing_there():
    with pytest.raises(FileNotFoundError, match=r"\*\.csv: no file matches"):
        sg.open_source("*.csv")
    os.mkdir("empty")
    with pytest.raises(ValueError, match="empty: expected a Zarr store or a folder of files"):
        sg.open_source("empty")
    days("csv")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        sg.open_source(["days/day0.csv", "days/day9.csv"])
    Path("days/day3.csv.gz").touch()
    with pytest.raises(ValueError, match=r"day3\.csv\.gz: a compressed file among others would not be read"):
        sg.open_source("days")


@pytest.mark.parametrize(
    "name", ["my rows.csv", "100%.csv", "a::b.csv", "x[1].csv", "Größe.csv", "~tilde.csv", "a#b.csv"]
)
def test_names_of_files(name, tmp_path, monkeypatch):
    csv(name, X)
    for path in (name, tmp_path / name, f"file://{quote(str(tmp_path / name))}", f"file://{tmp_path / name}"):
        np.testing.assert_array_equal(rows_of(sg.open_source(path)), X)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(rows_of(sg.open_source(f"~/{name}")), X)


def test_names_with_colons_that_hold_data_sets(tmp_path):
    import h5py

    with h5py.File("a::b.h5", "w") as file:
        file["g/x"] = X
    np.testing.assert_array_equal(rows_of(sg.open_source("a::b.h5::g/x")), X)
    np.testing.assert_array_equal(rows_of(sg.open_source("*.h5::g/x")), X)


@pytest.mark.parametrize("form", ["list", "pattern", "folder"])
def test_the_command_line(form, capsys):
    paths = days("csv", columns=(("a", "b"), ("b", "a"), ("a", "b")))
    data = {"list": paths, "pattern": ["days/*.csv"], "folder": ["days"]}[form]
    assert run(["fit", *data, "-k", "2", "--out", "m"]) == 0
    assert run(["predict", "m", *data, "--out", "labels.npy"]) == 0
    labels = np.load("labels.npy")
    assert len(labels) == 300 and len(set(labels[:150])) == len(set(labels[150:])) == 1
    assert run(["fit", "m/config.toml", "--set", "output.dir=again"]) == 0
    assert run(["data", "check", *data]) == 0
    out = capsys.readouterr()
    assert re.search(r"rows +300\b", out.out) and f"streamgmm fit {' '.join(data)}" in out.err.replace("'", "")
    assert run(["fit", "m/config.toml", paths[0]]) == 2


def test_a_config_lists_files(tmp_path):
    days("csv")
    Path("c.toml").write_text('[data]\npath = ["days/day0.csv", "days/day2.csv"]\nexclude = ["a"]\nheader = true\n')
    os.mkdir("other")
    os.chdir("other")
    assert run(["fit", "../c.toml", "--out", "m"]) == 0
    gm = sg.load("m")
    assert list(gm.feature_names_in_) == ["b"] and gm.report_["rows"] == 200
