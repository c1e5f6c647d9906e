"""The one place where Numba's options are set.

Kernels are serial and release the GIL; threads live in the executor. ``fastmath`` is limited to contraction (a*b + c in
one rounding): anything more lets LLVM assume that NaN does not occur, and the kernels must see NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache


@cache
def _sources_hash() -> str:
    """Hash of every kernel source: Numba itself looks only at the file a function stands in, not at its helpers."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted((folder / "kernels").glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _HashedCache(FunctionCache):
    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), _sources_hash())


def jit(function: Callable[..., Any]) -> Any:
    """Compile ``function`` on first call; keep the machine code on disk where some directory can be written."""
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)
    try:
        compiled._cache = _HashedCache(function)
    except RuntimeError:  # no writable place for the cache: compile again in every process, and say nothing
        return compiled
    return compiled


def inline(function: Callable[..., Any]) -> Any:
    """Compile a helper that is only called from kernels (cached with its caller)."""
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)
