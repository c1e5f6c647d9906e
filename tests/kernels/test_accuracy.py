"""Log-densities against 50-digit arithmetic, whichever kernel is chosen or forced; offsets and single precision."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.kernels import dispatch
from tests.helpers import exact
from tests.helpers.mixtures import FAMILIES

CHOSEN, FEATURE, CENTRED = None, 0.0, np.inf


@pytest.fixture(params=["reference", "vector"], autouse=True)
def form(request, monkeypatch):
    """Rows as few as these are the reference's; the hand-tiled form answers for them too."""
    monkeypatch.setenv("STREAMGMM_KERNELS", request.param)


@cache
def narrow(name, kappa, D, far=False):
    """A mixture with components of condition `kappa` in its own frame, rows of those components, and exact densities.

    Half of the eigenvalues are 1 / kappa, in random directions; the first component is round, so that whitening by the
    overall covariance cannot help.
    """
    rng = np.random.default_rng(int(np.log10(kappa)) + D)
    values = np.where(np.arange(D) < max(1, D // 2), 1 / kappa, 1.0)
    dense = [np.eye(D)]
    for _ in range(2):
        q, _ = np.linalg.qr(rng.normal(size=(D, D)))
        sigma = (q * values) @ q.T
        dense.append((sigma + sigma.T) / 2)
    covariances = {
        "full": np.stack(dense),
        "tied": dense[1],
        "diag": np.stack([np.ones(D), rng.permutation(values), rng.permutation(values)]),
        "spherical": np.array([1.0, 1 / kappa, 0.5]),
    }[name]
    model = sg.Mixture([0.3, 0.3, 0.4], 3 * rng.normal(size=(3, D)), covariances, name)
    if far:
        direction = rng.normal(size=(10, D))
        rows = direction / np.linalg.norm(direction, axis=1)[:, None] * np.geomspace(30, 1e8, 10)[:, None]
    else:
        rows, labels = model.sample(100, 1)
        rows = rows[labels > 0][:12]
    return model, rows, exact.log_prob(model, rows)


def ask(model, rows, side=CHOSEN):
    """Log-densities, and whether the centred kernel made them; `side` forces one kernel by its error bound."""
    plan = model._prepare().plan
    if side is not CHOSEN:
        plan = plan._replace(narrow=np.full(model.n_components, side))
    out = np.empty(len(rows))
    sums = dispatch.run(plan, rows, None, statistics=True, logp=out)
    return out, sums.centred is not None


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("D", [2, 8, 20])
@pytest.mark.parametrize("kappa", [1e0, 1e2, 1e4, 1e6, 1e8])
def test_rows_of_the_component(name, D, kappa):
    model, rows, wanted = narrow(name, kappa, D)
    assert exact.errors(model.log_prob(rows), wanted).max() < 1e-9
    values, centred = ask(model, rows)
    assert exact.errors(values, wanted).max() < 1e-9
    assert exact.errors(ask(model, rows, CENTRED)[0], wanted).max() < 1e-14 * np.sqrt(kappa) * D + 1e-13
    if kappa <= 1e2:
        assert not centred
        assert exact.errors(ask(model, rows, FEATURE)[0], wanted).max() < 1e-11
    if kappa == 1e8:
        assert centred


@pytest.mark.parametrize("name", FAMILIES)
def test_the_choice_is_needed(name):
    """Forced to the feature form, blocks that the choice gives to the centred one are wrong by more than allowed."""
    model, rows, wanted = narrow(name, 1e8, 8)
    values, centred = ask(model, rows, FEATURE)
    assert not centred
    assert exact.errors(values, wanted).max() > 1e-7


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kappa", [1e0, 1e4, 1e8])
@pytest.mark.parametrize("side", [CHOSEN, FEATURE, CENTRED])
def test_far_rows(name, kappa, side):
    """From 30 to 1e8 units away: relative 1e-12."""
    model, rows, wanted = narrow(name, kappa, 8, far=True)
    values, centred = ask(model, rows, side)
    assert centred == (side != FEATURE)
    assert (exact.errors(values, wanted) / np.abs(values)).max() < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
def test_near_and_far_rows_in_one_array(name):
    """Blocks are judged one by one: far rows at the end do not move the bits of the near ones before them."""
    model, rows, _ = narrow(name, 1e0, 8)
    _, far, wanted = narrow(name, 1e0, 8, far=True)
    many = np.concatenate([np.tile(rows, (200, 1)), far])
    out, centred = ask(model, many)
    assert centred
    np.testing.assert_array_equal(out[:1024], ask(model, many[:1024])[0])
    assert not ask(model, many[:1024])[1]
    assert (exact.errors(out[-10:], wanted) / np.abs(out[-10:])).max() < 1e-12


@pytest.mark.parametrize("name", ["full", "tied"])
@pytest.mark.parametrize("kappa", [1e4, 1e8])
def test_one_badly_scaled_gaussian(name, kappa):
    """Whitening makes it round, so the factor is all that can err: near rows and far ones."""
    model, _, _ = narrow("full", kappa, 8)
    covariance = model.covariances[1]
    one = sg.Mixture([1.0], model.means[1:2], covariance[None] if name == "full" else covariance, name)
    near = one.sample(10, 0)[0]
    assert exact.errors(one.log_prob(near), exact.log_prob(one, near)).max() < 1e-10
    far = np.random.default_rng(1).normal(size=(8, 8)) * np.geomspace(10, 1e6, 8)[:, None]
    values = one.log_prob(far)
    assert (exact.errors(values, exact.log_prob(one, far)) / np.abs(values)).max() < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("few", [False, True])
def test_rows_with_gaps(name, few, monkeypatch):
    """The density of what was observed is that of the marginal, in both forms for missing entries."""
    from streamgmm.mixture import missing

    monkeypatch.setattr(missing, "WORTH", 10**9 if few else 0)
    model, rows, _ = narrow(name, 1e4, 8)
    rows = rows.copy()
    rows[:, [1, 4, 5]] = np.nan
    seen = [0, 2, 3, 6, 7]
    values = model.observing(sg.Mixture([1.0], [[0.0]], [[[1.0]]], missing="marginalize").observation).log_prob(rows)
    assert exact.errors(values, exact.log_prob(model.marginal(seen), rows[:, seen])).max() < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_an_offset_of_2_to_the_27(name):
    """Data on a grid of 2^-20, moved by 2^27 in every feature (exactly): the same fit, moved."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 4, 4))
    X = np.concatenate([rng.normal(size=(400, 4)) @ root[k] + 4 * rng.normal(size=4) for k in range(3)])
    X = np.round(X * 2**20) / 2**20
    far = X + 2.0**27
    assert (far - 2.0**27 == X).all()
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for data in (X, far):
            gm = sg.GaussianMixture(3, covariance_type=name, random_state=0, max_iter=30, tol=0, solver="exact")
            fits.append(gm.fit(data))
    near, moved = fits
    assert moved.lower_bound_ == pytest.approx(near.lower_bound_, abs=1e-9)
    assert moved.score(far) == pytest.approx(near.score(X), abs=1e-9)
    np.testing.assert_allclose(moved.means_ - 2.0**27, near.means_, atol=2**-24)
    scale = np.abs(near.covariances_).max()
    np.testing.assert_allclose(moved.covariances_, near.covariances_, rtol=1e-8, atol=1e-8 * scale)


def test_single_precision_far_from_the_origin():
    """Two float32 rows, where E[x^2] - E[x]^2 in single precision would be negative or wrong."""
    X = np.array([[9999.0], [0.0]], np.float32)
    one = sg.GaussianMixture(1, covariance_type="spherical", reg_covar=0.1, random_state=0).fit(X)
    np.testing.assert_allclose(one.covariances_, [4999.5**2 + 0.1], rtol=1e-14)
    two = sg.GaussianMixture(
        2, covariance_type="spherical", reg_covar=0.1, means_init=X.astype(float), random_state=0, max_iter=20
    ).fit(X)
    np.testing.assert_allclose(two.covariances_, [0.1, 0.1], rtol=1e-12)
    np.testing.assert_allclose(np.sort(two.means_.ravel()), [0.0, 9999.0], atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_rows_are_their_float64_values(name, offset):
    rng = np.random.default_rng(3)
    X = (rng.normal(size=(300, 3)) + 6 * (np.arange(300) < 120)[:, None] + offset).astype(np.float32)
    fits = [
        sg.GaussianMixture(2, covariance_type=name, random_state=0, max_iter=200, tol=1e-5).fit(data)
        for data in (X, X.astype(float))
    ]
    np.testing.assert_allclose(fits[0].covariances_, fits[1].covariances_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fits[0].score_samples(X), fits[1].score_samples(X.astype(float)), atol=1e-9)
