"""The one place where Numba's options are set.

Kernels are serial and release the GIL; threads live in the executor. ``fastmath`` is limited to contraction (a*b + c in
one rounding): anything more lets LLVM assume that NaN does not occur, and the kernels must see NaN.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
from numba.core.caching import FunctionCache

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.codegen import Codegen
    from numba.core.compiler import CompileResult
    from numba.core.typing.templates import Signature

_log = logging.getLogger(__name__)


@cache
def sources_hash() -> str:
    """Hash of every source of compiled code: Numba looks only at the file a function stands in, not at its helpers."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    compiled = (path for path in folder.glob("*.py") if path.name != "dispatch.py")
    for path in sorted((*compiled, *(folder / "simd").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _announce() -> None:
    """Say, once in a process, what is being waited for."""
    text = "compiling kernels for this machine, once: half a minute; the next process finds them on disk"
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"streamgmm: {text}", file=sys.stderr, flush=True)
    else:
        _log.info(text)


class _HashedCache(FunctionCache):
    def load_overload(self, sig: Signature, target_context: BaseContext) -> CompileResult | None:
        found = super().load_overload(sig, target_context)
        if found is None:
            _announce()
        return found

    def _index_key(self, sig: Signature, codegen: Codegen) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), sources_hash())


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` on first call; keep the machine code on disk where some directory can be written."""
    return _cached(function, numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(function))


def bare_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jit` for a kernel that makes no array.

    It borrows its arrays: references are not counted. Each count is an atomic operation, and every view of an array
    needs two of them, which was a quarter of the time of kernels with few features.
    """
    return _cached(function, numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, _nrt=False)(function))


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a helper that is only called from kernels, makes no array, and becomes part of its caller.

    It is cached with that. Passing some arrays, of many words each, takes as long as a helper needs for 32 rows of few
    features.
    """
    return _helper(function, forceinline=True)


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """`inline` for a part of one kernel: Numba compiles that as if the part stood there.

    Where a part became a function to LLVM, kernels that keep sums in registers from one part to the next lost 2 to 7 %.
    """
    return _helper(function, inline="always")


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """`inline` for what is long, does much at a call, or is called from several places: it stays a function."""
    return _helper(function)


def _helper(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function without an entry for Python to call: that would be compiled for every helper too."""
    return numba.njit(
        nogil=True,
        error_model="numpy",
        fastmath={"contract"},
        _nrt=False,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        **options,
    )(function)


def _cached(function: Callable[..., Any], compiled: Any) -> Callable[..., Any]:
    try:
        compiled._cache = _HashedCache(function)
    except RuntimeError:  # no writable place for the cache: compile again in every process, and say nothing
        return compiled
    return compiled
