"""The benchmark of optima runs, tiny."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.peers import optima, selection


def test_optima_are_measured_and_tabled(tmp_path):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(m, 1, (150, 2)) for m in (-4, 4)])
    np.savez(tmp_path / "22_magic.gamma.npz", X=X)
    assert optima.rows_of("magic", tmp_path).std() > 0.99
    Z = optima.z_scored(X)
    mine, peer = optima.ours(Z, 2, 0, n_init=2), optima.theirs(Z, 2, 0, n_init=2, most=200)
    assert mine["ll"] >= peer["ll"] - 1e-3 and mine["converged"] and peer["rows"] == 200
    records = tmp_path / "records.jsonl"
    rows = [
        {"set": "magic", "who": who, "seed": seed, **r, **optima.environment()}
        for seed in range(5)
        for who, r in (("ours", mine), ("theirs", peer))
    ]
    records.write_text("".join(json.dumps(r) + "\n" for r in rows))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- begin:optima -->\n<!-- end:optima -->\n")
    # Everything is in the records already: nothing is fitted again.
    assert optima.main([str(tmp_path), "--records", str(records), "--sets", "magic", "--write", str(readme)]) == 0
    assert "| magic | 8 |" in readme.read_text() and "5 seeds" in readme.read_text()


def test_select_is_measured_and_tabled(tmp_path):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(m, 1, (300, 2)) for m in (-4, 4)])
    np.savez(tmp_path / "32_shuttle.npz", X=X)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- begin:select -->\n<!-- end:select -->\n")
    assert selection.main([str(tmp_path), "--largest", "2", "--copies", "20", "--write", str(readme)]) == 0
    text = readme.read_text()
    assert "12,000 rows" in text and "| one by one, in memory |" in text and "is the largest that was tried" in text
