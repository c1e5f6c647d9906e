"""An Arrow IPC stream: a file, standard input, or anything with ``read``. The position is a number of rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamgmm.sources.labels import index_columns, tell_left_out
from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors import Source

__all__ = ["ArrowStream", "features_of", "matrix"]


class ArrowStream(Source):
    """Record batches of numeric columns; nulls become NaN, which the session sets aside.

    Parameters
    ----------
    path : path, "-" for standard input, or a file-like object
        Replayed from its beginning after a restart; what was counted is passed over.
    columns : sequence of str, optional
        All by default.
    """

    def __init__(self, path: Any = "-", *, columns: Sequence[str] | None = None) -> None:
        self.path, self.columns = path, columns
        self._file: Any = None

    def open(self, position: Position) -> Iterator[Batch]:
        import pyarrow as pa

        if self.path == "-":
            self._file = sys.stdin.buffer
        else:
            self._file = self.path if hasattr(self.path, "read") else open(self.path, "rb")  # noqa: SIM115
        at, skip, told = 0, int(position or 0), False
        for record in pa.ipc.open_stream(self._file):
            if at + record.num_rows > skip:
                names, labels = features_of(record.schema, self.columns)
                if not told:
                    tell_left_out("the stream" if self.path == "-" else str(self.path), labels)
                    told = True
                yield Batch(matrix(record, names), at + record.num_rows, at, names=tuple(names))
            at += record.num_rows

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdin.buffer and self._file is not self.path:
            self._file.close()
        self._file = None


def features_of(schema: Any, columns: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """`columns`, or all of a schema but its row labels, and these."""
    if columns is not None:
        return list(columns), ()
    labels = index_columns(schema)
    return [name for name in schema.names if name not in labels], labels


def matrix(table: Any, names: Sequence[str]) -> Any:
    """(n, D) float64 of the columns of a table or record batch; text stays text, for the session to refuse."""
    if not names:
        return np.empty((table.num_rows, 0))
    return np.column_stack([table.column(name).to_numpy(zero_copy_only=False) for name in names])
