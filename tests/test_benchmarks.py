"""The benchmarks themselves, tiny: both sides run, agree, and end in a table."""

from __future__ import annotations

import json

from benchmarks import environments, peers


def test_one_small_case_beside_scikit_learn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin:kernels -->\nold\n<!-- end:kernels -->\nafter\n")
    results = tmp_path / "results.json"
    assert peers.main(["--tiny", "--runs", "1", "--results", str(results), "--readme", str(readme)]) == 0
    (stored,) = json.loads(results.read_text()).values()
    assert set(stored["implementations"]) == {"streamgmm", "scikit-learn"}
    assert stored["implementations"]["scikit-learn"]["gap"] < peers.AGREE
    assert stored["implementations"]["scikit-learn"]["iterations"] == 3
    assert "scikit-learn" in capsys.readouterr().out
    assert "20,000 x 3, K = 4, full" in readme.read_text()


def test_a_missing_interpreter_leaves_the_peer_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environments, "_interpreter", lambda version: None)
    assert environments.python_of("oneDAL") is None
    assert "left out" in capsys.readouterr().err
