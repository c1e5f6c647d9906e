"""Arithmetic over many components: in several threads, each component alone, so that the bits are the same; and
compiled, where a pass takes so little that calls of NumPy between passes would count."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import pairwise

__all__ = ["as_here", "by_component", "compiled", "component_threads"]

LEAST = 2**19
"""Numbers (K D^2) from which threads pay: some milliseconds of work."""
MOST = 8
LARGEST = 128
"""Features up to which compiled code serves: its scratch, for each thread, takes 256 D^2 bytes."""


class _Crew:
    """Threads that all fits of a process share; they end with the last fit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pool: ThreadPoolExecutor | None = None

    def join(self, threads: int) -> None:
        with self._lock:
            self._users += 1
            if self._pool is None and threads > 1:
                self._pool = ThreadPoolExecutor(min(MOST, threads), thread_name_prefix="streamgmm-components")

    def leave(self) -> None:
        with self._lock:
            self._users = max(0, self._users - 1)  # 0 before in a child, where the parent had joined
            if self._users == 0 and self._pool is not None:
                self._pool.shutdown(wait=False)
                self._pool = None

    def run(self, work: Callable[[slice], None], K: int) -> bool:
        """Work on all components; False where there are no threads for it."""
        with self._lock:  # nobody ends the threads meanwhile
            if self._pool is None:
                return False
            cuts = [K * i // MOST for i in range(MOST + 1)]
            parts = [slice(a, b) for a, b in pairwise(cuts) if a < b]
            futures = [self._pool.submit(copy_context().run, work, part) for part in parts]
        for future in futures:
            future.result()
        return True


_crews: dict[int, _Crew] = {}


def _crew() -> _Crew:
    """The threads of this process; a forked child has none of its parent's."""
    return _crews.get(os.getpid()) or _crews.setdefault(os.getpid(), _Crew())


_compiled: ContextVar[bool] = ContextVar("streamgmm_compiled_components", default=False)


@contextmanager
def component_threads(threads: int, *, compiled: bool = False) -> Iterator[None]:
    """Let `by_component` use so many threads while inside.

    Parameters
    ----------
    compiled : whether `streamgmm.kernels.cuda.components` is to take the place of NumPy, here and in tasks `as_here`
    """
    _crew().join(threads)
    token = _compiled.set(compiled)
    try:
        yield
    finally:
        _compiled.reset(token)
        _crew().leave()


def compiled(n_features: int) -> bool:
    """Whether arithmetic of components is to be compiled: where passes run on a graphics card."""
    return _compiled.get() and n_features <= LARGEST


def as_here[**P, T](task: Callable[P, T]) -> Callable[P, T]:
    """`task` for other threads, with components compiled there too if they are here."""
    return partial(_with_compiled, task) if _compiled.get() else task


def _with_compiled[T](task: Callable[..., T], *arguments: object) -> T:
    token = _compiled.set(True)
    try:
        return task(*arguments)
    finally:
        _compiled.reset(token)


def by_component(work: Callable[[slice], None], K: int, size: int) -> None:
    """Call ``work(part)`` for slices of K components that together are all; of `size` numbers each.

    `work` writes to its own part of arrays that it knows, and may be called from several threads at a time.
    """
    if K * size < LEAST or not _crew().run(work, K):
        work(slice(0, K))
