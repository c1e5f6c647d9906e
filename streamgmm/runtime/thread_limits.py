"""Settings of the whole process while tasks run: cores, threads of BLAS, and how promptly threads switch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from streamgmm.kernels.locks import process_lock

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MOST_THREADS = 256
"""Threads of one executor, at most: more of them only take memory, and in the end the machine."""


def resolve_n_jobs(n_jobs: int | None) -> int:
    """Number of threads: None is all available cores; -1 too, -2 all but one, as in joblib."""
    if n_jobs is None:
        return available_cores()
    if n_jobs == 0:
        raise ValueError("n_jobs must not be 0; use None for all available cores.")
    return min(n_jobs, MOST_THREADS) if n_jobs > 0 else max(1, available_cores() + 1 + n_jobs)


@cache
def _thread_pools() -> ThreadpoolController:
    import scipy.linalg.blas  # the BLAS that compiled code calls must be loaded before it can be found
    from threadpoolctl import ThreadpoolController

    assert scipy.linalg.blas
    return ThreadpoolController()


@cache
def _all_pools() -> ThreadpoolController:
    import sklearn.cluster  # its OpenMP must be loaded before it can be found
    from threadpoolctl import ThreadpoolController

    assert sklearn.cluster
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """A context in which scikit-learn's k-means has one thread, and so the same bits everywhere.

    The libraries are looked up once: a search costs as much as a small fit.
    """
    return _all_pools().limit(limits=1)


class _WhileUsed:
    """A context for a setting of the whole process: the first one in makes it, the last one out restores what was.

    Fits that run at the same time have to share it.
    """

    def __init__(self, make: Callable[[], Callable[[], Any]]) -> None:
        self._make = make  # makes the setting, and returns what restores the one before
        self._lock = process_lock()
        self._users = 0
        self._restore: Callable[[], Any] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._restore = self._make()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()


def _one_blas_thread() -> Callable[[], Any]:
    return _thread_pools().limit(limits=1, user_api="blas").restore_original_limits


_SWITCH = 2e-4
"""Seconds after which a thread that runs Python lets another one run that comes back from a kernel. With the default of
5 ms, longer than most kernels, two threads whose chunks are many small kernels wait for each other half of the time."""


def _prompt_switches() -> Callable[[], Any]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(_SWITCH, before))
    return partial(sys.setswitchinterval, before)


_blas = _WhileUsed(_one_blas_thread)


_switches = _WhileUsed(_prompt_switches)


def single_threaded_blas() -> AbstractContextManager[None]:
    """One BLAS thread while any fit is inside."""
    return _blas


def quick_switching() -> AbstractContextManager[None]:
    """Threads take turns in Python after `_SWITCH` seconds while any pass is inside."""
    return _switches
