"""Checks of the metadata of a Zarr array, before anything is believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.sources.formats.packed import Packing

if TYPE_CHECKING:
    import zarr

MAX_CHUNK_BYTES = 4 * 2**30
"""A stored chunk that claims to be larger than this is refused: metadata are read before anybody has checked them."""

_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "blosc", "zstd", "gzip", "crc32c", "zlib", "bz2", "lz4", "lzma"),
    *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "bitinfo", "astype", "packbits", "pcodec"),
    *("crc32", "adler32", "fletcher32", "jenkins_lookup3", "zfpy", "cast_value", "scale_offset"),
}


def notes(array: zarr.Array[Any], n_stored: int) -> tuple[list[str] | None, int | None]:
    """Names of the columns and the column of weights, as `sources.convert` leaves them in the attributes."""
    found = array.attrs.get("streamgmm")
    if not isinstance(found, dict):
        return None, None
    names, weight = found.get("feature_names"), found.get("weight")
    known = isinstance(names, list) and len(names) == n_stored and all(isinstance(name, str) for name in names)
    good = isinstance(weight, int) and 0 <= weight < n_stored
    return names if known else None, weight if good else None


def packing_of(array: zarr.Array[Any], name: str) -> Packing | None:
    """Rule by which the stored numbers of a Zarr array become values."""
    # xarray gives the fill value of version 2 this meaning; in arrays of others it is what was not written.
    by_xarray = array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in array.attrs
    return Packing.from_attributes(dict(array.attrs), array.dtype, name, array.fill_value if by_xarray else None)


def regular(shape: Sequence[int], name: str) -> tuple[int, int]:
    if not all(isinstance(side, (int, np.integer)) and side > 0 for side in shape):
        raise ValueError(
            f"{name}: expected a regular grid of chunks; got {shape}. Rewrite with `streamgmm data convert`."
        )
    return int(shape[0]), math.prod(map(int, shape[1:]))


def check_size(shape: tuple[int, int], dtype: np.dtype[Any], name: str) -> None:
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise ValueError(
            f"{name}: a stored chunk of {shape[0]} x {shape[1]} values holds {size / 2**30:.1f} GiB; at most "
            f"{MAX_CHUNK_BYTES / 2**30:.0f} GiB are accepted. Rewrite with smaller chunks (`streamgmm data convert`)."
        )


def checked_codecs(array: zarr.Array[Any], name: str) -> list[str]:
    """Names of all codecs of the array, inner ones included.

    Raises
    ------
    ValueError
        For one that is not known to hold numbers only (a pickle filter runs code when it decodes).
    """
    found: list[str] = []

    def visit(described: Any) -> None:
        if described is None:
            return
        if isinstance(described, (list, tuple)):
            for part in described:
                visit(part)
            return
        label = str(described.get("name", described.get("id", "?"))).removeprefix("numcodecs.")
        found.append(label)
        inner = described.get("configuration", {})
        visit(inner.get("codecs"))
        visit(inner.get("index_codecs"))

    metadata = array.metadata.to_dict()
    visit(metadata.get("codecs"))
    visit(metadata.get("filters"))
    visit(metadata.get("compressor"))
    strange = [label for label in found if label not in _CODECS]
    if strange:
        raise ValueError(
            f"{name}: codec {strange[0]!r} is not accepted; known are codecs for numbers such as zstd, blosc, gzip and "
            "crc32c. Rewrite the array with one of them."
        )
    return found


_CHECKSUMS = {"crc32c", "crc32", "adler32", "fletcher32"}


def has_checksums(array: zarr.Array[Any]) -> bool:
    """True if what is stored of the rows carries a checksum (that of a shard's index covers the index only)."""

    def found(described: object) -> bool:
        if not isinstance(described, dict):
            return isinstance(described, (list, tuple)) and any(map(found, described))
        label = str(described.get("name", described.get("id", "?"))).removeprefix("numcodecs.")
        settings = described.get("configuration", described)
        return label in _CHECKSUMS or bool(settings.get("checksum")) or found(settings.get("codecs"))

    metadata = array.metadata.to_dict()
    return any(found(metadata.get(key)) for key in ("codecs", "filters", "compressor"))
