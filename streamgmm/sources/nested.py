"""Columns inside columns of Arrow tables: fields of structs, and elements of lists that are equally long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Leaf", "UnequalListsError", "is_nested", "leaves", "roots"]


class UnequalListsError(ValueError):
    """Lists of one column are not equally long."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One number of each row inside a nested column.

    Attributes
    ----------
    name : ``point.x`` for a field, ``embedding_0`` for an element
    root : the column of the file
    steps : from there: the name of a field, or (position, length) in a list
    kind : pyarrow type
    """

    name: str
    root: str
    steps: tuple[Any, ...]
    kind: pa.DataType

    def take(self, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """The values in a column of the file; null where a struct or list on the way is.

        Raises
        ------
        UnequalListsError
            Where a list has another length.
        """
        import pyarrow.compute as pc

        for step in self.steps:
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
    """True for structs and lists."""
    import pyarrow.types as t

    return bool(t.is_struct(kind) or t.is_fixed_size_list(kind) or t.is_list(kind) or t.is_large_list(kind))


def leaves(schema: pa.Schema, sample: Callable[[str], Iterable[Any]]) -> list[Leaf]:
    """The columns of a pyarrow schema with nested ones expanded, in order.

    Parameters
    ----------
    sample : gives arrays of the column of a name, whose first list says how long all are
    """
    return [leaf for field in schema for leaf in _within(field.name, field.name, (), field.type, sample)]


def _within(
    name: str, root: str, steps: tuple[Any, ...], kind: pa.DataType, sample: Callable[[str], Iterable[Any]]
) -> Iterator[Leaf]:
    import pyarrow.types as t

    if t.is_struct(kind) and kind.num_fields:
        for field in kind:
            yield from _within(f"{name}.{field.name}", root, (*steps, field.name), field.type, sample)
        return
    length = 0
    if t.is_fixed_size_list(kind):
        length = kind.list_size
    elif t.is_list(kind) or t.is_large_list(kind):
        length = _length(Leaf(name, root, steps, kind), sample)
    for i in range(length):
        yield from _within(f"{name}_{i}", root, (*steps, (i, length)), kind.value_type, sample)
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
