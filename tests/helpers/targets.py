"""Processors that kernels are compiled for, other than the one at hand."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINUX = "x86_64-unknown-linux-gnu"


def limited(cpu: str, **more: str) -> dict[str, str]:
    """An environment in which Numba compiles for `cpu` alone: the second variable, unset, means the host's features."""
    return {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", **more}


def on_x86() -> bool:
    from llvmlite import binding

    return binding.get_process_triple().startswith("x86_64")
