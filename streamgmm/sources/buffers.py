"""Memory of a thread that is used again for the next chunk, once nobody holds the last one.

Fresh memory costs a page fault for every 4 KiB: measured, more than half of the time of reading under a memory limit,
where large blocks go back to the system when they are freed.
"""

from __future__ import annotations

import io
import math
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGEST = 64 * 2**20
"""Blocks above this size are not held on to."""


class _Blocks(threading.local):
    def __init__(self) -> None:
        self.held: dict[str, tuple[NDArray[np.uint8], weakref.ref[NDArray[np.uint8]]]] = {}


_blocks = _Blocks()


def scratch(use: str, size: int) -> NDArray[np.uint8]:
    """(size,) bytes of any content, valid for as long as they or any view of them are referred to.

    Parameters
    ----------
    use : what for; the thread holds one block for each
    """
    found = _blocks.held.get(use)
    if found is not None and len(found[0]) >= size and found[1]() is None:
        memory = found[0]
    else:
        _blocks.held.pop(use, None)
        memory = np.empty(size, np.uint8)
    # Views of views refer to the outermost array that is no view of another: to `owner`, which lives as long as they.
    owner = np.frombuffer(memoryview(memory), np.uint8)
    if len(memory) <= LARGEST:
        _blocks.held[use] = memory, weakref.ref(owner)
    return owner[:size]


def scratch_array(use: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of any content in such memory."""
    return scratch(use, math.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)


def read_into(file: io.RawIOBase | io.BufferedIOBase, into: NDArray[Any]) -> int:
    """Fill a contiguous array from an unbuffered file, from where it stands; the bytes that were not there."""
    view = memoryview(into).cast("B") if into.size else memoryview(b"")
    while view:
        got = file.readinto(view)
        if not got:
            break
        view = view[got:]
    return len(view)
