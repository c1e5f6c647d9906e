"""The `device` parameter: where passes of EM run, and where rows are asked about."""

from __future__ import annotations

import re
import warnings

from streamgmm.kernels.cuda import backend as cuda
from streamgmm.kernels.cuda.base import Backend
from streamgmm.kernels.cuda.form import scratch_bytes
from streamgmm.mixture.covariance import Covariance
from streamgmm.runtime.executors import Executor, Threads
from streamgmm.sources.base import Source
from streamgmm.sources.formats.device import DeviceArraySource
from streamgmm.sources.living import LivingSource
from streamgmm.sources.transformed import TransformedSource

__all__ = ["card_of", "on_card", "on_workers", "scratch_of", "warn_cpu"]


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
    check_device(device)
    rows = on_card(source)
    if device == "cpu" or (device is None and rows is None):
        return None
    if device is None:
        return rows.backend  # type: ignore[union-attr]
    backend = cuda.chosen(device)
    if rows is not None and rows.backend is not backend:
        raise ValueError(
            f"device={device!r}, but X lies on another graphics card, {rows.backend.name}. Leave device=None to work "
            "where the rows are, or copy them to that card."
        )
    if backend.weak_float64:
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


def check_device(device: str | None) -> None:
    """Raise ValueError for what is not None, "cpu", "cuda" or "cuda:N"."""
    if device is not None and device != "cpu" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"device must be None, 'cpu', 'cuda' or 'cuda:N' with the number of a card; got {device!r}.")


def on_workers(device: str | None, executor: Executor, source: Source) -> bool:
    """Whether passes of EM run on the cards of a cluster's workers.

    Raises
    ------
    ValueError
        For rows on a card of this process, which do not travel.
    """
    check_device(device)
    if isinstance(executor, Threads):
        return False
    if on_card(source) is not None:
        raise ValueError(
            "X lies on a graphics card of this process, and executor='dask' reads rows on the workers of a cluster. "
            "Use executor='threads', or give the cluster files or a Dask collection."
        )
    return device not in (None, "cpu")


def warn_cpu(what: str, stacklevel: int) -> None:
    """Say that something runs on the CPU although a card was asked for."""
    warnings.warn(f"{what} runs on the CPU; device='cuda' is not used.", UserWarning, stacklevel=stacklevel + 1)
