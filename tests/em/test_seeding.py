"""Starts that do not care about units, offsets and elongation."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from streamgmm.em.initialization.methods import Wanted, without_splinters
from streamgmm.em.initialization.multistart import draw
from streamgmm.em.initialization.sample import survey
from streamgmm.mixture.covariance import DIAG, FULL
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source, open_source
from streamgmm.sources.summaries.moments import corners


def long_ellipses(seed, units=1.0, offset=0.0):
    """Three parallel ellipses, axis ratio 100:1, 6 sigma apart in the short direction."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 1500)
    X = np.stack([100 * rng.normal(size=1500), rng.normal(size=1500) + 6 * y], 1)
    c, s = np.cos(0.5), np.sin(0.5)
    return X @ np.array([[c, s], [-s, c]]) * np.array([1.0, units]) + offset, y


@pytest.mark.parametrize(("units", "offset"), [(1.0, 0.0), (1000.0, 1e6)])
@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(20), marks=pytest.mark.slow)])
def test_long_parallel_ellipses_are_told_apart(units, offset, seeds):
    good = 0
    for seed in seeds:
        X, y = long_ellipses(seed, units, offset)
        gm = sg.GaussianMixture(3, n_init=5, random_state=seed).fit(X)
        good += adjusted_rand_score(y, gm.predict(X)) >= 0.95
    assert good >= 0.9 * len(seeds)


def test_bic_picks_three_long_ellipses():
    X, _ = long_ellipses(0, 1000.0)
    assert sg.select(X, range(1, 6), n_init=5, random_state=0).best.n_components == 3


@pytest.mark.parametrize("chunk_rows", [7, 100, 999])
def test_the_sample_does_not_depend_on_chunks_or_threads(chunk_rows):
    X = np.random.default_rng(0).normal(size=(2000, 3))
    weight = np.random.default_rng(1).uniform(0, 2, 2000)
    whole = survey(array_source(X, weight), Threads(1), size=150, seed=5)
    parts = survey(array_source(X, weight, chunk_rows=chunk_rows), Threads(2), size=150, seed=5)
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_allclose(whole.covariance, parts.covariance, rtol=1e-12)
    assert not whole.complete and survey(array_source(X), Threads(1), size=2000, seed=5).complete


def test_the_sample_draws_by_weight():
    X = np.arange(4000.0)[:, None]
    weight = np.where(X[:, 0] < 2000, 3.0, 1.0)
    drawn = survey(array_source(X, weight), Threads(1), size=800, seed=1).rows[:, 0]
    # Three quarters of the weight; the standard deviation of the share is 1.4 %.
    assert np.mean(drawn < 2000) == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("seed", range(6))
def test_one_start_is_enough_on_easy_data(seed):
    rng = np.random.default_rng(seed)
    X = np.concatenate([rng.normal(m, 1, (1000, 2)) for m in (0.0, 5.0)])
    one = sg.GaussianMixture(2, random_state=seed).fit(X)
    many = sg.GaussianMixture(2, random_state=seed, n_init=10).fit(X)
    assert one.lower_bound_ == pytest.approx(many.lower_bound_, abs=1e-5)
    assert len(one.report_["starts"]) == 1
    assert len(one.report_["explored"]) == 1


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("n_rows", [3000, 30_000])
def test_the_same_bits_from_an_array_and_from_files(tmp_path, n_init, n_rows):
    zarr = pytest.importorskip("zarr")
    X = np.concatenate([np.random.default_rng(i).normal(3 * i, 1, (n_rows // 3, 2)) for i in range(3)])
    np.save(tmp_path / "X.npy", X)
    stored = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, chunks=(1000, 2), dtype=X.dtype)
    stored[:] = X
    fits = [
        sg.GaussianMixture(3, random_state=0, n_init=n_init).fit(sg.open_source(data, chunk_rows=1000))
        for data in (X, str(tmp_path / "X.npy"), str(tmp_path / "X.zarr"))
    ]
    for other in fits[1:]:
        np.testing.assert_array_equal(other.covariances_, fits[0].covariances_)
        assert other.lower_bounds_ == fits[0].lower_bounds_


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random"])
def test_first_models_do_not_depend_on_the_number_of_threads(init):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3000, 4)) + 6.0 * rng.integers(0, 3, (3000, 1))
    sample = survey(open_source(x, chunk_rows=1000), Threads(1), size=2000, seed=3)
    made = [
        draw(sample, Wanted(5, FULL, init, 6), np.random.RandomState(1), reg_covar=1e-6, threads=threads)
        for threads in (1, 2, 4)
    ]
    for other in made[1:]:
        for (kind, model), (same, expected) in zip(other, made[0], strict=True):
            assert kind == same
            np.testing.assert_array_equal(model.means, expected.means)
            np.testing.assert_array_equal(model.covariances, expected.covariances)
    starts = [model.means for _, model in made[0]]
    assert not np.array_equal(starts[0], starts[-1])


def test_few_distinct_rows_are_no_warning_from_threads():
    x = np.repeat([[0.0, 0.0], [1.0, 1.0]], 500, axis=0)
    sample = survey(open_source(x), Threads(1), size=2000, seed=3)
    rng = np.random.RandomState(1)
    assert len(draw(sample, Wanted(3, DIAG, "kmeans", 4), rng, reg_covar=1e-6, threads=2)) == 8
    with pytest.warns(UserWarning, match="said"):  # what tests make of warnings is as it was
        warnings.warn("said", UserWarning, stacklevel=1)


@pytest.mark.parametrize("D", [1, 3, 8, 300])
@pytest.mark.parametrize("n", [1, 7, 1000])
def test_corners_of_rows(n, D):
    x = np.random.default_rng(n).normal(size=(n, D))
    x[n // 2, 0] = np.nan
    for rows in (x, np.asfortranarray(x), x.astype(np.float32)):
        expected = np.array([np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)], float)
        np.testing.assert_array_equal(corners(rows), expected)


def public(name):
    return np.array(json.loads((Path(__file__).parents[1] / "data" / "mclust.json").read_text())["sets"][name]["X"])


def noisy_ring(seed):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 500)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.02 * rng.normal(size=(500, 2))
    return np.concatenate([ring, rng.uniform(-1.5, 1.5, (25, 2))])


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize(
    ("X", "K"), [(noisy_ring(2), 2), (public("iris"), 3), (public("faithful"), 2), (public("faithful"), 3)]
)
def test_more_starts_never_end_worse(X, K, seed):
    one, ten = (sg.GaussianMixture(K, random_state=seed, n_init=n).fit(X).score(X) for n in (1, 10))
    assert ten >= one - 1e-4


def test_a_late_winner_is_not_dropped_where_all_rows_are_few():
    """A race that dropped the worse half after 15 steps ended at -1.9159."""
    assert sg.GaussianMixture(2, random_state=0, n_init=10).fit(noisy_ring(1)).score(noisy_ring(1)) > -1.8897


def test_what_a_single_start_comes_to_takes_part_in_the_race_of_many():
    """Of 12,000 rows one start learns from a sample and four from all, which hold that sample."""
    rng = np.random.default_rng(0)
    X = np.concatenate([noisy_ring(i) * (i + 1) for i in range(22)])[:11_500]
    X = np.concatenate([X, rng.uniform(-30, 30, (500, 2))])
    whole = survey(array_source(X, None), Threads(1), size=len(X), seed=3)
    part = survey(array_source(X, None), Threads(1), size=10_000, seed=3)
    np.testing.assert_array_equal(whole.among(10_000).rows, part.rows)
    np.testing.assert_array_equal(whole.among(10_000).weight, part.weight)
    assert whole.among(len(X)) is whole
    one, four = (sg.GaussianMixture(4, random_state=0, n_init=n, max_iter=400).fit(X) for n in (1, 4))
    assert four.lower_bound_ >= one.lower_bound_ - 1e-4
    assert len(four.report_["explored"]) in (2, 3)


@pytest.mark.parametrize("solver", ["auto", "exact", "incremental"])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_groups_far_apart_along_one_axis_are_found(solver, covariance_type):
    """Whitened, they are no farther apart than chance makes any rows; as they are, k-means sees them at once."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 4, 2000)
        X = rng.normal(size=(2000, 8))
        X[:, 0] += 10.0 * label
        gm = sg.GaussianMixture(4, covariance_type=covariance_type, solver=solver, random_state=seed).fit(X)
        found = gm.predict(X)
        assert all(len(set(found[label == k])) == 1 for k in range(4)), seed


def test_starts_keep_no_splinters():
    """k-means on heavy tails leaves clusters of a few rows; what lies far from everything keeps its own."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 10)) / rng.chisquare(2, (3000, 1)) ** 0.5
    labels = np.concatenate([rng.integers(0, 3, 2990), [3] * 6, [4] * 4])
    mended = without_splinters(z, labels, 5, 11)
    counts = np.bincount(mended, minlength=5)
    assert counts.sum() == 3000 and counts.min() > 300
    kept = mended[:2990] == labels[:2990]
    assert kept.mean() > 0.4, "only halves of the largest clusters move"
    far = np.concatenate([z, np.full((3, 10), 1e4)])
    alone = without_splinters(far, np.concatenate([np.where(labels > 2, 0, labels), [3, 3, 3]]), 4, 11)
    assert np.bincount(alone)[3] == 3
    few = np.arange(12) % 4
    assert without_splinters(z[:12], few, 4, 11) is few, "where no component can have enough rows"


def test_points_that_stand_for_rows_count_as_those():
    """Half of the rows of the largest cluster, not half of its points; a cluster of one point is not halved."""
    z = np.array([[0.0], [1.0], [2.0], [3.0], [9.0], [12.0]])
    mass = np.array([10.0, 10.0, 70.0, 10.0, 500.0, 2.0])
    mended = without_splinters(z, np.array([0, 0, 0, 0, 1, 2]), 3, 3, mass)
    assert mended.tolist() == [0, 0, 0, 0, 1, 2], "far from both, in their radii"
    mended = without_splinters(z, np.array([0, 0, 0, 0, 1, 2]), 3, 3, mass, within=1.0)
    assert mended.tolist() in ([0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 2, 1]), (
        "halved is the largest, which has two points now"
    )
    mass = np.array([10.0, 10.0, 70.0, 10.0, 8.0])
    wide = without_splinters(z[:5], np.array([0, 0, 0, 0, 1]), 2, 10, mass)
    assert sorted(mass[wide == k].sum() for k in (0, 1)) in ([20.0, 88.0], [18.0, 90.0])


@pytest.mark.parametrize("family", ["full", "diag"])
@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random", "kmeans||"])
def test_no_way_of_starting_keeps_splinters(init, family):
    """Heavy tails, whose farthest rows are drawn as centres first."""
    rng = np.random.default_rng(8)
    X = rng.standard_t(1.5, (3000, 6)) @ rng.normal(size=(6, 6))
    for make in (sg.GaussianMixture, sg.BayesianGaussianMixture):
        gm = make(5, covariance_type=family, init_params=init, random_state=1, solver="exact", max_iter=1, tol=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gm.fit(X)
        rows = gm.weights_ * 3000 if make is sg.GaussianMixture else gm.mean_precision_ - gm.mean_precision_prior_
        assert rows.min() >= 7


def test_means_that_are_given_are_taken_as_they_are():
    X = np.concatenate([np.random.default_rng(0).normal(size=(500, 2)), [[5.0, 5.0], [5.1, 5.0]]])
    gm = sg.GaussianMixture(2, means_init=[[0.0, 0.0], [5.0, 5.0]], solver="exact", max_iter=1, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
    assert gm.weights_.min() * 502 == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("solver", ["auto", "squarem", "exact", "incremental", "stepwise"])
def test_no_fit_begins_on_a_handful_of_rows(solver):
    rng = np.random.default_rng(3)
    X = rng.standard_t(2.5, (4000, 12)) @ rng.normal(size=(12, 12))
    gm = sg.GaussianMixture(6, solver=solver, random_state=0, max_iter=3, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
    assert gm.weights_.min() * len(X) >= 13


@pytest.mark.parametrize("n_init", [2, 3])
def test_few_starts_of_many_features_beside_those_of_a_single_one(n_init):
    """All of the starts that are asked for may be among those that a single start is chosen from."""
    rows = np.random.default_rng(0).normal(size=(2000, 17)) + 6.0 * (np.arange(2000) % 2)[:, None]
    gm = sg.GaussianMixture(2, n_init=n_init, random_state=0, tol=1e-3).fit(rows)
    one = sg.GaussianMixture(2, random_state=0, tol=1e-3).fit(rows)
    assert gm.lower_bound_ >= one.lower_bound_ - 1e-6
    assert np.ptp(np.bincount(gm.predict(rows))) <= 4
