"""Cards by name. `get` opens one through CuPy, which is imported then and not before.

Tests put an emulated card in its place.
"""

from __future__ import annotations

import importlib
import re

import numpy as np

from streamgmm.errors import DeviceError
from streamgmm.kernels.cuda.base import INSTALL, Backend
from streamgmm.kernels.locks import process_lock

__all__ = ["Backend", "backend_of", "chosen", "get", "is_device_array"]


def is_device_array(x: object) -> bool:
    """Whether `x` lies in the memory of a card."""
    return not isinstance(x, np.ndarray) and hasattr(type(x), "__cuda_array_interface__")


_opened: dict[int, Backend] = {}
_opening = process_lock()


def get(device: str) -> Backend:
    """The card called "cuda" (the first one) or "cuda:1".

    Raises
    ------
    ValueError
        For another name.
    DeviceError
        Where CuPy, the driver or the card is missing.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f"device must be None, 'cpu', 'cuda' or 'cuda:N' with the number N of a card; got {device!r}.")
    index = int(match[1] or 0)
    with _opening:
        if index not in _opened:
            _opened[index] = _open(index)
        return _opened[index]


def chosen(device: str) -> Backend:
    """`get`, for a card that is chosen to compute on.

    Raises
    ------
    DeviceError
        Also where "cuda" would choose a card of slow float64; "cuda:0" names it.
    """
    backend = get(device)
    if backend.weak_float64 and ":" not in device:
        raise DeviceError(
            f"device='cuda': {backend.name} computes float64 at a small part of its float32 rate, no faster than a "
            "CPU of some 16 cores. Use device='cpu', or name the card to use it all the same: device='cuda:0'."
        )
    return backend


def backend_of(array: object) -> Backend:
    """The card that an array lies on."""
    index = getattr(getattr(array, "device", None), "id", None)
    if index is None:
        index = getattr(getattr(array, "device", None), "index", None)
    return get(f"cuda:{int(index or 0)}")


def _open(index: int) -> Backend:
    try:
        importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(
            f"device='cuda' needs CuPy, which cannot be imported here ({error}). Expected an NVIDIA card with its "
            f"driver, and CuPy: {INSTALL}. Or use device='cpu'."
        ) from None
    from streamgmm.kernels.cuda.cupy_backend import CuPyBackend

    return CuPyBackend(index)
