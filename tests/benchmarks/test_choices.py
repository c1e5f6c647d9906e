"""The benchmark of choices runs on small sets, writes its page, and goes on where it was cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import streamgmm as sg
from benchmarks.peers import choices


def test_made_sets_have_components_that_do_not_touch():
    for seed in range(4):
        X, K = choices.made(seed)
        assert 2 <= K <= 6 and 300 <= len(X) < 1500 and 2 <= X.shape[1] <= 5
        fits = [GaussianMixture(k, n_init=3, random_state=0).fit(X) for k in (K - 1, K)]
        assert fits[1].bic(X) < fits[0].bic(X)


def test_mclust_chooses_by_the_same_criterion(shared):
    """Its choices were made on these rows: the folder of reference fits has its BIC of two of the sets."""
    known = json.loads((shared / "mclust" / "reference.json").read_text())["sets"]
    kept = json.loads(choices.MCLUST.read_text())
    for name in ("iris", "faithful"):
        values = known[name]["bic_default"]["VVV"]
        best = max(value for value in values if value is not None)
        assert kept[name]["bic of VVV"] == pytest.approx(best, abs=6e-4)
        assert choices.reference(name)["mclust"] == known[name]["bic_default_G"][values.index(best)]
    assert choices.reference("penguins") == {"mclust": 3, "mclust_best": "4 (VEE)"} and not choices.reference("none")


def test_choices_of_mclust_belong_to_the_made_sets(tmp_path, monkeypatch):
    kept = json.loads(choices.MCLUST.read_text())
    for seed in range(3):
        X, K = choices.made(seed)
        gm = sg.GaussianMixture(K, n_init=5, tol=1e-8, reg_covar=0, random_state=0).fit(X)
        assert kept[f"made {seed}"]["VVV"] == K
        assert -kept[f"made {seed}"]["bic of VVV"] == pytest.approx(gm.bic(X), abs=0.01)
    monkeypatch.setattr(choices, "sets", lambda mclust: {"made 0": lambda: choices.made(0)})
    assert choices.main(["--rows", str(tmp_path)]) == 0
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "made 0.csv", delimiter=",", skiprows=1), choices.made(0)[0])


def test_one_set_and_then_no_more(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(120, 2)) + 9.0 * (np.arange(120) % 2)[:, None]
    monkeypatch.setattr(choices, "sets", lambda mclust: {"two": lambda: (rows, 2), "made 0": lambda: (rows[:80], 2)})
    monkeypatch.setattr(choices, "LARGEST", 3)
    monkeypatch.setattr(choices, "MCLUST", tmp_path / "mclust.json")
    choices.MCLUST.write_text(json.dumps({"made 0": {"VVV": 2, "K": 2, "best": "EEE"}}))
    monkeypatch.setattr(choices, "N_INIT", 2)
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text("<!-- begin:choices -->\n<!-- end:choices -->\n")
    order = ["--records", str(records), "--write", str(page)]
    assert choices.main([*order, "--most", "1"]) == 0 and len(records.read_text().splitlines()) == 1
    assert choices.main(order) == 0 and len(records.read_text().splitlines()) == 2
    assert choices.main(order) == 0 and len(records.read_text().splitlines()) == 2
    text = page.read_text()
    assert "| two | 120 x 2 | 2 | 2 |" in text and "| 1 made sets |" in text and "mclust's in 1" in text
