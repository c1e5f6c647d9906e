"""Where tasks run. Both executors fold in the same fixed shape, so the bits do not depend on the choice."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any

from streamgmm.kernels.dispatch import in_all
from streamgmm.runtime.fold import Fold
from streamgmm.runtime.thread_limits import quick_switching, resolve_n_jobs, single_threaded_blas
from streamgmm.utils.phases import chunk_done


def within[T](source: Any, task: Callable[..., T]) -> Callable[..., T]:
    """`task`, for chunks of this source: the size of the whole pass decides how each is computed, not that of a chunk.

    Parameters
    ----------
    source : anything with `most_rows`, as a `Source` has it
    """
    return partial(in_all, source.most_rows, task)


class Executor(ABC):
    """Runs a pure task over chunks and folds what comes back."""

    on_chunk: Callable[[Any], None] | None = None
    """Called in the driver with each finished chunk; for progress only."""

    @property
    @abstractmethod
    def threads_per_process(self) -> int:
        """Chunks in work at a time in each process that reads."""

    @abstractmethod
    def run[T](
        self,
        task: Callable[[Any], T],
        chunks: Iterable[Any],
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


class _Shared[T]:
    """A task, the chunks that several threads take in turn, and the tree that all of them add to."""

    def __init__(self, task: Callable[[Any], T], chunks: Iterator[Any], tree: Fold[T]) -> None:
        self._task = task
        self._chunks = chunks
        self._tree = tree
        self._taking = threading.Lock()
        self._stopped = False
        self.adding = threading.Lock()
        """Held while something is added to the tree; who holds it sees a complete one."""
        self.done: SimpleQueue[Any] = SimpleQueue()
        """Chunks whose values the tree has; the last word of a helper is what went wrong, or None."""

    def take(self) -> Any:
        """The next chunk, or None where there is none, or nobody is to begin another one."""
        with self._taking:
            return None if self._stopped else next(self._chunks, None)

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
        error = None
        try:
            while self.one():
                pass
        except BaseException as raised:
            error = raised
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

    def run[T](
        self,
        task: Callable[[Any], T],
        chunks: Iterable[Any],
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

    def _run_threads[T](
        self, task: Callable[[Any], T], chunks: Iterator[Any], tree: Fold[T], after: Callable[[], None] | None
    ) -> None:
        shared = _Shared(task, chunks, tree)
        pool = self._pool()
        with quick_switching():
            try:
                helpers = [pool.submit(shared.help) for _ in range(self.n_jobs - 1)]
            except RuntimeError:  # Python is exiting and starts no more threads: this one works alone
                helpers = []
            left = len(helpers)
            try:
                working = True
                while working or left:
                    if working and not (working := shared.one()):
                        left -= sum(helper.cancel() for helper in helpers)  # those that had no occasion to begin
                    while not shared.done.empty() or (left and not working):
                        word = shared.done.get()
                        if isinstance(word, BaseException):
                            raise word
                        if word is None:
                            left -= 1
                            continue
                        with shared.adding:
                            self._report(word, after)
            finally:
                shared.stop()
                for helper in helpers:
                    helper.cancel()
                wait(helpers)  # what has begun may still read the data

    def _report(self, chunk: Any, after: Callable[[], None] | None) -> None:
        chunk_done(chunk)
        if self.on_chunk is not None:
            self.on_chunk(chunk)
        if after is not None:
            after()


def result_of[T](tree: Fold[T]) -> T:
    """The value of a tree that something was added to."""
    total = tree.result()
    if total is None:
        raise ValueError("The data have no rows: expected at least one chunk, found none.")
    return total
