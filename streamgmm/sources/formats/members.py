"""Files and stores that hold several arrays (HDF5, Zarr, npz): which of them is the table that is meant.

A table is one matrix of numbers, one array of records, or columns side by side: arrays of one dimension and the same
length in one group. Where there is more than one, the error lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamgmm.sources.columns import Chosen, Exclude

__all__ = ["Member", "check_rows_first", "choose", "what_of"]

_OF_FEATURES = ("variable", "feature", "column")
"""Names of dimensions of features, in the singular: by `Dataset.to_array` of xarray for one."""


@dataclass(frozen=True, slots=True)
class Member:
    """An array in a file or store.

    Attributes
    ----------
    path : without a leading slash
    shape : rows first
    dtype
    what : what it holds if not numbers, or None
    label : names or numbers the rows
    names : of its columns, where it has such
    frame : the group that is one table with all its arrays, whatever their dimensions, or None
    order : names of all columns of that frame, in order
    is_records : each element has named fields
    transposed : stored with the rows last
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    what: str | None = None
    label: bool = False
    names: tuple[str, ...] = ()
    frame: str | None = None
    order: tuple[str, ...] = ()
    is_records: bool = False
    transposed: bool = False

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2 and self.what is None and self.frame is None

    @property
    def is_column(self) -> bool:
        return len(self.shape) == 1 and not self.is_records and self.frame is None

    @property
    def columns(self) -> tuple[str, ...]:
        return self.names or (self.name,)


@dataclass(frozen=True, slots=True)
class _Table:
    """Members that are a table together."""

    path: str
    members: tuple[Member, ...]
    is_group: bool

    @property
    def n_rows(self) -> int:
        return self.members[0].shape[0]

    @property
    def numbers(self) -> list[Member]:
        return [member for member in self.members if member.what is None and not member.label]

    def __str__(self) -> str:
        if not self.is_group:
            member = self.members[0]
            return " x ".join(map(str, member.shape)) + (" records" if member.is_records else "")
        names = [name for member in self.members for name in member.columns]
        return "columns " + ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")


def what_of(dtype: np.dtype[Any]) -> str | None:
    """Kind of the values of an array of this type if not numbers; None for numbers."""
    dtype = np.dtype(dtype)
    kind = dtype.kind
    if kind in "iufb":
        return "categories" if dtype.metadata and "enum" in dtype.metadata else None
    kinds = {"c": "complex numbers", "M": "times", "m": "time differences", "V": "records"}
    return kinds.get(kind, "text or objects")


def check_rows_first(dimensions: Sequence[str], name: str) -> None:
    """Refuse a matrix whose first dimension is called like one of features, and its second is not.

    Parameters
    ----------
    dimensions : names, where they are known
    name : for messages

    Raises
    ------
    ValueError
        With the remedy.
    """
    if len(dimensions) != 2:
        return
    first, second = dimensions
    if first.lower().removesuffix("s") in _OF_FEATURES and second.lower().removesuffix("s") not in _OF_FEATURES:
        raise ValueError(
            f"{name}: expected the rows first; its first dimension is called {first!r}, like one of features. Use "
            f"X.transpose({second!r}, {first!r}) of xarray; or, where these are rows, X.rename({{{first!r}: 'row'}})."
        )


def choose(path: str, inner: str, members: Sequence[Member], columns: Chosen = None) -> tuple[Member, ...]:
    """The members that are the table that `inner` names, or the only one that there is.

    Parameters
    ----------
    path : of the file, for messages
    inner : path of an array or of a group; "" for the whole file
    columns : what is asked for; columns of one group, if these are names

    Raises
    ------
    ValueError
        Where there is none, or more than one, with the choices.
    """
    inner, is_root = inner.strip("/"), inner.startswith("/") and not inner.strip("/")
    exact = [member for member in members if member.path == inner and inner]
    if exact:
        return (_usable(path, exact[0]),)
    members = _thin_as_columns(members)
    below = [member for member in members if not inner or member.path.startswith(inner + "/")]
    where = f"{path}::{inner}" if inner else path
    if inner and not below:
        raise ValueError(f"{where}: there is no such dataset. {_choices(path, members)}")
    if is_root:
        below = [member for member in members if not member.group]
    tables, groups = _tables(below), _groups(below)
    asked = [group for group in groups if _are_names(columns, [member.name for member in group.members])]
    if len(asked) == 1:
        groups, tables = asked, []
    here = [table for table in (*tables, *groups) if inner and table.path == inner]
    if len(here) == 1 and not tables:
        groups = here
    if len(tables) == 1 and not any(_competes(group, tables[0]) for group in groups):
        return tables[0].members
    if not tables and len(groups) == 1:
        return _equally_long(path, groups[0], columns)
    if not tables and not groups:
        raise ValueError(f"{where}: expected rows of numbers; {_nothing(below)}")
    raise ValueError(
        f"{where}: expected one table, found {len(tables) + len(groups)}. Name the one that is meant: "
        f"{_listed(path, [*tables, *groups])}."
    )


def _thin_as_columns(members: Sequence[Member]) -> list[Member]:
    """Matrices of one column as columns, where a group holds no numbers but such and columns of that length."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        if (member.is_matrix or member.is_column) and member.what is None and not member.label:
            groups.setdefault(member.group, []).append(member)
    thin = {
        group
        for group, some in groups.items()
        if len(some) > 1
        and all(m.is_column or m.shape[1] == 1 for m in some)
        and (all(m.is_matrix for m in some) or len({m.shape[0] for m in some}) == 1)
    }
    return [
        replace(member, shape=member.shape[:1]) if member.is_matrix and member.group in thin else member
        for member in members
    ]


def _are_names(columns: Chosen, names: Sequence[str]) -> bool:
    """True where `columns` are names, all among `names`."""
    if isinstance(columns, Exclude) or columns is None:
        return False
    return bool(columns) and all(isinstance(name, str) and name in names for name in columns)


def _tables(members: Sequence[Member]) -> list[_Table]:
    found = [_Table(member.path, (member,), False) for member in members if member.is_matrix or member.is_records]
    frames = dict.fromkeys(member.frame for member in members if member.frame is not None)
    return found + [_Table(frame, tuple(m for m in members if m.frame == frame), True) for frame in frames]


def _groups(members: Sequence[Member]) -> list[_Table]:
    """Groups with columns of numbers, the row labels of which are known."""
    groups = dict.fromkeys(member.group for member in members if member.is_column)
    found = [_Table(g, tuple(m for m in members if m.is_column and m.group == g), True) for g in groups]
    return [group for group in found if group.numbers]


def _competes(group: _Table, table: _Table) -> bool:
    """True for columns that may be a table of their own, beside one that is: labels and axes of it are none."""
    sides = {side for member in table.members for side in member.shape}
    return len([member for member in group.numbers if member.shape[0] not in sides]) > 1


def _equally_long(path: str, group: _Table, columns: Chosen) -> tuple[Member, ...]:
    members = group.members
    if isinstance(columns, Sequence) and _are_names(columns, [member.name for member in members]):
        members = tuple(member for member in members if member.name in columns)
    lengths = {member.shape[0] for member in members}
    if len(lengths) > 1:
        told = ", ".join(f"{member.name} ({member.shape[0]})" for member in members[:10])
        raise ValueError(
            f"{path}{'::' + group.path if group.path else ''}: expected columns of the same length; found {told}. Name "
            f"those that belong together, columns=[...], or one alone, {path}::{members[0].path}."
        )
    return members


def _usable(path: str, member: Member) -> Member:
    if member.is_records or member.frame is not None:
        return member
    if len(member.shape) not in (1, 2):
        raise ValueError(f"{path}::{member.path}: {_dimensions(member)}")
    return member


def _dimensions(member: Member) -> str:
    return (
        f"Found array with dim {len(member.shape)}, expected 2: rows and features; {member.name} has the shape "
        f"{member.shape}. Read it in Python and pass it in two dimensions, for instance X.reshape(-1, "
        f"{member.shape[-1] if member.shape else 1})."
    )


def _nothing(members: Sequence[Member]) -> str:
    odd = [member for member in members if len(member.shape) > 2 and member.what is None]
    if odd:
        return _dimensions(odd[0])
    held = sorted({"row labels" if m.label else m.what or "single numbers" for m in members})
    return f"there is nothing but {', '.join(held)}." if held else "there are no arrays."


def _listed(path: str, tables: Sequence[_Table]) -> str:
    some = [f"{path}::{table.path or '/'} ({table})" for table in tables[:12]]
    return ", ".join(some) + (f", ... ({len(tables)} in all)" if len(tables) > 12 else "")


def _choices(path: str, members: Sequence[Member]) -> str:
    tables = [*_tables(members), *_groups(members)]
    return f"Choose one of: {_listed(path, tables)}." if tables else "There is no table of numbers."
