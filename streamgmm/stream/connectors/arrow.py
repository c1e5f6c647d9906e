"""Record batches of Arrow: a stream or file, standard input, or anything with ``read``. The position counts rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.formats.tables import arrow_numbers, arrow_schema
from streamgmm.sources.labels import index_columns, tell_left_out
from streamgmm.sources.nested import Leaf, leaves, type_of
from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors import Source

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ArrowStream", "features_of", "leaves_of", "matrix"]


class ArrowStream(Source):
    """Record batches of numeric columns; nulls become NaN, which the session sets aside.

    Parameters
    ----------
    path : path, "-" for standard input, or a file-like object
        Replayed from its beginning after a restart; what was counted is passed over.
    columns : sequence of str, optional
        All by default.
    """

    def __init__(self, path: str | os.PathLike[str] = "-", *, columns: Sequence[str] | None = None) -> None:
        self.path, self.columns = path, columns
        self._file: Any = None

    def open(self, position: Position) -> Iterator[Batch]:
        if self.path == "-":
            self._file = sys.stdin.buffer
        else:
            self._file = self.path if hasattr(self.path, "read") else open(self.path, "rb")  # noqa: SIM115
        at, skip, told = 0, int(position or 0), False
        nested: dict[str, Leaf] = {}
        for record in _batches(self._file):
            nested = nested or leaves_of(record)
            if at + record.num_rows > skip:
                names, labels = features_of(record.schema, self.columns, nested)
                if not told:
                    tell_left_out("the stream" if self.path == "-" else str(self.path), labels)
                    told = True
                yield Batch(matrix(record, names, nested), at + record.num_rows, at, names=tuple(names))
            at += record.num_rows

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdin.buffer and self._file is not self.path:
            self._file.close()
        self._file = None


def _batches(file: Any) -> Iterator[Any]:
    """The record batches of a stream, or of a file in the Arrow format, which needs to be seekable."""
    import pyarrow as pa

    if hasattr(file, "seekable") and file.seekable():
        head = file.read(6)
        file.seek(-len(head), 1)
        if head == b"ARROW1":
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            return
    yield from pa.ipc.open_stream(file)


def leaves_of(table: pa.Table) -> dict[str, Leaf]:
    """The columns inside columns of a table or record batch; the first list of each says how long all are."""
    found = leaves(table.schema, lambda name: (table.column(name),))
    return {leaf.name: leaf for leaf in found if leaf.steps}


def features_of(
    schema: pa.Schema, columns: Sequence[str] | None, nested: dict[str, Leaf]
) -> tuple[list[str], tuple[str, ...]]:
    """`columns`, or all of a schema but its row labels, and these; columns that hold others count as those."""
    if columns is not None:
        return list(columns), ()
    labels = index_columns(schema)
    within: dict[str, list[str]] = {}
    for leaf in nested.values():
        within.setdefault(leaf.root, []).append(leaf.name)
    names = [name for root in schema.names if root not in labels for name in within.get(root, [root])]
    return names, labels


def matrix(table: pa.Table, names: Sequence[str], nested: dict[str, Leaf]) -> NDArray[np.float64]:
    """(n, D) float64 of the columns of a table or record batch; text stays text, for the session to refuse."""
    if not names:
        return np.empty((table.num_rows, 0))
    columns = []
    for name in names:
        leaf = nested.get(name)
        column = table.column(name) if leaf is None else leaf.take(table.column(leaf.root))
        kind = leaf.kind if leaf is not None else type_of(table.schema.field(name))
        ((_, other, _),) = arrow_schema([(name, kind)])
        if isinstance(kind, str):  # numbers that mean something else
            columns.append(np.array(list(map(str, column.to_pylist())), object))
        else:
            columns.append(arrow_numbers(column) if other is None else column.to_numpy(zero_copy_only=False))
    return np.column_stack(columns)
