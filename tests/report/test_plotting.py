"""Pictures show the numbers they are made of."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.report import figures
from tests.helpers.mixtures import FAMILIES, random_mixture

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    rows = np.random.default_rng(0).normal(size=(500, 3)) * [1, 5, 0.1] + np.repeat([[0], [6]], 250, axis=0)
    return sg.GaussianMixture(2, random_state=0, tol=1e-4).fit(rows), rows


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_the_plane_sees_marginals(covariance_type):
    mixture = random_mixture(covariance_type, 3, 5)
    plane = figures.Plane.of(mixture)
    means, covariances = plane.ellipses(mixture)
    values, labels = mixture.sample(200_000, 1)
    seen = plane.project(values)
    for k in range(3):
        assert np.allclose(seen[labels == k].mean(axis=0), means[k], atol=0.03)
        assert np.allclose(np.cov(seen[labels == k].T), covariances[k], atol=0.03)
    assert np.allclose(seen.mean(axis=0), 0, atol=0.03) and 0 < plane.share[1] <= plane.share[0] <= 1
    assert abs(np.corrcoef(seen.T)[0, 1]) < 0.02  # principal axes are uncorrelated


def test_an_ellipse_is_one_deviation_away():
    covariance = np.array([[4.0, 1.2], [1.2, 1.0]])
    outline = figures.ellipse(covariance)
    assert np.allclose(np.einsum("ni,ij,nj->n", outline, np.linalg.inv(covariance), outline), 1.0)


def test_convergence_shows_the_trace(fitted):
    ax = fitted[0].plot("convergence")
    assert np.array_equal(ax.lines[0].get_ydata(), fitted[0].lower_bounds_)
    assert ax.get_xlabel() and "nats" in ax.get_ylabel()


def test_weights_heaviest_first(fitted):
    heights = [bar.get_height() for bar in fitted[0].plot("weights").patches]
    assert heights == sorted(fitted[0].weights_, reverse=True)


def test_ellipses_and_uncertainty_draw_the_rows(fitted):
    gm, rows = fitted
    ax = gm.plot("ellipses", rows, n_rows=100)
    assert len(ax.collections[0].get_offsets()) == 100 and "principal axis 1" in ax.get_xlabel()
    doubt = gm.plot("uncertainty", rows).collections[0].get_array()
    assert np.allclose(np.sort(doubt), np.sort(1 - gm.predict_proba(rows).max(axis=1)))


def test_two_features_keep_their_names_and_one_is_a_curve():
    table = pytest.importorskip("pandas").DataFrame({"long": np.arange(40.0) % 7, "wide": np.arange(40.0) % 11})
    gm = sg.GaussianMixture(1).fit(table)
    ax = gm.plot(X=table)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("long", "wide")
    one = sg.Mixture([0.3, 0.7], [[0.0], [5.0]], [1.0, 2.0], "spherical")
    x, density = figures.ellipses(one, [[0.0], [1.0]]).lines[-1].get_data()
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)


def test_criteria_mark_the_minimum():
    table = [{"n_components": k, "bic": (k - 3) ** 2.0, "aic": (k - 4) ** 2.0} for k in range(1, 7)]
    ax = figures.criteria(table)
    marked = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert marked == [3, 4]


def test_wrong_kind(fitted):
    with pytest.raises(ValueError, match=r"Selection\.plot"):
        fitted[0].plot("criteria")
    with pytest.raises(ValueError, match="needs X"):
        fitted[0].plot("uncertainty")
