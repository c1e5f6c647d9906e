"""A folder that gains Parquet files. The position is [name of the last file, row groups read of it]."""

from __future__ import annotations

import errno
import glob
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.labels import tell_left_out
from streamgmm.sources.nested import Leaf, leaves, roots
from streamgmm.sources.partitions import is_partition, values_of
from streamgmm.stream.batch import Batch, Position, StreamPositionError
from streamgmm.stream.connectors import Source
from streamgmm.stream.connectors.arrow import features_of, matrix

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["ParquetFolder"]


class ParquetFolder(Source):
    """Files in the order of their names, which must therefore grow, as time stamps do.

    A file without its footer is still being written and is waited for; names with "." or "_" in front are passed over.
    Files in folders called ``column=value`` belong to the stream; such columns come last where all values are numbers.

    Parameters
    ----------
    path : folder, or one file
    columns : sequence of str, optional
    pattern : str
    follow : bool
        Wait for more files; else those that are there are read, and that is the end.
    poll : float
        Seconds between looks.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] | None = None,
        pattern: str = "*.parquet",
        follow: bool = False,
        poll: float = 0.5,
    ) -> None:
        self.path, self.pattern, self.alone = Path(path), pattern, False
        if not self.path.is_dir() and not follow:
            if not self.path.exists():
                raise FileNotFoundError(errno.ENOENT, "no such file or folder", str(path))
            self.path, self.pattern, self.alone = self.path.parent, glob.escape(self.path.name), True
        self.columns = columns
        self.follow, self.poll = follow, poll

    def before(self, position: Position, n: int) -> bytes | None:
        name, done = position
        file = self._file(name) if (self.path / name).exists() else None
        if file is None or not 0 < done <= file.num_row_groups:
            return None if file is None else b""
        nested = self._nested(file)
        names, _ = features_of(file.schema_arrow, self._own(name), nested)
        return _tail(self._rows(file, name, done - 1, names, nested)[0])

    def _names(self) -> list[str]:
        return sorted(self._below(self.path, ""))

    def _below(self, folder: Path, path: str) -> Iterator[str]:
        yield from (path + p.name for p in folder.glob(self.pattern) if p.name[0] not in "._")
        for inner in folder.iterdir() if folder.is_dir() and not self.alone else ():
            if is_partition(inner.name) and inner.is_dir():
                yield from self._below(inner, f"{path}{inner.name}/")

    def _own(self, name: str) -> list[str] | None:
        """The wanted columns that the file itself holds."""
        parts = values_of(name)
        return None if self.columns is None else [column for column in self.columns if column not in parts]

    def _nested(self, file: pq.ParquetFile) -> dict[str, Leaf]:
        found = leaves(
            file.schema_arrow,
            lambda name: (batch.column(name) for batch in file.iter_batches(batch_size=1024, columns=[name])),
        )
        return {leaf.name: leaf for leaf in found if leaf.steps}

    def _rows(
        self, file: pq.ParquetFile, name: str, group: int, names: Sequence[str], nested: dict[str, Leaf]
    ) -> tuple[Any, tuple[str, ...]]:
        """The rows of a row group, and what their columns are called."""
        rows = matrix(file.read_row_group(group, columns=roots(names, nested)), names, nested)
        parts = {key: value for key, value in values_of(name).items() if key not in names}
        if self.columns is None:
            wanted = (*names, *(key for key, value in parts.items() if value is not None))
        else:
            wanted = tuple(self.columns)
        if wanted == tuple(names):
            return rows, wanted
        held = {column: rows[:, j] for j, column in enumerate(names)}
        held |= {key: np.full(len(rows), np.nan if value is None else value) for key, value in parts.items()}
        return np.column_stack([held[column] for column in wanted]), wanted

    def open(self, position: Position) -> Iterator[Batch]:
        last, done = position or ("", 0)
        known, told = {name for name in self._names() if name <= last}, False
        if last and last not in known:
            raise StreamPositionError(f"{self.path}: the snapshot stands in {last!r}, which is not there any more.")
        while True:
            names = self._names()
            late = [name for name in names if name <= last and name not in known]
            if late:
                raise StreamPositionError(
                    f"{self.path}: {late[0]!r} came after {last!r} was read, but sorts before it. File names must grow."
                )
            progress = False
            for name in names:
                if name < last:
                    continue
                file = self._file(name)
                if file is None:
                    break
                nested = self._nested(file)
                columns, labels = features_of(file.schema_arrow, self._own(name), nested)
                if not told:
                    tell_left_out(str(self.path), labels)
                    told = True
                for group in range(done if name == last else 0, file.num_row_groups):
                    rows, named = self._rows(file, name, group, columns, nested)
                    self.tail = _tail(rows)
                    start = [last, done] if last else None
                    last, done, progress = name, group + 1, True
                    known.add(name)
                    yield Batch(rows, [last, done], start, names=named)
            if not self.follow:
                return
            if not progress:
                time.sleep(self.poll)

    def _file(self, name: str) -> pq.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path / name, page_checksum_verification=True)
        except pa.ArrowInvalid:
            if self.follow:
                return None
            raise


TAIL_ROWS = 64
"""Rows before the position that a snapshot remembers a hash of, at most."""


def _tail(rows: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(rows[-TAIL_ROWS:]).tobytes()
