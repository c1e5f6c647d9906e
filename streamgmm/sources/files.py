"""Several files as one source: a list of paths, a glob pattern, or a folder. Columns are matched by name."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from streamgmm.sources.arranged import matched
from streamgmm.sources.base import Chunk, Rows, Source, Weights, all_verified
from streamgmm.sources.columns import weight_array
from streamgmm.sources.partitions import partitions_of

__all__ = ["FilesSource", "are_paths", "files_in", "files_like", "open_files"]

_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip"}


def are_paths(obj: object) -> TypeGuard[Sequence[str | os.PathLike[str]]]:
    """Whether this is a list of paths."""
    return isinstance(obj, (list, tuple)) and bool(obj) and all(isinstance(item, (str, os.PathLike)) for item in obj)


def files_like(pattern: str) -> list[str]:
    """The files and folders that match a pattern with ``*``, ``?``, ``[...]`` or ``**``, in the order of their names.

    One that several links lead to counts once.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    """
    found = sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.basename(path).startswith("_"))
    if not found:
        raise FileNotFoundError(f"{pattern}: no file matches. Check the pattern; relative ones start at {os.getcwd()}.")
    return _once(found, str)


def _once[T](found: Iterable[T], path: Callable[[T], str]) -> list[T]:
    """Files as they are named first, where several links lead to one."""
    kept: dict[str, T] = {}
    for one in found:
        kept.setdefault(os.path.realpath(path(one)), one)
    return list(kept.values())


MAGIC = {
    b"\x93NUMPY": "npy", b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow", b"\x89HDF": "hdf5"
}  # fmt: skip
"""First bytes of the files of a format."""

_NOTES = ("readme", "license", "licence", "changelog")


def by_magic(path: Path) -> str | None:
    """The format of a file whose name has no suffix, by its first bytes; None where they tell none."""
    if path.suffix or not path.is_file():
        return None
    with open(path, "rb") as stream:
        head = stream.read(8)
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


def files_in(folder: str, kinds: dict[str, str]) -> list[tuple[str, str]]:
    """The files below a folder whose suffix is in `kinds`, in the order of their paths, and their kinds.

    A name without a suffix counts by its first bytes. Names with "." or "_" in front are passed over, as are notes
    (README.txt, any .txt beside other data) and files of other kinds. A Zarr store counts as one file, and a file that
    several links lead to counts once.

    Raises
    ------
    ValueError
        Where a compressed file would be passed over.
    """
    found = _once(_files_in(folder, kinds, ()), itemgetter(0))
    data = [(path, kind) for path, kind in found if not path.lower().endswith(".txt")]
    return data or found


def _files_in(folder: str, kinds: dict[str, str], above: tuple[str, ...]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if (real := os.path.realpath(folder)) in above:  # a link that leads back up
        return found
    for path in sorted(Path(folder).iterdir()):
        kind = "zarr" if path.name.lower().endswith(".zarr.zip") else kinds.get(path.suffix.lower())
        if path.name.startswith((".", "_")) or (path.is_file() and path.stem.lower() in _NOTES):
            continue
        kind = kind or by_magic(path)
        if path.is_dir() and not (kind == "zarr" or (path / "zarr.json").exists() or (path / ".zarray").exists()):
            found += _files_in(str(path), kinds, (*above, real))
        elif path.is_dir():
            found.append((str(path), "zarr"))
        elif kind is not None:
            found.append((str(path), kind))
        elif path.suffix.lower() in _COMPRESSED and kinds.get(Path(path.stem).suffix.lower()) is not None:
            raise ValueError(f"{path}: a compressed file among others would not be read. Unpack it, or take it away.")
    return found


@dataclass(frozen=True, slots=True)
class FilesChunk(Chunk):
    """A chunk of one of the files, with its place among all."""

    index: int
    start: int | None
    chunk: Chunk
    dtype: np.dtype[Any]

    def check(self) -> None:
        self.chunk.check()

    def texts(self, column: str) -> list[str]:
        return self.chunk.texts(column)

    def load(self) -> tuple[Rows, Weights]:
        rows, weights = self.chunk.load()
        return rows if rows.dtype == self.dtype else rows.astype(self.dtype), weights

    @property
    def shipped_bytes(self) -> int:
        return self.chunk.shipped_bytes


class FilesSource(Source):
    """The rows of several sources, one after the other."""

    kind = "files"
    decodes = True

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        self.name = name
        first = parts[0]
        self.n_features = first.n_features
        self.has_weights = first.has_weights
        self.feature_names = next((part.feature_names for part in parts if part.feature_names is not None), None)
        self.left_out = first.left_out
        self.notice = "; ".join(filter(None, (_notices(parts), _nameless(parts)))) or None
        single = all(part.dtype == np.float32 for part in parts)
        self.dtype = np.dtype(np.float32 if single else np.float64)
        self._set(parts)

    def _set(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        self.n_rows = _sum([part.n_rows for part in parts])
        self.n_chunks = _sum([part.n_chunks for part in parts])

    def chunks(self) -> Iterator[Chunk]:
        index, before = 0, 0 if self.parts else None
        for part in self.parts:
            for chunk in part.chunks():
                start = None if before is None or chunk.start is None else before + chunk.start
                yield FilesChunk(index, start, chunk, self.dtype)
                index += 1
            before = None if before is None or part.n_rows is None else before + part.n_rows

    @property
    def most_rows(self) -> int | None:
        return _sum([part.most_rows for part in self.parts])

    @property
    def max_chunk_rows(self) -> int | None:
        rows = [part.max_chunk_rows for part in self.parts]
        return None if None in rows else max(row for row in rows if row is not None)

    @property
    def chunk_bytes(self) -> int | None:
        sizes = [part.chunk_bytes for part in self.parts]
        converted = any(part.dtype != self.dtype for part in self.parts)
        known = [size for size in sizes if size is not None]
        return None if len(known) < len(sizes) else max(known) * (2 if converted else 1)

    def verified(self) -> bool | None:
        return all_verified(self.parts)

    def limited(self, max_rows: int) -> Source:
        cut = copy(self)
        cut._set([part.limited(max_rows) for part in self.parts])
        return cut

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "files", "dtype": self.dtype.str, "files": [part.fingerprint() for part in self.parts]}


def _nameless(parts: Sequence[Source]) -> str | None:
    """A notice where some files name their columns and others, of another format, do not."""
    named = next((part for part in parts if part.feature_names is not None), None)
    other = next((part for part in parts if part.feature_names is None), None)
    if named is None or other is None or named.kind == other.kind:
        return None
    return f"{other.name} has no names of columns: they are taken to stand in the order of {named.name}"


def _notices(parts: Sequence[Source]) -> str | None:
    """Notices of the parts, those that all share once."""
    told = {part.notice for part in parts}
    if len(told) == 1:
        return told.pop()
    return "; ".join(f"{part.name}: {part.notice}" for part in parts if part.notice)[:500]


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return None if len(known) < len(counts) else sum(known)


def open_files(
    name: str, paths: Sequence[str], open_file: Callable[[str, dict[str, Any]], Source], choices: dict[str, Any],
    root: str | None = None,
) -> Source:  # fmt: skip
    """The rows of the files, in this order, as one source.

    Parameters
    ----------
    open_file : (path, choices) -> Source
    choices : keyword arguments of a source: columns, weight, chunk_rows
    root : folder below which names of folders may be partitions, by default the one that all files have in common

    Raises
    ------
    ValueError
        Where the files have other columns than the first one: by name where both have names, else by number.
    """
    weight, partitions = choices["weight"], partitions_of(paths, root)

    def open_one(path: str, some: dict[str, Any]) -> Source:
        return open_file(path, some) if partitions is None else partitions.open(path, open_file, some)

    if weight is None or isinstance(weight, (str, int, np.integer)):
        parts = [open_one(path, choices) for path in paths]
    else:
        counting = {**choices, "weight": None, "chunk_rows": choices["chunk_rows"] or 65_536}
        rows = [int(open_one(path, counting).n_rows or 0) for path in paths]
        weights = weight_array(weight, name, sum(rows))
        assert weights is not None
        ends = list(accumulate(rows))
        parts = [
            open_one(path, {**choices, "weight": weights[end - n : end]})
            for path, n, end in zip(paths, rows, ends, strict=True)
        ]
    named = next((part for part in parts if part.feature_names is not None), parts[0])
    return FilesSource(name, [_like(part, named) for part in parts])


def _like(part: Source, first: Source) -> Source:
    """`part` with its columns in the order of those of `first`."""
    names, found = first.feature_names, part.feature_names
    if names is not None and found is not None and sorted(names) != sorted(found):
        missing = [name for name in names if name not in found]
        extra = [name for name in found if name not in names]
        both = [name for name in names if name in found]
        raise ValueError(
            f"{part.name}: expected the columns of {first.name}, {_listed(names)}; found {_listed(found)}"
            + (f"; missing: {_listed(missing)}" if missing else "")
            + (f"; not in the other: {_listed(extra)}" if extra else "")
            + (f". Choose those that both have: open_source(..., columns={both!r})." if both else ".")
        )
    if part.n_features != first.n_features:
        raise ValueError(
            f"{part.name}: expected {first.n_features} columns, as in {first.name}; found {part.n_features}. Give "
            "files of the same columns."
        )
    return part if names is None or found is None else matched(part, names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
