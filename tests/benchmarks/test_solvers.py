"""The benchmark of solvers runs on tiny mixtures, writes its page, and goes on where it was cut."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers import solvers
from benchmarks.peers.solvers import Large


def test_a_small_and_a_large_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr(solvers, "SMALL", 1)
    monkeypatch.setattr(solvers, "LARGE", (Large(2_000, 2, 2, 3.0, seeds=(0,)),))
    monkeypatch.setattr(solvers, "mixture", lambda seed: (np.random.default_rng(seed).normal(size=(200, 2)), 2))
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text("<!-- begin:solvers -->\n<!-- end:solvers -->\n")
    order = ["--records", str(records), "--write", str(page)]
    assert solvers.main([*order, "--most", "1"]) == 0 and len(records.read_text().splitlines()) == 1
    assert solvers.main(order) == 0 and len(records.read_text().splitlines()) == 2
    lines = page.read_text().splitlines()
    assert any(line.startswith("| 2,000 x 2, K = 2, means 3 apart | 1 | ") for line in lines)
    assert "streamgmm" not in lines[1] and any("K = 2 to 8 | 1 |" in line for line in lines)


def test_ratios_count_only_solvers_that_come_to_the_same():
    def one(seconds, value):
        return {"seconds": seconds, "wall": seconds, "value": value, "passes": 3}

    records = [
        {"auto": one(3.0, -1.0), "squarem": one(2.0, -1.0), "exact": one(1.0, -1.1)},
        {"auto": one(3.0, -1.0), "squarem": one(2.0, -2.0), "exact": one(1.0, -1.1)},
        {"auto": one(3.0, -1.0), "squarem": one(6.0, -0.9), "exact": one(9.0, -1.1)},
    ]
    busy, better, worse = solvers.ratios(records, "seconds")
    assert busy == pytest.approx([1.5, 0.5]) and (better, worse) == (1, 1)
