"""Columns that are stored apart, side by side: arrays of a group in HDF5, Zarr or npz, each read by its own source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamgmm.sources.base import Chunk, Rows, RunSource, Source, Weights, all_verified
from streamgmm.sources.chunking import check_chunk_rows, cut_runs, default_chunk_rows, even_runs
from streamgmm.sources.columns import Chosen, WeightChoice, check_weights, digest, weight_array
from streamgmm.sources.formats.members import Member
from streamgmm.sources.formats.tables import Columns, choose_columns
from streamgmm.sources.integrity import check_shape
from streamgmm.sources.labels import row_labels

__all__ = ["JoinedSource", "join"]

LARGEST_CHUNK = 128 * 2**20
"""Bytes of rows above which a stored chunk of each column is decoded more than once rather than held as a whole."""

_OpenMember = Callable[[Member, tuple[int, ...] | None], RunSource]


@dataclass(frozen=True, slots=True)
class _Part:
    """A source of some of the columns."""

    source: RunSource
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JoinedChunk(Chunk):
    """The same rows of every part."""

    index: int
    start: int
    stop: int
    chunks: tuple[Chunk, ...]
    names: tuple[tuple[str, ...], ...]
    columns: Columns
    name: str
    weight: Weights = field(repr=False)

    def check(self) -> None:
        for chunk in self.chunks:
            chunk.check()

    def load(self) -> tuple[Rows, Weights]:
        n, D = self.stop - self.start, len(self.columns.names)
        rows = np.empty((n, D), self.columns.dtype)
        weights = self.weight
        places = {name: i for i, name in enumerate(self.columns.all)}
        for chunk, names in zip(self.chunks, self.names, strict=True):
            values, _ = chunk.load()
            check_shape(values.shape, (n, len(names)), self.name, self.index)
            for j, name in enumerate(names):
                if places[name] < D:
                    rows[:, places[name]] = values[:, j]
                else:
                    weights = check_weights(values[:, j], self.name, self.start, self.index)
        return rows, weights

    @property
    def shipped_bytes(self) -> int:
        return sum(chunk.shipped_bytes for chunk in self.chunks)


class JoinedSource(RunSource):
    """Columns that are stored apart."""

    def __init__(
        self, name: str, kind: str, parts: Sequence[_Part], columns: Columns, n_rows: int, weight: WeightChoice,
        chunk_rows: int | None,
    ) -> None:  # fmt: skip
        self.name, self.kind, self.columns = name, kind, columns
        self.parts = tuple(parts)
        self.left_out = columns.left_out
        self.feature_names = columns.names
        self.n_features = len(columns.names)
        self.dtype = columns.dtype
        self.decodes = any(part.source.decodes for part in parts)
        covered = _common([part.source.runs for part in parts])
        self.weight = weight_array(weight, name, n_rows)
        self.has_weights = weight is not None
        self.unit = max((_unit(part.source) for part in parts), default=1)
        wanted = default_chunk_rows(self.n_features) if chunk_rows is None else check_chunk_rows(chunk_rows)
        self.set_runs(_cut(covered, self._step(wanted) if chunk_rows is None else wanted))

    def _step(self, wanted: int) -> int:
        """Rows of a chunk: whole stored chunks of the columns, unless these would be too many rows to hold."""
        whole = max(self.unit, wanted // self.unit * self.unit)
        most = max(wanted, LARGEST_CHUNK // self.row_bytes)
        return whole if whole <= most else most

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        chunks = tuple(part.source.chunk(index, start, stop) for part in self.parts)
        names = tuple(part.names for part in self.parts)
        weight = self.weights_of(start, stop)
        return JoinedChunk(index, start, stop, chunks, names, self.columns, self.name, weight)

    @property
    def chunk_bytes(self) -> int | None:
        sizes = [part.source.in_runs(self.runs).chunk_bytes for part in self.parts]
        known = [size for size in sizes if size is not None]
        rows = (self.max_chunk_rows or 0) * self.row_bytes
        return None if len(known) < len(sizes) else rows + max(known, default=0)

    def verified(self) -> bool | None:
        return all_verified(part.source for part in self.parts)

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        step = max_rows // self.unit * self.unit if max_rows >= self.unit else max_rows
        return self.in_runs(cut_runs(self.runs, step))

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "parts": [part.source.fingerprint() for part in self.parts],
            "columns": list(self.columns.all),
            "weight": self.columns.weight if self.weight is None else digest(self.weight),
            "runs": digest(np.array(self.runs, np.int64)),
        }


def join(
    name: str, kind: str, members: Sequence[Member], open_member: _OpenMember, *, columns: Chosen, weight: WeightChoice,
    chunk_rows: int | None,
) -> JoinedSource:  # fmt: skip
    """The columns of the members side by side, named as these are.

    Parameters
    ----------
    open_member : (member, positions of its columns or None) -> a source of these columns, without weights
    """
    held = {column: (member, j) for member in members for j, column in enumerate(member.columns)}
    names = list(members[0].order) or [column for member in members for column in member.columns]
    stored = [(column, held[column][0].what, held[column][0].dtype == np.float32) for column in names]
    labels = row_labels(names, {column for column in names if held[column][0].label})
    chosen = choose_columns(name, stored, columns, weight, labels)
    wanted: dict[str, list[str]] = {}
    for column in chosen.all:
        wanted.setdefault(held[column][0].path, []).append(column)
    parts = []
    for some in wanted.values():
        member = held[some[0]][0]
        positions = tuple(held[column][1] for column in some)
        source = open_member(member, positions if len(member.columns) > 1 else None)
        parts.append(_Part(source, tuple(some)))
    single = all(part.source.dtype == np.float32 for part in parts if part.names != (chosen.weight,))
    chosen = replace(chosen, dtype=np.dtype(np.float32 if single else np.float64))
    return JoinedSource(name, kind, parts, chosen, members[0].shape[0], weight, chunk_rows)


def _unit(source: Source) -> int:
    """Rows that a source decodes as a whole."""
    return int(getattr(source, "unit", None) or 1)


def _common(runs: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """The rows that all have, as ranges that do not touch each other."""
    common = _merged(runs[0])
    for other in runs[1:]:
        both = [(max(a, c), min(b, d)) for a, b in common for c, d in _merged(other) if max(a, c) < min(b, d)]
        common = sorted(both)
    return common


def _merged(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, stop in runs:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return found


def _cut(covered: Sequence[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    """Ranges cut at multiples of `step`."""
    runs = []
    for start, stop in covered:
        first = min(stop, (start // step + 1) * step)
        runs += [(start, first), *((first + a, first + b) for a, b in even_runs(stop - first, step))]
    return [run for run in runs if run[0] < run[1]]
