"""Rows and components far from all others: no distance costs a digit, and none makes a NaN."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

import streamgmm as sg
from streamgmm.utils.affine import Affine
from tests.helpers import exact

FAMILIES = ["full", "tied", "diag", "spherical"]


def apart(family: str, distance: float, seed: int = 0) -> sg.Mixture:
    """Two components side by side, and one at `distance`."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3, 3))
    sigma = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(3)
    covariances = {"full": sigma, "tied": sigma[0], "diag": sigma.diagonal(0, 1, 2), "spherical": [1.0, 2.0, 0.5]}
    means = [[0.0, 0.0, 0.0], [4.0, 1.0, -2.0], [distance, -distance, distance]]
    return sg.Mixture([0.5, 0.4, 0.1], means, covariances[family], family)


@pytest.mark.parametrize("form", ["reference", "auto"])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_densities_keep_their_digits_at_any_distance(monkeypatch, family, form):
    monkeypatch.setenv("STREAMGMM_KERNELS", form)
    rng = np.random.default_rng(1)
    for distance in (1e3, 1e6, 1e8, 1e10, 1e14, 1e20, 9.97e36, 1e100, 1e200, 1e300):
        model = apart(family, distance)
        far = distance * np.array([[1.0, 1.0, 1.0], [0.5, 0.0, 0.0]])
        rows = np.concatenate([rng.normal(size=(4, 3)), model.means[2] + rng.normal(size=(2, 3)), far])
        found, resp = model.log_prob(rows), model.responsibilities(rows)
        np.testing.assert_allclose(resp.sum(axis=1), 1.0, rtol=1e-12)
        for row, value, right in zip(rows, found, exact.log_prob(model, rows), strict=True):
            if right < -mp.mpf("1.7e308"):
                assert value == -np.inf
            else:
                assert abs(float(value - right)) <= 1e-9 * max(1.0, float(abs(right))), (distance, row)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_whose_squares_overflow_have_the_label_of_their_direction(family):
    model = apart(family, 6.0)
    directions = np.random.default_rng(2).normal(size=(40, 3))
    near, far = model.labels(1e100 * directions), model.labels(1e200 * directions)
    np.testing.assert_array_equal(near, far)
    np.testing.assert_array_equal(far, model.labels(1e306 * directions))
    resp = model.responsibilities(1e200 * directions)
    assert np.isfinite(resp).all()
    np.testing.assert_array_equal(resp.argmax(axis=1), far)


def test_tied_and_equal_components_are_told_apart_by_direction_alone():
    means = [[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]
    rows = np.array([[-1.0, 0.1], [1.0, 0.1], [0.2, 1.0]])
    for covariances, family in ((np.eye(2), "tied"), (np.ones(3), "spherical"), (np.ones((3, 2)), "diag")):
        model = sg.Mixture([0.2, 0.3, 0.5], means, covariances, family)
        for size in (1e6, 1e20, 1e100, 1e200, 1e300):
            np.testing.assert_array_equal(model.labels(size * rows), [0, 1, 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_of_far_groups_are_those_of_each_group(family):
    rng = np.random.default_rng(3)
    for distance in (1e6, 1e10, 1e14):
        groups = [rng.normal(size=(500, 3)), distance + rng.normal(size=(400, 3))]
        rows = np.concatenate(groups)[rng.permutation(900)]
        covariances = {"full": [np.eye(3)] * 2, "tied": np.eye(3), "diag": np.ones((2, 3)), "spherical": np.ones(2)}
        model = sg.Mixture([0.5, 0.5], [[0.0] * 3, [distance] * 3], covariances[family], family)
        stats = model.accumulate(rows[:450]).merge(model.accumulate(rows[450:]))
        whole = model.restore(model.frame_stats(rows[:450]).merge(model.frame_stats(rows[450:])))
        own = [np.cov((g - g[0]).T, bias=True) * len(g) for g in groups]
        right = {
            "full": own,
            "tied": own[0] + own[1],
            "diag": [np.diag(s) for s in own],
            "spherical": [np.trace(s) for s in own],
        }[family]
        np.testing.assert_allclose(whole.scatter, right, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(whole.mean, [g.mean(axis=0) for g in groups], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(whole.weight, [500, 400])
        if distance < 1e10:
            np.testing.assert_allclose(stats.scatter, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["reference", "auto"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_without_weight_is_no_row_whatever_it_holds(monkeypatch, family, form):
    monkeypatch.setenv("STREAMGMM_KERNELS", form)
    model = apart(family, 6.0)
    rows = model.sample(100, 4)[0]
    weight = np.ones(100)
    clean = model.accumulate(rows[5:], weight[5:])
    rows[:5, 0] = [np.nan, np.inf, 1e300, -np.inf, 1e20]
    weight[:5] = 0.0
    found = model.accumulate(rows, weight)
    assert found.rows == clean.rows and found.count == clean.count
    for name in ("weight", "mean", "scatter", "loglik", "entropy", "log_max"):
        np.testing.assert_allclose(getattr(found, name), getattr(clean, name), rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError):
        model.accumulate(rows)


def test_far_rows_are_seen_through_a_map():
    model = apart("full", 1e8)
    rows = np.concatenate([model.sample(50, 1)[0], [[1e12, 0.0, 0.0]]])
    scale = np.array([2.0, 0.5, 4.0])
    moved = model.through(Affine(np.array([1.0, 2.0, 3.0]), scale))
    assert moved is not None
    np.testing.assert_allclose(
        moved.log_prob(rows / scale + np.array([1.0, 2.0, 3.0])), model.log_prob(rows), rtol=1e-9, atol=1e-6
    )


def test_a_stream_sets_wild_rows_aside_and_passes(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 3)) + 6 * (rng.random(6000) < 0.5)[:, None]
    clean = sg.GaussianMixture(2, half_life=2000, random_state=0).partial_fit(np.delete(X, [10, 3050, 3051], axis=0))
    for wild in (1e10, 9.97e36, 1e200, 1e300):
        Y = X.copy()
        Y[10, 0] = Y[3050, 1] = wild
        Y[3051] = -wild
        gm = sg.GaussianMixture(2, half_life=2000, random_state=0)
        session = sg.StreamSession(gm, snapshot=tmp_path / f"{wild:g}", every_rows=500, anomaly_rate=0.01)
        updates = list(session.run((Y[i : i + 100], i + 100) for i in range(0, 6000, 100)))
        assert (session.position, session.counts.rows, session.counts.refused_rows) == (6000, 5997, 3)
        (update,) = [u for u in updates if u.position == 3100]
        assert update.rows == len(update.kept) == len(update.scores) == 98 and 50 not in update.kept
        assert "1e8 deviations" in update.refused[0]
        np.testing.assert_allclose(gm.means_, clean.means_, atol=0.2)
        again = sg.StreamSession(
            sg.GaussianMixture(2, half_life=2000, random_state=0), snapshot=tmp_path / f"{wild:g}", every_rows=500,
            anomaly_rate=0.01,
        )  # fmt: skip
        assert again.position == 6000 and again.counts == session.counts


def test_a_session_may_refuse_wild_rows():
    rows = np.random.default_rng(0).normal(size=(300, 1))
    session = sg.StreamSession(sg.GaussianMixture(1), on_bad="raise")
    batches = [(rows, 300), ([[1e200], [0.0]], 302)]
    with pytest.raises(ValueError, match="1e8 deviations from all others, after 300"):
        list(session.run(batches))


def test_partial_fit_sets_wild_rows_aside_with_a_warning():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 2)) + 6 * (rng.random(4000) < 0.5)[:, None]
    X[2000, 0] = 1e20
    gm = sg.GaussianMixture(2, random_state=0).partial_fit(X[:2000])
    with pytest.warns(UserWarning, match=r"1 row\(s\) were set aside"):
        gm.partial_fit(X[2000:3000])
    gm.partial_fit(X[3000:])
    right = sg.GaussianMixture(2, random_state=0).partial_fit(np.delete(X, 2000, axis=0))
    np.testing.assert_array_equal(gm.means_, right.means_)
    assert gm.report_["rows_set_aside"] == 1
