"""A fit that is killed, stopped or broken goes on to the bits of the uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streamgmm.errors import CheckpointMismatchError, ModelFileError, StreamGMMError
from streamgmm.runtime.checkpoint import FileJournal, read_state
from streamgmm.sources.formats.array import ArraySource
from streamgmm.utils.atomic import _machine
from tests.helpers.disks import full_disk  # noqa: F401
from tests.helpers.interruption import (
    Breaking,
    BrokenError,
    eager,  # noqa: F401
    model,
    rows,
    same,
    source,
)
from tests.helpers.mixtures import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_resumed_from_any_chunk_is_uninterrupted(tmp_path):
    for number, covariance_type in enumerate(FAMILIES):
        whole = model(covariance_type=covariance_type).fit(source())
        # 16 chunks a pass: in the survey, at the end of it, in the first and in later passes of EM
        for stop in ((3, 33), (16, 75), (21, 79), (32, 61))[number]:
            folder = tmp_path / f"{covariance_type}-{stop}"
            with pytest.raises(BrokenError):
                model(covariance_type=covariance_type, checkpoint=folder, executor=Breaking(stop)).fit(source())
            counting = Breaking(10**9)
            resumed = model(covariance_type=covariance_type, checkpoint=folder, executor=counting).fit(source())
            same(resumed, whole)
            read = 10**9 - counting.left
            assert read <= 7 * 16 - stop + 1, "what was read is not read again"
            assert resumed.report_["checkpoint"]["resumed"]


@pytest.mark.parametrize("solver", ["auto", "squarem", "incremental", "stepwise"])
def test_every_solver_is_resumed(tmp_path, solver):
    """What a solver remembers is kept too: proposals, statistics of blocks, averages."""
    whole = model(solver=solver, n_init=1, max_iter=8).fit(source())
    total = Breaking(10**9)
    model(solver=solver, n_init=1, max_iter=8, executor=total).fit(source())
    chunks = 10**9 - total.left
    for part in (0.3, 0.55, 0.9):
        folder = tmp_path / str(part)
        with pytest.raises(BrokenError):
            model(solver=solver, n_init=1, max_iter=8, checkpoint=folder, executor=Breaking(int(part * chunks))).fit(
                source()
            )
        same(model(solver=solver, n_init=1, max_iter=8, checkpoint=folder).fit(source()), whole)


def test_finished_gives_its_model_at_once(tmp_path):
    first = model(checkpoint=tmp_path).fit(source())
    counting = Breaking(1)
    again = model(checkpoint=tmp_path, executor=counting, n_jobs=1, verbose=0).fit(source())
    assert counting.left == 1
    same(again, first)


def test_unseeded_start_is_part_of_what_is_kept(tmp_path):
    with pytest.raises(BrokenError):
        model(random_state=None, checkpoint=tmp_path, executor=Breaking(5)).fit(source())
    state = read_state(next(tmp_path.iterdir()))["entries"]["generator"]
    one = model(random_state=None, checkpoint=tmp_path).fit(source())
    generator = np.random.RandomState()
    generator.set_state(state)
    same(one, model(random_state=generator).fit(source()))


def test_settings_and_data_have_files_of_their_own(tmp_path):
    for settings in ({}, {"reg_covar": 1e-3}, {"means_init": np.eye(3)}, {"means_init": 2 * np.eye(3)}):
        model(checkpoint=tmp_path, max_iter=1, **settings).fit(source())
    model(checkpoint=tmp_path, max_iter=1).fit(source(seed=1))
    fingerprints = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert len(fingerprints) == 5
    model(checkpoint=tmp_path, max_iter=1, n_jobs=1, max_time=100).fit(source())  # without effect on a model
    assert {path.name.split("-")[1] for path in tmp_path.iterdir()} == fingerprints


def newest(folder):
    return max(folder.glob("*.ckpt"), key=lambda path: path.name)


@pytest.mark.parametrize("harm", ["truncate", "empty", "flip"])
def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, harm, caplog):
    whole = model().fit(source())
    with pytest.raises(BrokenError):
        model(checkpoint=tmp_path, executor=Breaking(60)).fit(source())
    rng = random.Random(0)
    for _ in range(1 if harm == "empty" else 4):
        path = newest(tmp_path)
        good = path.read_bytes()
        where = rng.randrange(8, len(good))
        bad = {
            "truncate": good[:where],
            "empty": b"",
            "flip": good[:where] + bytes([good[where] ^ 1 << rng.randrange(8)]) + good[where + 1 :],
        }[harm]
        path.write_bytes(bad)
        counting = Breaking(1)
        with pytest.raises(BrokenError):
            model(checkpoint=tmp_path, executor=counting).fit(source())
        assert path.name in caplog.text
    resumed = model(checkpoint=tmp_path).fit(source())
    same(resumed, whole)


def test_every_flipped_byte_is_noticed(tmp_path):
    with pytest.raises(BrokenError):
        model(checkpoint=tmp_path, executor=Breaking(40)).fit(source())
    path = newest(tmp_path)
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    payload = range(8 + length, len(good))
    for where in [*range(8 + length), *random.Random(1).sample(payload, min(100, len(payload)))]:
        path.write_bytes(good[:where] + bytes([good[where] ^ 0x10]) + good[where + 1 :])
        with pytest.raises(ModelFileError):
            read_state(path)


def test_nothing_but_damage_starts_anew_and_keeps_what_is_not_ours(tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(BrokenError):
        model(checkpoint=tmp_path, executor=Breaking(40)).fit(source())
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(b"x")
    again = model(checkpoint=tmp_path)
    same(again.fit(source()), model().fit(source()))
    assert not again.report_["checkpoint"]["resumed"] and len(again.report_["checkpoint"]["damaged"]) == 3
    assert other.read_text() == "mine"
    assert again.discard_checkpoint(source()) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_checkpoint_under_the_name_of_another_fit_is_not_believed(tmp_path, caplog):
    model(checkpoint=tmp_path / "a").fit(source())
    model(checkpoint=tmp_path / "b").fit(source(seed=1))
    mine, other = (max((tmp_path / name).iterdir()) for name in "ab")
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    other.replace(mine)
    again = model(checkpoint=tmp_path / "a").fit(source())
    same(model().fit(source()), again)
    assert again.report_["checkpoint"]["damaged"] == [mine.name] and not again.report_["checkpoint"]["resumed"]
    assert "belongs to another fit; data: sha256 was" in caplog.text


def test_named_checkpoint_must_fit(tmp_path):
    model(checkpoint=tmp_path).fit(source())
    path = newest(tmp_path)
    same(model(checkpoint=path).fit(source()), model().fit(source()))
    with pytest.raises(CheckpointMismatchError, match=r"settings: reg_covar was '1e-06', is '0\.5'"):
        model(checkpoint=path, reg_covar=0.5).fit(source())
    with pytest.raises(CheckpointMismatchError, match="data: sha256 was"):
        model(checkpoint=path).fit(source(seed=3))
    other = tmp_path / "other"
    other.write_text("no checkpoint")
    with pytest.raises(ModelFileError, match="not a streamgmm-checkpoint file"):
        model(checkpoint=other).fit(source())


def test_time_limit_is_a_place_to_go_on_from(tmp_path):
    part = model(checkpoint=tmp_path, max_time=1e-9).fit(source())
    assert part.n_iter_ == 1
    same(model(checkpoint=tmp_path).fit(source()), model().fit(source()))


def test_warm_start_goes_on_from_its_own_model(tmp_path):
    warm = model(warm_start=True, max_iter=2, checkpoint=tmp_path).fit(source())
    first = warm.lower_bounds_
    assert len(warm.fit(source()).lower_bounds_) == 2 + len(first)


def test_rows_that_change_between_readings_are_an_error():
    class Shrinking(ArraySource):
        def chunks(self):
            yield from ArraySource(self.rows, chunk_rows=256).chunks()
            self.rows = self.rows[:-10]

    with pytest.raises(StreamGMMError, match=r"pass 1 of EM saw 3990 rows of positive weight, an earlier one 4000"):
        model().fit(Shrinking(rows(), chunk_rows=256))


def test_writing_keeps_to_its_share(tmp_path, monkeypatch):
    """By a clock that moves when it is looked at: once for each chunk, and once in each write."""
    looks = count()
    monkeypatch.setattr("streamgmm.runtime.checkpoint.time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    monkeypatch.setattr(FileJournal, "share", 0.01)
    report = model(checkpoint=tmp_path, max_iter=150).fit(source()).report_["checkpoint"]
    assert report["seconds"] == report["writes"]
    # The first and the last write come in any case, and between them one in every hundred looks.
    assert abs(report["writes"] - (2 + next(looks) // 100)) <= 1
    assert report["writes"] > 3


DRIVER = textwrap.dedent(
    """
    import os, signal, sys, warnings
    import numpy as np
    import streamgmm as sg
    from streamgmm.runtime.checkpoint import FileJournal
    from tests.helpers.interruption import model, source

    warnings.simplefilter("ignore")
    folder, out, after, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    FileJournal.share = 1.0
    left = after
    def on_chunk(chunk):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # as from a terminal that closes
    gm = model(checkpoint=folder, n_jobs=2)
    print("ready", flush=True)
    for _ in gm.fit_steps(source(), on_chunk=on_chunk):
        pass
    np.savez(out, trace=gm.lower_bounds_, weights=gm.weights_, means=gm.means_, covariances=gm.covariances_)
    """
)


def drive(tmp_path, after, number):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            DRIVER,
            str(tmp_path / "checkpoints"),
            str(tmp_path / "out.npz"),
            str(after),
            str(number),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )


def check_out(tmp_path):
    whole = model().fit(source())
    with np.load(tmp_path / "out.npz") as out:
        assert np.array_equal(out["trace"], whole.lower_bounds_)
        assert np.array_equal(out["weights"], whole.weights_)
        assert np.array_equal(out["means"], whole.means_)
        assert np.array_equal(out["covariances"], whole.covariances_)


def test_killed_and_stopped_drivers_lose_nothing(tmp_path):
    """In the survey, in a pass of EM, and a polite stop, after each of which the next process goes on."""
    assert drive(tmp_path, 7, signal.SIGKILL).returncode == -signal.SIGKILL
    assert drive(tmp_path, 29, signal.SIGKILL).returncode == -signal.SIGKILL
    stopped = drive(tmp_path, 30, signal.SIGTERM)
    assert stopped.returncode in (130, -signal.SIGINT), stopped.stderr
    assert "Start again" in stopped.stderr
    ended = drive(tmp_path, 0, signal.SIGKILL)
    assert ended.returncode == 0, ended.stderr
    check_out(tmp_path)


def test_command_line_stops_with_130_goes_on_and_begins_anew(tmp_path):
    np.save(tmp_path / "rows.npy", np.repeat(rows(), 50, axis=0))
    command = [sys.executable, "-m", "streamgmm", "fit", str(tmp_path / "rows.npy"), "-k", "8", "--json"]
    for setting in (
        "tol=0",
        "max_iter=400",
        "solver=exact",
        f"checkpoint={tmp_path / 'state'}",
        "data.chunk_rows=5000",
    ):
        command += ["--set", setting]
    root = Path(__file__).parents[2]
    usual = {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root)}, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, stderr=subprocess.PIPE, **usual) as process:
        while not list(tmp_path.glob("state/*.ckpt")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate()
    assert process.returncode == 130, complaint

    def finish(*more):
        run = subprocess.run([*command, "--set", "max_time=1e-3", *more], stderr=subprocess.PIPE, check=False, **usual)
        assert run.returncode == 3, run.stderr
        return json.loads(run.stdout)

    assert finish()["checkpoint"]["resumed"]
    assert not finish("--fresh")["checkpoint"]["resumed"]


@pytest.mark.slow
def test_twenty_random_kills(tmp_path):
    """By the clock, wherever that hits: imports, survey, k-means, passes, writing."""
    rng = random.Random(0)
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "checkpoints"), str(tmp_path / "out.npz"), "0", "0"]
    root = Path(__file__).parents[2]
    for _ in range(20):
        process = subprocess.Popen(
            command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
    ended = drive(tmp_path, 0, signal.SIGKILL)
    assert ended.returncode == 0, ended.stderr
    check_out(tmp_path)


def test_a_checkpoint_that_cannot_be_written_warns_and_the_fit_goes_on(full_disk, monkeypatch):  # noqa: F811
    monkeypatch.setattr("streamgmm.runtime.checkpoint._RETRY", 0.0)
    (full_disk / "ballast").write_bytes(bytes(256 * 1024 - 4096))
    with pytest.warns(UserWarning, match=r"checkpoint cannot be written, and the fit goes on.*Free some") as warned:
        gm = model(checkpoint=full_disk).fit(source())
    assert len([one for one in warned if "checkpoint" in str(one.message)]) == 1
    same(gm, model().fit(source()))
    kept = gm.report_["checkpoint"]
    assert kept["failed"] > 1 and kept["writes"] == 0
    assert [p.name for p in full_disk.iterdir()] == ["ballast"]


def test_a_checkpoint_is_written_again_when_there_is_room(full_disk, monkeypatch):  # noqa: F811
    monkeypatch.setattr("streamgmm.runtime.checkpoint._RETRY", 0.0)
    ballast = full_disk / "ballast"
    ballast.write_bytes(bytes(256 * 1024 - 4096))

    class Freeing(Breaking):
        def _report(self, chunk, after):
            if self.left == 30:
                ballast.unlink()
            super()._report(chunk, after)

    with pytest.warns(UserWarning, match="cannot be written"), pytest.raises(BrokenError):
        model(checkpoint=full_disk, executor=Freeing(60)).fit(source())
    resumed = model(checkpoint=full_disk).fit(source())
    assert resumed.report_["checkpoint"]["resumed"] and resumed.report_["checkpoint"]["failed"] == 0
    same(resumed, model().fit(source()))


def test_what_a_killed_fit_left_is_swept_by_one_that_only_reads(tmp_path):
    model(checkpoint=tmp_path).fit(source())
    left = tmp_path / f".fit-0.ckpt.{_machine()}0123456789.part.ckpt"
    left.write_bytes(b"half")
    model(checkpoint=tmp_path).fit(source())
    assert not left.exists()
