"""Outliers: the threshold is the stated share, streamed or not; and known figures on known sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import streamgmm as sg
from streamgmm.sources import ArraySource
from streamgmm.sources.summaries.quantiles import Scale, exact_threshold


def data(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) * 0.3 + 5])


@pytest.mark.parametrize("contamination", [0.01, 0.05, 0.5])
def test_the_share_below_the_threshold_is_the_contamination(contamination):
    X = data()
    detector = sg.OutlierDetector(2, contamination=contamination, random_state=0).fit(X)
    assert (detector.predict(X) == -1).sum() == contamination * len(X)
    assert detector.offset_error_ == 0
    assert detector.outlier_share_ == pytest.approx(contamination, rel=1e-12)
    np.testing.assert_array_equal(detector.predict(X) == -1, detector.score_samples(X) < detector.offset_)
    np.testing.assert_allclose(detector.decision_function(X), detector.score_samples(X) - detector.offset_)
    assert detector.predict([[20.0, 20.0], [0.0, 0.0]]).tolist() == [-1, 1]


def test_a_stream_of_chunks_gives_nearly_the_same_threshold():
    X = data(20_000)
    whole = sg.OutlierDetector(2, contamination=0.03, random_state=0).fit(X)
    source = ArraySource(X, chunk_rows=1500)
    source.in_memory = False
    cut = sg.OutlierDetector(2, contamination=0.03, random_state=0).fit(source)
    assert cut.offset_ == pytest.approx(whole.offset_, abs=0.005)
    verdicts = np.concatenate(list(cut.predict(source)))
    outliers = (verdicts == -1).mean()
    assert 0.03 - cut.offset_error_ - 1e-9 <= outliers <= 0.03
    assert cut.outlier_share_ == pytest.approx(outliers, rel=1e-12)
    assert cut.offset_error_ < 2e-3
    assert cut.n_passes_ == cut.estimator_.n_passes_ + 1


@given(
    scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    guess=st.floats(-100, 100),
    share=st.floats(0.001, 0.5),
    cut=st.integers(0, 60),
)
@settings(max_examples=200, deadline=None)
def test_the_sketch_never_exceeds_the_share_and_merges(scores, guess, share, cut):
    scores = np.array(scores)
    scale = Scale(guess)
    counts = scale.counts(scores, None)
    np.testing.assert_array_equal(counts, scale.counts(scores[:cut], None) + scale.counts(scores[cut:], None))
    threshold, told, error = scale.threshold(counts, share)
    below = (scores < threshold - 1e-9 * (1 + abs(threshold))).mean()
    assert below <= share + 1e-9 and told <= share + 1e-9
    assert below <= told + 1e-12 <= (scores < threshold + 1e-9 * (1 + abs(threshold))).mean() + 2e-12
    exact, exact_share = exact_threshold(scores, None, share)
    assert exact_share == pytest.approx((scores < exact).mean(), abs=1e-12)
    assert abs(threshold - exact) <= 1.1e-5 + 0.0101 * abs(exact - guess)
    assert (scores < exact).mean() <= share + 1e-9
    assert 0 < error <= 1


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(1)
    X, weight = data(200), rng.integers(0, 4, 400)
    weighted = sg.OutlierDetector(contamination=0.1).fit(X, sample_weight=weight)
    repeated = sg.OutlierDetector(contamination=0.1).fit(np.repeat(X, weight, axis=0))
    assert weighted.offset_ == pytest.approx(repeated.offset_, rel=1e-10)
    assert weighted.outlier_share_ == pytest.approx(repeated.outlier_share_, rel=1e-12)
    np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_number_of_components_is_chosen_by_bic():
    X = data()
    detector = sg.OutlierDetector([1, 2, 3, 4], random_state=0).fit(X)
    assert detector.n_components_ == 2 == min(detector.bic_, key=detector.bic_.get)
    gm = sg.GaussianMixture(2, random_state=0).fit(X)
    assert detector.bic_[2] == pytest.approx(gm.bic(X), rel=1e-6)
    assert sg.OutlierDetector(range(1, 4), random_state=0).fit(X).n_components_ == 2
    for numbers in ([0, 1], [1.5], ["2"], []):
        with pytest.raises(ValueError, match="positive integer"):
            sg.OutlierDetector(numbers).fit(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_numbers_of_components_share_their_readings():
    class Stored(ArraySource):
        in_memory = False
        passes = 0

        def chunks(self):
            self.passes += 1
            return super().chunks()

    source = Stored(data(2000), chunk_rows=500)
    detector = sg.OutlierDetector(range(1, 5), max_iter=20, contamination=0.02, random_state=0).fit(source)
    guess = 1  # the threshold's sketch starts from the first chunk
    assert source.passes == detector.n_passes_ + guess
    assert detector.n_passes_ <= 22
    assert detector.n_components_ == 2 and sorted(detector.bic_) == [1, 2, 3, 4]


def test_settings_that_cannot_share_readings_are_fitted_one_by_one():
    rng = np.random.default_rng(0)
    X = np.concatenate([data(300), rng.uniform(-10, 10, (60, 2))])
    mixture = sg.GaussianMixture(noise="uniform", random_state=0, tol=1e-4)
    detector = sg.OutlierDetector([1, 2], estimator=mixture).fit(X)
    assert detector.estimator_.noise_weight_ > 0.02 and set(detector.bic_) == {1, 2}


def test_a_chosen_mixture_that_did_not_converge_says_so():
    with pytest.warns(ConvergenceWarning, match="lowest BIC .* Raise max_iter"):
        sg.OutlierDetector([2, 3], max_iter=1, tol=0.0, random_state=0).fit(data(300))


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_a_cluster_of_outliers_is_not_normal(covariance_type):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(980, 2)), 12 + 0.01 * rng.normal(size=(20, 2))])
    settings = {"n_components": 2, "covariance_type": covariance_type, "random_state": 0, "contamination": 0.05}
    detector = sg.OutlierDetector(**settings).fit(X)
    assert (detector.predict(X)[980:] == -1).all()
    assert len(detector.dropped_) == 1 and detector.mixture_.n_components == 1
    assert detector.mixture_.weights.sum() == pytest.approx(1)
    assert (detector.predict(X) == -1).mean() == 0.05
    keep = sg.OutlierDetector(**settings, light_components="keep").fit(X)
    assert keep.dropped_ == () and keep.mixture_ is keep.estimator_.mixture_
    if covariance_type != "tied":  # one covariance for both leaves the small cluster as thin as the large one
        assert (keep.predict(X)[980:] == 1).all()


def test_a_mixture_with_its_own_settings():
    X = data(300)
    mixture = sg.GaussianMixture(2, prior="default", random_state=0, tol=1e-4)
    detector = sg.OutlierDetector(estimator=mixture, contamination=0.1).fit(X)
    assert (detector.predict(X) == -1).sum() == 60
    assert detector.n_components_ == 2
    assert detector.estimator_.prior_ is not None
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        sg.OutlierDetector().fit(X)
    with pytest.raises(ValueError, match="contamination"):
        sg.OutlierDetector(contamination=0.6).fit(data())


def test_in_a_pipeline_and_a_grid():
    X = np.random.default_rng(0).permutation(data(150))
    y = np.where(np.abs(X).max(axis=1) > 5.5, -1, 1)
    pipeline = make_pipeline(sg.Scaler(), sg.OutlierDetector(random_state=0, tol=1e-3))
    grid = {"outlierdetector__n_components": [1, 2], "outlierdetector__contamination": [0.05, 0.2]}
    search = GridSearchCV(pipeline, grid, scoring="balanced_accuracy", cv=3).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == (300,)


@pytest.mark.parametrize("name", ["16_http", "32_shuttle", "34_smtp", "23_mammography", "22_magic.gamma"])
def test_one_full_gaussian_has_the_known_likelihood_and_auc(shared, name):
    reference = json.loads((shared / "adbench" / "k1_reference.json").read_text())[f"{name}.npz"]
    with np.load(shared / "adbench" / f"{name}.npz") as file:
        X, y = file["X"], file["y"]
    z = sg.Scaler().fit_transform(X.astype(np.float64))
    detector = sg.OutlierDetector(1, reg_covar=0.0, contamination=0.01).fit(z)
    assert detector.estimator_.score(z) == pytest.approx(reference["ll"], abs=1e-6)
    assert roc_auc_score(y, -detector.score_samples(z)) == pytest.approx(reference["auc"], abs=1e-6)
