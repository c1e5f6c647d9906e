"""The benchmark of choices runs on small sets, writes its page, and goes on where it was cut."""

from __future__ import annotations

import json

import numpy as np
from sklearn.mixture import GaussianMixture

from benchmarks.peers import choices


def test_made_sets_have_components_that_do_not_touch():
    for seed in range(4):
        X, K = choices.made(seed)
        assert 2 <= K <= 6 and 300 <= len(X) < 1500 and 2 <= X.shape[1] <= 5
        fits = [GaussianMixture(k, n_init=3, random_state=0).fit(X) for k in (K - 1, K)]
        assert fits[1].bic(X) < fits[0].bic(X)


def test_the_choice_of_mclust_is_read_from_its_reference(tmp_path):
    text = {"sets": {"iris": {"bic_default_G": [1, 2, 3], "bic_default": {"VVV": [-9.0, -7.0, None]}}}}
    (tmp_path / "reference.json").write_text(json.dumps(text))
    assert choices.reference(tmp_path, "iris") == 2
    assert choices.reference(tmp_path, "wine") is None and choices.reference(None, "iris") is None


def test_one_set_and_then_no_more(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(120, 2)) + 9.0 * (np.arange(120) % 2)[:, None]
    monkeypatch.setattr(choices, "sets", lambda mclust: {"two": lambda: (rows, 2), "made 0": lambda: (rows[:80], 2)})
    monkeypatch.setattr(choices, "LARGEST", 3)
    monkeypatch.setattr(choices, "N_INIT", 2)
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text("<!-- begin:choices -->\n<!-- end:choices -->\n")
    order = ["--records", str(records), "--write", str(page)]
    assert choices.main([*order, "--most", "1"]) == 0 and len(records.read_text().splitlines()) == 1
    assert choices.main(order) == 0 and len(records.read_text().splitlines()) == 2
    assert choices.main(order) == 0 and len(records.read_text().splitlines()) == 2
    text = page.read_text()
    assert "| two | 120 x 2 | 2 | 2 |" in text and "1 other made sets" in text
