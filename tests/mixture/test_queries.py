"""What a mixture can be asked: every answer against a definition, an integral, or a sample."""

from __future__ import annotations

import doctest
import importlib
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import logsumexp

import streamgmm as sg
from tests.helpers.mixtures import FAMILIES, random_mixture


def with_background(model, weight=0.25):
    box = np.array([model.means.min(axis=0) - 2, model.means.max(axis=0) + 3])
    return sg.Mixture(
        model.weights * (1 - weight), model.means, model.covariances, model.family, noise_weight=weight, box=box
    )


def dense(model):
    return model.family.dense(model.covariances, *model.means.shape)


@pytest.mark.parametrize("module", ["mixture", "prior", "divergence", "sampling"])
def test_examples_run(module):
    result = doctest.testmod(importlib.import_module(f"streamgmm.mixture.{module}"))
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("background", [False, True])
def test_moments(name, background):
    model = random_mixture(name, 3, 4, 1)
    model = with_background(model) if background else model
    X, _ = model.sample(200_000, 0)
    mean, covariance = model.moments()
    np.testing.assert_allclose(mean, X.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(covariance, np.cov(X.T), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("features", [*list(permutations(range(4), 2))[::3], (2,), (3, 1, 0)])
def test_the_marginal_density_is_the_integral(name, features):
    """By its definition: the same components, rows and columns picked; order as asked."""
    model = random_mixture(name, 3, 4, 2)
    part = model.marginal(list(features))
    rows = np.random.default_rng(0).normal(size=(20, len(features)), scale=3)
    pick = np.ix_(features, features)
    logs = [
        np.log(w) + stats.multivariate_normal(mu[list(features)], sigma[pick]).logpdf(rows)
        for w, mu, sigma in zip(model.weights, model.means, dense(model), strict=True)
    ]
    np.testing.assert_allclose(part.log_prob(rows), logsumexp(logs, axis=0), rtol=1e-11)
    assert part.family is model.family


def test_a_marginal_by_quadrature():
    model = with_background(random_mixture("full", 2, 2, 5))
    part = model.marginal(0)
    for x in (-2.0, 0.3, 1.7):
        low, high = model.box[:, 1]
        total, _ = integrate.quad(
            lambda y, x=x: np.exp(model.log_prob([[x, y]])[0]) - model.noise_weight / np.exp(model.log_volume), -60, 60,
            limit=400,
        )  # fmt: skip
        total += model.noise_weight / np.exp(model.log_volume) * (high - low)
        assert np.exp(part.log_prob([[x]])[0]) == pytest.approx(total, rel=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("background", [False, True])
def test_joint_is_marginal_times_conditional(name, background):
    """log p(x) = log p(x_o) + log p(x_m | x_o), to rounding, for rows near and far."""
    model = random_mixture(name, 3, 4, 3)
    model = with_background(model) if background else model
    X = np.concatenate([model.sample(10, 0)[0], [[30.0, -20, 10, 5]]])
    o, m = [3, 1], [0, 2]
    for row in X:
        conditional = model.condition({i: row[i] for i in o})
        assert conditional.weights.sum() + conditional.noise_weight == pytest.approx(1)
        together = model.marginal(o).log_prob(row[None, o]) + conditional.log_prob(row[None, m])
        np.testing.assert_allclose(together, model.log_prob(row[None]), rtol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("background", [False, True])
def test_regression_is_the_moments_of_the_conditional(name, background):
    model = random_mixture(name, 3, 4, 4)
    model = with_background(model) if background else model
    X = model.sample(7, 1)[0]
    means, covariances = model.regression(X[:, [2, 0]], [2, 0])
    assert means.shape == (7, 2) and covariances.shape == (7, 2, 2)
    for row, mean, covariance in zip(X, means, covariances, strict=True):
        wanted = model.condition({2: row[2], 0: row[0]}).moments()
        np.testing.assert_allclose(mean, wanted[0], rtol=1e-10)
        np.testing.assert_allclose(covariance, wanted[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_imputation_is_the_mean_of_the_conditional(name):
    model = with_background(random_mixture(name, 3, 4, 6))
    X = model.sample(12, 2)[0]
    gaps = np.random.default_rng(1).random(X.shape) < 0.4
    filled = model.impute(np.where(gaps, np.nan, X))
    for row, hole, whole in zip(X, gaps, filled, strict=True):
        np.testing.assert_array_equal(whole[~hole], row[~hole])
        if hole.any() and not hole.all():
            mean, _ = model.condition({int(i): row[i] for i in np.flatnonzero(~hole)}).moments()
            np.testing.assert_allclose(whole[hole], mean, rtol=1e-10, atol=1e-12)
        elif hole.all():
            np.testing.assert_allclose(whole, model.moments()[0], rtol=1e-12)


def test_regression_of_a_line_is_least_squares():
    """One Gaussian fitted to (x, y): its conditional is the regression line, with the residual variance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    y = 3 * x - 1 + 0.5 * rng.normal(size=2000)
    gm = sg.GaussianMixture(1, reg_covar=0, random_state=0).fit(np.column_stack([x, y]))
    slope, intercept = np.polyfit(x, y, 1)
    means, covariances = gm.mixture_.regression([[0.0], [2.0]], [0])
    np.testing.assert_allclose(means.ravel(), [intercept, intercept + 2 * slope], rtol=1e-9)
    residual = ((y - intercept - slope * x) ** 2).mean()
    np.testing.assert_allclose(covariances.ravel(), [residual, residual], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(FAMILIES), groups=st.permutations(range(5)))
def test_merging_keeps_the_overall_moments(seed, name, groups):
    model = random_mixture(name, 5, 3, seed)
    merged = model.merge_components([groups[:2], groups[2:4]])
    assert merged.n_components == 3
    before, after = model.moments(), merged.moments()
    np.testing.assert_allclose(after[0], before[0], rtol=1e-10, atol=1e-12)
    keep = {
        "full": lambda c: c,
        "tied": lambda c: c,
        "diag": np.diag,
        "spherical": np.trace,
    }[name]
    np.testing.assert_allclose(keep(after[1]), keep(before[1]), rtol=1e-9, atol=1e-11)


def test_merging_to_a_number_undoes_a_split():
    """Five components, three of them one Gaussian cut in three: merging to three brings it back."""
    base = random_mixture("full", 3, 2, 8, spread=8.0)
    weights = np.array([base.weights[0] / 2, base.weights[1], base.weights[0] / 2, base.weights[2]])
    split = sg.Mixture(weights, base.means[[0, 1, 0, 2]], base.covariances[[0, 1, 0, 2]])
    merged = split.merge_components(n_components=3)
    np.testing.assert_allclose(merged.weights, base.weights, rtol=1e-12)
    np.testing.assert_allclose(merged.covariances, base.covariances, rtol=1e-10)
    assert split.merge_components(n_components=1).n_components == 1
    np.testing.assert_allclose(split.merge_components(n_components=1).covariances[0], split.moments()[1], rtol=1e-10)


def test_distances_in_closed_form_against_a_grid():
    p, q = random_mixture("full", 2, 2, 1), random_mixture("diag", 3, 2, 2)
    axis = np.linspace(-25, 25, 1001)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    cell = (axis[1] - axis[0]) ** 2
    a, b = np.exp(p.log_prob(grid)), np.exp(q.log_prob(grid))
    assert sg.l2_distance(p, q) == pytest.approx(np.sqrt(((a - b) ** 2).sum() * cell), rel=1e-6)
    cosine = (a @ b) / np.sqrt((a @ a) * (b @ b))
    assert sg.cauchy_schwarz_divergence(p, q) == pytest.approx(-np.log(cosine), rel=1e-6)
    keep = a > 0
    exact = (a[keep] * (p.log_prob(grid[keep]) - q.log_prob(grid[keep]))).sum() * cell
    d = sg.kl_divergence(p, q, n_samples=200_000, random_state=0)
    assert d.lower <= exact <= d.upper
    assert abs(d.value - exact) < 4 * d.standard_error
    assert d.standard_error < 0.1 * exact


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), names=st.tuples(st.sampled_from(FAMILIES), st.sampled_from(FAMILIES)))
def test_laws_of_distances(seed, names):
    p, q = random_mixture(names[0], 2, 3, seed), random_mixture(names[1], 3, 3, seed + 1)
    assert sg.l2_distance(p, p) == 0 and sg.cauchy_schwarz_divergence(p, p) == 0
    assert sg.l2_distance(p, q) == pytest.approx(sg.l2_distance(q, p), rel=1e-9) and sg.l2_distance(p, q) > 0
    assert sg.cauchy_schwarz_divergence(p, q) == pytest.approx(sg.cauchy_schwarz_divergence(q, p), rel=1e-9)
    d = sg.kl_divergence(p, q, n_samples=4000, random_state=seed)
    assert d.lower - 6 * d.standard_error <= d.value <= d.upper + 6 * d.standard_error
    lower, upper = sg.kl_bounds(p, p)
    assert lower == 0 and upper >= 0
    one, other = (sg.Mixture([1.0], [m], c[None]) for m, c in (p.moments(), q.moments()))
    exact = sg.matched_kl_divergence(p, q)
    np.testing.assert_allclose(sg.kl_bounds(one, other)[1], exact, rtol=1e-9)


def test_samples_streamed_to_zarr(tmp_path):
    """More rows than a chunk, the same bits for the same seed, the right moments, and a fit that reads them back."""
    model = with_background(random_mixture("full", 2, 3, 1))
    path = sg.sample_to_zarr(
        model, tmp_path / "a.zarr", 25_000, labels=tmp_path / "labels.zarr", chunk_rows=4000, random_state=3
    )
    again = sg.sample_to_zarr(model, tmp_path / "b.zarr", 25_000, chunk_rows=4000, random_state=3)
    import zarr

    X, Y = (zarr.open_array(str(p), mode="r")[:] for p in (path, again))
    labels = zarr.open_array(str(tmp_path / "labels.zarr"), mode="r")[:]
    np.testing.assert_array_equal(X, Y)
    mean, covariance = model.moments()
    np.testing.assert_allclose(X.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(X.T), covariance, rtol=0.1, atol=0.2)
    shares = np.append(model.weights, model.noise_weight)
    np.testing.assert_allclose([(labels == k).mean() for k in (0, 1, -1)], shares, atol=0.02)
    np.testing.assert_allclose(X[labels == 0].mean(axis=0), model.means[0], atol=0.1)
    assert abs(np.corrcoef(labels[:-1], labels[1:])[0, 1]) < 0.05  # shuffled: a chunk is a fair sample
    with pytest.raises(FileExistsError, match="Remove it"):
        sg.sample_to_zarr(model, path, 10)
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0, max_iter=300).fit(path)
    assert gm.score(path) > model.log_prob(X).mean() - 0.05  # the box of the data is wider: tails reach out of it


def test_the_estimator_answers_by_name():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"height": rng.normal(170, 10, 500)})
    frame["weight"] = frame.height - 100 + rng.normal(0, 5, 500)
    gm = sg.GaussianMixture(1, random_state=0).fit(frame)
    by_name, by_number = gm.condition({"height": 180.0}), gm.condition({0: 180.0})
    np.testing.assert_array_equal(by_name.means, by_number.means)
    assert by_name.means[0, 0] == pytest.approx(80, abs=1)
    np.testing.assert_array_equal(gm.marginal(["weight"]).means, gm.marginal([1]).means)
    with pytest.raises(ValueError, match="no feature 'age'"):
        gm.condition({"age": 3.0})
    assert gm.merge_components([[0]]).n_components == 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.marginal([]), "at least one"),
        (lambda m: m.marginal([0, 3]), "from 0 to 2"),
        (lambda m: m.marginal([1, 1]), "each feature once"),
        (lambda m: m.marginal([0.5]), "from 0 to 2"),
        (lambda m: m.condition({0: 1.0, 1: 1.0, 2: 1.0}), "leave at least one out"),
        (lambda m: m.condition({0: np.nan}), "finite values"),
        (lambda m: m.merge_components(), "either groups"),
        (lambda m: m.merge_components([[0, 1], [1]]), "at most one group"),
        (lambda m: m.merge_components([[0, 7]]), "from 0 to 1"),
        (lambda m: m.merge_components(n_components=3), "from 1 to 2"),
        (lambda m: sg.l2_distance(m, m.marginal([0])), "as many features"),
        (lambda m: sg.l2_distance(m, with_background(m)), "kl_divergence"),
        (lambda m: sg.kl_divergence(m, m, n_samples=1), "at least 2"),
    ],
)
def test_questions_that_make_no_sense(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(random_mixture("full", 2, 3))
