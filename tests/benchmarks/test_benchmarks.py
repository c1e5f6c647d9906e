"""The benchmarks themselves, tiny: both sides run, agree, and end in a table."""

from __future__ import annotations

import json

import pytest

from benchmarks.costs import parts, scaling, startup
from benchmarks.peers import environments, iteration
from streamgmm.kernels import dispatch


def test_one_small_case_beside_scikit_learn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin:kernels -->\nold\n<!-- end:kernels -->\nafter\n")
    results = tmp_path / "results.json"
    assert iteration.main(["--tiny", "--runs", "1", "--results", str(results), "--write", str(readme)]) == 0
    (stored,) = json.loads(results.read_text()).values()
    assert set(stored["implementations"]) == {"streamgmm", "scikit-learn"}
    assert stored["implementations"]["scikit-learn"]["gap"] < iteration.AGREE
    assert stored["implementations"]["scikit-learn"]["iterations"] == 3
    assert "scikit-learn" in capsys.readouterr().out
    assert "20,000 x 3, K = 4, full" in readme.read_text()
    assert "streamgmm: 1, scikit-learn: 1" in readme.read_text()

    # A second call adds to the runs of the first; under other kernels only those of the slow peer are kept.
    again = ["--tiny", "--runs", "1", "--slow-runs", "0", "--results", str(results)]
    assert iteration.main(again) == 0
    (stored,) = json.loads(results.read_text()).values()
    assert {peer: found["runs"] for peer, found in stored["implementations"].items()} == {
        "streamgmm": 2,
        "scikit-learn": 1,
    }
    monkeypatch.setattr(iteration, "sources_hash", lambda: "other kernels")
    assert iteration.main(again) == 0
    (stored,) = json.loads(results.read_text()).values()
    assert len(stored["samples"]["streamgmm"]) == len(stored["samples"]["scikit-learn"]) == 1


def test_a_missing_interpreter_leaves_the_peer_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environments, "_interpreter", lambda version: None)
    assert environments.python_of("oneDAL") is None
    assert "left out" in capsys.readouterr().err


def test_costs_fill_their_page_and_draw(tmp_path):
    page = tmp_path / "page.md"
    names = [*scaling.SECTIONS, "growth"]
    page.write_text("".join(f"<!-- begin:{name} -->\n<!-- end:{name} -->\n" for name in names))
    assert scaling.main(["--tiny", "--write", str(page), "--pictures", str(tmp_path)]) == 0
    text = page.read_text()
    for words in ("two threads", "`predict_proba`", "Zarr store", "the process grew by", "| 2 components |"):
        assert words in text
    assert (tmp_path / "cost.png").stat().st_size > 10_000


@pytest.mark.skipif(dispatch.form() == "reference", reason="the hand-tiled kernels do not compile for this processor")
def test_parts_of_an_iteration_fill_their_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin:parts -->\n<!-- end:parts -->\n")
    assert parts.main(["--tiny", "--write", str(page)]) == 0
    rows = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| 8, 16")]
    ((_, frame, logits, responsibilities, statistics, whole),) = rows
    assert all(float(cell.split()[0].replace(",", "")) > 0 for cell in (frame, logits, responsibilities, statistics))
    assert float(whole.split()[0].replace(",", "")) > float(logits.split()[0].replace(",", ""))


def test_a_fresh_process_compiles_only_where_rows_are_many(tmp_path):
    small = startup.Case("small", "blobs(500, 2, 2)", "sg.GaussianMixture(2, max_iter=2).fit(X)")
    imported, done, compiled = startup.waited(small, str(tmp_path))
    assert 0.0 < imported < done
    assert not compiled
    assert "| small |" in startup.table(1, (small,))
