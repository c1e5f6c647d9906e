"""Locks that live as long as the process: a forked child finds them free, whatever threads of its parent were doing.

Those threads do not exist in the child, so a lock that one of them held would never be released there. The module
stands at the bottom of all that have such locks.
"""

from __future__ import annotations

import os
import threading

__all__ = ["LOCKS", "process_lock"]

LOCKS: list[threading.Lock] = []
"""All that `process_lock` made."""


def process_lock() -> threading.Lock:
    """A lock for a module, or for an object that lives as long as its module."""
    lock = threading.Lock()
    LOCKS.append(lock)
    return lock


def _free() -> None:
    """In the child of a fork, which has one thread."""
    for lock in LOCKS:
        lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
