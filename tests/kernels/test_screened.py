"""The screened form against the dense one, its bound against 50-digit arithmetic, and attempts to break it."""

from __future__ import annotations

import inspect
from functools import partial

import mpmath
import numpy as np
import pytest

from streamgmm.kernels import dispatch
from streamgmm.kernels._jit import jit
from streamgmm.kernels.plain import dropping
from streamgmm.kernels.simd import dense, screening
from streamgmm.kernels.simd import screened as form
from streamgmm.kernels.simd.bounds import upper_bounds, ways_of
from streamgmm.kernels.simd.made_once import made_once
from streamgmm.kernels.simd.products import PANEL, grouped_coefficients
from streamgmm.mixture.mixture import Mixture


def wishart(K, D, spread, seed=0, condition=None, weights=None):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(K, D, 2 * D)) / np.sqrt(2 * D)
    covariances = half @ half.transpose(0, 2, 1)
    if condition is not None:
        turn = np.linalg.qr(rng.normal(size=(K, D, D)))[0]
        values = np.geomspace(1.0, 1.0 / condition, D)
        covariances = (turn * values) @ turn.transpose(0, 2, 1)
        covariances = 0.5 * (covariances + covariances.transpose(0, 2, 1))
    weights = np.full(K, 1.0 / K) if weights is None else np.asarray(weights)
    return Mixture(weights, spread * rng.normal(size=(K, D)), covariances, "full")


def both(monkeypatch, model, rows, weight=None):
    plan = model._prepare().plan
    found = []
    for name in ("vector", "screened"):
        monkeypatch.setenv("STREAMGMM_KERNELS", name)
        n, K = len(rows), plan.coef.shape[0]
        out = {"logp": np.empty(n), "label": np.empty(n, np.int64), "resp": np.empty((n, K))}
        found.append((dispatch.run(plan, rows, weight, statistics=True, **out), out))
    return found


def assert_same(found, rounding=0.0):
    """`rounding` is the feature form's own error in nats: both forms have it, and add in different orders."""
    (a, out_a), (b, out_b) = found
    bound = 1e-12 + rounding
    assert (np.abs(out_a["logp"] - out_b["logp"]) <= bound * np.maximum(1, np.abs(out_a["logp"]))).all()
    np.testing.assert_allclose(out_a["resp"], out_b["resp"], rtol=1e-9, atol=bound)
    assert (out_a["label"] == out_b["label"]).all()
    mass = a.feature[:, -1:]
    assert (np.abs(a.feature - b.feature) <= bound * (mass + np.abs(a.feature))).all()
    np.testing.assert_allclose(a.totals, b.totals, rtol=bound, atol=1e-12 * a.totals[3])


def rounding_of(plan, rows):
    reach = np.linalg.norm((rows - plan.shift) @ plan.whiten.T, axis=1).max()
    return 0.1 * (plan.narrow * (reach + plan.radius) ** 2).max()


def random_plan(K, D=4):
    rng = np.random.default_rng(K)
    half = rng.normal(size=(K, D, 2 * D))
    return Mixture(np.full(K, 1 / K), rng.normal(size=(K, D)), half @ half.transpose(0, 2, 1), "full")._prepare().plan


def spy(monkeypatch):
    """Counts of rows that the screened form was given and took."""
    seen = {"calls": 0, "rows": 0, "taken": 0}
    real = form.screened
    named = inspect.signature(real)

    def watched(rows, *arguments):
        done = named.bind(rows, *arguments).arguments["done"]
        before = done.copy()
        dropped = real(rows, *arguments)
        seen["calls"] += 1
        seen["rows"] += len(rows)
        seen["taken"] += min(len(rows), int(((done == 1) & (before == 0)).sum()) * PANEL)
        return dropped

    monkeypatch.setattr(form, "screened", watched)
    return seen


@pytest.mark.parametrize(
    ("K", "D", "n", "spread"),
    [
        (3, 1, 100, 3.0),
        (4, 3, 2100, 1.0),
        (40, 12, 3000, 1.0),
        (20, 17, 2500, 2.0),
        (30, 33, 2300, 1.0),
        (6, 128, 400, 0.5),
    ],
)
def test_screened_equals_dense(monkeypatch, K, D, n, spread):
    model = wishart(K, D, spread)
    rows = model.sample(n, 1)[0][np.random.default_rng(2).permutation(n)]
    seen = spy(monkeypatch)
    assert_same(both(monkeypatch, model, rows))
    assert seen["taken"] == n
    weight = np.random.default_rng(3).uniform(0, 2, n)
    weight[::5] = 0
    assert_same(both(monkeypatch, model, rows, weight))
    assert_same(both(monkeypatch, model, rows[:1]))


@pytest.mark.parametrize("D", [2, 16, 64, 128])
@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8])
def test_the_bound_holds_against_fifty_digits(D, condition):
    model = wishart(3, D, 0.3, seed=D, condition=condition)
    plan = model._prepare().plan
    ways_of_all = screening.Screen(plan).projections
    rng = np.random.default_rng(5)
    z = np.concatenate([rng.normal(size=(6, D)), plan.means + 1e-6 * rng.normal(size=(3, D))])
    # On the edge: displaced from a mean where projections alone look, so that the bound is as tight as it gets.
    for k in range(3):
        z = np.concatenate([z, plan.means[k] + along_projections(plan, ways_of_all, k, rng.uniform(1, 60, 6), rng)])
    # One very far away makes the others' bounds no less valid.
    for far in (0.0, 1e4):
        bound = bounds_of(plan, ways_of_all, np.concatenate([z, np.full((1, D), far)]))
        assert_above_logits(plan, z, bound)


def along_projections(plan, projections, k, away, rng):
    """Rows (n, D) less the mean of component k, `away` nats below its largest density, all of it seen by its ways."""
    D = plan.means.shape[1]
    d = min(D, ways_of(D))
    own = projections[k * ways_of(D) : k * ways_of(D) + d, :D].astype(float)
    columns = np.linalg.qr(np.linalg.solve(plan.factor[k], own.T))[0]
    direction = rng.normal(size=(len(away), d))
    direction *= np.sqrt(2 * away)[:, None] / np.linalg.norm(direction, axis=1, keepdims=True)
    return np.linalg.solve(plan.factor[k].T, columns @ direction.T).T


def bounds_of(plan, projections, z):
    """(n, K) bounds of rows z (n, D) in the frame, n <= 32."""
    K, D = plan.means.shape
    whole = len(projections) // ways_of(D)
    panel = np.zeros((D, PANEL))
    panel[:, : len(z)] = z.T
    bound = np.empty((whole, PANEL))
    largest = (z**2).sum(axis=1).max()
    single, line = np.empty((D, PANEL), np.float32), np.empty((2, whole))
    compiled_bounds(projections, panel, D, largest, plan.const, plan.narrow, plan.radius, single, line, bound)
    return bound[:K, : len(z)].T


@jit
def compiled_bounds(projections, z, D, largest, const, narrow, radius, single, line, bound):
    upper_bounds(projections, z, D, largest, const, narrow, radius, single, line, bound)


def assert_above_logits(plan, z, bound):
    D = z.shape[1]
    with mpmath.workdps(50):
        for i, row in enumerate(z):
            for k in range(3):
                delta = [mpmath.mpf(float(a)) - mpmath.mpf(float(m)) for a, m in zip(row, plan.means[k], strict=True)]
                squared = mpmath.mpf(0)
                for j in range(D):
                    column = plan.factor[k, :, j]
                    squared += mpmath.fsum(mpmath.mpf(float(u)) * t for u, t in zip(column, delta, strict=True)) ** 2
                assert mpmath.mpf(float(bound[i, k])) >= mpmath.mpf(float(plan.const[k])) - squared / 2


@pytest.mark.parametrize("D", [16, 64])
def test_bounds_along_the_projections_are_tight(D):
    """A row that lies off a mean only where projections look: single precision costs a twentieth of a nat."""
    model = wishart(3, D, 0.3, seed=D, condition=1e3)
    plan = model._prepare().plan
    projections = screening.Screen(plan).projections
    away = along_projections(plan, projections, 0, np.array([30.0]), np.random.default_rng(0))
    bound = bounds_of(plan, projections, plan.means[:1] + away)[0, 0]
    assert 0.0 <= bound - (plan.const[0] - 30.0) < 0.05


@pytest.mark.parametrize(("D", "condition"), [(8, 1e2), (32, 1e5), (128, 1e3), (24, 1e8)])
def test_rows_on_the_edge_of_the_bound(monkeypatch, D, condition):
    """Rows between two means, where the runner-up lies within a nat of the distance at which it is dropped."""
    model = wishart(4, D, 1.0, seed=D, condition=condition)
    plan = model._prepare().plan
    lower = np.linalg.cholesky(model.covariances)
    rng = np.random.default_rng(1)
    away = dropping.cutoff_of(4) + rng.uniform(-1, 1, 600)
    direction = rng.normal(size=(600, D))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = rng.integers(0, 4, 600)
    edge = model.means[k] + np.einsum("nij,nj->ni", lower[k], direction * np.sqrt(2 * away)[:, None])
    projections = screening.Screen(plan).projections.reshape(4, -1, D + 1)
    narrow = np.stack([np.linalg.pinv(w[:, :D])[:, 0] for w in projections]) @ np.linalg.inv(plan.whiten).T
    along = model.means[k] + narrow[k] * np.sqrt(2 * away)[:, None]
    rows = np.concatenate([edge, along, model.sample(400, 2)[0]])
    assert_same(both(monkeypatch, model, rows), rounding_of(plan, rows))


@pytest.mark.parametrize("far", [1e9, 1e35, 1e150])
def test_rows_that_are_very_far_go_to_the_centred_form_at_once(monkeypatch, far):
    """The dense form could not take them either; beside a narrow component, an infinite distance spoils no sum."""
    model = wishart(8, 16, 1.0)
    covariances = model.covariances.copy()
    covariances[3] *= 1e-9
    model = Mixture(model.weights, model.means, covariances, "full")
    rows = model.sample(2000, 4)[0]
    rows[77] = far
    monkeypatch.setenv("STREAMGMM_KERNELS", "reference")
    plain = dispatch.run(model._prepare().plan, rows, None, statistics=False).totals
    asked = []
    real = dense.dense
    monkeypatch.setattr(dense, "dense", lambda *arguments: asked.append(real(*arguments)))
    (a, out_a), (b, out_b) = both(monkeypatch, model, rows)
    assert len(asked) == 1, "the screened form left rows to the dense one"
    np.testing.assert_allclose(out_b["logp"], out_a["logp"], rtol=1e-12)
    np.testing.assert_allclose(b.centred[1], a.centred[1], rtol=1e-9)
    for totals in (a.totals, b.totals):
        np.testing.assert_allclose(totals, plain, rtol=1e-9)


def test_a_component_of_little_weight_is_evaluated_everywhere(monkeypatch):
    K, D = 8, 16
    model = wishart(K, D, 2.0, weights=[1e-12, *([(1 - 1e-12) / 7] * 7)])
    rows = model.sample(3000, 3)[0]
    rows = rows[np.random.default_rng(0).permutation(3000)]
    seen = spy(monkeypatch)
    found = both(monkeypatch, model, rows)
    assert found[0][0].feature[0, -1] < 1e-9
    assert seen["taken"] == 3000
    assert_same(found)


def test_a_component_that_lost_its_rows_is_left_to_the_dense_form(monkeypatch):
    model = wishart(8, 16, 3.0)
    rows, labels = model.sample(4000, 4)
    rows = rows[labels != 2]
    seen = spy(monkeypatch)
    found = both(monkeypatch, model, rows)
    assert seen["calls"] == 1
    assert not dropping.negligible(found[0][0].feature[:, -1], np.zeros(8, bool), 4000 * np.exp(-dropping.cutoff_of(8)))
    assert (found[0][0].feature == found[1][0].feature).all()  # done again: not only near


def test_one_row_beyond_the_forms_accuracy_leaves_no_more_than_its_panel(monkeypatch):
    """Such rows may even be all that a component has.

    The component is narrow enough for its rows to need differences about its mean, and not so narrow that the frame
    is set about it alone, or that its rows go to `own`.
    """
    model = wishart(8, 16, 3.0)
    means, covariances = model.means.copy(), model.covariances.copy()
    covariances[3] *= 1e-6
    model = Mixture(model.weights, means, covariances, "full")
    rows = model.sample(4000, 4)[0][np.random.default_rng(0).permutation(4000)]
    rows = np.concatenate([rows[np.linalg.norm(rows - means[3], axis=1) > 3e-2], means[3:4] + 3e-6])
    seen = spy(monkeypatch)
    found = both(monkeypatch, model, rows)
    assert seen["taken"] == len(rows) // PANEL * PANEL
    assert found[1][0].centred is not None
    assert found[1][0].centred[1][3] > 0.99
    for sums, _ in found:
        assert sums.own is None
        mass = sums.feature[:, -1] + sums.centred[1]
        np.testing.assert_allclose(mass.sum(), len(rows), rtol=1e-14)
    assert_same(found)


def test_crowded_rows_go_to_the_dense_form(monkeypatch):
    monkeypatch.setenv("STREAMGMM_KERNELS", "auto")
    if dispatch.form() == "reference":
        pytest.skip("the screened form is chosen only where the hand-tiled one is")
    seen = spy(monkeypatch)
    near, far = wishart(20, 16, 0.1), wishart(20, 16, 4.0)
    for model in (near, far):
        rows = model.sample(3000, 5)[0]
        rows = rows[np.random.default_rng(1).permutation(3000)]
        dispatch.in_all(None, partial(dispatch.run, model._prepare().plan, rows, None, statistics=True))
    assert seen["calls"] == 1  # the first rows of the other model have told enough
    assert seen["taken"] == 3000


def test_bits_do_not_depend_on_what_ran_before(monkeypatch):
    monkeypatch.setenv("STREAMGMM_KERNELS", "screened")
    model, other = wishart(10, 16, 2.0), wishart(10, 16, 2.0, seed=9)
    rows = model.sample(2500, 6)[0]
    first = dispatch.run(model._prepare().plan, rows, None, statistics=True)
    dispatch.run(other._prepare().plan, rows, None, statistics=True)
    again = dispatch.run(wishart(10, 16, 2.0)._prepare().plan, rows, None, statistics=True)
    assert (first.feature == again.feature).all()
    assert (first.totals == again.totals).all()


def test_what_is_made_once_for_a_plan_goes_with_it():
    made = []
    of = made_once(lambda plan: made.append(len(plan.coef)) or object())
    plans = [random_plan(K) for K in (3, 4)]
    assert of(plans[0]) is of(plans[0]) is not of(plans[1]) and made == [3, 4]
    (kept,) = [cell.cell_contents for cell in of.__closure__ if isinstance(cell.cell_contents, dict)]
    assert len(kept) == 2
    del plans
    assert not kept


@pytest.mark.parametrize("K", [1, 2, 5, 6])
def test_coefficients_in_groups_are_those_of_the_plan(K):
    plan = random_plan(K)
    coefs = grouped_coefficients(plan)
    back = coefs.transpose(0, 2, 1).reshape(-1, coefs.shape[1])
    assert np.array_equal(back[:K], plan.coef) and not back[K:].any()
    assert not coefs.flags.writeable and coefs.flags.c_contiguous
