"""Columns inside columns of Arrow tables: fields of structs, elements of equally long lists, extension types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EXTENSION", "Leaf", "UnequalListsError", "is_nested", "leaves", "roots", "type_of"]

EXTENSION = b"ARROW:extension:name"
"""Metadata of a field whose extension type is not registered in this process: it then has the type of its storage."""
_NO_NUMBERS = frozenset(
    {"pandas.period", "pandas.interval", "arrow.timestamp_with_offset", "arrow.uuid", "arrow.opaque"}
)
"""Extension types whose storage may be numbers that mean something else."""


class UnequalListsError(ValueError):
    """Lists of one column are not equally long."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One number of each row inside a nested column.

    Attributes
    ----------
    name : ``point.x`` for a field, ``embedding_0`` for an element
    root : the column of the file
    steps : from there: the name of a field, (position, length) in a list, or None: the storage of an extension type
    kind : pyarrow type; a text that says what is there where values that look like numbers are none
    """

    name: str
    root: str
    steps: tuple[Any, ...]
    kind: pa.DataType | str

    def take(self, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """The values in a column of the file; null where a struct or list on the way is.

        Raises
        ------
        UnequalListsError
            Where a list has another length.
        """
        import pyarrow.compute as pc

        for step in self.steps:
            if step is None:
                # Where the type is not registered (another process) the column is its storage already.
                column = column.cast(getattr(column.type, "storage_type", column.type))
                continue
            if isinstance(step, str):
                column = pc.struct_field(column, step)
                continue
            at, length = step
            lengths = pc.min_max(pc.list_value_length(column)).as_py()
            if lengths["min"] is not None and (lengths["min"], lengths["max"]) != (length, length):
                other = lengths["min"] if lengths["min"] != length else lengths["max"]
                raise UnequalListsError(
                    f"column {self.root!r}: expected lists of {length} numbers, as in the first row; found one of "
                    f"{other}. Make them equally long, or leave the column out."
                )
            column = pc.list_element(column, at)
        return column


def is_nested(kind: pa.DataType) -> bool:
    """True for structs, lists and extension types."""
    import pyarrow as pa
    import pyarrow.types as t

    if isinstance(kind, pa.BaseExtensionType):
        return True
    return bool(t.is_struct(kind) or t.is_fixed_size_list(kind) or t.is_list(kind) or t.is_large_list(kind))


def type_of(field: pa.Field) -> pa.DataType | str:
    """The type of a field, or a text where it only looks like numbers, whether its extension is registered or not."""
    extension = getattr(field.type, "extension_name", None) or (field.metadata or {}).get(EXTENSION, b"").decode()
    return f"values of type {extension}" if extension in _NO_NUMBERS else field.type


def leaves(schema: pa.Schema, sample: Callable[[str], Iterable[Any]]) -> list[Leaf]:
    """The columns of a pyarrow schema with nested ones expanded, in order.

    Parameters
    ----------
    sample : gives arrays of the column of a name, whose first list says how long all are
    """
    return [leaf for field in schema for leaf in _within(field.name, field.name, (), field, sample)]


def _within(
    name: str, root: str, steps: tuple[Any, ...], field: pa.Field, sample: Callable[[str], Iterable[Any]]
) -> Iterator[Leaf]:
    import pyarrow as pa
    import pyarrow.types as t

    kind = type_of(field)
    if isinstance(kind, str):
        yield Leaf(name, root, steps, kind)
        return
    if isinstance(kind, pa.BaseExtensionType):
        steps, kind = (*steps, None), kind.storage_type
    if t.is_struct(kind) and kind.num_fields:
        for inner in kind:
            yield from _within(f"{name}.{inner.name}", root, (*steps, inner.name), inner, sample)
        return
    length = 0
    if t.is_fixed_size_list(kind):
        length = kind.list_size
    elif t.is_list(kind) or t.is_large_list(kind):
        length = _length(Leaf(name, root, steps, kind), sample)
    for i in range(length):
        yield from _within(f"{name}_{i}", root, (*steps, (i, length)), kind.value_field, sample)
    if not length:
        yield Leaf(name, root, steps, kind)


def _length(leaf: Leaf, sample: Callable[[str], Iterable[Any]]) -> int:
    """Length of the first list that is there; 0 where there is none."""
    import pyarrow.compute as pc

    for array in sample(leaf.root):
        lengths = pc.drop_null(pc.list_value_length(leaf.take(array)))
        if len(lengths):
            return int(lengths[0].as_py())
    return 0


def roots(names: Sequence[str], nested: dict[str, Leaf]) -> list[str]:
    """The columns of the file that hold the named columns, each once."""
    return list(dict.fromkeys(nested[name].root if name in nested else name for name in names))
