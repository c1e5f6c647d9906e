"""The benchmarks themselves, tiny: both sides run, agree, and end in a table."""

from __future__ import annotations

import json

import pytest

from benchmarks import environments, peers


def test_one_small_case_beside_scikit_learn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    results = tmp_path / "results.json"
    assert peers.main(["--tiny", "--runs", "1", "--results", str(results)]) == 0
    (stored,) = json.loads(results.read_text()).values()
    assert set(stored["implementations"]) == {"streamgmm", "scikit-learn"}
    assert stored["implementations"]["scikit-learn"]["gap"] < peers.AGREE
    assert stored["implementations"]["scikit-learn"]["iterations"] == 3
    assert "scikit-learn" in capsys.readouterr().out
    text = peers.table([stored], stored["rate"], stored["machine"])
    peers.write_between_markers(readme, text)
    written = readme.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "20,000 x 3, K = 4, full" in written
    assert "old" not in written


def test_a_readme_without_markers_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="must hold the lines"):
        peers.write_between_markers(tmp_path / "README.md", "table")


def test_a_missing_interpreter_leaves_the_peer_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environments, "_interpreter", lambda version: None)
    assert environments.python_of("oneDAL") is None
    assert "left out" in capsys.readouterr().err
