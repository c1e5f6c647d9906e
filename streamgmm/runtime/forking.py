"""Locks of the package in a forked child: free, whatever other threads of its parent were doing.

Those threads do not exist in the child, so a lock that one of them held would never be released there.
"""

from __future__ import annotations

import os
import sys
from operator import attrgetter

__all__ = ["LOCKS", "free_locks"]

LOCKS = (
    ("streamgmm.kernels.cuda.backend", "_opening"),
    ("streamgmm.kernels.simd.screening", "_lock"),
    ("streamgmm.mixture.mixture", "_preparing"),
    ("streamgmm.runtime.thread_limits", "_blas._lock"),
    ("streamgmm.runtime.thread_limits", "_switches._lock"),
    ("streamgmm.utils.by_component", "_crew._lock"),
)
"""(module, lock) of every lock that outlives a fit."""


def free_locks() -> None:
    """Make all locks new ones; for the child of a fork, which has one thread."""
    for name, path in LOCKS:
        module = sys.modules.get(name)
        if module is not None:
            attrgetter(path)(module)._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=free_locks)
