"""`GaussianMixture`: scikit-learn's manners, and the same numbers as scikit-learn from the same start."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Peer

import streamgmm as sg
from streamgmm.sources import array_source
from tests.helpers.mixtures import FAMILIES, random_mixture

X_IRIS = load_iris().data


def start_of(model):
    return {
        "weights_init": model.weights,
        "means_init": model.means,
        "precisions_init": model.family.precisions(model.precisions_cholesky),
    }


def quiet_fit(gm, X, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return gm.fit(X, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_numbers_as_scikit_learn_from_the_same_start(family):
    model = random_mixture(family, 3, 4, seed=1)
    X, _ = model.sample(2000, 0)
    begin = random_mixture(family, 3, 4, seed=2, spread=1.0)  # near enough that no component starts without rows
    options = {"covariance_type": family, "max_iter": 15, "tol": 0.0, "reg_covar": 1e-4, "solver": "exact"}
    options |= start_of(begin)
    ours = quiet_fit(sg.GaussianMixture(3, **options), X)
    theirs = quiet_fit(Peer(3, **{k: v for k, v in options.items() if k != "solver"}), X)
    assert ours.n_iter_ == theirs.n_iter_ == 15
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-10)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-10)
    assert ours.bic(X) == pytest.approx(theirs.bic(X), rel=1e-10)
    assert ours.aic(X) == pytest.approx(theirs.aic(X), rel=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_for_any_number_of_threads(family):
    X, _ = random_mixture(family, 4, 3, seed=1).sample(20_000, 0)
    begin = random_mixture(family, 4, 3, seed=2)
    fits = [
        quiet_fit(
            sg.GaussianMixture(4, covariance_type=family, max_iter=20, tol=0, n_jobs=n, **start_of(begin)),
            array_source(X, None, chunk_rows=1000),
        )
        for n in (1, 2, 4)
    ]
    for other in fits[1:]:
        assert other.lower_bounds_ == fits[0].lower_bounds_
        for name in ("weights_", "means_", "covariances_"):
            np.testing.assert_array_equal(getattr(other, name), getattr(fits[0], name))


def test_the_start_does_not_depend_on_threads_or_chunks():
    X, _ = random_mixture("full", 4, 3, seed=1).sample(30_000, 0)
    fits = [
        quiet_fit(sg.GaussianMixture(4, max_iter=1, random_state=0, n_jobs=n), array_source(X, None, chunk_rows=rows))
        for n, rows in ((1, 1000), (2, 1000), (2, 30_000), (4, 777))
    ]
    np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
    for other in fits[2:]:
        np.testing.assert_allclose(other.means_, fits[0].means_, rtol=1e-9)


def test_a_frame_with_words_names_its_columns_and_the_remedy():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"speed": [1.0, 2.0, 4.0], "city": ["Bern", "Rom", "Wien"]})
    with pytest.raises(
        ValueError, match=r"hold none: 'city' \(.*\)\. Leave them out with X\.drop\(columns=\['city'\]\)"
    ):
        sg.GaussianMixture().fit(frame)


def test_an_unknown_parameter_is_refused_in_the_name_of_the_class():
    with pytest.raises(TypeError, match=r"GaussianMixture\.__init__\(\) got an unexpected keyword argument 'n_inits'"):
        sg.GaussianMixture(2, n_inits=3)


@pytest.mark.parametrize("settings", [{"n_components": 1}, {"n_components": 2, "means_init": [[0.0], [9.0]]}])
def test_nothing_is_left_to_spread_out(settings):
    """k-means‖ draws all means: with one component, or given ones, the sample will do."""
    X = np.r_[np.random.default_rng(0).normal(0, 1, (50, 1)), np.random.default_rng(1).normal(9, 1, (50, 1))]
    found, plain = (
        sg.GaussianMixture(init_params=init, random_state=0, **settings).fit(X) for init in ("kmeans||", "kmeans")
    )
    assert (found.means_ == plain.means_).all()


def test_a_warning_about_convergence_points_at_the_call():
    with pytest.warns(ConvergenceWarning, match="the limit is not known yet") as caught:
        sg.GaussianMixture(3, max_iter=1, random_state=0, solver="exact").fit(
            np.random.default_rng(0).normal(size=(100, 2))
        )
    assert caught[0].filename == __file__


def test_weights_from_a_given_start():
    rng = np.random.default_rng(0)
    X, _ = random_mixture("full", 3, 2).sample(400, 0)
    w = rng.integers(0, 4, 400)
    begin = random_mixture("full", 3, 2, seed=5)
    options = {"max_iter": 10, "tol": 0, **start_of(begin)}
    weighted = quiet_fit(sg.GaussianMixture(3, **options), X, sample_weight=w)
    repeated = quiet_fit(sg.GaussianMixture(3, **options), np.repeat(X, w, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-8)
    assert weighted.report_["bic"] == pytest.approx(repeated.report_["bic"], rel=1e-10)


def test_lower_bound_never_falls_without_regularisation():
    X, _ = random_mixture("full", 5, 3, seed=3, spread=1.0).sample(5000, 0)
    gm = quiet_fit(sg.GaussianMixture(5, reg_covar=0, max_iter=40, tol=0, random_state=1, init_params="random"), X)
    assert (np.diff(gm.lower_bounds_) > -1e-12).all()
    assert gm.lower_bound_ == gm.lower_bounds_[-1]


def test_report_and_criteria_without_another_pass():
    gm = quiet_fit(sg.GaussianMixture(3, random_state=0, tol=1e-12, max_iter=500), X_IRIS)
    assert gm.n_passes_ == gm.report_["n_passes"] >= gm.n_iter_
    assert gm.report_["rows"] == 150
    for name in ("bic", "aic", "icl"):
        assert gm.report_[name] == pytest.approx(getattr(gm, name)(X_IRIS), rel=1e-8)
    resp = gm.predict_proba(X_IRIS)
    assert gm.icl(X_IRIS) == pytest.approx(gm.bic(X_IRIS) - 2 * np.log(resp.max(axis=1)).sum(), rel=1e-12)


@pytest.mark.parametrize("options", [{"prior": "default"}, {"prior": sg.NormalInverseWishart(0.5, scale=9.0)}])
@pytest.mark.parametrize("given", [False, True])
def test_a_warm_start_obeys_another_prior(options, given):
    fresh = quiet_fit(sg.GaussianMixture(3, random_state=0, tol=1e-10, **options), X_IRIS)
    warm = quiet_fit(sg.GaussianMixture(3, random_state=0, tol=1e-10, warm_start=True), X_IRIS)
    if given:
        model = warm.mixture_
        warm = sg.GaussianMixture.from_parameters(
            model.weights, model.means, model.covariances, warm_start=True, tol=1e-10
        )
    quiet_fit(warm.set_params(**options), X_IRIS)
    assert len(warm.lower_bounds_) == warm.n_iter_ < 100  # nothing of the other objective
    np.testing.assert_allclose(np.sort(warm.weights_), np.sort(fresh.weights_), rtol=1e-4)
    assert warm.lower_bound_ == pytest.approx(fresh.lower_bound_, abs=1e-7)
    known = warm.prior_
    n = len(warm.lower_bounds_)
    quiet_fit(warm, X_IRIS)
    assert warm.prior_ is known and len(warm.lower_bounds_) > n  # the same objective goes on
    quiet_fit(warm.set_params(prior=None), X_IRIS)
    assert warm.prior_ is None
    plain = quiet_fit(sg.GaussianMixture(3, random_state=0, tol=1e-10), X_IRIS)
    assert warm.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-6)


def test_a_warm_start_obeys_another_background():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(m, 1.0, (400, 2)) for m in (-6.0, 6.0)] + [rng.uniform(-30, 30, (200, 2))])
    gm = quiet_fit(sg.GaussianMixture(2, random_state=0, tol=1e-9, warm_start=True), X[:800])
    fresh = quiet_fit(sg.GaussianMixture(2, random_state=0, tol=1e-9, noise="uniform"), X)
    quiet_fit(gm.set_params(noise="uniform"), X)
    assert fresh.noise_weight_ > 0.15 and gm.noise_weight_ == pytest.approx(fresh.noise_weight_, abs=1e-5)
    np.testing.assert_array_equal(gm.mixture_.box, [X.min(axis=0), X.max(axis=0)])
    quiet_fit(gm.set_params(noise=None, max_iter=3), X)
    assert gm.noise_weight_ == 0 and gm.mixture_.box is None and gm.weights_.sum() == pytest.approx(1)


def test_an_out_that_nothing_can_be_written_to_is_refused(tmp_path):
    gm = quiet_fit(sg.GaussianMixture(2, random_state=0), X_IRIS)
    with pytest.raises(TypeError, match=r"out: expected an array .* got str"):
        gm.predict(X_IRIS, out=str(tmp_path / "labels.npy"))
    with pytest.raises(TypeError, match=r"got \w*Path"):
        gm.score_samples(X_IRIS, out=tmp_path / "scores.npy")


def test_iris_is_as_good_as_scikit_learn():
    ours = quiet_fit(sg.GaussianMixture(3, random_state=0, n_init=5), X_IRIS)
    theirs = quiet_fit(Peer(3, random_state=0, n_init=5, tol=1e-8, max_iter=1000), X_IRIS)
    assert ours.score(X_IRIS) > theirs.score(X_IRIS) - 1e-3


def test_warm_start_continues_the_trace():
    gm = sg.GaussianMixture(3, random_state=0, max_iter=3, tol=0, warm_start=True, solver="exact")
    quiet_fit(gm, X_IRIS)
    first = list(gm.lower_bounds_)
    quiet_fit(gm, X_IRIS)
    assert gm.lower_bounds_[:3] == first and len(gm.lower_bounds_) == 6
    straight = quiet_fit(sg.GaussianMixture(3, random_state=0, max_iter=6, tol=0, solver="exact"), X_IRIS)
    np.testing.assert_allclose(gm.lower_bounds_, straight.lower_bounds_, rtol=1e-13)


def test_max_iter_zero_returns_the_start():
    begin = random_mixture("full", 2, 4)
    gm = sg.GaussianMixture(2, max_iter=0, **start_of(begin)).fit(X_IRIS)
    assert gm.n_iter_ == 0 and not gm.converged_
    np.testing.assert_allclose(gm.means_, begin.means)
    np.testing.assert_allclose(gm.covariances_, begin.covariances, rtol=1e-9)


def test_convergence_warning_says_how_far():
    with pytest.warns(ConvergenceWarning, match=r"distance to the limit.*Raise max_iter"):
        sg.GaussianMixture(3, max_iter=2, random_state=0, solver="exact").fit(X_IRIS)


def test_clone_pickle_and_fit_predict():
    gm = sg.GaussianMixture(3, random_state=0)
    labels = gm.fit_predict(X_IRIS)
    np.testing.assert_array_equal(labels, gm.predict(X_IRIS))
    again = pickle.loads(pickle.dumps(gm))
    np.testing.assert_array_equal(again.predict_proba(X_IRIS), gm.predict_proba(X_IRIS))
    fresh = clone(gm)
    with pytest.raises(NotFittedError):
        fresh.predict(X_IRIS)
    assert not hasattr(fresh, "weights_")


def test_dataframe_names_are_kept_and_checked():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X_IRIS, columns=list("abcd"))
    gm = sg.GaussianMixture(2, random_state=0).fit(frame)
    assert gm.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        gm.predict(frame.rename(columns={"a": "z"}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda X: X[:2], r"n_samples >= n_components.*n_components = 3, n_samples = 2"),
        (lambda X: np.where(np.arange(len(X))[:, None] == 17, np.nan, X), r"NaN: row 17, column 0"),
        (lambda X: np.where(np.arange(len(X))[:, None] == 3, np.inf, X), r"infinity: row 3, column 0"),
        (lambda X: X[:, 0], "2D array"),
        (lambda X: X.astype(str) + "x", "could not convert|dtype"),
    ],
)
def test_bad_data_get_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        sg.GaussianMixture(3).fit(make(X_IRIS))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weights_init": [0.5, 0.5]}, "should have the shape"),
        ({"weights_init": [0.5, 0.6, -0.1]}, "range"),
        ({"weights_init": [0.5, 0.6, 0.1]}, "normalized"),
        ({"means_init": np.zeros((3, 2))}, "should have the shape"),
        ({"precisions_init": np.zeros((3, 4, 4))}, "positive-definite"),
        ({"covariance_type": "oval"}, "covariance_type"),
        ({"n_components": 0}, "n_components"),
        ({"tol": -1.0}, "tol"),
        ({"n_jobs": 0}, "n_jobs"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        sg.GaussianMixture(**{"n_components": 3, **parameters}).fit(X_IRIS)


def test_zero_and_negative_weights():
    with pytest.raises(ValueError, match="weights are zero"):
        sg.GaussianMixture(2).fit(X_IRIS, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match="row 5 has -1"):
        sg.GaussianMixture(2).fit(X_IRIS, sample_weight=np.where(np.arange(150) == 5, -1.0, 1.0))


def test_collapse_is_repaired_and_reported_or_raised():
    X = np.r_[np.zeros((50, 2)), np.random.default_rng(0).normal(5, 1, (100, 2))]
    begin = {
        "weights_init": [0.5, 0.5],
        "means_init": [[0.0, 0.0], [5.0, 5.0]],
        "precisions_init": np.stack([np.eye(2)] * 2),
    }
    gm = quiet_fit(sg.GaussianMixture(2, reg_covar=0, max_iter=60, **begin), X)
    assert gm.report_["repairs"]
    assert all(np.isfinite(getattr(gm, n)).all() for n in ("weights_", "means_", "covariances_"))
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        sg.GaussianMixture(2, reg_covar=0, on_collapse="raise", **begin).fit(X)


def test_small_components_are_no_collapse():
    gm = quiet_fit(sg.GaussianMixture(15, random_state=0, n_init=1), X_IRIS)
    assert not gm.report_["repairs"]


def test_verbose_prints_progress(capsys):
    quiet_fit(sg.GaussianMixture(3, max_iter=20, tol=0, random_state=0, verbose=1, verbose_interval=5), X_IRIS)
    out = capsys.readouterr().out
    assert "Initialization" in out and "Iteration 5" in out and "Iteration 20" in out


def test_blas_threads_are_left_as_found():
    from threadpoolctl import threadpool_info

    def blas():
        return [(p["filepath"], p["num_threads"]) for p in threadpool_info() if p["user_api"] == "blas"]

    quiet_fit(sg.GaussianMixture(2, random_state=0), X_IRIS)
    before = blas()
    quiet_fit(sg.GaussianMixture(2, random_state=0), array_source(X_IRIS, None, chunk_rows=10))
    assert blas() == before


def test_no_reading_beyond_the_passes_reported():
    reads = []

    class Counting:
        def __init__(self, chunk):
            self.chunk = chunk
            self.index, self.start = chunk.index, chunk.start

        def load(self):
            reads.append(self.index)
            return self.chunk.load()

    source = array_source(X_IRIS, None, chunk_rows=50)
    inner = source.chunks
    source.chunks = lambda: (Counting(c) for c in inner())
    gm = quiet_fit(sg.GaussianMixture(3, random_state=0, n_init=3), source)
    assert len(reads) == 3 * gm.n_passes_


def test_predictions_into_out():
    gm = quiet_fit(sg.GaussianMixture(3, random_state=0), X_IRIS)
    source = array_source(X_IRIS, None, chunk_rows=40)
    for method in ("predict", "predict_proba", "score_samples"):
        whole = getattr(gm, method)(X_IRIS)
        np.testing.assert_array_equal(np.concatenate(list(getattr(gm, method)(source))), whole)
        out = np.empty_like(whole)
        assert getattr(gm, method)(source, out=out) is out
        np.testing.assert_array_equal(out, whole)
        for wrong in (149, 151):
            with pytest.raises(ValueError, match=f"out has {wrong} rows"):
                getattr(gm, method)(source, out=np.empty((wrong, *whole.shape[1:])))


def test_max_time_ends_the_fit_after_the_pass():
    with pytest.warns(ConvergenceWarning):
        gm = sg.GaussianMixture(3, random_state=0, max_time=1e-9, tol=0).fit(X_IRIS)
    assert gm.n_iter_ == 1 and not gm.converged_
