"""The benchmark of starts runs on two mixtures, writes its page, and goes on where it was cut."""

from __future__ import annotations

import numpy as np

from benchmarks.peers import starts


def test_mixtures_are_small_and_all_different():
    made = [starts.mixture(seed) for seed in range(20)]
    assert all(300 <= len(X) < 2000 and 1 <= X.shape[1] <= 8 and 2 <= K <= 8 for X, K in made)
    assert len({X.shape for X, _ in made}) > 15


def test_two_mixtures_and_then_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "MIXTURES", 2)
    monkeypatch.setattr(starts, "mixture", lambda seed: (np.random.default_rng(seed).normal(size=(200, 2)), 2))
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text("<!-- begin:starts -->\n<!-- end:starts -->\n")
    order = ["--records", str(records), "--write", str(page)]
    assert starts.main([*order, "--most", "1"]) == 0 and len(records.read_text().splitlines()) == 1
    assert starts.main(order) == 0 and len(records.read_text().splitlines()) == 2
    assert starts.main(order) == 0 and len(records.read_text().splitlines()) == 2
    text = page.read_text()
    assert "| n_init = 10 |" in text and "2 random mixtures" in text
