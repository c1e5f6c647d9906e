"""Parquet files and folders of them (row groups are the partitions), Arrow files and streams (record batches are)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Rows, RunSource, Weights
from streamgmm.sources.chunking import check_chunk_rows, default_chunk_rows
from streamgmm.sources.columns import Chosen, Exclude, WeightChoice, check_weights, digest, weight_array
from streamgmm.sources.files import by_magic
from streamgmm.sources.formats.arrow_stream import Segments, is_stream, runs, splice
from streamgmm.sources.formats.tables import (
    Columns,
    arrow_rows,
    arrow_schema,
    check_stored,
    choose_columns,
    import_pyarrow,
)
from streamgmm.sources.integrity import Stamp, check_shape, check_stamp, stamp
from streamgmm.sources.labels import index_columns
from streamgmm.sources.nested import Leaf, UnequalListsError, leaves, roots
from streamgmm.sources.retry import retried

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Group:
    """Row groups (or record batches) `first` to `stop` of a file, which hold rows `start` to `end` of the source.

    `segments` are the parts of an Arrow stream that hold them, with what must be read before.
    """

    path: str
    stamp: Stamp | None
    first: int
    stop: int
    start: int
    end: int
    segments: Segments | None = None

    def joined(self, other: Group) -> Group:
        """This one and the next of the same file."""
        segments = self.segments
        if segments is not None and other.segments is not None:
            offset, (last, length) = segments[-1][0], other.segments[-1]
            segments = (*segments[:-1], (offset, last + length - offset))
        return Group(self.path, self.stamp, self.first, other.stop, self.start, other.end, segments)


@dataclass(frozen=True, slots=True)
class ParquetChunk(Chunk):
    """Rows `skip` to `skip + n` of a run of row groups."""

    index: int
    start: int
    group: Group
    skip: int
    n: int
    arrow: bool
    columns: Columns
    name: str
    weight: Weights = field(repr=False)
    nested: dict[str, Leaf] = field(repr=False, hash=False)

    def check(self) -> None:
        if self.group.stamp is not None:
            check_stamp(self.group.path, self.group.stamp, self.name, self.index)

    def load(self) -> tuple[Rows, Weights]:
        self.check()
        try:
            rows, weights = retried(self._read, self.name, self.index)
        except ChunkReadError as error:
            if isinstance(error.__cause__, UnequalListsError):
                raise ChunkReadError(self.name, self.index, str(error.__cause__)) from error.__cause__
            raise
        check_shape(rows.shape, (self.n, len(self.columns.names)), self.name, self.index)
        if weights is not None:
            return rows, check_weights(weights, self.name, self.start, self.index)
        return rows, self.weight

    def texts(self, column: str) -> list[str]:
        self.check()
        return retried(partial(self._read_texts, column), self.name, self.index)

    def _read_texts(self, column: str) -> list[str]:
        pa = import_pyarrow(self.name)
        group, at = self.group, 0
        found: list[str] = []
        which = range(group.first, group.stop)
        with opened(group.path) as file:
            if group.segments is not None:
                check_stored(column, splice(file, group.segments).schema.names, self.name)
                batches = splice(file, group.segments, [column])
            elif self.arrow:
                check_stored(column, arrow_reader(file).schema.names, self.name)
                reader = arrow_reader(file, [column])
                batches = (reader.get_batch(i) for i in which)
            else:
                reader = pa.parquet.ParquetFile(file, page_checksum_verification=True)
                check_stored(column, reader.schema_arrow.names, self.name)
                batches = reader.iter_batches(row_groups=list(which), columns=[column], use_threads=False)
            for batch in batches:
                low, high = max(0, self.skip - at), min(batch.num_rows, self.skip + self.n - at)
                if low < high:
                    found += map(str, batch.column(column).slice(low, high - low).to_pylist())
                at += batch.num_rows
        return found

    def _read(self) -> tuple[Rows, Any]:
        pa = import_pyarrow(self.name)
        group, wanted = self.group, roots(self.columns.all, self.nested)
        which = range(group.first, group.stop)
        with opened(group.path) as file:
            if group.segments is not None:
                batches = splice(file, group.segments, wanted)
            elif self.arrow:
                reader = arrow_reader(file, wanted)
                batches = (reader.get_batch(i).select(wanted) for i in which)
            else:
                reader = pa.parquet.ParquetFile(file, page_checksum_verification=True)
                if self.n == group.end - group.start:
                    table = reader.read_row_groups(list(which), columns=wanted, use_threads=False)
                    return arrow_rows(table, self.columns, self.nested)
                batches = reader.iter_batches(
                    batch_size=65_536, row_groups=list(which), columns=wanted, use_threads=False
                )
            return self._gather(batches)

    def _gather(self, batches: Iterable[pa.RecordBatch]) -> tuple[Rows, Any]:
        """The wanted rows of record batches, one batch at a time."""
        rows = np.empty((self.n, len(self.columns.names)), self.columns.dtype)
        weights = None if self.columns.weight is None else np.empty(self.n)
        at = -self.skip
        for batch in batches:
            low, high = max(0, -at), min(batch.num_rows, self.n - at)
            if low < high:
                part, weight = arrow_rows(batch.slice(low, high - low), self.columns, self.nested)
                rows[at + low : at + high] = part
                if weights is not None:
                    weights[at + low : at + high] = weight
            at += batch.num_rows
            if at >= self.n:
                break
        if at < self.n:
            raise ChunkReadError(self.name, self.index, f"expected {self.n} rows, found {max(at, 0)}.")
        return rows, weights


class ParquetSource(RunSource):
    """A Parquet or Arrow file, or a folder of them in the order of their paths."""

    decodes = True

    def __init__(
        self,
        path: str,
        kind: str,
        *,
        columns: Chosen = None,
        weight: WeightChoice = None,
        chunk_rows: int | None = None,
    ) -> None:
        self.name = path
        self.kind = kind
        self.chunk_rows = None if chunk_rows is None else check_chunk_rows(chunk_rows)
        self.files = _files(path, kind)
        self.groups: list[Group] = []
        self.nested: dict[str, Leaf] = {}
        self.message_bytes = 0
        surveyed = [self._survey(file) for file in self.files]
        marked = dict.fromkeys(label for _, found in surveyed for label in found)
        schema, columns = _common(path, self.files, [found for found, _ in surveyed], marked, columns)
        labels = [label for label in marked if any(label == name for name, _, _ in schema)]
        self.columns = choose_columns(path, schema, columns, weight, labels)
        self.nested = {name: leaf for name, leaf in self.nested.items() if name in self.columns.all}
        self.left_out = self.columns.left_out
        self.feature_names = self.columns.names
        self.n_features = len(self.columns.names)
        self.dtype = self.columns.dtype
        total = self.groups[-1].end if self.groups else 0
        self.weight = weight_array(weight, path, total)
        self.has_weights = weight is not None
        self.joined = _join(self.groups, self.chunk_rows or default_chunk_rows(self.n_features))
        self._cut(self.chunk_rows)

    def _survey(self, file: str) -> tuple[list[tuple[str, str | None, bool]], tuple[str, ...]]:
        """Add the partitions of one file; its schema, and which of its columns are row labels."""
        pa = import_pyarrow(self.name)
        mark = stamp(file) if "://" not in file else None
        row = self.groups[-1].end if self.groups else 0
        try:
            with opened(file) as stream:
                places: list[Segments | None] | None = None
                if self.kind == "arrow" and is_stream(stream):
                    batches = runs(stream, stream.size())
                    whole = ((0, stream.size()),)
                    schema = splice(stream, whole).schema
                    counts, places = [run.rows for run in batches], [run.segments for run in batches]
                    self.message_bytes = max((run.place[1] for run in batches), default=self.message_bytes)
                    found = leaves(schema, lambda name: (batch.column(name) for batch in splice(stream, whole)))
                elif self.kind == "arrow":
                    reader = arrow_reader(stream)
                    schema = reader.schema
                    # One column is enough to count rows, and costs little where batches are compressed.
                    narrow = arrow_reader(stream, [schema.names[0]]) if schema.names else reader
                    counts = [narrow.get_batch(i).num_rows for i in range(reader.num_record_batches)]
                    parts = range(reader.num_record_batches)
                    found = leaves(schema, lambda name: (reader.get_batch(i).column(name) for i in parts))
                else:
                    metadata = pa.parquet.ParquetFile(stream, page_checksum_verification=True)
                    schema = metadata.schema_arrow
                    counts = [metadata.metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
                    found = leaves(
                        schema,
                        lambda name: (b.column(name) for b in metadata.iter_batches(batch_size=1024, columns=[name])),
                    )
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = f"{file} is no whole {self.kind} file ({str(error).strip().rstrip('.')}). Restore or rewrite it."
            raise ChunkReadError(file, len(self.groups), reason) from error
        for i, count in enumerate(counts):
            self.groups.append(Group(file, mark, i, i + 1, row, row + count, None if places is None else places[i]))
            row += count
        self.nested |= {leaf.name: leaf for leaf in found if leaf.steps}
        return arrow_schema([(leaf.name, leaf.kind) for leaf in found]), index_columns(schema)

    def verified(self) -> bool:
        return self.kind == "parquet" and all(map(_has_page_checksums, self.files))

    def _cut(self, max_rows: int | None) -> None:
        self.owners: list[Group] = []
        runs = []
        for group in self.joined:
            step = max_rows or max(1, group.end - group.start)
            for start in range(group.start, group.end, step) if group.end > group.start else (group.start,):
                runs.append((start, min(start + step, group.end)))
                self.owners.append(group)
        self.set_runs(runs)

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        group = self.owners[index]
        skip, n, weight = start - group.start, stop - start, self.weights_of(start, stop)
        arrow = self.kind == "arrow"
        return ParquetChunk(index, start, group, skip, n, arrow, self.columns, self.name, weight, self.nested)

    @property
    def chunk_bytes(self) -> int | None:
        rows = self.max_chunk_rows or 0
        whole = any(g.end - g.start == rows for g in self.joined)
        # A whole group stands beside the rows made from it; parts are gathered from batches of 65,536 rows.
        beside = rows if whole else min(rows, 2 * 65_536)
        return int((rows + 1.4 * beside) * 8 * len(self.columns.all)) + self.message_bytes

    def limited(self, max_rows: int) -> ParquetSource:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        cut = copy(self)
        cut._cut(max_rows)
        return cut

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "files": [[os.path.abspath(g.path), g.stamp] for g in self.joined if g.first == 0],
            "columns": list(self.columns.all),
            "weight": self.columns.weight if self.weight is None else digest(self.weight),
            "runs": digest(np.array(self.runs, np.int64)),
        }


_Schema = list[tuple[str, str | None, bool]]


def _common(
    path: str, files: list[str], schemas: list[_Schema], labels: Collection[str], columns: Chosen
) -> tuple[_Schema, Chosen]:
    """The schema of files whose columns are read by name, in any order and precision, and the choice among them.

    Columns that some files lack are left out where others are asked for by name, or where they are excluded or labels.

    Raises
    ------
    ValueError
        Where files differ in other columns.
    """
    if len(schemas) == 1:
        return schemas[0], columns
    by_name = [{name: (what, single) for name, what, single in schema} for schema in schemas]
    excluded = set(columns.columns) if isinstance(columns, Exclude) else set()
    names = () if columns is None or isinstance(columns, Exclude) else columns
    named = bool(names) and all(isinstance(name, str) for name in names)

    def counts(name: str) -> bool:
        return name in names if named else name not in excluded and name not in labels

    first = by_name[0]
    for file, found in zip(files[1:], by_name[1:], strict=True):
        different = [name for name in sorted(set(found) ^ set(first)) if counts(name)]
        different += [
            f"{name} ({found[name][0] or 'numbers'}, {first[name][0] or 'numbers'})"
            for name in sorted(set(found) & set(first))
            if (found[name][0] is None) != (first[name][0] is None) and counts(name)
        ]
        if different:
            raise ValueError(
                f"{path}: expected the same columns in every file; {file} and {files[0]} differ in "
                f"{', '.join(different)}. Rewrite them alike, or name those that all have, columns=[...]."
            )
    common = [
        (name, what, all(found[name][1] for found in by_name))
        for name, what, _ in schemas[0]
        if all(name in found for found in by_name)
    ]
    if isinstance(columns, Exclude):
        absent = set().union(*by_name) - {name for name, _, _ in common}
        columns = Exclude.from_columns([column for column in columns.columns if column not in absent])
    return common, columns


def _join(groups: list[Group], wanted: int) -> list[Group]:
    """Neighbouring small groups of one file put together, up to `wanted` rows."""
    joined: list[Group] = []
    for g in groups:
        last = joined[-1] if joined else None
        if last is not None and last.path == g.path and g.end - last.start <= wanted:
            joined[-1] = last.joined(g)
        else:
            joined.append(g)
    return joined


def _files(path: str, kind: str) -> list[str]:
    if "://" in path or not os.path.isdir(path):
        return [path]
    endings = (".parquet", ".pq") if kind == "parquet" else (".arrow", ".arrows", ".feather", ".ipc")
    found = sorted(
        str(file)
        for file in Path(path).rglob("*")
        if (file.suffix.lower() in endings or by_magic(file) == kind)
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )
    if not found:
        raise ValueError(f"{path}: expected {kind} files in this folder; there is none.")
    return found


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file or URL as something pyarrow reads."""
    import pyarrow.parquet

    assert pyarrow.parquet
    if "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as remote:
            yield pyarrow.PythonFile(remote, mode="r")
    else:
        with pyarrow.OSFile(path) as local:
            yield local


def arrow_reader(stream: BinaryIO, columns: list[str] | None = None) -> pa.RecordBatchReader:
    """A reader of record batches that decodes the named columns only."""
    import pyarrow as pa

    reader = pa.ipc.open_file(stream)
    if columns is None:
        return reader
    names = reader.schema.names
    options = pa.ipc.IpcReadOptions(included_fields=[names.index(c) for c in columns], use_threads=False)
    return pa.ipc.open_file(stream, options=options)


def _has_page_checksums(path: str) -> bool:
    """True if the first page of a Parquet file carries a checksum: its header has a fourth field.

    A page header is a struct of Thrift's compact protocol, whose first three fields, the kind of the page and its two
    sizes, are always there: each a byte that holds the distance to the number of the field before it and the type (5
    for int32), then a number of seven bits a byte.
    """
    pa = import_pyarrow(path)
    with opened(path) as stream:
        metadata = pa.parquet.ParquetFile(stream).metadata
        if metadata.num_row_groups == 0 or metadata.num_columns == 0:
            return True  # there is nothing to check
        column = metadata.row_group(0).column(0)
        stream.seek(column.dictionary_page_offset or column.data_page_offset)
        head = bytes(stream.read(64))
    at = 0
    for _ in range(3):
        at += 1
        while at < len(head) and head[at] & 0x80:
            at += 1
        at += 1
    return head[at : at + 1] == b"\x15"
