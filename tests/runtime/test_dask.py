"""Dask and threads give the same bits, with any number of workers, and say what is wrong when workers die."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, wait

import streamgmm as sg
from benchmarks.costs.cluster import local_workers
from benchmarks.robustness.deaths import Killer, fitted, lost, processes
from streamgmm.errors import ChunkReadError, ClusterError
from streamgmm.runtime.dask import Dask, _fetch, connected
from streamgmm.runtime.executors import Threads
from streamgmm.sources import open_source

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
FAMILIES = ["full", "tied", "diag", "spherical"]
RNG = np.random.default_rng(0)
CENTRES = RNG.uniform(-2, 2, (3, 4))
X = CENTRES[RNG.integers(3, size=9_000)] + RNG.standard_normal((9_000, 4))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.zarr"
    zarr.create_array(path, data=X, chunks=(150, 4))
    return path


@contextmanager
def workers(number):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with local_workers(number) as client:
            yield client


@pytest.fixture(scope="module")
def client():
    with workers(2) as client:
        yield client


def unfitted(family, executor, solver="exact", max_iter=4, **parameters):
    return sg.GaussianMixture(
        3,
        covariance_type=family,
        max_iter=max_iter,
        tol=0,
        random_state=0,
        executor=executor,
        solver=solver,
        **parameters,
    )


def fit(data, family, executor, *args, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg_convergence())
        return unfitted(family, executor, *args, **parameters).fit(data)


def fit_with_death(data, family, client, moment, rng):
    """A fit on the cluster, of which a worker is killed when `moment` chunks are done."""
    killer = Killer(client, moment, rng)
    model = quietly(client, data, killer, family)
    killer.mourn(client)
    return model


def quietly(client, data, on_chunk, family="full"):
    """A fit on the cluster that calls `on_chunk` with each chunk that is done."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sg_convergence())
        return fitted(unfitted(family, Dask(client)), data, on_chunk)[0]


def sg_convergence():
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning


def same_bits(a, b):
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(a.mixture_, name), getattr(b.mixture_, name))
    assert a.lower_bounds_ == b.lower_bounds_


@pytest.fixture(scope="module")
def chunks_of(store):
    return lambda: open_source(store, chunk_rows=150)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_bits_through_every_executor(family, chunks_of, client):
    expected = fit(chunks_of(), family, Threads(1))
    assert expected.report_["rows"] == len(X)
    for executor in (
        Threads(2),
        Threads(4),
        Dask(scheduler="threads"),
        Dask(scheduler="synchronous"),
        Dask(client),
    ):
        same_bits(expected, fit(chunks_of(), family, executor))


@pytest.mark.parametrize("solver", ["auto", "exact", "incremental"])
def test_same_bits_of_a_bayesian_mixture(solver, chunks_of, client):
    fits = []
    for executor in (Threads(1), Threads(2), Threads(4), Dask(client)):
        gm = sg.BayesianGaussianMixture(6, solver=solver, max_iter=4, tol=0, random_state=0, executor=executor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sg_convergence())
            fits.append(gm.fit(chunks_of()))
    for other in fits[1:]:
        same_bits(fits[0], other)
        for name in ("concentration", "mean_precision", "dof"):
            np.testing.assert_array_equal(getattr(other.mixture_, name), getattr(fits[0].mixture_, name))


def test_same_bits_block_by_block(chunks_of, client):
    expected = fit(chunks_of(), "full", Threads(1), "incremental", 1)
    same_bits(expected, fit(chunks_of(), "full", Dask(client), "incremental", 1))


@pytest.mark.parametrize("seconds", [1e-6, 1e-3, 10.0])
def test_bits_do_not_depend_on_the_length_of_tasks(seconds, chunks_of):
    executor = Dask(scheduler="synchronous")
    executor._chunk_seconds = seconds
    same_bits(fit(chunks_of(), "full", Threads(1)), fit(chunks_of(), "full", executor))


def test_executor_dask_by_name_uses_the_active_client(chunks_of, client, monkeypatch):
    seen = []
    monkeypatch.setattr(Dask, "_distributed", _spy(Dask._distributed, seen))
    same_bits(fit(chunks_of(), "diag", "dask"), fit(chunks_of(), "diag", "threads"))
    assert seen


def _spy(method, seen):
    def spy(self, *args):
        seen.append(self)
        return method(self, *args)

    return spy


def test_collections_use_the_cluster_and_arrays_do_not(client, monkeypatch):
    seen = []
    monkeypatch.setattr(Dask, "_distributed", _spy(Dask._distributed, seen))
    lazy = da.from_array(X, chunks=(1500, -1))
    over = fit(lazy, "full", None)
    assert seen
    seen.clear()
    same_bits(over, fit(lazy, "full", "threads"))
    fit(X, "full", None)
    assert not seen
    same_bits(over, fit(lazy.persist(), "full", None))
    unknown = lazy[lazy[:, 0] > -np.inf]
    assert fit(unknown, "full", None).report_["rows"] == len(X)


def test_collections_without_a_client_run_on_threads():
    lazy = da.from_array(X, chunks=(1500, -1))
    same_bits(fit(lazy, "full", None), fit(lazy, "full", Threads(1)))


def test_workers_open_files_themselves(chunks_of, client):
    import pickle

    assert all(len(pickle.dumps(chunk)) < 3000 for chunk in chunks_of().chunks())


def test_rows_of_this_process_do_not_travel_in_bulk(client, monkeypatch):
    monkeypatch.setattr("streamgmm.runtime.dask.SHIP_LIMIT", 100_000)
    with pytest.raises(ValueError, match="would travel to the workers in every pass"):
        fit(X, "full", Dask(client))
    same_bits(fit(X[:2000], "full", Dask(client)), fit(X[:2000], "full", Threads(1)))


def test_errors_on_workers_are_those_of_threads(tmp_path, client):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(150, 4), compressors=[zarr.codecs.Crc32cCodec()])
    victim = tmp_path / "x.zarr" / "c" / "17" / "0"
    content = bytearray(victim.read_bytes())
    content[9] ^= 1
    victim.write_bytes(content)
    source = open_source(tmp_path / "x.zarr", chunk_rows=150)
    for executor in (Threads(2), Dask(client), Dask(scheduler="threads")):
        with pytest.raises(ChunkReadError) as caught:
            fit(source, "full", executor)
        assert (caught.value.path, caught.value.index) == (str(tmp_path / "x.zarr"), 17)


def test_row_that_is_not_finite_is_named_from_a_worker(client):
    bad = X[:3000].copy()
    bad[2000, 1] = np.nan
    with pytest.raises(ValueError, match="row 2000, column 1"):
        fit(open_source(bad, chunk_rows=100), "full", Dask(client))


def test_command_line_runs_on_a_scheduler(tmp_path, store, client):
    from streamgmm.cli.app import run

    settings = [
        "max_iter=4",
        "tol=0",
        "covariance_type=full",
        "data.chunk_rows=150",
        "reg_covar=1e-6",
        "random_state=0",
    ]
    given = [part for setting in settings for part in ("--set", setting)]
    address = client.cluster.scheduler_address
    assert (
        run(["fit", str(store), "-k", "3", "--out", str(tmp_path / "a"), *given, "--set", f"scheduler={address}"]) == 3
    )
    assert run(["fit", str(store), "-k", "3", "--out", str(tmp_path / "b"), *given]) == 3
    a, b = (sg.load(tmp_path / name / "model.safetensors") for name in "ab")
    same_bits(a, b)


def test_nobody_at_the_address_is_an_error():
    with pytest.raises(ClusterError, match="no Dask scheduler answers"), connected("tcp://127.0.0.1:1", timeout=0.5):
        pass


def test_resumed_on_another_executor(tmp_path, chunks_of, client):
    """A pass that threads began is gone on with on the cluster, from the same nodes of the tree."""
    from streamgmm.runtime.checkpoint import FileJournal

    class Stopped(Exception):
        pass

    class Stopping(Threads):
        left = 100

        def _report(self, chunk, after):
            super()._report(chunk, after)
            self.left -= 1
            if not self.left:
                raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileJournal, "share", 1.0)
        with pytest.raises(Stopped):
            fit(chunks_of(), "full", Stopping(2), checkpoint=tmp_path)
        resumed = fit(chunks_of(), "full", Dask(client), checkpoint=tmp_path)
    same_bits(fit(chunks_of(), "full", Threads(1)), resumed)
    assert resumed.report_["checkpoint"]["resumed"]


# Predictions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["predict", "predict_proba", "score_samples"])
def test_predictions_on_collections_are_lazy(question):
    model = fit(X, "full", Threads(1))
    lazy = da.from_array(X, chunks=(3000, -1))
    expected = getattr(model, question)(X)
    answers = getattr(model, question)(lazy)
    assert isinstance(answers, da.Array) and answers.shape == expected.shape and answers.dtype == expected.dtype
    np.testing.assert_allclose(answers.compute(), expected, rtol=1e-12)
    unknown = getattr(model, question)(lazy[lazy[:, 0] > 0])
    assert np.isnan(unknown.shape[0])
    np.testing.assert_allclose(unknown.compute(), expected[X[:, 0] > 0], rtol=1e-12)
    frame = lazy.to_dask_dataframe(columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(getattr(model, question)(frame).compute(), expected, rtol=1e-12)


# Workers that die -----------------------------------------------------------------------------------------------------


class Slow:
    """A pure task that takes its time, so that a worker can be killed in the middle of it."""

    def __init__(self, seconds, fatal=-1):
        self.seconds, self.fatal = seconds, fatal

    def __call__(self, chunk):
        if chunk.index == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        rows, _ = chunk.load()
        return rows.sum(axis=0)


def test_worker_killed_in_the_middle_of_a_reading_changes_no_bit(chunks_of, client):
    """Of 60 chunks a pass some are done then, others in work or not yet begun."""
    rng = np.random.default_rng(3)
    expected = fit(chunks_of(), "full", Threads(1))
    for moment in 60 * np.arange(1, 4) + rng.integers(5, 55, 3):
        same_bits(expected, fit_with_death(chunks_of(), "full", client, moment, rng))


def test_worker_whose_connection_is_cut_changes_no_bit(chunks_of, client):
    """It lives, and nobody hears of it any more: its chunks are read again elsewhere."""
    seen = count(1)
    alive = set(processes(client))

    def cut(dask_worker):
        dask_worker.loop.add_callback(dask_worker.batched_stream.comm.abort)

    def at_the_seventieth(chunk):
        if next(seen) == 70:
            client.run(cut, workers=[next(iter(client.scheduler_info(n_workers=-1)["workers"]))], on_error="ignore")

    found = quietly(client, chunks_of(), at_the_seventieth)
    same_bits(fit(chunks_of(), "full", Threads(1)), found)
    assert next(seen) > 70 and len(alive - set(processes(client))) == 1
    client.cluster.scale(3)  # a nanny does not replace a worker that leaves by itself
    client.wait_for_workers(2, timeout=60)


@pytest.mark.slow
def test_worker_that_hangs_is_given_up(chunks_of):
    """A stopped process stands for a machine that does not answer: its connections are open, and nothing comes."""
    stopped = []
    seen = count(1)
    with dask.config.set({"distributed.scheduler.worker-ttl": "2s"}), workers(2) as client:

        def at_the_seventieth(chunk):
            if next(seen) == 70:
                stopped.append(processes(client)[0])
                os.kill(stopped[0], signal.SIGSTOP)

        try:
            found = quietly(client, chunks_of(), at_the_seventieth)
        finally:
            for process in stopped:
                with suppress(ProcessLookupError):  # its nanny may have ended it
                    os.kill(process, signal.SIGKILL)
    same_bits(fit(chunks_of(), "full", Threads(1)), found)


def unreliable(times):
    """On a worker: each place of a file is read in vain so many times, as of a network that hiccups."""
    import errno

    from streamgmm.sources import retry
    from streamgmm.sources.formats import npy

    seen, real = {}, npy.read_into

    def read_into(file, *rest):
        place = file.tell()
        seen[place] = seen.get(place, 0) + 1
        if seen[place] <= times:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        return real(file, *rest)

    npy.kept = real, retry._PAUSES, seen
    npy.read_into, retry._PAUSES = read_into, (0.0, 0.0, 0.0)


def reliable():
    from streamgmm.sources import retry
    from streamgmm.sources.formats import npy

    npy.read_into, retry._PAUSES, seen = npy.kept
    return len(seen)


@contextmanager
def hiccups(client, times):
    """Counts, for each worker, the places that were read in vain."""
    places = []
    client.run(unreliable, times)
    try:
        yield places
    finally:
        places += client.run(reliable).values()


def test_chunks_that_fail_for_a_while_on_a_cluster(tmp_path, client):
    np.save(tmp_path / "x.npy", X)
    source = open_source(tmp_path / "x.npy", chunk_rows=150)
    expected = fit(source, "full", Threads(2))
    with hiccups(client, 2) as places:
        same_bits(expected, fit(source, "full", Dask(client)))
    assert sum(places) >= 60 and min(places) > 0
    with hiccups(client, 10**9), pytest.raises(ChunkReadError, match=r"x\.npy: chunk \d+: .*timed out"):
        fit(source, "full", Dask(client))
    same_bits(expected, fit(source, "full", Dask(client)))


def test_result_that_died_with_its_worker_is_made_again(client):
    future = client.submit(np.arange, 5, pure=False)
    wait(future)
    (holder,) = client.who_has(future)[future.key]
    os.kill(client.run(os.getpid)[holder], signal.SIGKILL)
    done = queue.SimpleQueue()
    client.loop.add_callback(_fetch, client, future, done)
    found, result, error = done.get(timeout=60)
    assert found is future and error is None
    np.testing.assert_array_equal(result, np.arange(5))
    client.wait_for_workers(2)


def test_task_that_kills_every_worker_is_named():
    with warnings.catch_warnings(), dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        warnings.simplefilter("ignore")
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster,
            Client(cluster) as client,
        ):
            executor = Dask(client)
            executor._chunk_seconds = 10.0
            with pytest.raises(ClusterError, match=r"chunks \d+ to \d+: 1 workers died"):
                executor.run(Slow(0, fatal=5), open_source(X, chunk_rows=1000).chunks(), np.add)


def test_no_worker_left_is_an_error_not_a_wait():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LocalCluster(n_workers=0, dashboard_address=None) as cluster, Client(cluster) as client:
            began = time.perf_counter()
            with pytest.raises(ClusterError, match=r"No task finished for 2 s.*0 workers are connected"):
                fit(X[:100], "full", Dask(client, stall_timeout=2.0))
            assert time.perf_counter() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 4])
def test_any_number_of_workers(number, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=np.repeat(X, 40, axis=0), chunks=(2000, 4))
    source = open_source(tmp_path / "x.zarr", chunk_rows=2000)  # 180 chunks, and 5 passes or more
    rng = np.random.default_rng()
    with workers(number) as client:
        for family in FAMILIES:
            expected = fit(source, family, Threads(1))
            for executor in (Threads(2), Threads(4), Dask(scheduler="threads"), Dask(client)):
                same_bits(expected, fit(source, family, executor))
            for moment in 180 * np.arange(1, 4) + rng.integers(10, 170, 3):
                same_bits(expected, fit_with_death(source, family, client, moment, rng))


@pytest.mark.slow
def test_what_a_death_costs(tmp_path):
    """SIGKILL of one of two workers at three random moments of a fit costs less than 5 s, repeated work included."""
    rng = np.random.default_rng()
    np.save(tmp_path / "x.npy", np.repeat(X, 400, axis=0) + rng.standard_normal((3_600_000, 4)))
    source = open_source(tmp_path / "x.npy", chunk_rows=16_384)
    with workers(2) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore", sg_convergence())
        executor = Dask(client)
        _, deaths = lost(lambda: unfitted("full", executor, max_iter=40), source, client, deaths=3, rng=rng)
    assert all(seconds < 5.0 and same for _, seconds, same in deaths), deaths


# Versions, and a scheduler that is gone -------------------------------------------------------------------------------


@contextmanager
def cluster_of(environments, tmp_path):
    """A scheduler and one worker for each environment, each a process of its own: their ids, and a client."""
    with ExitStack() as stack:

        def start(program, *words, environment):
            command = [sys.executable, "-m", f"distributed.cli.{program}", *words, "--no-dashboard"]
            options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
            process = subprocess.Popen(command, env={**os.environ, **environment}, **options)
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            return process

        place = tmp_path / "scheduler.json"  # workers wait for it
        found = ["--scheduler-file", str(place)]
        scheduler = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", *found, environment={})
        workers = [
            start("dask_worker", "--nthreads", "1", "--no-nanny", *found, environment=one) for one in environments
        ]
        client = stack.enter_context(Client(scheduler_file=str(place), timeout=60, set_as_default=False))
        client.wait_for_workers(len(workers), timeout=60)
        yield scheduler, workers, client


def copied(folder, **changed):
    """The package of another version: a copy of its sources, some files of which are replaced."""
    package = Path(sg.__file__).parent
    shutil.copytree(package, folder / "streamgmm", ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    for name, (old, new) in changed.items():
        path = folder / "streamgmm" / f"{name}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("how", ["number", "sources", "too old to say"])
def test_a_worker_of_another_version_is_named(how, tmp_path, chunks_of):
    number = {"__init__": (f'__version__ = "{sg.__version__}"', '__version__ = "0.0.1"')}
    changed = {
        "number": number,
        "sources": {"mixture/criteria": ('"""', '"""Another. ')},
        "too old to say": {**number, "runtime/dask": ("def _fold_chunks(", "def _fold_run(")},
    }[how]
    with cluster_of([copied(tmp_path / "other", **changed)], tmp_path) as (_, _, client):
        address = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
        with pytest.raises(ClusterError, match=re.escape(f"Worker {address}: runs other versions")) as caught:
            unfitted("full", Dask(client)).fit(chunks_of())
        expected = "the sources of streamgmm" if how == "sources" else f"streamgmm 0.0.1 there, {sg.__version__} here"
        assert expected in str(caught.value) and "install the same versions" in str(caught.value)


def test_a_scheduler_that_dies_is_a_cluster_error_and_the_fit_goes_on_later(tmp_path, chunks_of):
    with cluster_of([{}], tmp_path) as (scheduler, _, client):
        seen = count(1)

        def last(chunk):
            if next(seen) == 70:
                scheduler.kill()
                scheduler.wait()

        model = unfitted("full", Dask(client), checkpoint=tmp_path / "kept")
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            with pytest.raises(ClusterError, match=r"tcp://.*: the scheduler cannot be reached .*with checkpoint="):
                fitted(model, chunks_of(), last)
            with pytest.raises(ClusterError, match="the scheduler cannot be reached"):
                unfitted("full", Dask(client)).fit(chunks_of())
    again = fit(chunks_of(), "full", Threads(2), checkpoint=tmp_path / "kept")
    assert again.report_["checkpoint"]["resumed"]
    same_bits(fit(chunks_of(), "full", Threads(1)), again)
