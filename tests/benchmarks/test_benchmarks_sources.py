"""The benchmark of sources, once and tiny: every format takes part and gives all rows."""

from __future__ import annotations

import numpy as np

from benchmarks.costs.sources import measure


def test_every_source_is_measured():
    records = measure(np.random.default_rng(0).standard_normal((3000, 3)).round(3), 2, 2, repeats=1)
    assert len(records) == 14
    assert all(r["rows"] == (300 if r["source"] == "csv" else 3000) for r in records)
    assert all(r["read"] > 0 and r["pass"] > 0 for r in records)
