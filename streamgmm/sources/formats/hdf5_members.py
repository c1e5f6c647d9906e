"""Arrays of an HDF5 file: of h5py, netCDF, PyTables, pandas (both its layouts) and MATLAB 7.3.

Names that PyTables keeps as pickles are taken from the text of the pickle; nothing is ever unpickled.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.sources.formats.members import Member, what_of
from streamgmm.sources.labels import numbers_rows

if TYPE_CHECKING:
    import h5py

__all__ = ["Field", "dimensions_of", "fields_of", "member_of", "members_of"]

MATLAB = b"MATLAB 7.3 MAT-file"
"""First bytes of a file of MATLAB."""

_NOT_A_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
_INTERNAL = ("_i_", "#")
"""Prefixes of groups that are no data: indices of PyTables, references of MATLAB."""

Field = tuple[str, tuple[Any, ...], np.dtype[Any]]
"""Name of a column, the way to it (names of fields, then an index into an array), its type."""


def members_of(top: h5py.Group) -> list[Member]:
    """The arrays below a group, in the order in which they are kept, each once however many links there are to it."""
    return list(_within(top, top.name.strip("/"), set()))


def _within(group: h5py.Group, path: str, seen: set[Any]) -> Iterator[Member]:
    kind = _text(group.attrs.get("pandas_type"))
    if kind in ("frame", "series"):
        yield from _frame(group, path, kind)
        return
    coordinates = _coordinates(group)
    for name, item in group.items():
        if name == "meta" and kind == "frame_table":
            continue  # the categories of columns
        below = f"{path}/{name}" if path else name
        if item is None and _is_hard(group, name):
            item = group[name]  # damaged: raises
        if name.startswith(_INTERNAL) or item is None or _place(item) in seen:
            continue
        seen.add(_place(item))
        if hasattr(item, "shape"):
            member = member_of(item, below, coordinates)
            if member is not None:
                yield member
        elif hasattr(item, "items"):
            yield from _within(item, below, seen)


def _is_hard(group: h5py.Group, name: str) -> bool:
    """True where the object belongs here, unlike a link to what may be absent."""
    from h5py import HardLink

    return isinstance(group.get(name, getlink=True), HardLink)


def _place(item: h5py.Dataset | h5py.Group) -> Any:
    """Identity of the object behind a link: equal for two links to the same object."""
    from h5py import h5o

    if not hasattr(item, "shape") and not hasattr(item, "items"):
        return item.name  # a type
    facts = h5o.get_info(item.id)
    return facts.fileno, facts.addr


def member_of(data: h5py.Dataset, path: str, coordinates: Collection[str] = ()) -> Member | None:
    """A dataset; None where it holds no rows.

    Parameters
    ----------
    coordinates : names in its group that are known to be labels
    """
    shape, dtype = data.shape, data.dtype
    if shape is None or _bytes(data.attrs.get("NAME")).startswith(_NOT_A_VARIABLE):
        return None
    matlab = _text(data.attrs.get("MATLAB_class"))
    if matlab is not None or _is_of_matlab(data.file):
        return _of_matlab(data, path, matlab or "")
    if dtype.names is not None and len(shape) == 1:
        return Member(path, shape, dtype, is_records=True)
    label = len(shape) == 1 and (path.rpartition("/")[2] in coordinates or _is_label(data, path))
    return Member(path, shape, dtype, _stored_what(data) or what_of(dtype), label)


def dimensions_of(data: h5py.Dataset) -> tuple[str, ...]:
    """Names of the dimensions of a netCDF variable; none elsewhere."""
    if "DIMENSION_LIST" not in data.attrs:
        return ()
    return tuple(str(scales[0].name).rpartition("/")[2] if len(scales) else scales.label for scales in data.dims)


def _is_of_matlab(file: h5py.File) -> bool:
    """True where the header of MATLAB stands before the HDF5 content."""
    if not file.userblock_size:
        return False
    with open(file.filename, "rb") as stream:
        return stream.read(len(MATLAB)) == MATLAB


def _of_matlab(data: h5py.Dataset, path: str, kind: str) -> Member | None:
    """A variable of MATLAB, which keeps columns together: its first dimension comes last. Vectors are columns."""
    shape = tuple(reversed(data.shape))
    if "MATLAB_empty" in data.attrs or kind in ("cell", "function_handle"):
        return None
    what = "text" if kind == "char" else "complex numbers" if data.dtype.names else what_of(data.dtype)
    if 1 in shape and len(shape) == 2:
        shape = () if shape == (1, 1) else (max(shape),)
    is_index = len(shape) == 1 and what is None and path.rpartition("/")[2] == "index"
    label = is_index and numbers_rows(np.ravel(data[:1000, :1000]))
    return Member(path, shape, data.dtype, what, label, transposed=True)


def _is_label(data: h5py.Dataset, path: str) -> bool:
    """True for the values along a dimension of netCDF, and for an `index` that numbers the rows."""
    if _text(data.attrs.get("CLASS")) == "DIMENSION_SCALE":
        return True
    return path.rpartition("/")[2] == "index" and data.dtype.kind in "iu" and numbers_rows(data[:1000])


def _coordinates(group: h5py.Group) -> set[str]:
    """Names that variables of a netCDF group call their coordinates."""
    found: set[str] = set()
    for item in group.values():
        if hasattr(item, "shape") and "coordinates" in item.attrs:
            found |= set((_text(item.attrs["coordinates"]) or "").split())
    return found


def _stored_what(data: h5py.Dataset) -> str | None:
    """Kind of value that pandas stored as numbers; None for plain numbers."""
    kind = _text(data.attrs.get("value_type")) or ""
    return "times" if kind.startswith(("datetime", "timedelta")) else None


# pandas ---------------------------------------------------------------------------------------------------------------


def _frame(group: h5py.Group, path: str, kind: str) -> Iterator[Member]:
    """The arrays of a frame in pandas' fixed layout: blocks of columns of the same type."""
    if kind == "series":
        values = group["values"]
        name = _text(group.attrs.get("name"))
        known = name if name and "\n" not in name and name != "N." else "values"
        what = _stored_what(values) or what_of(values.dtype)
        yield Member(f"{path}/values", values.shape, values.dtype, what, names=(known,), frame=path)
        return
    order = tuple(_labels(group, "axis0"))
    n_rows = next((group[key].shape[0] for key in ("axis1", "axis1_label0") if key in group), 0)
    for i in range(int(group.attrs.get("nblocks", 0))):
        values = group[f"block{i}_values"]
        names = tuple(_labels(group, f"block{i}_items"))
        what = _stored_what(values) or what_of(values.dtype)
        yield Member(
            f"{path}/block{i}_values", (n_rows, len(names)), values.dtype, what, names=names, frame=path, order=order
        )


def _labels(group: h5py.Group, name: str) -> list[str]:
    """An axis of pandas as text.

    Raises
    ------
    ValueError
        Where it has several levels.
    """
    if name not in group:
        raise ValueError(
            f"{group.file.filename}::{group.name.strip('/')}: expected column names of one level. Join the levels, "
            "df.columns = ['_'.join(map(str, c)) for c in df.columns], and write it again."
        )
    return [value.decode() if isinstance(value, bytes) else str(value) for value in group[name][:].tolist()]


# Records --------------------------------------------------------------------------------------------------------------


def fields_of(data: h5py.Dataset) -> tuple[list[Field], dict[str, str | None], set[str]]:
    """The columns of a dataset of records, what those hold that hold no numbers, and which are row labels."""
    given = {name: _names(data.attrs.get(f"{name}_kind")) for name in data.dtype.names}
    fields = [field for name in data.dtype.names for field in _fields(name, (name,), data.dtype[name], given[name])]
    what = {name: _column_what(data, steps[0], dtype) for name, steps, dtype in fields}
    first = data.dtype.names[0]
    marked: set[str] = set()
    if _text(data.parent.attrs.get("pandas_type")) in ("frame_table", "series_table"):
        marked = {"index", *_names(data.parent.attrs.get("levels"))}
    elif first == "index" and data.dtype[first].kind in "iu" and numbers_rows(data.fields("index")[:1000]):
        marked = {"index"}
    return fields, what, marked


def _column_what(data: h5py.Dataset, field: str, dtype: np.dtype[Any]) -> str | None:
    kind = _text(data.attrs.get(f"{field}_dtype")) or ""
    if kind.startswith(("datetime", "timedelta")):
        return "times"
    return "categories" if _text(data.attrs.get(f"{field}_meta")) == "category" else what_of(dtype)


def _fields(name: str, steps: tuple[Any, ...], dtype: np.dtype[Any], given: list[str]) -> Iterator[Field]:
    if dtype.names is not None:
        for inner in dtype.names:
            yield from _fields(f"{name}.{inner}", (*steps, inner), dtype[inner], [])
    elif dtype.subdtype is not None:
        base, shape = dtype.subdtype
        places = list(product(*map(range, shape)))
        one = len(places) == 1 and not given
        names = given if len(given) == len(places) else ["_".join([name, *map(str, place)]) for place in places]
        for place, label in zip(places, [name] if one else names, strict=True):
            yield label, (*steps, place), base
    else:
        yield given[0] if len(given) == 1 else name, steps, dtype


def _names(pickled: Any) -> list[str]:
    """The texts in a pickled list of names, read from its opcodes; none where it is anything else."""
    names: list[str] = []
    try:
        for opcode, value, _ in pickletools.genops(_bytes(pickled)):
            if any(kind in opcode.name for kind in ("UNICODE", "STRING", "INT", "LONG")):
                names.append(str(value))
            elif opcode.name not in _HARMLESS:
                return []
    except ValueError:
        return []
    return names


_HARMLESS = {
    "PROTO", "FRAME", "MARK", "LIST", "EMPTY_LIST", "APPEND", "APPENDS", "PUT", "BINPUT", "MEMOIZE", "STOP",
}  # fmt: skip


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, bytes) else b""


def _text(value: object) -> str | None:
    """An attribute as text; None where it is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None
