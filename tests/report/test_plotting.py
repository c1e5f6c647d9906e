"""Pictures show the numbers they are made of."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.estimators.pictures import timeline
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
    plane = figures.Plane.of_principal_axes(mixture)
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


@pytest.fixture(scope="module")
def pair():
    """Two features, correlated."""
    return sg.Mixture([0.3, 0.7], [[0.0, 1.0], [4.0, -2.0]], [[[1.0, 0.6], [0.6, 2.0]], [[2.0, -0.5], [-0.5, 0.5]]])


def test_contours_hold_the_shares_that_they_are_named_by(pair):
    ax = figures.density(pair, names=["a", "b"])
    shares = sorted(float(text.get_text().rstrip(" %")) / 100 for text in ax.texts)
    assert set(shares) <= set(figures.HELD) and (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")
    contours = ax.collections[-1] if hasattr(ax.collections[-1], "levels") else ax.collections[0]
    height = np.exp(pair.log_prob(pair.sample(200_000, 0)[0]))
    for level, share in zip(sorted(contours.levels), figures.HELD, strict=True):
        assert (height > level).mean() == pytest.approx(share, abs=0.01)


def test_levels_by_hand():
    assert figures.contour_levels(np.array([[4.0, 3.0], [2.0, 1.0]]), (0.4, 0.69, 0.9)) == [4.0, 3.0, 2.0]


def test_density_takes_the_features_that_tell_components_apart():
    mixture = sg.Mixture([0.5, 0.5], [[0.0, 0.0, 9.0, 1.0], [0.0, 5.0, 0.0, 1.0]], [np.ones(4)] * 2, "diag")
    ax = figures.density(mixture)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 1", "feature 2")


def test_curves_are_marginal_densities(pair):
    import matplotlib.pyplot as plt

    noisy = sg.Mixture(0.9 * pair.weights, pair.means, pair.covariances, noise_weight=0.1, box=[[-5, -9], [9, 9]])
    for mixture in (pair, noisy):
        ax = plt.subplots()[1]
        figures.curve(ax, mixture, 1, np.array([0.0, np.nan, 1.0]))
        *parts, whole = (line.get_ydata() for line in ax.lines)
        x = ax.lines[-1].get_xdata()
        np.testing.assert_allclose(whole, np.exp(mixture.marginal([1]).log_prob(x[:, None])), rtol=1e-9)
        for k, part in enumerate(parts):
            assert np.trapezoid(part, x) == pytest.approx(mixture.weights[k], abs=1e-3)
        assert len({line.get_linestyle() for line in ax.lines[:-1]}) == 2  # told apart in print


def test_a_corner_shows_every_pair(fitted):
    gm, rows = fitted
    axes = gm.plot("corner", rows, n_rows=50)
    assert axes.shape == (3, 3)
    for i in range(3):
        for j in range(3):
            assert axes[i, j].axison == (j <= i)
    offsets = axes[2, 0].collections[0].get_offsets()
    drawn = {tuple(row) for row in rows[:, [0, 2]]}
    assert len(offsets) == 50 and all(tuple(point) in drawn for point in offsets)
    outline = axes[2, 0].lines[0].get_xydata()
    inner = gm.covariances_[0][np.ix_([0, 2], [0, 2])]
    away = outline - gm.means_[0, [0, 2]]
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", away, np.linalg.inv(inner), away), 4.0)
    assert gm.plot("corner", features=[2, 0]).shape == (2, 2)
    assert len(gm.plot("marginals", rows)) == 3


def test_many_features_are_drawn_in_part():
    many = random_mixture("diag", 3, 50)
    from streamgmm.report import panels

    assert panels.corner(many).shape == (6, 6) and len(panels.marginals(many)) == 12
    assert "6 of 50" in panels.corner(many)[0, 0].figure.get_suptitle()


def test_profiles_are_those_of_describe(fitted):
    gm, _ = fitted
    found = sg.describe(gm)
    for line, mean in zip(gm.plot("profiles").lines, found.means, strict=False):
        np.testing.assert_allclose(line.get_ydata(), (mean - found.centre) / found.scale)


def test_a_timeline_counts_every_row(fitted, tmp_path):
    gm, rows = fitted
    shares, level, at = timeline(gm, rows)
    assert shares.shape == (120, 2) and np.allclose(shares.sum(axis=1), 1) and (np.diff(at) > 0).all()
    resp, logp, run = gm.predict_proba(rows), gm.score_samples(rows), np.arange(500) * 120 // 500
    for t in (0, 59, 119):
        np.testing.assert_allclose(shares[t], resp[run == t].mean(axis=0))
        assert level[t] == pytest.approx(logp[run == t].mean()) and at[t] == np.flatnonzero(run == t).mean()
    np.save(tmp_path / "rows.npy", rows)
    other = timeline(gm, sg.open_source(str(tmp_path / "rows.npy"), chunk_rows=33))
    np.testing.assert_allclose(other[0], shares)
    ax = gm.plot("timeline", rows)
    assert ax.get_ylabel() == "share of each component" and ax.get_ylim() == (0, 1)
    few = timeline(sg.GaussianMixture(1).fit(rows[:7]), rows[:7])
    assert len(few[0]) == 7


def test_rows_with_missing_values_stay_where_they_were_seen():
    rows = np.random.default_rng(0).normal(size=(200, 3)) + np.repeat([[0], [8]], 100, axis=0)
    rows[::4, 1] = np.nan
    gm = sg.GaussianMixture(2, missing="marginalize", random_state=0).fit(rows)
    points = gm.plot("classification", rows, features=[0, 2]).collections[0].get_offsets()
    np.testing.assert_array_equal(np.asarray(points), rows[:, [0, 2]])
    seen = gm.plot("classification", rows, features=[0, 1]).collections[0].get_offsets()
    assert np.isnan(np.asarray(seen, float)).any(axis=1).sum() == 50  # and matplotlib leaves them out
    for kind in ("ellipses", "uncertainty", "corner", "marginals", "density", "timeline"):
        gm.plot(kind, rows)
    with pytest.raises(ValueError, match="NaN: row 0, column 1"):
        sg.GaussianMixture(2, random_state=0).fit(rows[1:4]).plot("ellipses", rows)


@pytest.mark.parametrize("kind", ["ellipses", "classification", "uncertainty", "density", "corner", "marginals",
                                  "profiles", "timeline", "weights", "convergence"])  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (12, 2)])
def test_every_kind_draws_every_shape_with_hostile_names(kind, shape):
    K, D = shape
    mixture = random_mixture("full", K, D)
    rows = mixture.sample(300, 0)[0]
    gm = sg.GaussianMixture.from_parameters(mixture.weights, mixture.means, mixture.covariances)
    rows = sg.open_source(rows).named(("$\\frac{", "_b", "x^y_{")[:D])
    gm.feature_names_in_ = np.array(rows.feature_names, dtype=object)
    gm.lower_bounds_ = [-3.0, -2.0]
    axes = np.ravel(gm.plot(kind, rows))
    axes[0].figure.canvas.draw()
    figure = axes[0].figure
    assert figure.get_suptitle() or axes[0].get_title()


def test_loadings_are_correlations_with_the_factors():
    """The picture has lambda / sqrt(variance) of the heaviest component first, and refuses other families."""
    loadings = np.array([[[3.0, 0.0], [0.0, -4.0], [0.5, 0.5]], [[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    noise = np.array([[16.0, 9.0, 0.5], [1.0, 3.0, 4.0]])
    gm = sg.GaussianMixture.from_factors([0.3, 0.7], np.zeros((2, 3)), loadings, noise)
    axes = gm.plot("loadings")
    drawn = [np.asarray(ax.images[0].get_array()) for ax in axes]
    root = np.sqrt(0.5)
    np.testing.assert_allclose(drawn[0], [[root, 0.0], [0.5, 0.0], [0.0, root]], rtol=1e-12)
    np.testing.assert_allclose(drawn[1], [[0.6, 0.0], [0.0, -0.8], [0.5, 0.5]], rtol=1e-12)
    axes[0].figure.canvas.draw()
    assert "move together" in axes[0].figure.get_suptitle()
    for unit in (1e-150, 1e150):  # squares beside each other would be lost
        scale = np.array([unit, 1.0, 1e-100])
        far = sg.GaussianMixture.from_factors([0.3, 0.7], np.zeros((2, 3)), loadings * scale[:, None], noise * scale**2)
        far.feature_names_in_ = np.array(["$a", "b\x1b[31m", "c\n"], dtype=object)
        axes = far.plot("loadings")
        for ax, right in zip(axes, drawn, strict=True):
            np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), right, rtol=1e-12, atol=1e-300)
        assert [t.get_text() for t in axes[0].get_yticklabels()] == [r"\$a", r"b\x1b[31m", r"c\n"]
        axes[0].figure.canvas.draw()
    full = sg.GaussianMixture.from_parameters([1.0], np.zeros((1, 2)), np.eye(2)[None])
    with pytest.raises(ValueError, match="kind='loadings' is of factor analysers; got covariance_type 'full'"):
        full.plot("loadings")


def test_features_are_checked(fitted):
    gm, rows = fitted
    cases = [
        ("ellipses", [0], "two features; got 1"), ("density", [0, 0], "different features"), ("corner", [3], "0 to 2"),
        ("weights", [0, 1], "belongs to kinds"), ("ellipses", ["a", "b"], "no 'a'"),
    ]  # fmt: skip
    for kind, features, words in cases:
        with pytest.raises(ValueError, match=words):
            gm.plot(kind, rows, features=features)
    with pytest.raises(ValueError, match="leave ax=None"):
        gm.plot("corner", ax=object())
    ax = gm.plot("uncertainty", rows, features=[2, 1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 2", "feature 1")


def test_structures_are_one_line_each():
    kinds = [f"kind {i}" for i in range(14)]
    table = [
        {"covariance_type": kind, "n_components": k, "bic": (k - 3) ** 2.0 + i, "aic": 0.0}
        for i, kind in enumerate(kinds)
        for k in range(1, 6)
    ]
    ax = figures.criteria(table)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert [line.get_label() for line in lines] == kinds
    assert [text.get_text() for text in ax.get_legend().get_texts()] == kinds
    assert ax.get_ylabel() == "BIC (smaller is better)"
    marked = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert marked == [3] * 14


def test_a_selection_of_several_structures_draws_its_criterion():
    X = np.random.default_rng(0).normal(size=(200, 2))
    found = sg.select(X, [1, 2], ["EII", "VEV", "full"], n_init=1, criterion="icl", random_state=0)
    ax = found.plot()
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert [line.get_label() for line in lines] == ["EII", "VEV", "full"]
    values = [row["icl"] for row in found.table if row["covariance_type"] == "VEV"]
    assert lines[1].get_ydata().tolist() == values and ax.get_ylabel().startswith("ICL")


def test_wrong_kind(fitted):
    with pytest.raises(ValueError, match=r"Selection\.plot"):
        fitted[0].plot("criteria")
    with pytest.raises(ValueError, match="needs X"):
        fitted[0].plot("uncertainty")
