"""Executors: tasks over chunks. All of them fold in the same fixed shape, so the bits do not depend on the choice."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, Protocol

from streamgmm.kernels.dispatch import in_all
from streamgmm.runtime.fold import Fold
from streamgmm.runtime.thread_limits import quick_switching, resolve_n_jobs, single_threaded_blas
from streamgmm.sources.base import Source
from streamgmm.utils.by_component import as_here
from streamgmm.utils.phases import advanced, chunk_done


class Indexed(Protocol):
    """The argument of a task: a `streamgmm.sources.base.Chunk`, or anything else with its place in the fold."""

    @property
    def index(self) -> int:
        """Position, from 0."""


def within[T](source: Source, task: Callable[..., T]) -> Callable[..., T]:
    """`task`, for chunks of this source: the size of the whole pass decides how each is computed, not that of a chunk.

    Parameters
    ----------
    source : Source
        Of which `most_rows` is asked.
    """
    return partial(in_all, source.most_rows, as_here(task))


class Executor(ABC):
    """Runs a pure task over chunks and folds what comes back."""

    on_chunk: Callable[[Indexed], None] | None = None
    """Called in the driver with each finished chunk; for progress only."""

    @property
    @abstractmethod
    def threads_per_process(self) -> int:
        """Chunks in work at a time in each process that reads."""

    @abstractmethod
    def run[C: Indexed, T](
        self,
        task: Callable[[C], T],
        chunks: Iterable[C],
        combine: Callable[[T, T], T],
        *,
        tree: Fold[T] | None = None,
        after: Callable[[], None] | None = None,
    ) -> T:
        """Fold ``task(chunk)`` over the chunks, in the shape of `streamgmm.runtime.fold.Fold`.

        Parameters
        ----------
        tree : Fold, optional
            What is known already of other chunks; the new ones are added to it.
        after : callable, optional
            Called in the driver's thread after something was added to `tree`, which is complete at that moment: to
            look, to save, to stop by raising.

        Raises
        ------
        ValueError
            Where there is no chunk at all.
        """

    def map[C: Indexed, T](self, task: Callable[[C], T], chunks: Iterable[C]) -> Iterator[T]:
        """``task(chunk)`` for every chunk, in order: for what is asked of every row.

        Chunks are taken as answers are, so that few are in memory at a time: here one after the other.
        """
        for answer in map(task, chunks):
            advanced("chunks")
            yield answer


class _Shared[C: Indexed, T]:
    """A task, the chunks that several threads take in turn, and the tree that all of them add to.

    Attributes
    ----------
    taken : int
        Chunks that somebody has begun. Each of them comes back in `done`, or an error does: so the pass is over when
        as many have come, however many threads there are, or could not be started.
    """

    def __init__(self, task: Callable[[C], T], chunks: Iterator[C], tree: Fold[T]) -> None:
        self._task = task
        self._chunks = chunks
        self._tree = tree
        self._taking = threading.Lock()
        self._stopped = False
        self.taken = 0
        self.adding = threading.Lock()
        """Held while something is added to the tree; who holds it sees a complete one."""
        self.done: SimpleQueue[C | BaseException] = SimpleQueue()
        """Chunks whose values the tree has, and what went wrong in helpers."""

    def take(self) -> C | None:
        """The next chunk, or None where there is none, or nobody is to begin another one."""
        with self._taking:
            if self._stopped:
                return None
            try:
                chunk = next(self._chunks, None)
            except BaseException:  # it comes back too, and who asks next must not take its silence for the end
                self.taken += 1
                raise
            self.taken += chunk is not None
            return chunk

    def one(self) -> bool:
        """Work on the next chunk; False where there is none."""
        chunk = self.take()
        if chunk is not None:
            value = self._task(chunk)
            with self.adding:
                self._tree.add(chunk.index, value)
            self.done.put(chunk)
        return chunk is not None

    def help(self) -> None:
        """Work as long as there are chunks."""
        try:
            while self.one():
                pass
        except BaseException as error:
            self.done.put(error)

    def stop(self) -> None:
        self._stopped = True


class Threads(Executor):
    """Threads of this process, the caller's among them: each takes the next chunk when it is done with one.

    Reading and decoding happen in the task, so one thread's read overlaps another's arithmetic. The caller's thread
    works too, as there is a core for it: if it only waited for the others, each chunk would wake it up and take a core
    from one of them. Values are added to the tree by who made them: they must not pile up while the caller's thread is
    busy with a long chunk. The others are kept from run to run, for as long as the executor is: to start them takes
    longer than a pass over a small table.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        self.n_jobs = resolve_n_jobs(n_jobs)
        self._kept: tuple[int, ThreadPoolExecutor] | None = None  # with the process that has the threads

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _pool(self) -> ThreadPoolExecutor:
        if self._kept is None or self._kept[0] != os.getpid():
            self._kept = os.getpid(), ThreadPoolExecutor(self.n_jobs - 1, thread_name_prefix="streamgmm")
        return self._kept[1]

    @property
    def threads_per_process(self) -> int:
        return self.n_jobs

    def run[C: Indexed, T](
        self,
        task: Callable[[C], T],
        chunks: Iterable[C],
        combine: Callable[[T, T], T],
        *,
        tree: Fold[T] | None = None,
        after: Callable[[], None] | None = None,
    ) -> T:
        tree = Fold(combine) if tree is None else tree
        iterator = iter(chunks)
        head = list(islice(iterator, 2))
        with single_threaded_blas():
            if len(head) < 2 or self.n_jobs == 1:
                for chunk in chain(head, iterator):
                    tree.add(chunk.index, task(chunk))
                    self._report(chunk, after)
            else:
                self._run_threads(task, chain(head, iterator), tree, after)
        return result_of(tree)

    def map[C: Indexed, T](self, task: Callable[[C], T], chunks: Iterable[C]) -> Iterator[T]:
        """As `Executor.map`; `n_jobs` chunks ahead of the answer that is taken are in work."""
        iterator = iter(chunks)
        head = list(islice(iterator, 2))
        if len(head) < 2 or self.n_jobs == 1:
            for answer in map(task, chain(head, iterator)):
                advanced("chunks")
                yield answer
            return
        ahead: deque[tuple[C, Future[T]]] = deque()
        try:
            for chunk in chain(head, iterator):
                ahead.append((chunk, self._begun(task, chunk)))
                if len(ahead) > self.n_jobs:
                    yield _first_of(ahead, task)
            while ahead:
                yield _first_of(ahead, task)
        finally:
            wait([future for _, future in ahead if not future.cancel()])  # what has begun may still read the data

    def _begun[C: Indexed, T](self, task: Callable[[C], T], chunk: C) -> Future[T]:
        try:
            return self._pool().submit(task, chunk)
        except RuntimeError:  # Python is exiting and starts no more threads: the caller's will do
            return Future()

    def _run_threads[C: Indexed, T](
        self, task: Callable[[C], T], chunks: Iterator[C], tree: Fold[T], after: Callable[[], None] | None
    ) -> None:
        shared = _Shared(task, chunks, tree)
        pool, helpers = self._pool(), list[Future[None]]()
        working, told = True, 0
        with quick_switching():
            try:
                # Where the system, or Python on its way out, starts no more threads, those that there are do the work.
                with suppress(RuntimeError):
                    for _ in range(self.n_jobs - 1):
                        helpers.append(pool.submit(shared.help))
                while working or told < shared.taken:
                    working = working and shared.one()
                    while not shared.done.empty() or (told < shared.taken and not working):
                        word = shared.done.get()
                        if isinstance(word, BaseException):
                            raise word
                        told += 1
                        with shared.adding:
                            self._report(word, after)
            finally:
                shared.stop()
                for helper in helpers:
                    helper.cancel()
                wait(helpers)  # what has begun may still read the data

    def _report(self, chunk: Indexed, after: Callable[[], None] | None) -> None:
        chunk_done(chunk)
        if self.on_chunk is not None:
            self.on_chunk(chunk)
        if after is not None:
            after()


def _first_of[C: Indexed, T](ahead: deque[tuple[C, Future[T]]], task: Callable[[C], T]) -> T:
    """The first answer, taken out; until it is there this thread makes what nobody has begun."""
    while not ahead[0][1].done():
        mine = next((i for i, (_, future) in enumerate(ahead) if future.cancel()), None)
        if mine is None:
            break
        chunk, made = ahead[mine][0], Future[T]()
        ahead[mine] = chunk, made
        try:
            made.set_result(task(chunk))
        except Exception as error:
            made.set_exception(error)
    answer = ahead.popleft()[1].result()
    advanced("chunks")
    return answer


def result_of[T](tree: Fold[T]) -> T:
    """The value of a tree that something was added to."""
    total = tree.result()
    if total is None:
        raise ValueError("The data have no rows: expected at least one chunk, found none.")
    return total
