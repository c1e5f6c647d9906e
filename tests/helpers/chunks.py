"""The rows of a source, and what must hold for its chunks."""

from __future__ import annotations

import json
import pickle

import numpy as np


def read(source):
    loaded = [chunk.load() for chunk in source.chunks()]
    rows = np.concatenate([r for r, _ in loaded]) if loaded else np.empty((0, source.n_features))
    weights = None if not loaded or loaded[0][1] is None else np.concatenate([w for _, w in loaded])
    return rows, weights


def check_chunks(source, expected, dtype=np.float64):
    """Every promise of `Source` and `Chunk` about rows that are `expected`."""
    row = 0
    for index, chunk in enumerate(source.chunks()):
        assert chunk.index == index
        copy = pickle.loads(pickle.dumps(chunk))
        rows, _ = copy.load()
        assert rows.flags.c_contiguous and rows.dtype == dtype == source.dtype and rows.shape[1] == source.n_features
        assert chunk.start in (row, None)
        assert source.max_chunk_rows is None or len(rows) <= source.max_chunk_rows
        np.testing.assert_array_equal(rows, expected[row : row + len(rows)])
        row += len(rows)
    assert row == len(expected)
    assert source.n_rows in (row, None)
    assert source.n_chunks in (index + 1, None)
    assert json.loads(json.dumps(source.fingerprint())) is not None
