"""Streams: columns are matched by name, batch by batch and after a restart; row labels are no features."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.stream import Batch
from streamgmm.stream.connectors import connect

NAMES = ["a", "b", "c"]
rng = np.random.default_rng(0)
TABLE = pd.DataFrame(rng.normal([0.0, 50.0, -7.0], size=(600, 3)), columns=NAMES)
OTHER = TABLE[["c", "a", "b"]]


def session(**options):
    return sg.StreamSession(sg.GaussianMixture(1, random_state=0), **options)


def learnt(one, stream):
    for _ in one.run(stream):
        pass
    return one.model


RIGHT = learnt(session(), [TABLE[:300], TABLE[300:]])
SHUFFLED = TABLE.sample(frac=1, random_state=0)
SHUFFLED_RIGHT = learnt(session(), [SHUFFLED.to_numpy()])


def polars(frame):
    import polars as pl

    return pl.from_pandas(frame)


def arrow(frame):
    import pyarrow as pa

    return pa.Table.from_pandas(frame)


@pytest.mark.parametrize("made", [lambda frame: frame, polars, arrow])
def test_batches_that_are_frames_are_matched_by_name(made):
    gm = learnt(session(), [made(TABLE[:300]), made(OTHER[300:])])
    assert list(gm.feature_names_in_) == NAMES
    np.testing.assert_allclose(gm.means_, RIGHT.means_, rtol=1e-12)
    one = session()
    gm = learnt(one, [made(TABLE[:300]), made(TABLE[:5].rename(columns={"b": "x"})), made(OTHER[300:])])
    np.testing.assert_allclose(gm.means_, RIGHT.means_, rtol=1e-12)
    assert one.counts.refused_batches == 1
    with pytest.raises(ValueError, match=r"missing: 'b'.*found 'a', 'x', 'c'"):
        learnt(session(on_bad="raise"), [made(TABLE[:300]), made(TABLE.rename(columns={"b": "x"}))])


def test_batches_may_say_what_their_columns_are_called():
    batches = [
        Batch(TABLE[:300].to_numpy(), 300, names=tuple(NAMES)),
        Batch(OTHER[300:].to_numpy(), 600, names=("c", "a", "b")),
    ]
    np.testing.assert_allclose(learnt(session(), batches).means_, RIGHT.means_, rtol=1e-12)


@pytest.mark.parametrize("again", [OTHER, TABLE])
def test_names_are_kept_in_snapshots(again, tmp_path):
    one = session(snapshot=tmp_path / "s.snapshot")
    learnt(one, [TABLE[:300]])
    back = session(snapshot=tmp_path / "s.snapshot")
    assert list(back.model.feature_names_in_) == NAMES
    gm = learnt(back, [(again[300:], 600)])
    np.testing.assert_allclose(gm.means_, RIGHT.means_, rtol=1e-12)


def test_row_labels_of_frames_are_left_out():
    shuffled = arrow(SHUFFLED)
    assert "__index_level_0__" in shuffled.column_names
    gm = learnt(session(), [shuffled])
    np.testing.assert_allclose(gm.means_, SHUFFLED_RIGHT.means_, rtol=1e-9)


def write(kind, path, frame):
    """`frame` as a file for the connector `kind`."""
    if kind == "arrow":
        import pyarrow as pa

        with pa.ipc.new_stream(str(path), arrow(frame).schema) as out:
            out.write_table(arrow(frame))
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=frame.index.name == "labels")
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


KINDS = {"arrow": "arrow", "parquet": "parquet", "csv": "lines", "json": "lines"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_model_takes_the_columns_of_a_stream_by_name(kind, tmp_path):
    path = write(kind, tmp_path / f"x.{kind}", OTHER)
    options = {"header": None} if kind == "csv" else {}
    means = []
    for stream in (connect(KINDS[kind], path=path, **options), [OTHER[NAMES].to_numpy()]):
        one = sg.StreamSession(sg.GaussianMixture(1, random_state=0).fit(TABLE))
        means.append(learnt(one, stream).means_)
        assert one.counts.rows == 600
    np.testing.assert_allclose(means[0], means[1], rtol=1e-12)
    write(kind, path, OTHER.rename(columns={"b": "x"}))
    one = sg.StreamSession(sg.GaussianMixture(1, random_state=0).fit(TABLE), on_bad="raise")
    with pytest.raises(ValueError, match=r"unseen at fit time: 'x'.*missing: 'b'"):
        learnt(one, connect(KINDS[kind], path=path, **options))


def test_files_of_a_folder_may_have_their_columns_in_another_order(tmp_path):
    TABLE[:300].to_parquet(tmp_path / "1.parquet")
    OTHER[300:].to_parquet(tmp_path / "2.parquet")
    gm = learnt(session(), connect("parquet", path=tmp_path))
    np.testing.assert_allclose(gm.means_, RIGHT.means_, rtol=1e-12)


@pytest.mark.parametrize("kind", ["arrow", "parquet", "csv"])
def test_connectors_leave_row_labels_out_with_one_notice(kind, tmp_path, caplog):
    frame = SHUFFLED
    if kind == "csv":
        frame.to_csv(tmp_path / "x.csv")
    else:
        write(kind, tmp_path / f"x.{kind}", frame)
    options = {"header": None} if kind == "csv" else {}
    with caplog.at_level(logging.WARNING, "streamgmm"):
        gm = learnt(session(), connect(KINDS[kind], path=tmp_path / f"x.{kind}", **options))
    assert list(gm.feature_names_in_) == NAMES
    np.testing.assert_allclose(gm.means_, SHUFFLED_RIGHT.means_, rtol=1e-9)
    assert len(caplog.records) == 1 and "left out the row labels" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_command_line_streams_without_row_labels(kind, tmp_path, capsys):
    path = tmp_path / f"x.{kind}"
    SHUFFLED.to_csv(path) if kind == "csv" else SHUFFLED.to_parquet(path)
    assert run(["stream", str(path), "-k", "1", "--out", str(tmp_path / "m"), "--json"]) == 0
    capsys.readouterr()
    gm = sg.load(tmp_path / "m")
    assert list(gm.feature_names_in_) == NAMES
    np.testing.assert_allclose(gm.means_, SHUFFLED_RIGHT.means_, rtol=1e-9)
