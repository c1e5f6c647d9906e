"""`BayesianGaussianMixture` against scikit-learn's steps, an evidence bound written down term by term, and laws."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.mixture.tests.test_bayesian_mixture as theirs
from scipy.special import digamma
from scipy.stats import beta, dirichlet, wishart
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture as Sklearn

import streamgmm as sg
from streamgmm.em import variational_moves
from streamgmm.em.sample_em import in_memory
from streamgmm.em.variational_moves import Bench, Budget, _births
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.variational import VariationalMixture, rows_behind, variational_m_step
from streamgmm.mixture.variational import evidence as evidence_of
from streamgmm.mixture.variational_sums import parted
from streamgmm.runtime.executors import Threads
from tests.helpers.killed_fits import killed_and_resumed, same_as_whole
from tests.helpers.mixtures import separated
from tests.helpers.naive import dense_covariances

TYPES = ("full", "tied", "diag", "spherical")
PRIORS = ("dirichlet_process", "dirichlet_distribution")
PARAMETERS = ("weight_concentration", "mean_precision", "means", "dof", "covariances")


class Given(Sklearn):
    """scikit-learn's class from given responsibilities, which remembers every step."""

    def fit_from(self, X, resp):
        self._resp, self.path = resp, []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.fit(X)

    def _initialize_parameters(self, X, random_state, xp=None):
        self._initialize(X, self._resp)

    def _m_step(self, X, log_resp, xp=None):
        super()._m_step(X, log_resp, xp=xp)
        self.path.append(self._get_parameters())


def responsibilities(n, K, seed=0):
    resp = np.random.default_rng(seed).uniform(size=(n, K)) ** 3
    return resp / resp.sum(axis=1, keepdims=True)


def of_scale(name, covariance_type, array):
    """What an error in a parameter is relative to: of matrices their largest entry."""
    if name != "covariances" or covariance_type in ("diag", "spherical"):
        return np.maximum(np.abs(array), 1e-9 * np.abs(array).max())
    return np.abs(array).max(axis=(-2, -1), keepdims=True)


def steps_agree(X, covariance_type, prior, K, chunk_rows=None):
    resp = responsibilities(len(X), K)
    same = {"covariance_type": covariance_type, "weight_concentration_prior_type": prior, "max_iter": 25, "tol": 0.0}
    other = Given(n_components=K, **same).fit_from(X, resp)
    gm = sg.BayesianGaussianMixture(K, solver="exact", responsibilities_init=resp, **same)
    source = X if chunk_rows is None else sg.open_source(X, chunk_rows=chunk_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = [step.candidates[0].model for step in gm.fit_steps(source)]
    for step in (1, 2, 5, 25):
        model, expected = path[step - 1], other.path[step - 1]
        found = (model.concentration, model.mean_precision, model.means, model.dof, model.covariances)
        for name, mine, right in zip(PARAMETERS, found, expected[:5], strict=True):
            right = np.asarray(right)
            error = np.abs(np.asarray(mine) - right) / of_scale(name, covariance_type, right)
            assert error.max() < 1e-9, (step, name)
    for name in ("weights_", "precisions_cholesky_", "lower_bound_", "covariance_prior_", "mean_prior_"):
        np.testing.assert_allclose(getattr(gm, name), getattr(other, name), rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(gm.score_samples(X), other.score_samples(X), rtol=1e-9)
    np.testing.assert_array_equal(gm.predict(X), other.predict(X))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_every_step_is_that_of_scikit_learn(covariance_type, prior):
    X = load_iris().data
    steps_agree(X, covariance_type, prior, 4)
    steps_agree(X, covariance_type, prior, 4, chunk_rows=64)


def test_every_step_is_that_of_scikit_learn_on_larger_sets(shared):
    magic = magic_rows(shared)
    steps_agree(magic, "full", "dirichlet_process", 3)
    steps_agree(magic, "spherical", "dirichlet_distribution", 3, chunk_rows=4096)
    faithful = np.loadtxt(shared / "mclust" / "faithful.csv", delimiter=",", skiprows=1)
    for covariance_type in TYPES:
        for prior in PRIORS:
            steps_agree(faithful, covariance_type, prior, 3, chunk_rows=64)


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_every_step_is_that_of_scikit_learn_in_chunks_of_64(shared, covariance_type, prior):
    steps_agree(magic_rows(shared), covariance_type, prior, 3, chunk_rows=64)


def magic_rows(shared):
    return np.load(shared / "adbench" / "22_magic.gamma.npz")["X"].astype(np.float64)


# The evidence ---------------------------------------------------------------------------------------------------------


def gauss_wishart_terms(model, k, covariances):
    """E[log q] - E[log p] of mean and precision of component k."""
    prior, D = model.prior, model.n_features
    dof = float(np.broadcast_to(model.dof, model.means.shape[0])[k])
    kappa = model.mean_precision[k]
    scale = np.linalg.inv(covariances[k] * dof)
    first = dense_prior(prior.scale, D)
    log_det = digamma(0.5 * (dof - np.arange(D))).sum() + D * np.log(2) + np.linalg.slogdet(scale)[1]
    own = -wishart(dof, scale).entropy()
    p = wishart(prior.dof, np.linalg.inv(first))
    at = np.eye(D)
    # log p(Lambda) is linear in log |Lambda| and tr(W0^-1 Lambda): taken at the identity, then moved.
    log_p = p.logpdf(at) + 0.5 * np.trace(first) + 0.5 * (prior.dof - D - 1) * log_det
    log_p -= 0.5 * dof * np.trace(first @ scale)
    delta = model.means[k] - prior.mean
    normal = 0.5 * (
        D * np.log(kappa / prior.mean_precision) - D + prior.mean_precision * (D / kappa + dof * delta @ scale @ delta)
    )
    return own - log_p + normal


def dense_prior(scale, D):
    return scale if scale.ndim == 2 else np.eye(D) * scale


def evidence(model, X):
    """The bound, from rows and distributions of SciPy."""
    K, D = model.means.shape
    covariances = dense_covariances(model.family.name, model.covariances, K, D)
    dof = np.broadcast_to(model.dof, K)
    logits = np.empty((len(X), K))
    if model.prior.process:
        a, b = model.concentration
        log_v, log_rest = digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)
        log_pi = log_v + np.concatenate([[0.0], np.cumsum(log_rest)[:-1]])
        alpha = model.prior.concentration
        weights = sum(-beta(x, y).entropy() for x, y in zip(a, b, strict=True))
        weights -= (np.log(alpha) + (alpha - 1) * log_rest).sum()
    else:
        own = model.concentration
        log_pi = digamma(own) - digamma(own.sum())
        first = np.full(K, model.prior.concentration)
        weights = -dirichlet(own).entropy() - (
            dirichlet(first).logpdf(np.full(K, 1 / K)) + ((first - 1) * (log_pi + np.log(K))).sum()
        )
    for k in range(K):
        scale = np.linalg.inv(covariances[k] * dof[k])
        log_det = digamma(0.5 * (dof[k] - np.arange(D))).sum() + D * np.log(2) + np.linalg.slogdet(scale)[1]
        delta = X - model.means[k]
        square = D / model.mean_precision[k] + dof[k] * np.einsum("ni,ij,nj->n", delta, scale, delta)
        logits[:, k] = log_pi[k] + 0.5 * (log_det - D * np.log(2 * np.pi) - square)
    return (
        np.logaddexp.reduce(logits, axis=1).sum()
        - weights
        - sum(gauss_wishart_terms(model, k, covariances) for k in range(K))
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_evidence_bound_is_exact_and_never_falls(covariance_type, prior):
    X = load_iris().data
    gm = sg.BayesianGaussianMixture(
        3, covariance_type=covariance_type, weight_concentration_prior_type=prior, solver="exact", max_iter=12, tol=0,
        responsibilities_init=responsibilities(len(X), 3), reg_covar=0.0,
    )  # fmt: skip
    path = [step.candidates[0].model for step in gm.fit_steps(X)]
    right = [evidence(model, X) for model in path[:-1]]
    np.testing.assert_allclose(gm.lower_bounds_[1:], right, rtol=1e-11)
    assert (np.diff(gm.lower_bounds_) > 0).all()
    incremental = clone(gm).set_params(solver="incremental", max_iter=6).fit(sg.open_source(X, chunk_rows=20))
    assert (np.diff(incremental.lower_bounds_) > 0).all()
    assert incremental.lower_bounds_[4] > gm.lower_bounds_[4]


# scikit-learn's tests -------------------------------------------------------------------------------------------------

PRIVATE = {"test_log_dirichlet_norm", "test_log_wishart_norm", "test_compare_covar_type"}
"""Tests of private functions and methods of scikit-learn."""


def cases():
    for name, function in vars(theirs).items():
        if name.startswith("test_") and name not in PRIVATE:
            marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "parametrize"]
            rows = [
                dict(zip(m.args[0].replace(" ", "").split(","), row, strict=True)) for m in marks for row in m.args[1]
            ]
            yield from (pytest.param(function, row, id=f"{name}{list(row.values()) or ''}") for row in rows or [{}])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("test", "arguments"), list(cases()))
def test_scikit_learns_own_tests(test, arguments, monkeypatch):
    monkeypatch.setattr(theirs, "BayesianGaussianMixture", sg.BayesianGaussianMixture)
    test(**arguments)


# How many -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("K", "D"), [(3, 8), (8, 2)])
def test_separated_components_are_counted(K, D, prior):
    X = separated(K, D, 6000, seed=K)
    for seed in range(2):
        gm = sg.BayesianGaussianMixture(20, weight_concentration_prior_type=prior, random_state=seed).fit(X)
        assert gm.n_components_in_use_ == K == len(set(gm.predict(X)))
        assert gm.converged_ and gm.means_.shape == (20, D)
        assert sum(gm.report_["moves"].values()) >= 20 - K
        assert (np.diff(gm.lower_bounds_) > -1e-6).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_affine_map_of_the_data_changes_nothing_but_the_units(covariance_type):
    X = separated(4, 3, 3000, seed=1)
    rng = np.random.default_rng(0)
    A = {"full": rng.normal(size=(3, 3)), "tied": rng.normal(size=(3, 3)), "diag": np.diag([1e-3, 7.0, 1e4])}
    A = A.get(covariance_type, 1e5 * np.eye(3))
    b = np.array([5.0, -3e3, 2e4])
    gm = sg.BayesianGaussianMixture(10, covariance_type=covariance_type, reg_covar=0.0, random_state=0)
    one, two = clone(gm).fit(X), clone(gm).fit(X @ A.T + b)
    assert one.n_components_in_use_ == two.n_components_in_use_
    np.testing.assert_allclose(two.weights_, one.weights_, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(two.means_, one.means_ @ A.T + b, rtol=1e-6, atol=1e-6 * np.abs(A).max())
    shift = len(X) * np.linalg.slogdet(A)[1]
    np.testing.assert_allclose(two.lower_bounds_[-1] + shift, one.lower_bounds_[-1], rtol=1e-8)


# Moves on full passes -------------------------------------------------------------------------------------------------


@pytest.fixture
def little_sample(monkeypatch):
    """A sample of 10,000 rows, of which moves use 2,000: 10,500 rows are more than fit in memory, as it were."""
    monkeypatch.setattr(variational_moves, "STEP_WORK", 1.0)


def halves(X, labels, K):
    """Labels that cut each of K groups in two, along the first feature."""
    cut = np.array([np.median(X[labels == k, 0]) for k in range(K)])
    return 2 * labels + (X[:, 0] > cut[labels])


@pytest.mark.parametrize(
    ("covariance_type", "prior"),
    [
        ("full", PRIORS[0]),
        ("full", PRIORS[1]),
        *(pytest.param(t, PRIORS[0], marks=pytest.mark.slow) for t in TYPES[1:]),
    ],
)
def test_proposals_on_full_passes_end_where_the_search_does(covariance_type, prior, little_sample):
    """From one component births lead there, from twice as many merges; no pass lowers the evidence."""
    K, X = 3, separated(3, 2, 10_500, seed=3, apart=12.0)
    gm = sg.BayesianGaussianMixture(
        8, covariance_type=covariance_type, weight_concentration_prior_type=prior, random_state=0, reg_covar=0.0
    )
    searched = clone(gm).fit(X)
    labels = searched.predict(X)
    assert searched.n_components_in_use_ >= K  # more, where a group is no tied or spherical Gaussian
    for kind, start in (("born", np.zeros(len(X), int)), ("merged", halves(X, labels, labels.max() + 1) % 8)):
        moved = clone(gm).set_params(responsibilities_init=start).fit(sg.open_source(X, chunk_rows=1000))
        assert moved.report_["moves"][kind] >= 1
        assert np.diff(moved.lower_bounds_).min() > -1e-6
        assert moved.n_passes_ <= 60
        model = moved.mixture_.alone(moved.components_in_use_)
        exact = evidence_of(model, model.accumulate(X))
        assert exact >= moved.lower_bounds_[-1] - 1e-6 * abs(exact)
        if covariance_type == "full":
            assert moved.n_components_in_use_ == searched.n_components_in_use_ == K
            assert exact == pytest.approx(searched.lower_bounds_[-1], abs=0.1)


# Everything else ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_are_repeated_rows():
    X = separated(3, 2, 400, seed=2)
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    resp = responsibilities(len(X), 5)
    settings = {"solver": "exact", "max_iter": 30, "tol": 0.0}
    weighted = sg.BayesianGaussianMixture(5, responsibilities_init=resp, **settings).fit(X, sample_weight=weight)
    repeated = sg.BayesianGaussianMixture(5, responsibilities_init=np.repeat(resp, weight, axis=0), **settings)
    repeated.fit(np.repeat(X, weight, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=1e-10)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_file_keeps_the_posterior(tmp_path, covariance_type, prior):
    X = separated(3, 2, 500, seed=3)
    gm = sg.BayesianGaussianMixture(
        6, covariance_type=covariance_type, weight_concentration_prior_type=prior, random_state=0
    ).fit(X)
    gm.save(tmp_path / "model.safetensors")
    for back in (sg.load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(gm))):
        assert type(back) is sg.BayesianGaussianMixture
        np.testing.assert_array_equal(back.score_samples(X), gm.score_samples(X))
        np.testing.assert_array_equal(np.asarray(back.weight_concentration_), np.asarray(gm.weight_concentration_))
        assert back.n_components_in_use_ == gm.n_components_in_use_
        assert back.lower_bounds_ == gm.lower_bounds_ and back.get_params()["n_components"] == 6


def test_the_same_bits_for_any_number_of_threads_and_after_an_interruption(tmp_path):
    X = separated(5, 3, 6000, seed=4)
    source = sg.open_source(X, chunk_rows=500)
    fits = [sg.BayesianGaussianMixture(12, random_state=0, n_jobs=n).fit(source) for n in (1, 2, 4)]
    for other in fits[1:]:
        np.testing.assert_array_equal(other.means_, fits[0].means_)
        assert other.lower_bounds_ == fits[0].lower_bounds_
    gm = sg.BayesianGaussianMixture(12, random_state=0, checkpoint=tmp_path)
    for _ in zip(range(1), gm.fit_steps(source), strict=False):
        pass  # left after a pass
    gm.fit(source)
    np.testing.assert_array_equal(gm.means_, fits[0].means_)
    assert gm.report_["checkpoint"]["resumed"]


def test_responsibilities_of_another_shape_are_refused():
    X = load_iris().data
    for wrong in (np.ones((150, 2)), np.full(150, 3), responsibilities(150, 4)):
        with pytest.raises(ValueError, match="responsibilities_init: expected shares"):
            sg.BayesianGaussianMixture(3, responsibilities_init=wrong).fit(X)
    for rows, found in ((149, "more"), (151, "150")):
        with pytest.raises(ValueError, match=f"has {rows} rows, X has {found}"):
            sg.BayesianGaussianMixture(3, responsibilities_init=responsibilities(rows, 3)).fit(X)
    labels = sg.BayesianGaussianMixture(3, responsibilities_init=load_iris().target, solver="exact").fit(X)
    assert labels.n_components_in_use_ == 3


NEW_PRIORS = (
    {"weight_concentration_prior": 50.0},
    {"mean_precision_prior": 30.0},
    {"mean_prior": [1.0, 2.0, 0.0, 1.0]},
    {"degrees_of_freedom_prior": 40.0},
    {"covariance_prior": 7.0},
    {"weight_concentration_prior_type": "dirichlet_distribution"},
)


@pytest.mark.parametrize("changed", NEW_PRIORS, ids=lambda one: next(iter(one)))
def test_a_warm_start_obeys_another_prior(changed):
    X = load_iris().data
    of_rows = {"random_state": 0, "solver": "exact", "tol": 1e-9, "max_iter": 2000, "covariance_type": "spherical"}
    warm = sg.BayesianGaussianMixture(3, warm_start=True, **of_rows).fit(X)
    resp, before = warm.predict_proba(X), warm.lower_bounds_[-1]
    with pytest.raises(ValueError, match="another prior"):
        warm.set_params(**changed).partial_fit(X)
    warm.fit(X)
    name, value = next(iter(changed.items()))
    if name != "weight_concentration_prior_type":
        np.testing.assert_array_equal(getattr(warm, f"{name}_"), value)
    fresh = sg.BayesianGaussianMixture(3, responsibilities_init=resp, **of_rows, **changed).fit(X)
    assert warm.lower_bound_ == pytest.approx(fresh.lower_bound_, abs=1e-4)
    assert warm.lower_bounds_[0] != before and np.diff(warm.lower_bounds_).min() > -1e-9
    last, prior = warm.lower_bounds_[-1], warm.mixture_.prior
    warm.fit(X)
    assert warm.mixture_.prior is prior and warm.lower_bounds_[-1] == pytest.approx(last, abs=1e-6)


def test_a_stream_does_not_take_what_it_cannot_follow():
    X = load_iris().data
    with pytest.raises(ValueError, match="responsibilities_init is of all rows"):
        sg.BayesianGaussianMixture(2, responsibilities_init=np.arange(150) % 2).partial_fit(X)
    gm = sg.BayesianGaussianMixture(2, random_state=0, mean_prior=[5.0, 3.0, 4.0, 1.0]).partial_fit(X).partial_fit(X)
    with pytest.raises(ValueError, match="another prior"):
        gm.set_params(mean_prior=[5.0, 3.0, 4.0, 2.0]).partial_fit(X)
    with pytest.raises(ValueError, match=r"should be positive, with finite numbers; got \[1.0, -1.0\]"):
        sg.BayesianGaussianMixture(2, covariance_type="diag", covariance_prior=[1.0, -1.0]).fit(X[:, :2])


def test_what_a_likelihood_is_needed_for_is_absent():
    gm = sg.BayesianGaussianMixture(2, random_state=0).fit(load_iris().data)
    assert not any(hasattr(gm, name) for name in ("bic", "aic", "icl", "to_sklearn", "to_json"))
    assert not {"bic", "loglik"} & gm.report_.keys()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("prior", PRIORS)
def test_the_predictive_density_is_the_mean_of_densities_over_the_posterior(covariance_type, prior):
    X = separated(2, 2, 40, seed=5)
    gm = sg.BayesianGaussianMixture(
        2, covariance_type=covariance_type, weight_concentration_prior_type=prior, random_state=0
    ).fit(X)
    at = np.concatenate([X[:5], [[30.0, -30.0]]])
    found = gm.score_samples(at, predictive=True)
    grid = np.linspace(-150, 150, 1201)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    mass = np.exp(gm.score_samples(plane, predictive=True)).sum() * (grid[1] - grid[0]) ** 2
    assert abs(mass - 1.0) < 5e-3
    assert found[-1] > gm.score_samples(at)[-1]
    if covariance_type == "full":  # the mean over draws of all parameters
        model, rng = gm.mixture_, np.random.default_rng(0)
        total = np.zeros(len(at))
        draws = 4000
        for _ in range(draws):
            for k in range(2):
                root = np.linalg.cholesky(np.linalg.inv(model.covariances[k] * model.dof[k]))
                lower = np.tril(rng.normal(size=(2, 2)), -1) + np.diag(np.sqrt(rng.chisquare(model.dof[k] - [0, 1])))
                precision = root @ lower @ lower.T @ root.T
                mean = rng.multivariate_normal(model.means[k], np.linalg.inv(model.mean_precision[k] * precision))
                delta = at - mean
                square = np.einsum("ni,ij,nj->n", delta, precision, delta)
                scale = np.sqrt(np.linalg.det(precision)) / (2 * np.pi)
                total += gm.weights_[k] * scale * np.exp(-0.5 * square) / draws
        np.testing.assert_allclose(np.exp(found[:5]), total[:5], rtol=0.1)


def test_deviations_of_the_weights_are_those_of_draws():
    X = separated(3, 2, 60, seed=5)
    for prior in PRIORS:
        gm = sg.BayesianGaussianMixture(4, weight_concentration_prior_type=prior, random_state=0, n_init=1).fit(X)
        rng = np.random.default_rng(0)
        if prior == "dirichlet_process":
            v = rng.beta(*gm.mixture_.concentration, size=(20_000, 4))
            draws = v * np.cumprod(np.concatenate([np.ones((len(v), 1)), 1 - v[:, :-1]], axis=1), axis=1)
        else:
            draws = rng.dirichlet(gm.mixture_.concentration, size=20_000)
        np.testing.assert_allclose(gm.weight_deviations_, draws.std(axis=0), rtol=0.1, atol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_growth_from_one_component_finds_what_merges_miss():
    """Overlapping groups of very different width: the same posterior for every seed, above all starts with merges."""
    rng = np.random.default_rng(0)
    X = np.concatenate([s * rng.standard_t(3, size=(250, 2)) + m for s, m in ((1, 0), (6, 3), (0.2, 1), (2, -4))])
    fits = [sg.BayesianGaussianMixture(8, random_state=seed).fit(X) for seed in range(2)]
    bounds = [gm.lower_bounds_[-1] for gm in fits]
    assert np.ptp(bounds) < 1e-3 * len(X)
    others = [Sklearn(n_components=8, random_state=seed, max_iter=300).fit(X) for seed in range(5)]
    prior = fits[0].mixture_.prior
    for other in others:
        names = ("mean_precision_", "means_", "degrees_of_freedom_", "covariances_")
        parts = (np.array(getattr(other, name)) for name in names)
        posterior = VariationalMixture.posterior(prior, np.array(other.weight_concentration_), *parts)
        assert min(bounds) >= evidence_of(posterior, posterior.accumulate(X))


def test_births_of_components_that_kept_their_rows_are_computed_once(monkeypatch):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(mean, 1.0, size=(60, 2)) for mean in ((0, 0), (9, 0), (40, 40), (-40, 40))])
    prior, ones = sg.BayesianGaussianMixture(6, covariance_prior=np.eye(2)).fit(X).mixture_.prior, np.ones(len(X))
    bench = Bench(X, ones, in_memory(X, ones), 1.0, prior, 0.0, Threads(1), Budget(99))
    pair, computed = variational_moves._pair, []
    monkeypatch.setattr(variational_moves, "_pair", lambda *a: computed.append(a) or pair(*a))
    start = stats_from_responsibilities(X, ones, np.repeat([0, 0, 1, 2], 60), 3, prior.family)
    here = bench.at(bench.step(start))
    first, again = [*_births(bench, here)], [*_births(bench, here)]
    assert len(computed) == 3 * 3 and gains(first) == gains(again)
    best = max(first, key=lambda birth: birth.gain)
    assert best.k == 0
    there = bench.at(bench.step(parted(here.stats, best.k, best.pair)))
    anew = replace(bench, pairs={})
    remembered = gains(_births(bench, there))
    assert len(computed) == 3 * 3 + 2 * 3  # of the new components alone
    assert gains(_births(anew, there)) == remembered and anew.pairs.keys() == bench.pairs.keys()


def gains(births):
    return [(birth.k, birth.gain) for birth in births]


def test_passes_are_few_where_all_rows_are_at_hand():
    X = np.random.default_rng(0).standard_t(4, size=(3000, 3))  # no mixture of few Gaussians
    gm = sg.BayesianGaussianMixture(6, random_state=0).fit(X)
    assert gm.converged_ and gm.n_passes_ <= 8


def test_memory_and_sources_beyond_it(tmp_path):
    zarr = pytest.importorskip("zarr")
    X = separated(4, 4, 16_000, seed=6)
    stored = zarr.create_array(tmp_path / "rows.zarr", shape=X.shape, chunks=(1000, 4), dtype="f8")
    stored[:] = X
    gm = sg.BayesianGaussianMixture(8, random_state=0, memory_limit="30MB").fit(tmp_path / "rows.zarr")
    assert gm.n_components_in_use_ == 4 and gm.converged_
    assert gm.report_["memory"]["projected"] <= 30e6
    dask = pytest.importorskip("dask.array").from_array(X, chunks=(1000, 4))
    plain, lazy = (sg.BayesianGaussianMixture(8, random_state=0, executor=e) for e in ("threads", "dask"))
    plain.fit(sg.open_source(X, chunk_rows=1000))
    lazy.fit(dask)
    np.testing.assert_array_equal(lazy.means_, plain.means_)
    assert len(lazy.predict(dask).compute()) == len(X)


def test_a_stream_is_learnt_in_steps(tmp_path):
    X = separated(3, 2, 12_000, seed=3)
    gm = sg.BayesianGaussianMixture(6, random_state=0)
    for part in np.array_split(X[:6000], 37):
        gm.partial_fit(part)
    whole = sg.BayesianGaussianMixture(6, random_state=0).fit(X)
    held = X[6000:]
    assert gm.score_samples(held, predictive=True).mean() > whole.score_samples(held, predictive=True).mean() - 0.02
    assert gm.n_components_in_use_ >= 3
    assert gm.mixture_.mass.sum() == pytest.approx(gm.report_["weight"], rel=1e-9)  # a posterior of all rows seen
    gm.save(tmp_path / "stream.safetensors")
    back = sg.load(tmp_path / "stream.safetensors")
    np.testing.assert_array_equal(back.score_samples(X[:50]), gm.score_samples(X[:50]))
    for one in (gm, back):
        one.partial_fit(held)
    np.testing.assert_allclose(back.means_, gm.means_, rtol=1e-12)
    fixed = sg.BayesianGaussianMixture(6, random_state=0, half_life=2000).partial_fit(X)
    assert fixed.mixture_.mass.sum() == pytest.approx(fixed.effective_sample_size_, rel=1e-6)
    rows = fixed.report_["weight"]
    fixed.set_params(half_life=1000).partial_fit(X[:3000])
    assert fixed.report_["weight"] > rows and fixed.effective_sample_size_ < 4000
    before = whole.means_[whole.components_in_use_]
    whole.partial_fit(X[:5000])
    assert all(np.linalg.norm(whole.means_ - mean, axis=1).min() < 0.15 for mean in before)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("prior", PRIORS)
def test_the_rows_behind_a_posterior_are_found_without_the_prior(covariance_type, prior):
    X = separated(3, 2, 300, seed=3)
    gm = sg.BayesianGaussianMixture(
        5, covariance_type=covariance_type, weight_concentration_prior_type=prior, random_state=0, reg_covar=1e-3
    ).fit(X)  # fmt: skip
    model = gm.mixture_
    stats = rows_behind(model, 1e-3)
    assert stats.count == pytest.approx(len(X))
    again = variational_m_step(stats, model.prior, 1e-3)
    for name in ("concentration", *PARAMETERS[1:]):
        scale = np.abs(getattr(model, name)).max()
        np.testing.assert_allclose(getattr(again, name), getattr(model, name), rtol=1e-9, atol=1e-12 * scale)
    rows = model.accumulate(X)
    assert stats.entropy >= rows.entropy
    np.testing.assert_allclose(stats.scatter, rows.scatter, rtol=1e-3, atol=1e-3 * np.abs(rows.scatter).max())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_stream_that_goes_on_from_a_fit_counts_the_prior_once(covariance_type, tmp_path):
    """Of two points in turn: any even number of rows has the same moments, so the posterior is known."""
    X = np.tile([[1.0, 2.0], [-1.0, -2.0]], (600, 1))
    scale = {"full": 40.0 * np.eye(2), "tied": 40.0 * np.eye(2), "diag": [40.0, 40.0], "spherical": 40.0}
    gm = sg.BayesianGaussianMixture(
        1, covariance_type=covariance_type, covariance_prior=scale[covariance_type], mean_prior=[3.0, 0.0]
    )  # fmt: skip
    whole = clone(gm)
    gm.fit(X[:40]).save(tmp_path / "model.safetensors")
    for one in (gm, sg.load(tmp_path / "model.safetensors")):
        one.partial_fit(X[40:800])
        seen = int(one.report_["weight"])
        assert 40 < seen <= 800 and seen % 2 == 0
        whole.fit(X[:seen])
        for name in ("means_", "covariances_", "mean_precision_", "degrees_of_freedom_"):
            np.testing.assert_allclose(getattr(one, name), getattr(whole, name), rtol=1e-9, atol=1e-12)


def test_a_killed_fit_loses_nothing(tmp_path):
    gm, X = sg.BayesianGaussianMixture(8, random_state=0), separated(4, 3, 6000, seed=4)
    found = killed_and_resumed(gm, X, tmp_path, chunks=(30,))  # after the first pass, of 24 chunks
    assert same_as_whole(found, gm, X)


def test_it_is_no_maximum_likelihood_mixture():
    """As in scikit-learn, the two are not kinds of each other; both fit, stream, and are loaded as what they are."""
    assert not isinstance(sg.BayesianGaussianMixture(), sg.GaussianMixture)
    with pytest.raises(ValueError, match="estimator"):
        sg.OutlierDetector(estimator=sg.BayesianGaussianMixture(2)).fit([[0.0], [1.0], [5.0], [6.0]])
