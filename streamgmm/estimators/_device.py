"""The `device` parameter: where passes of EM run, and where rows are asked about."""

from __future__ import annotations

import re
import warnings

from streamgmm.errors import DeviceError
from streamgmm.kernels.cuda import backend as cuda
from streamgmm.kernels.cuda.base import Backend
from streamgmm.kernels.cuda.form import scratch_bytes
from streamgmm.mixture.covariance import Covariance
from streamgmm.runtime.executors import Executor, Threads
from streamgmm.sources.base import Source
from streamgmm.sources.formats.device import DeviceArraySource
from streamgmm.sources.living import LivingSource
from streamgmm.sources.transformed import TransformedSource

__all__ = ["card_of", "check_executor", "on_card", "scratch_of", "warn_cpu"]


def card_of(device: str | None, source: Source | None = None) -> Backend | None:
    """The card that `device` names, or that rows lie on where it names none; None for the CPU.

    Parameters
    ----------
    device : None, "cpu", "cuda" or "cuda:N"

    Raises
    ------
    ValueError
        For other names, and for rows on another card.
    DeviceError
        Where CuPy, the driver or the card is missing, or "cuda" would choose a card of slow float64.
    """
    if device is not None and device != "cpu" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"device must be None, 'cpu', 'cuda' or 'cuda:N' with the number of a card; got {device!r}.")
    rows = on_card(source)
    if device == "cpu" or (device is None and rows is None):
        return None
    if device is None:
        return rows.backend  # type: ignore[union-attr]
    backend = cuda.get(device)
    if rows is not None and rows.backend is not backend:
        raise ValueError(
            f"device={device!r}, but X lies on another graphics card, {rows.backend.name}. Leave device=None to work "
            "where the rows are, or copy them to that card."
        )
    if backend.weak_float64:
        if ":" not in device:
            raise DeviceError(
                f"device='cuda': {backend.name} computes float64 at a small part of its float32 rate, no faster than a "
                "CPU of some 16 cores. Use device='cpu', or name the card to use it all the same: device='cuda:0'."
            )
        warnings.warn(
            f"{backend.name} computes float64 at a small part of its float32 rate: expect no more than from a CPU of "
            "some 16 cores.",
            UserWarning,
            stacklevel=3,
        )
    return backend


def scratch_of(source: Source, kind: Covariance, K: int, *, fused: bool = True) -> int:
    """Bytes that the kernels take on a card beside the rows of `source`, for K components of a family.

    Parameters
    ----------
    fused : False where every row is asked about
    """
    read = source.source.n_features if isinstance(source, TransformedSource) else source.n_features
    return scratch_bytes(kind.kernel, source.n_features, read, K, fused=fused)


def on_card(source: Source | None) -> DeviceArraySource | None:
    """The device array behind a source, if there is one."""
    while isinstance(source, TransformedSource | LivingSource):
        source = source.source
    return source if isinstance(source, DeviceArraySource) else None


def check_executor(executor: Executor) -> None:
    """Refuse a cluster: its workers are not told of cards."""
    if not isinstance(executor, Threads):
        raise ValueError(
            "device='cuda' runs in threads of this process, not with executor='dask'. Use executor='threads' on the "
            "machine with the card, or device='cpu' on the cluster."
        )


def warn_cpu(what: str, stacklevel: int) -> None:
    """Say that something runs on the CPU although a card was asked for."""
    warnings.warn(f"{what} runs on the CPU; device='cuda' is not used.", UserWarning, stacklevel=stacklevel + 1)
