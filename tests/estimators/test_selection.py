"""The choice of K: shared passes, honest counts, the same winner with and without dropping."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.em.candidates import Candidate, Totals
from streamgmm.em.model_selection import race
from streamgmm.em.model_selection.cross_validation import fold_numbers
from streamgmm.em.model_selection.race import Pruner
from streamgmm.estimators.selection import elbow, elbows
from streamgmm.sources import array_source
from tests.helpers.counting import Counting


def clusters(n=3000, K=4, D=2, seed=0, separation=6.0):
    rng = np.random.default_rng(seed)
    centres = separation * rng.permutation(np.stack(np.meshgrid(*[np.arange(2)] * 2), -1).reshape(-1, 2))[:K]
    return (centres[rng.integers(0, K, n)] + rng.normal(size=(n, 2)))[:, :D]


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl", "heldout", "cv"])
def test_the_right_number_is_found(criterion):
    result = sg.select(clusters(), range(1, 7), n_init=4, criterion=criterion, random_state=0, folds=4)
    assert result.best.n_components == (4 if criterion not in ("aic", "heldout", "cv") else result.minimum["full"])
    assert result.minimum["full"] in ((4,) if criterion in ("bic", "icl") else (4, 5, 6))
    assert result.elbow["full"] == 4
    assert [row["n_components"] for row in result.table] == list(range(1, 7))
    asked = {name for name in ("heldout", "cv") if result.table[0][name] is not None}
    assert asked == {criterion} & {"heldout", "cv"}


def test_the_table_agrees_with_the_estimator():
    X = clusters(800)
    result = sg.select(X, (2, 4), ("full", "tied", "diag", "spherical"), n_init=3, random_state=0, drop=False)
    assert len(result.table) == 8
    for row in result.table:
        assert row["status"] == "converged" and row["n_passes"] <= result.n_passes
        assert row["bic"] == pytest.approx(-2 * row["loglik"] + row["df"] * np.log(len(X)))
    winner = min(result.table, key=lambda row: row["bic"])
    best = result.best
    assert (best.n_components, best.covariance_type) == (winner["n_components"], winner["covariance_type"])
    assert best.bic(X) == pytest.approx(winner["bic"], rel=1e-5)
    assert best.n_passes_ == result.n_passes and best.n_features_in_ == 2
    assert best.predict(X).shape == (800,)


@pytest.mark.parametrize("criterion", ["bic", "cv"])
def test_every_chunk_is_read_as_often_as_the_report_says(criterion):
    source = Counting(array_source(clusters(), chunk_rows=500))
    result = sg.select(source, range(1, 6), n_init=3, criterion=criterion, random_state=0, folds=3)
    assert set(source.reads.values()) == {result.n_passes} == {result.report["n_passes"]}
    assert result.n_passes <= 25 + (criterion == "cv")


def test_the_same_winner_with_and_without_dropping():
    X = clusters(seed=3)
    kept, dropped = (sg.select(X, range(1, 9), n_init=4, random_state=0, drop=drop) for drop in (False, True))
    assert kept.best.n_components == dropped.best.n_components == 4
    assert all(row["status"] != "dropped" for row in kept.table)
    gone = [row["n_components"] for row in dropped.table if row["status"] == "dropped"]
    assert gone and 4 not in gone
    assert {row["n_components"] for row in dropped.report["dropped"]} >= set(gone)


def test_cross_validation_is_what_it_says():
    X = clusters(900)
    result = sg.select(array_source(X, chunk_rows=200), (1, 4), criterion="cv", n_init=2, folds=3, random_state=0)
    chunks = array_source(X, chunk_rows=200).chunks()
    of = np.concatenate([fold_numbers(chunk, len(chunk.load()[0]), 3) for chunk in chunks])
    assert np.bincount(of).min() > 250
    (one,) = [row for row in result.table if row["n_components"] == 1]
    by_hand = 0.0
    for v in range(3):
        train, held = X[of != v], X[of == v]
        mixture = sg.Mixture([1.0], train.mean(0)[None], np.cov(train.T, ddof=0)[None] + 1e-6 * np.eye(2))
        by_hand += mixture.log_prob(held).sum() / len(X)
    assert one["cv"] == pytest.approx(by_hand, rel=1e-9)
    assert result.best.n_components == 4


def test_weights_and_names_come_through():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(clusters(600), columns=["a", "b"])
    weight = np.random.default_rng(0).integers(0, 3, 600).astype(float)
    result = sg.select(X, (1, 4), n_init=2, random_state=0, sample_weight=weight)
    assert list(result.best.feature_names_in_) == ["a", "b"]
    assert result.best.report_["weight"] == weight.sum()


def test_refusals_say_what_to_do():
    X = clusters(50)
    with pytest.raises(ValueError, match=r"criterion must be one of"):
        sg.select(X, criterion="gap")
    with pytest.raises(ValueError, match=r"n_components must be the whole numbers"):
        sg.select(X, [])
    with pytest.raises(ValueError, match=r"n_components up to 60, n_samples = 50"):
        sg.select(X, range(1, 61))
    with pytest.raises(sg.MemoryLimitError, match=r"; 1 kB may be used\. Raise memory_limit"):
        sg.select(X, memory_limit=1000)
    for folds in (1, 2.5, "3", None, len(X) + 1):
        with pytest.raises(ValueError, match="folds must be"):
            sg.select(X, criterion="cv", folds=folds)
    for limit in (1.5e9, np.inf, b"2GB"):
        with pytest.raises(TypeError, match="memory_limit must be a whole number of bytes"):
            sg.select(X, memory_limit=limit)


def test_a_few_rows_have_a_few_components(tmp_path, caplog):
    """Unasked, K goes as far as every component can have D + 1 rows; asked for more than there are rows, it is said."""
    rng = np.random.default_rng(1)
    X = np.concatenate([rng.normal(size=(6, 2)), rng.normal(size=(6, 2)) + 9.0])
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", header="a,b", comments="")
    for rows in (X, tmp_path / "x.csv"):
        found = sg.select(rows, random_state=0)
        assert [row["n_components"] for row in found.table] == [1, 2, 3, 4] and found.best.n_components > 1
        assert caplog.messages == ["12 rows support at most 4 components; no more are tried"]
        caplog.clear()
        with pytest.raises(ValueError, match=r"n_components up to 13, n_samples = 12 .*Lower .* to 4\."):
            sg.select(rows, range(1, 14))
    assert [row["n_components"] for row in sg.select(X[:2], random_state=0).table] == [1]


@pytest.mark.parametrize("n_components", [5, "1-5", [2.5, 3], None, [], b"12"], ids=str)
def test_what_is_no_list_of_whole_numbers_is_refused(n_components):
    """2.5 is not 2, and a single number is a fit."""
    with pytest.raises(ValueError, match=r"whole numbers to compare, such as range\(1, 11\)"):
        sg.select(np.zeros((10, 2)), n_components)


@pytest.mark.parametrize("n_factors", ["12", 1.5, [1.5], [], [None], b"12"], ids=str)
def test_what_is_no_number_of_factors_is_refused(n_factors):
    """The digits of "12" are no numbers of factors."""
    with pytest.raises(ValueError, match="n_factors must be a whole number, or those to compare"):
        sg.select(np.zeros((10, 3)), [1], "factor", n_factors=n_factors)


@pytest.mark.parametrize("kinds", [None, 3, [], [None], ["full", ["diag"]], b"full"], ids=str)
def test_what_is_no_list_of_names_is_refused(kinds):
    with pytest.raises(ValueError, match="covariance_types must be one name, or those to compare"):
        sg.select(np.zeros((10, 3)), [1], kinds)


def test_doubts_are_said_plainly():
    X = clusters(600)
    sure = sg.select(X, range(1, 7), n_init=3, random_state=0)
    assert not any("largest that was tried" in word for word in sure.report["warnings"])
    narrow = sg.select(X, (1, 2), n_init=2, random_state=0, max_iter=1, solver="exact", tol=0)
    edge, open_ended = narrow.report["warnings"]
    assert "2 (full), is the largest that was tried" in edge
    assert "Not converged" in open_ended and "2 (full)" in open_ended
    assert {row["status"] for row in narrow.table} <= {"converged", "stopped"}


def test_memory_limit_may_be_a_text():
    with pytest.raises(sg.MemoryLimitError, match="; 1 kB may be used"):
        sg.select(clusters(50), memory_limit="1KB")
    assert sg.select(clusters(200), (1, 2), n_init=1, memory_limit="64MB", random_state=0).n_passes > 1


def test_elbow_is_where_the_curve_bends():
    assert elbow([1, 2, 3, 4, 5], [0, 5, 10, 10.5, 11]) == 3
    assert elbow([2, 3], [0, 1]) == 2


def test_noise_has_no_elbow():
    """Of one Gaussian each component more gains a likelihood something, and none of them improves BIC."""
    X = np.random.default_rng(3).normal(size=(1000, 1))
    found = sg.select(X, range(1, 6), n_init=2, random_state=0)
    assert elbows(found.table, found.elbow) == {} and found.best.n_components == 1
    found = sg.select(np.append(X, X[:400] + 8.0, axis=0), range(1, 6), n_init=2, random_state=0)
    assert elbows(found.table, found.elbow) == {"full": 2}
    assert elbows(found.table[:2], found.elbow) == {}  # two points are no curve


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_plot(criterion):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    result = sg.select(clusters(300), (1, 2, 4), ("full", "diag"), n_init=2, criterion=criterion, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ax = result.plot()
    assert criterion.upper() in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["full", "diag"]
    assert len({line.get_linestyle() for line in ax.lines if len(line.get_xdata()) > 1}) == 2  # told apart in print


def test_shuttle_in_a_handful_of_readings(shared):
    X = np.load(shared / "adbench" / "32_shuttle.npz")["X"]
    X = np.ascontiguousarray((X - X.mean(0)) / X.std(0))[::4]
    source = Counting(array_source(X, chunk_rows=4096))
    result = sg.select(source, range(1, 8), n_init=3, random_state=0, reg_covar=1e-3)
    assert set(source.reads.values()) == {result.n_passes}
    assert result.n_passes <= 25


@pytest.mark.parametrize("criterion", ["bic", "cv"])
def test_missing_values_are_marginalised_for_every_candidate(criterion):
    X = clusters(2000)
    X[np.random.default_rng(1).random(X.shape) < 0.05] = np.nan
    with pytest.raises(ValueError, match="marginalize"):
        sg.select(X, range(1, 6), random_state=0)
    result = sg.select(X, range(3, 6), n_init=3, criterion=criterion, missing="marginalize", random_state=0, folds=3)
    assert result.best.n_components == 4 and result.best.missing == "marginalize"
    rows = np.isfinite(X).any(axis=1)
    alone = sg.GaussianMixture(4, n_init=3, missing="marginalize", random_state=0).fit(X)
    assert result.best.report_["rows"] == rows.sum()
    assert result.best.score(X[rows]) == pytest.approx(alone.score(X[rows]), abs=1e-4)


def test_one_component_is_read_once():
    X = clusters(600)
    found = sg.select(X, (1,), random_state=0)
    assert found.n_passes == 1 and found.table[0]["n_passes"] == 1 and found.table[0]["status"] == "converged"
    alone = sg.GaussianMixture(1).fit(X)
    np.testing.assert_array_equal(found.best.covariances_, alone.covariances_)
    assert found.table[0]["bic"] == pytest.approx(alone.bic(X), rel=1e-12)
    steps = []
    sg.select(X, (1, 2), n_init=1, random_state=0, on_step=steps.append)
    assert steps[0].candidates[0].status == "converged" and len(steps[0].candidates[0].trace) == 1


def test_folds_and_holes_still_take_em_for_one_component():
    X = clusters(600)
    judged = sg.select(X, (1, 2), n_init=1, criterion="cv", folds=3, random_state=0)
    assert judged.best.n_components == 2 and np.isfinite([row["cv"] for row in judged.table]).all()
    X[3, 1] = np.nan
    holes = sg.select(X, (1, 2), n_init=1, missing="marginalize", random_state=0)
    assert holes.table[0]["status"] == "converged" and holes.table[0]["n_passes"] > 1


def ring(seed):
    """Rows near a circle, and a few anywhere: EM creeps from most starts of two components."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 500)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.02 * rng.normal(size=(500, 2))
    return np.concatenate([circle, rng.uniform(-1.5, 1.5, (25, 2))])


def test_a_late_winner_is_not_dropped_where_the_table_is_small():
    """A race that kept two after 20 steps ended at -1.9123."""
    assert sg.select(ring(3), [2], random_state=0).table[0]["lower_bound"] > -1.9058


def test_a_number_with_poor_starts_is_found_from_the_next_larger_one(monkeypatch):
    """Two pairs of groups, far apart: all starts of four components give three to one pair."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0], [6, 0], [60, 0], [66, 0]])
    X = means[rng.integers(0, 4, 1000)] + rng.normal(size=(1000, 2))
    eye = np.eye(2)
    poor = sg.Mixture(
        [0.2, 0.1, 0.2, 0.5], [[0.0, 0], [3, 0], [6, 0], [63, 0]], np.stack([eye] * 3 + [np.diag([10.0, 1])])
    )
    rich = sg.Mixture(np.full(5, 0.2), np.concatenate([means, [[0.5, 0.5]]]), np.stack([eye] * 5))
    monkeypatch.setattr(race, "draw", lambda small, wanted, *_, **__: [("rows", {4: poor, 5: rich}[wanted.K])] * 2)
    monkeypatch.setattr(race, "chains", lambda *_, **__: [])
    for drop in (True, False):
        found = sg.select(X, [4, 5], n_init=2, random_state=0, drop=drop)
        truth = sg.Mixture(np.full(4, 0.25), means, np.stack([eye] * 4)).log_prob(X).mean()
        assert found.best.n_components == 4
        assert found.table[0]["lower_bound"] > truth
    alone = sg.select(X, [4], n_init=2, random_state=0)
    assert alone.table[0]["lower_bound"] < truth - 0.2, "the starts are poor"


def test_what_rows_do_not_support_drops_nothing():
    """A component on two rows gains without limit; a start without one goes on to its end."""
    sound = sg.Mixture([0.5, 0.5], [[0.0], [5.0]], [[[1.0]], [[1.0]]])
    spike = sg.Mixture([0.99, 0.01], [[2.5], [5.0]], [[[7.0]], [[1e-6]]])
    last = Totals(-200.0, 0.0, 0.0, 100.0, 100)
    low = Candidate(0, sound, (-2.1, -2.05, -2.03, -2.02, -2.01), last=last)
    high = Candidate(1, spike, (-1.1, -1.05, -1.02, -1.01, -1.0), last=replace(last, loglik=-100.0))
    after = Pruner((0, 0), (-1, -1), "bic", 100, 1e-6)((low, high))
    assert [c.status for c in after] == ["running", "running"]
    worse = replace(low, trace=(-2.0, -1.99, -1.985, -1.984, -1.9839))
    better = replace(high, model=sound)
    after = Pruner((0, 0), (-1, -1), "bic", 100, 1e-6)((worse, better))
    assert [c.status for c in after] == ["dropped", "running"]
    after = Pruner((0, 0), (-1, -1), "bic", 100, 1e-6, frozenset({0}))((worse, better))
    assert [c.status for c in after] == ["running", "running"], "of a kind that leads and is followed"


def test_penguins_as_people_have_them():
    """The raw table: K = 4 ended 86 of BIC above the best of 40 starts, and K = 5 was chosen.

    Numeric columns of Gorman, Williams & Fraser 2014, as the palmerpenguins package has them (CC0).
    """
    X = np.genfromtxt(Path(__file__).parents[1] / "data" / "penguins_raw.csv", delimiter=",", skip_header=1)
    found = sg.select(X, range(1, 7), random_state=0, missing="marginalize")
    assert found.best.n_components == 4
    assert found.table[3]["bic"] < 14564, "14552.1 is the best known"
