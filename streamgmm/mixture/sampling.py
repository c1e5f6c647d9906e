"""Draw more rows from a mixture than fit in memory, straight into a Zarr store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.mixture.mixture import Mixture

_CHUNK_BYTES = 2**23


def sample_to_zarr(
    model: Mixture,
    path: str | Path,
    n_samples: int,
    *,
    labels: str | Path | None = None,
    chunk_rows: int | None = None,
    dtype: Any = np.float64,
    random_state: int | None = None,
) -> Path:
    """Write independent rows of `model`, shuffled, one chunk at a time; memory stays at a few chunks.

    Every chunk has a generator of its own, derived from the seed and its number, so the same seed gives the same store.

    Parameters
    ----------
    model : Mixture
    path : where the array (n_samples, D) goes; must not exist
    n_samples : int >= 1
    labels : where an array (n_samples,) of component numbers goes, -1 for the background; optional
    chunk_rows : rows of a chunk; about 8 MB by default
    dtype : float64 or float32
    random_state : int, or None for another store each time

    Returns
    -------
    path

    Raises
    ------
    FileExistsError
        Where there is something at `path` already.

    Examples
    --------
    >>> import pathlib, tempfile, streamgmm as sg
    >>> pair = sg.Mixture([0.5, 0.5], [[-2.0], [2.0]], [[1.0], [1.0]], covariance_type="diag")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = sg.sample_to_zarr(pair, pathlib.Path(folder) / "rows.zarr", 1000, random_state=0)
    ...     sg.open_source(path).n_rows
    1000
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64; got {np.dtype(dtype)}.")
    target = Path(path)
    size = chunk_rows or max(1, _CHUNK_BYTES // (np.dtype(dtype).itemsize * model.n_features))
    size = min(size, n_samples)
    rows = _create(target, (n_samples, model.n_features), (size, model.n_features), np.dtype(dtype))
    numbers = None if labels is None else _create(Path(labels), (n_samples,), (size,), np.dtype(np.int64))
    root = np.random.SeedSequence(random_state)
    for start in range(0, n_samples, size):
        rng = np.random.default_rng(np.random.SeedSequence(root.entropy, spawn_key=(start // size,)))
        values, drawn = model.sample(min(size, n_samples - start), rng)
        order = rng.permutation(len(values))
        rows[start : start + len(values)] = values[order].astype(dtype)
        if numbers is not None:
            numbers[start : start + len(values)] = drawn[order]
    return target


def _create(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    import zarr

    if path.exists():
        raise FileExistsError(f"{path} exists already. Remove it, or give another path.")
    return zarr.create_array(str(path), shape=shape, chunks=chunks, dtype=dtype, config={"write_empty_chunks": True})
