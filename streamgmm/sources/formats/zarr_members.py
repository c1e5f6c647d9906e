"""The arrays of a Zarr group, version 2 or 3, with consolidated metadata or without."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.sources.formats.members import Member, what_of
from streamgmm.sources.labels import numbers_rows

if TYPE_CHECKING:
    import zarr

__all__ = ["arrays_in", "dimensions_of", "member_of", "members_of", "store_in"]


def store_in(store: Any) -> Any:
    """A path that is a zip file as the store in it; anything else as it is."""
    if isinstance(store, str) and os.path.isfile(store):
        from zarr.storage import ZipStore

        return ZipStore(store, mode="r")
    return store


def members_of(place: Any) -> list[Member] | None:
    """The arrays below a `ZarrPlace`, in the order of their names; None where there is no group.

    A zip file may hold a folder that is the store.
    """
    import zarr

    store = store_in(place.store)
    options = dict(place.options) or None
    try:
        root = zarr.open_group(store, mode="r", path=place.path, storage_options=options)
    except Exception:
        if not place.is_zip or place.path:
            return None
        return _in_folders(store)
    prefix = f"{place.path}/" if place.path else ""
    return _below(root, prefix)


def arrays_in(store: object) -> list[str] | None:
    """Names of the arrays in a group; None where there is no group."""
    import zarr

    try:
        return sorted(name for name, _ in zarr.open_group(store, mode="r").arrays())
    except Exception:
        return None


def _below(root: Any, prefix: str) -> list[Member]:
    found = sorted((name, item) for name, item in root.members(max_depth=None) if hasattr(item, "chunks"))
    coordinates: dict[str, set[str]] = {}
    for name, array in found:
        named = array.attrs.get("coordinates")
        if isinstance(named, str):
            coordinates.setdefault(name.rpartition("/")[0], set()).update(named.split())
    return [
        member_of(array, prefix + name, name.rpartition("/")[2] in coordinates.get(name.rpartition("/")[0], ()))
        for name, array in found
    ]


def _in_folders(store: Any) -> list[Member] | None:
    """Of a zip file in which nothing describes the top: the stores in its folders."""
    import zarr
    from zarr.core.sync import sync

    async def listed() -> list[str]:
        return sorted([name async for name in store.list_dir("")])

    found: list[Member] = []
    for name in sync(listed()):
        try:
            item = zarr.open(store, mode="r", path=name)
        except Exception:
            continue
        found += [member_of(item, name)] if isinstance(item, zarr.Array) else _below(item, f"{name}/")
    return found or None


def member_of(array: zarr.Array[Any], path: str, label: bool = False) -> Member:
    """An array as a member; a dimension's own values, as xarray writes them, are labels."""
    dtype = _dtype(array)
    name = path.rpartition("/")[2]
    one = len(array.shape) == 1
    label = one and (label or dimensions_of(array) == (name,))
    if one and name == "index" and dtype.kind in "iu" and not label:
        label = numbers_rows(np.asarray(array[:1000]))
    return Member(path, tuple(array.shape), dtype, what_of(dtype), label)


def dimensions_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Names of the dimensions, as version 3 or xarray in version 2 stores them; none where one has no name."""
    described: dict[str, Any] = array.metadata.to_dict()
    names: Any = described.get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def _dtype(array: zarr.Array[Any]) -> np.dtype[Any]:
    try:
        return np.dtype(array.dtype)
    except TypeError:
        return np.dtype(object)
