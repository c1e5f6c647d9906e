"""One session at a time has a snapshot, and a snapshot belongs to one stream."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.stream.connectors import connect
from streamgmm.utils.locks import FileLock

X = np.random.default_rng(0).normal(size=(1000, 2)) + 10


def session(path, **options):
    return sg.StreamSession(sg.GaussianMixture(1, random_state=0), snapshot=path, every_rows=100, **options)


def pairs(rows, n=100):
    return [(rows[i : i + n], i + n) for i in range(0, len(rows), n)]


def drain(one, stream):
    for _ in one.run(stream):
        pass
    return one


def text(rows):
    return "".join(f"{a!r},{b!r}\n" for a, b in rows.tolist())


# The lock ---------------------------------------------------------------------------------------------------------


def test_a_second_session_is_told_who_has_the_snapshot(tmp_path):
    path = tmp_path / "s"
    one, two = session(path), session(path)
    running = one.run(pairs(X))
    next(running)
    with pytest.raises(sg.StreamGMMError, match=rf"in use by process {os.getpid()} on .* since "):
        next(two.run(pairs(X + 100)))
    two.take(sg.stream.Batch(X[:5], 5))
    with pytest.raises(sg.StreamGMMError, match="in use"):
        two.save()
    for _ in running:
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "s.previous"]


def test_a_session_that_comes_by_a_link_finds_the_same_snapshot(tmp_path):
    (tmp_path / "kept").mkdir()
    path, link = tmp_path / "kept" / "s", tmp_path / "link"
    link.symlink_to(path)
    running = session(link).run(pairs(X))
    next(running)
    with pytest.raises(sg.StreamGMMError, match="in use by process"):
        next(session(path).run(pairs(X)))
    for _ in running:
        pass
    assert link.is_symlink() and session(link).counts.rows == session(path).counts.rows == len(X)
    assert sorted(p.name for p in path.parent.iterdir()) == ["s", "s.previous"]


def test_a_file_system_without_links_keeps_the_snapshot_before(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "s"
    drain(session(path), pairs(X))
    path.write_bytes(b"damaged")
    assert session(path).counts.rows == len(X)


def test_a_session_that_was_overtaken_does_not_write_over_the_other(tmp_path):
    path = tmp_path / "s"
    one, two = session(path), session(path)
    drain(one, pairs(X))
    before = path.read_bytes()
    with pytest.raises(sg.CheckpointMismatchError, match="written by another session"):
        drain(two, pairs(X + 100))
    assert path.read_bytes() == before
    assert drain(session(path), pairs(X)).counts.rows == 1000


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path):
    path = tmp_path / "s"
    code = (
        "import sys, pathlib; from streamgmm.utils.locks import FileLock\n"
        "lock = FileLock(pathlib.Path(sys.argv[1])); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(sg.StreamGMMError, match=f"process {process.pid} "):
            FileLock(path).acquire()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / "s.lock").exists()
    drain(session(path), pairs(X))
    assert not (tmp_path / "s.lock").exists()


# Which stream -----------------------------------------------------------------------------------------------------


def write_lines(path, rows):
    path.write_text(text(rows))
    return "lines"


def write_zarr(path, rows):
    import zarr

    zarr.create_array(str(path), data=rows, chunks=(250, 2), overwrite=True)
    return "zarr"


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": rows[:, 0], "b": rows[:, 1]}), path, row_group_size=300)
    return "parquet"


WRITERS = pytest.mark.parametrize("write", [write_lines, write_zarr, write_parquet])


@WRITERS
def test_a_source_that_grew_goes_on_and_one_that_was_replaced_is_named(tmp_path, write):
    path, kept = tmp_path / "rows", tmp_path / "s"
    kind = write(path, X[:600])
    drain(session(kept), connect(kind, path=str(path)))
    write(path, X)  # grown
    again = drain(session(kept), connect(kind, path=str(path)))
    assert again.counts.rows == 1000
    write(path, np.r_[X, X] + 1000)
    with pytest.raises(sg.StreamPositionError, match="replaced"):
        drain(session(kept), connect(kind, path=str(path)))
    assert session(kept).counts.rows == 1000


@WRITERS
def test_another_source_is_refused_and_a_moved_one_is_not(tmp_path, write):
    path, kept = tmp_path / "rows", tmp_path / "s"
    kind = write(path, X[:600])
    drain(session(kept), connect(kind, path=str(path)))
    write(tmp_path / "other", X + 50)
    # A Parquet file is one of its folder, and a position there is a name in it.
    words = "stands in 'rows'" if kind == "parquet" else r"learnt from .*rows; here is .*other"
    with pytest.raises(sg.StreamGMMError, match=words):
        drain(session(kept), connect(kind, path=str(tmp_path / "other")))
    if kind != "parquet":
        write(tmp_path / "moved", X)
        assert drain(session(kept), connect(kind, path=str(tmp_path / "moved"))).counts.rows == 1000


def test_a_stream_of_another_kind_is_refused(tmp_path):
    write_lines(tmp_path / "l", X)
    write_zarr(tmp_path / "z", X)
    drain(session(tmp_path / "s"), connect("lines", path=str(tmp_path / "l")))
    with pytest.raises(sg.CheckpointMismatchError, match="learnt from Lines"):
        drain(session(tmp_path / "s"), connect("zarr", path=str(tmp_path / "z")))


def test_a_snapshot_in_a_folder_that_is_not_there_says_so(tmp_path):
    one = sg.StreamSession(sg.GaussianMixture(2), snapshot=tmp_path / "none" / "s")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none\. Make it first"):
        next(iter(one.run([(X, len(X))])))


def test_a_posterior_goes_on_under_its_prior_only(tmp_path):
    def learn(model, name):
        one = sg.StreamSession(model, snapshot=tmp_path / name)
        for _ in one.run([(X, len(X))]):
            pass
        return one

    learn(sg.BayesianGaussianMixture(2, random_state=0, mean_prior=[0.0] * X.shape[1]), "posterior")
    learn(sg.GaussianMixture(2, random_state=0), "likelihood")
    for model, name, other in (
        (sg.GaussianMixture(2), "posterior", "bayesian = True, here False"),
        (sg.BayesianGaussianMixture(2), "likelihood", "bayesian = False, here True"),
        (sg.BayesianGaussianMixture(2), "posterior", "mean_prior = "),
        (
            sg.BayesianGaussianMixture(2, mean_prior=[0.0] * X.shape[1], weight_concentration_prior=9.0),
            "posterior",
            "weight_concentration_prior = None, here 9.0",
        ),
    ):
        with pytest.raises(sg.CheckpointMismatchError, match=other):
            learn(model, name)
    again = learn(sg.BayesianGaussianMixture(2, mean_prior=np.zeros(X.shape[1])), "posterior")
    assert again.counts.rows == len(X)


def test_a_position_saved_in_the_middle_is_verified_too(tmp_path):
    path, kept = tmp_path / "rows", tmp_path / "s"
    write_zarr(path, X)
    one = session(kept)
    running = one.run(connect("zarr", path=str(path)))
    for _ in range(2):
        next(running)
    running.close()  # as a crash would: what was saved is older than what was learnt
    assert session(kept).position == 250
    assert drain(session(kept), connect("zarr", path=str(path))).counts.rows == 1000


def test_a_line_that_was_learnt_without_its_end_and_then_grew_is_named(tmp_path):
    path, kept = tmp_path / "rows", tmp_path / "s"
    path.write_text("1.0,2.0\n" * 300 + "3.0,4")
    drain(session(kept), connect("lines", path=str(path)))
    with path.open("a") as file:
        file.write("5.5\n6.0,7.0\n")
    with pytest.raises(sg.StreamPositionError, match="follow=True"):
        drain(session(kept), connect("lines", path=str(path)))


def test_an_unended_line_that_is_only_ended_later_is_no_matter(tmp_path):
    path, kept = tmp_path / "rows", tmp_path / "s"
    path.write_text("1.0,2.0\n" * 300 + "3.0,4")
    drain(session(kept), connect("lines", path=str(path)))
    with path.open("a") as file:
        file.write("\n6.0,7.0\n")
    assert drain(session(kept), connect("lines", path=str(path))).counts.rows == 302


def test_following_leaves_an_unended_line_for_later(tmp_path):
    path, kept = tmp_path / "rows", tmp_path / "s"
    path.write_text("1.0,2.0\n" * 300 + "3.0,4")
    one = session(kept)
    for _ in one.run(connect("lines", path=str(path), follow=True), max_rows=300):
        pass
    assert (one.counts.rows, one.position) == (300, 2400)
    with path.open("a") as file:
        file.write("5.5\n6.0,7.0\n")
    again = drain(session(kept), connect("lines", path=str(path)))
    assert (again.counts.rows, again.counts.rejected) == (302, 0)
