"""Cutting rows into chunks: runs of rows that are read together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_FILLED = 2**20
"""Stored chunks that a file may claim to have while it holds none of them."""


def default_chunk_rows(n_features: int) -> int:
    """Rows of a chunk of about 2 MiB, a power of two from 16384 to 131072: a function of D only, never of threads."""
    rows = 2**21 // (8 * max(1, n_features))
    return min(131_072, max(16_384, 1 << (rows.bit_length() - 1) if rows else 1))


def wanted_rows(chunk_rows: int | None, n_features: int) -> int:
    """The user's `chunk_rows`, checked, or the default."""
    return default_chunk_rows(n_features) if chunk_rows is None else check_chunk_rows(chunk_rows)


def even_runs(n_rows: int, chunk_rows: int) -> list[tuple[int, int]]:
    """Runs of `chunk_rows` rows from 0 to `n_rows`, the last one shorter."""
    return [(start, min(start + chunk_rows, n_rows)) for start in range(0, n_rows, chunk_rows)]


def unit_runs(units: Sequence[tuple[int, int]], chunk_rows: int | None, wanted: int) -> list[tuple[int, int]]:
    """Runs made of storage units (row ranges that are decoded as a whole): small ones joined, large ones as they are.

    Parameters
    ----------
    units : (start, stop) of each, ascending; neighbours that do not touch are never joined
    chunk_rows : the user's wish, or None; a unit that holds more is cut, and then read once for each piece
    wanted : rows a chunk should have about, where the user has no wish
    """
    target = wanted if chunk_rows is None else check_chunk_rows(chunk_rows)
    runs: list[tuple[int, int]] = []
    for start, stop in units:
        if runs and runs[-1][1] == start and stop - runs[-1][0] <= target:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    return runs if chunk_rows is None else cut_runs(runs, chunk_rows)


def cut_runs(runs: Sequence[tuple[int, int]], max_rows: int) -> list[tuple[int, int]]:
    """The same rows in runs of at most `max_rows`; those of zero rows are kept."""
    return [
        (first, min(first + max_rows, stop))
        for start, stop in runs
        for first in (range(start, stop, max_rows) if stop > start else (start,))
    ]


def check_filled(declared: int, stored: int, name: str) -> None:
    """Refuse to make up the rows of a file whose metadata claim far more than it holds.

    Raises
    ------
    ValueError
    """
    if declared - stored > MAX_FILLED:
        raise ValueError(
            f"{name}: its metadata declare {declared:,} chunks of rows, of which {stored:,} are stored; at most "
            f"{MAX_FILLED:,} are filled in. Correct its shape, use larger chunks, or leave out what is not there "
            "(missing_chunks='skip')."
        )


def check_chunk_rows(chunk_rows: int) -> int:
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, (int, np.integer)) or chunk_rows < 1:
        raise ValueError(f"chunk_rows must be a whole number of at least 1; got {chunk_rows!r}.")
    return int(chunk_rows)
