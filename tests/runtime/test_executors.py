"""Threads: kept from run to run, the caller's among them, and what they share."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import pytest

from streamgmm.kernels.locks import LOCKS
from streamgmm.mixture._evaluator import Prepared
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.checkpoint import FileJournal
from streamgmm.runtime.executors import Threads
from streamgmm.runtime.fold import Fold
from streamgmm.utils import by_component


@dataclass(frozen=True)
class Numbered:
    index: int


CHUNKS = [Numbered(i) for i in range(8)]


def join(a, b):
    return a + b


def helpers(executor):
    """The threads beside the caller's that had a part in a run in which both must have one."""
    both = threading.Barrier(2)

    def task(chunk):
        both.wait(10)
        return [threading.get_ident()]

    found = set(executor.run(task, CHUNKS, join))
    assert threading.get_ident() in found
    return found - {threading.get_ident()}


def test_runs_share_their_threads():
    executor = Threads(2)
    first = helpers(executor)
    assert len(first) == 1 and helpers(executor) == first


def test_a_copy_has_threads_of_its_own():
    executor = Threads(2)
    before = helpers(executor)
    copy = pickle.loads(pickle.dumps(executor))
    assert copy.n_jobs == 2
    assert executor.run(lambda c: c.index, CHUNKS, join) == copy.run(lambda c: c.index, CHUNKS, join) == 28
    assert not before & helpers(copy)


def test_where_the_system_starts_no_more_threads_no_chunk_is_lost(monkeypatch):
    """The first helper is at work when the second cannot be started, and is not done when the caller is."""
    start = ThreadPoolExecutor._adjust_thread_count

    def one(pool):
        if pool._threads:
            raise RuntimeError("can't start new thread")
        start(pool)

    monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", one)
    both, late, mine = threading.Barrier(2), threading.Event(), count(1)

    def task(chunk):
        if threading.current_thread() is threading.main_thread():
            number = next(mine)
            if number == 1:
                both.wait(10)
            if number == len(CHUNKS) - 1:
                threading.Timer(0.1, late.set).start()
        else:
            both.wait(10)
            late.wait(10)
        return [chunk.index]

    assert sorted(Threads(4).run(task, CHUNKS, join)) == list(range(8))


def test_an_iterator_that_fails_in_another_thread_is_not_taken_for_one_that_ends():
    def chunks():
        yield from CHUNKS
        raise OSError("the listing broke off")

    for _ in range(20):
        with pytest.raises(OSError, match="broke off"):
            Threads(4).run(lambda chunk: chunk.index, chunks(), join)


def test_as_many_threads_as_a_machine_can_have():
    assert Threads(10**6).n_jobs == 256


def test_an_error_is_not_raised_while_another_task_still_reads():
    executor = Threads(2)
    started, failed = threading.Event(), threading.Event()
    finished = []

    def task(chunk):
        if chunk.index == 0:
            assert started.wait(10)
            failed.set()
            raise ValueError("chunk 0")
        started.set()
        assert failed.wait(10)
        finished.append(sum(range(200_000)))
        return 1

    with pytest.raises(ValueError, match="chunk 0"):
        executor.run(task, CHUNKS, join)
    done = len(finished)
    assert done >= 1
    assert executor.run(lambda c: c.index, CHUNKS, join) == 28  # and they serve again
    assert len(finished) == done


def test_threads_that_begin_at_once_share_what_is_made_of_a_model(monkeypatch):
    model = Mixture([1.0], [[0.0]], [1.0], "spherical")
    made, both, makers = [], threading.Barrier(2), threading.Barrier(2)
    real = Prepared.from_model

    def together(copy):
        made.append(copy)
        with contextlib.suppress(threading.BrokenBarrierError):
            makers.wait(0.5)  # until the other one makes its own, which it is not to do
        return real(copy)

    monkeypatch.setattr(Prepared, "from_model", together)

    def ask():
        both.wait(10)
        model._prepare()

    others = [threading.Thread(target=ask) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert len(made) == 1


def test_values_do_not_pile_up_while_the_caller_is_busy():
    caller, begun, others = threading.get_ident(), threading.Event(), threading.Event()
    tree, finished, seen = Fold(join), [], []

    def task(chunk):
        if threading.get_ident() == caller and not seen:
            begun.set()
            assert others.wait(10)
            seen.append(tree.nodes)
        else:
            assert begun.wait(10)
            finished.append(chunk)
            if len(finished) == len(CHUNKS) - 1:
                others.set()
        return 1

    assert Threads(2).run(task, CHUNKS, join, tree=tree) == len(CHUNKS)
    assert sum(seen[0].values()) >= len(CHUNKS) - 2  # the last of the others may not be added yet
    assert len(seen[0]) <= 4


EXITING = """
import atexit, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, streamgmm as sg
np.save("x.npy", np.random.default_rng(0).normal(size=(4000, 2)))
import zarr
zarr.save_array("x.zarr", np.load("x.npy"))
def fit(path):
    try:
        source = sg.open_source(path, chunk_rows=500)
        print(sg.GaussianMixture(2, random_state=0, n_jobs=2, max_iter=3).fit(source).lower_bound_)
    except RuntimeError as error:
        print(error)
fit("x.npy")
atexit.register(fit, "x.npy")
atexit.register(fit, "x.zarr")
"""


def test_a_fit_while_python_exits_works_alone_or_says_why_not(tmp_path):
    done = subprocess.run([sys.executable, "-c", EXITING], cwd=tmp_path, capture_output=True, text=True, check=True)
    usual, of_zarr, of_npy = done.stdout.splitlines()
    assert of_npy == usual
    assert "x.zarr: Zarr reads nothing while Python is exiting" in of_zarr
    assert done.stderr == ""


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_map_gives_answers_in_the_order_of_the_chunks(n_jobs):
    assert list(Threads(n_jobs).map(lambda c: c.index**2, CHUNKS)) == [i * i for i in range(8)]
    assert list(Threads(n_jobs).map(lambda c: c.index, [])) == []


def test_map_lets_the_callers_thread_work_and_keeps_the_others():
    executor = Threads(2)
    both = threading.Barrier(2)

    def task(chunk):
        if chunk.index < 2:
            both.wait(10)
        return threading.get_ident()

    found = list(executor.map(task, CHUNKS))
    assert len(set(found)) == 2 and threading.get_ident() in found
    assert set(found) - {threading.get_ident()} == helpers(executor)


def test_map_takes_few_chunks_ahead():
    taken = []

    def chunks():
        for chunk in CHUNKS:
            taken.append(chunk.index)
            yield chunk

    answers = Threads(2).map(lambda c: c.index, chunks())
    assert taken == []
    assert next(answers) == 0 and len(taken) == 3
    answers.close()
    assert len(taken) == 3


def test_map_raises_an_error_in_its_place_and_waits_for_what_has_begun():
    finished = []

    def task(chunk):
        if chunk.index == 3:
            raise ValueError("chunk 3")
        finished.append(chunk.index)
        return chunk.index

    answers = Threads(3).map(task, CHUNKS)
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="chunk 3"):
        next(answers)
    done = len(finished)
    assert list(answers) == [] and len(finished) == done


def test_an_executor_in_a_journal_maps_as_the_one_inside(tmp_path):
    journal = FileJournal(tmp_path, {})
    assert list(journal.executor(Threads(2)).map(lambda c: -c.index, CHUNKS)) == [-i for i in range(8)]


# Forks ---------------------------------------------------------------------------------------------------------------


def locks_of_modules():
    """What a fork could find held for good: locks of modules, and of objects that modules hold."""
    for name, module in list(sys.modules.items()):
        if name.startswith("streamgmm"):
            for attribute, value in list(vars(module).items()):
                inner = vars(value).values() if type(value).__module__ == name and hasattr(value, "__dict__") else ()
                for lock in (value, *inner):
                    if isinstance(lock, type(threading.Lock())):
                        yield f"{name}.{attribute}", lock


def test_a_forked_child_finds_every_lock_free():
    import streamgmm.kernels.cuda.backend
    import streamgmm.kernels.simd.screening

    assert streamgmm.kernels.cuda.backend and streamgmm.kernels.simd.screening
    found = dict(locks_of_modules())
    assert len(found) >= 5
    assert not [name for name, lock in found.items() if not any(lock is one for one in LOCKS)]
    held = list({id(lock): lock for lock in found.values()}.values())
    ours, theirs = os.pipe()
    with contextlib.ExitStack() as stack:
        for lock in held:
            stack.enter_context(lock)
        stack.enter_context(by_component.component_threads(2))
        stack.enter_context(by_component._crew()._lock)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads are what this is about
            child = os.fork()
        if child == 0:
            free = [lock.acquire(blocking=False) for lock in (*held, by_component._crew()._lock)]
            os.write(theirs, bytes([sum(free), by_component._crew()._users]))
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as answer:
        assert answer.read() == bytes([len(held) + 1, 0])
    os.waitpid(child, 0)
