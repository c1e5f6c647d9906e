"""An Arrow IPC stream: a file, standard input, or anything with ``read``. The position is a number of rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors import Source

__all__ = ["ArrowStream", "matrix"]


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
        at, skip = 0, int(position or 0)
        for record in pa.ipc.open_stream(self._file):
            if at + record.num_rows > skip:
                yield Batch(matrix(record, self.columns), at + record.num_rows, at)
            at += record.num_rows

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdin.buffer and self._file is not self.path:
            self._file.close()
        self._file = None


def matrix(table: Any, columns: Sequence[str] | None) -> Any:
    """(n, D) float64 of the columns of a table or record batch; text stays text, for the session to refuse."""
    names = table.schema.names if columns is None else columns
    if not names:
        return np.empty((table.num_rows, 0))
    return np.column_stack([table.column(name).to_numpy(zero_copy_only=False) for name in names])
