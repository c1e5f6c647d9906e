"""Look at a source, read all of it and write down what is there, or store it anew with checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.errors import ChunkReadError, LateTextError
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.chunking import wanted_rows
from streamgmm.sources.summaries.moments import Moments, finite_moments
from streamgmm.utils.atomic import atomic_folder, atomic_path

Progress = Callable[[int, int], None]
"""Called with the chunks and rows done so far."""

_MARK = "streamgmm"


def describe(source: Source) -> dict[str, Any]:
    """Facts that are known without reading the rows, as a JSON-able dictionary."""
    return {
        "path": source.name,
        "kind": source.kind,
        "rows": source.n_rows,
        "features": source.n_features,
        "dtype": str(source.dtype),
        "chunks": source.n_chunks,
        "largest_chunk_rows": source.max_chunk_rows,
        "chunk_peak_bytes": source.chunk_bytes,
        "bytes": source.total_bytes,
        "feature_names": None if source.feature_names is None else list(source.feature_names),
        "weights": source.has_weights,
        "codecs": getattr(source, "codecs", None),
        "checksums": source.verified(),
        "missing_chunks": getattr(source, "n_missing", None),
    }


def without_checksums(source: Source) -> str | None:
    """Kinds of damage that data cannot show, in a sentence; None where all of the rows are under checksums."""
    if source.verified() is not False:
        return None
    return (
        f"no checksums in {source.name} ({source.kind}): a flipped bit there is a value like any other. Keep a "
        "manifest (--manifest) and check against it, or convert to Zarr (streamgmm data convert), which has them."
    )


# Checking -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChunkFacts:
    """Facts about one chunk; `sha256` is over its rows as little-endian bytes, then its weights."""

    index: int
    start: int | None
    rows: int
    sha256: str
    min: list[float | None]
    max: list[float | None]
    nan: int
    infinite: int


@dataclass(slots=True)
class Manifest:
    """Facts about a source.

    Attributes
    ----------
    rows : int
    weight : sum of the sample weights, or None without
    min, max, mean, deviation : for each feature, over finite values; None where there is none
    missing : for each feature the rows in which it is NaN
    nan, infinite : counts
    chunks : facts of each chunk that could be read, in order
    problems : chunks that could not be read, or differ from an earlier manifest
    """

    source: dict[str, Any]
    n_features: int
    feature_names: list[str] | None
    rows: int = 0
    weight: float | None = None
    min: list[float | None] = field(default_factory=list)
    max: list[float | None] = field(default_factory=list)
    nan: int = 0
    infinite: int = 0
    chunks: list[ChunkFacts] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    mean: list[float | None] = field(default_factory=list)
    deviation: list[float | None] = field(default_factory=list)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically."""
        document = {"format": "streamgmm-manifest", "version": 1, **asdict(self)}
        with atomic_path(path) as part:
            part.write_text(json.dumps(document, indent=1, allow_nan=False))


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """A manifest from its file.

    Raises
    ------
    ValueError
        Where it is none.
    """
    try:
        document = json.loads(Path(path).read_text())
        if document.pop("format") != "streamgmm-manifest" or document.pop("version") != 1:
            raise ValueError("of another kind")
        document["chunks"] = [ChunkFacts(**chunk) for chunk in document["chunks"]]
        return Manifest(**document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: expected a manifest written by `streamgmm data check` ({error}).") from error


def check(
    source: Source, *, against: Manifest | None = None, progress: Progress | None = None, n_jobs: int = 2
) -> Manifest:
    """Read everything; the facts of every chunk, and everything that is wrong.

    Parameters
    ----------
    against : an earlier manifest of the same source: chunks whose content differs become problems
    """
    names = None if source.feature_names is None else list(source.feature_names)
    manifest = Manifest(source.fingerprint(), source.n_features, names)
    expected = {} if against is None else {chunk.index: chunk for chunk in against.chunks}
    low = np.full(source.n_features, np.inf)
    high = np.full(source.n_features, -np.inf)
    missing = np.zeros(source.n_features, np.int64)
    moments: Moments | None = None
    seen = 0
    for index, result in _ahead(source, _facts, n_jobs):
        seen = index + 1
        if isinstance(result, Exception):
            manifest.problems.append(str(result))
            continue
        facts, weight, gaps, some = result
        manifest.chunks.append(facts)
        missing += gaps
        moments = some if moments is None else moments.merge(some)
        manifest.rows += facts.rows
        manifest.nan += facts.nan
        manifest.infinite += facts.infinite
        if weight is not None:
            manifest.weight = (manifest.weight or 0.0) + weight
        low = np.fmin(low, np.array(facts.min, np.float64))
        high = np.fmax(high, np.array(facts.max, np.float64))
        was = expected.pop(index, None)
        if against is not None and (was is None or was.sha256 != facts.sha256):
            manifest.problems.append(
                f"{source.name}: chunk {index}: "
                + ("is not in the manifest." if was is None else "its content differs from the manifest.")
            )
        if progress is not None:
            progress(seen, manifest.rows)
    manifest.problems += [f"{source.name}: chunk {index}: is in the manifest only." for index in sorted(expected)]
    manifest.min, manifest.max = _finite(low), _finite(high)
    manifest.missing = missing.tolist()
    known = np.zeros(source.n_features, bool) if moments is None else moments.count > 0
    for name, values in () if moments is None else (("mean", moments.mean), ("deviation", np.sqrt(moments.variance))):
        setattr(manifest, name, _finite(np.where(known, values, np.nan)))
    return manifest


def _finite(values: NDArray[Any]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _facts(chunk: Chunk) -> tuple[ChunkFacts, float | None, NDArray[np.int64], Moments]:
    """Facts of a chunk, its weight, and for each feature the rows in which it is NaN; and its moments."""
    rows, weights = chunk.load()
    finite = np.isfinite(rows)
    whole = bool(finite.all())
    digest = hashlib.sha256(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")))
    if weights is not None:
        digest.update(np.ascontiguousarray(weights, "<f8"))
    low = np.min(rows, axis=0, initial=np.inf, where=True if whole else finite)
    high = np.max(rows, axis=0, initial=-np.inf, where=True if whole else finite)
    gaps = np.zeros(rows.shape[1], np.int64) if whole else np.isnan(rows).sum(axis=0)
    nan = int(gaps.sum())
    facts = ChunkFacts(
        chunk.index,
        chunk.start,
        len(rows),
        digest.hexdigest(),
        _finite(low),
        _finite(high),
        nan,
        0 if whole else int((~finite).sum()) - nan,
    )
    return facts, None if weights is None else float(weights.sum()), gaps, finite_moments(rows, weights)


def _ahead[T](source: Source, work: Callable[[Chunk], T], n_jobs: int) -> Iterator[tuple[int, T | Exception]]:
    """``work(chunk)`` of every chunk in order, a few chunks ahead; data errors are handed on, not raised."""
    with ThreadPoolExecutor(max(1, n_jobs)) as pool:
        waiting: deque[tuple[int, Future[T]]] = deque()

        def result() -> tuple[int, T | Exception]:
            index, future = waiting.popleft()
            try:
                return index, future.result()
            except LateTextError as error:
                if not error.named:
                    raise  # who opened the table can leave the column out
                return index, error
            except (ChunkReadError, ValueError) as error:
                return index, error

        try:
            for chunk in source.chunks():
                waiting.append((chunk.index, pool.submit(work, chunk)))
                if len(waiting) > n_jobs:
                    yield result()
            while waiting:
                yield result()
        finally:
            for _, future in waiting:
                future.cancel()


# Converting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Converted:
    """Result of `convert`."""

    path: str
    rows: int
    features: int
    chunks: int
    bytes: int


def convert(
    source: Source,
    out: str | os.PathLike[str],
    *,
    chunk_rows: int | None = None,
    dtype: DTypeLike | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    n_jobs: int = 2,
) -> Converted:
    """Write `source` as a Zarr array with checksums, whole or not at all.

    Names of features are kept in the array's attributes; sample weights become its last column, which `open_source`
    then takes for weights by itself.

    Parameters
    ----------
    out : path of the new store; its folder must exist
    chunk_rows : rows of a stored chunk, by default about 2 MiB
    dtype : "float32" or "float64", by default that of the source
    overwrite : replace `out` where it is a Zarr array; anything else is never touched

    Raises
    ------
    FileExistsError
        Where `out` exists, and may not or must not be replaced.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    target = Path(out)
    _check_target(target, overwrite)
    kind = np.dtype(source.dtype if dtype is None else dtype)
    if kind not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64; got {kind}.")
    height = wanted_rows(chunk_rows, source.n_features)
    width = source.n_features + source.has_weights
    attributes: dict[str, Any] = {"weight": source.n_features if source.has_weights else None}
    if source.feature_names is not None:
        attributes["feature_names"] = [*source.feature_names, *(["weight"] if source.has_weights else [])]
    with atomic_folder(target) as part:
        array = zarr.create_array(
            part,
            shape=(source.n_rows or 0, width),
            chunks=(height, width),
            dtype=kind,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
            config={"write_empty_chunks": True},
            attributes={_MARK: attributes},
        )
        rows = _write(array, source, height, width, progress, n_jobs)
        if rows != array.shape[0]:
            raise ChunkReadError(source.name, 0, f"expected {array.shape[0]} rows in all, read {rows}.")
        stored = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    return Converted(str(target), rows, source.n_features, -(-rows // height), stored)


def _write(array: Any, source: Source, height: int, width: int, progress: Progress | None, n_jobs: int) -> int:
    """Fill `array` with whole stored chunks; the number of rows."""
    waiting = np.empty((height, width), array.dtype)
    filled = written = 0
    for index, result in _ahead(source, _loaded, n_jobs):
        if isinstance(result, Exception):
            raise result
        rows, weights = result
        at = 0
        while at < len(rows):
            n = min(height - filled, len(rows) - at)
            into = waiting[filled : filled + n]
            into[:, : source.n_features] = rows[at : at + n]
            if weights is not None:
                into[:, -1] = weights[at : at + n]
            filled, at = filled + n, at + n
            if filled == height:
                _grow(array, written + height, source)
                array[written : written + height] = waiting
                written, filled = written + height, 0
        if progress is not None:
            progress(index + 1, written + filled)
    if filled:
        _grow(array, written + filled, source)
        array[written : written + filled] = waiting[:filled]
    return written + filled


def _grow(array: Any, rows: int, source: Source) -> None:
    if source.n_rows is None:
        array.resize((rows, array.shape[1]))


def _loaded(chunk: Chunk) -> tuple[Rows, Weights]:
    return chunk.load()


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: the folder {target.parent} does not exist. Make it first.")
    if not target.exists():
        return
    ours = target.is_dir() and ((target / "zarr.json").is_file() or (target / ".zarray").is_file())
    if not ours:
        raise FileExistsError(f"{target}: exists and is no Zarr array; it is left alone. Choose another name.")
    if not overwrite:
        raise FileExistsError(
            f"{target}: exists already. Choose another name, or allow it to be replaced (--overwrite)."
        )
