"""All 8x8 grey patches of the two photographs that scikit-learn ships, as rows of a Zarr store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.utils.atomic import atomic_folder

SIDE = 8
N_FEATURES = SIDE * SIDE - 1
CHUNK_ROWS = 16_384
N_ROWS = 531_720
SEED = 0
FEATURE_NAMES = tuple(f"pixel_{i // SIDE}_{i % SIDE}" for i in range(N_FEATURES))


def grey_images() -> list[NDArray[np.float32]]:
    """The photographs china.jpg and flower.jpg in grey levels 0 to 255: the mean of red, green and blue."""
    from sklearn.datasets import load_sample_images

    return [image.mean(axis=2, dtype=np.float32) for image in load_sample_images().images]


def patch_rows(images: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Chunks of patches (n, 63), by image and then in reading order of their upper left corner.

    Uniform noise of one grey level is added to each patch (flat sky would otherwise have no variance), its mean is
    taken away, and its last pixel dropped, which the mean makes redundant.
    """
    windows = [np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE)) for image in images]
    ends = np.cumsum([w.shape[0] * w.shape[1] for w in windows])
    for index, first in enumerate(range(0, int(ends[-1]), CHUNK_ROWS)):
        numbers = np.arange(first, min(first + CHUNK_ROWS, int(ends[-1])))
        parts = []
        for window, stop in zip(windows, ends, strict=True):
            local = numbers[(numbers < stop) & (numbers >= stop - window.shape[0] * window.shape[1])]
            local = local - (stop - window.shape[0] * window.shape[1])
            parts.append(window[local // window.shape[1], local % window.shape[1]].reshape(-1, SIDE * SIDE))
        rows = np.concatenate(parts)
        rows += np.random.default_rng([SEED, index]).random(rows.shape, np.float32)
        rows -= rows.mean(axis=1, keepdims=True)
        yield np.ascontiguousarray(rows[:, :N_FEATURES])


def write_patches(path: str | os.PathLike[str]) -> int:
    """Write the store, one chunk in memory at a time, whole or not at all; the number of rows.

    Raises
    ------
    FileExistsError
        Where there is something at `path` that is not such a store.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    target = Path(path)
    if target.exists():
        if _complete(target):
            return N_ROWS
        raise FileExistsError(f"{target} exists and is not the demo's store. Remove it or choose another --dir.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        array = zarr.create_array(
            store=str(folder),
            shape=(N_ROWS, N_FEATURES),
            chunks=(CHUNK_ROWS, N_FEATURES),
            dtype=np.float32,
            compressors=[ZstdCodec(level=1, checksum=True)],
            config={"write_empty_chunks": True},
            attributes={"streamgmm": {"feature_names": list(FEATURE_NAMES), "weight": None}},
        )
        row = 0
        for part in patch_rows(grey_images()):
            array[row : row + len(part)] = part
            row += len(part)
    return row


def _complete(path: Path) -> bool:
    import zarr

    try:
        array: Any = zarr.open_array(store=str(path), mode="r")
    except Exception:
        return False
    return bool(array.shape == (N_ROWS, N_FEATURES) and array.chunks == (CHUNK_ROWS, N_FEATURES))
