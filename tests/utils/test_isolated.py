"""Work in another process: its result, its errors, its progress, and its death."""

from __future__ import annotations

import os
import signal

import pytest

from streamgmm.errors import ChunkReadError
from streamgmm.utils.isolated import CrashedError, isolated


def work(kind, progress):
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "leave":
        os._exit(7)
    if kind == "error":
        raise ChunkReadError("x.h5", 3, "cannot be read.")
    progress(1, "a")
    progress(2, "b")
    return {"of": kind, "in": os.getpid()}


def test_results_errors_and_deaths_come_back():
    told = []
    found = isolated(work, "x", progress=lambda *words: told.append(words))
    assert found["of"] == "x" and found["in"] != os.getpid() and told == [(1, "a"), (2, "b")]
    with pytest.raises(ChunkReadError, match=r"x\.h5: chunk 3: cannot be read"):
        isolated(work, "error")
    with pytest.raises(CrashedError, match="SIGSEGV"):
        isolated(work, "segfault")
    with pytest.raises(CrashedError, match="exit code 7"):
        isolated(work, "leave")
