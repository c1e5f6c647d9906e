"""The benchmarks of the outlier detector, k-means, covariance structures and Bayesian mixtures run, tiny."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.costs import structures
from benchmarks.peers import bayesian, kmeans, outliers
from benchmarks.readme import write_section


def test_a_small_table_is_written(tmp_path):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(190, 2)), rng.normal(size=(10, 2)) * 6])
    y = np.repeat([0, 1], [190, 10])
    cells = outliers.row("0_two normals", X, y, range(1, 3), most=150)
    assert cells[0] == "two normals" and cells[1] == "150 of 200 x 2"
    assert all(float(cell.split()[0]) > 0.7 for cell in cells[4:])
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin:outliers -->\nold\n<!-- end:outliers -->\nafter\n")
    write_section(readme, "outliers", outliers.table([cells]))
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "two normals" in text and "old" not in text
    with pytest.raises(ValueError, match="must hold the lines"):
        write_section(readme, "other", "")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_settings_of_the_detector_beside_each_other():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(380, 2)), rng.normal(size=(20, 2)) * 6])
    y = np.repeat([0, 1], [380, 20])
    runs = [outliers.ways(*outliers.some(X, y, 300, seed), seed, range(1, 6)) for seed in outliers.SEEDS]
    lines = outliers.ways_table({"0_two normals": runs}).splitlines()
    assert len(lines) == 4 + len(runs[0]) and "| two normals |" in lines[2]
    ranks = [float(line.split("|")[2]) for line in lines[4:]]
    assert ranks == sorted(ranks) and all(0.7 < auc <= 1 for run in runs for auc in run.values())


def test_k_means_beside_scikit_learn():
    found = kmeans.measure(5_000, 3, 4, runs=1, steps=3)
    assert found["gap"] < 1e-12
    assert "| 5,000 x 3, 4 |" in kmeans.table({(5_000, 3, 4): found}, steps=3)


def test_costs_of_the_structures():
    costs = structures.measure(2_000, 3, 2, runs=1)
    lines = structures.table(costs, 3, 2).splitlines()
    assert len(lines) == 4 + 14 and lines[4].startswith("| EII | ") and "1.00 of full" in lines[-1]
    assert all(0 < cost.share < 1 for cost in costs.values())


def test_bayesian_mixtures_beside_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bayesian, "ALLOWED", 5)
    monkeypatch.setitem(bayesian.ROWS, "patches", 400)
    monkeypatch.setattr(bayesian, "rows_of", lambda name: bayesian.separated(3, 2, 900, seed=0))
    page = tmp_path / "page.md"
    marks = [f"<!-- {end}:bayesian-{name} -->" for name in ("count", "data") for end in ("begin", "end")]
    page.write_text("\n".join(marks))
    for words in (["--seeds", "0-1", "--library", "streamgmm"], ["--seeds", "1"]):
        bayesian.main(["count", "3x2", "--rows", "500", *words, "--write", str(page)])
    bayesian.main(["data", "patches", "--starts", "1", "--components", "4", "--write", str(page)])
    lines = page.read_text().splitlines()
    (counted,) = [line for line in lines if line.startswith("| 3, 2 |")]
    cells = [cell.strip() for cell in counted.split("|")[2:-1]]
    assert cells[:2] == ["3 to 3", "2 of 2"] and cells[5].endswith("of 1") and 1 <= int(cells[6]) <= 100
    first = next(i for i, line in enumerate(lines) if line.startswith("| patches, 400 x 2 |"))
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[first:] if line.startswith("|")]
    found = {row[0]: row[1:] for row in cells}
    mine, theirs, chosen = (found[name] for name in (cells[0][0], "scikit-learn, best of 1", "select, lowest BIC"))
    assert mine[0] == chosen[0] == "3" and float(mine[1]) >= float(theirs[1]) - 1e-6
    with pytest.raises(SystemExit):
        bayesian.main(["data", "elsewhere"])
