"""Components that rows do not support: few rows, or a plane of them; `select` and `diagnose` say the same."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from streamgmm.mixture.support import supported, unsupported


def model(weights, covariances, means=None, kind="full"):
    means = 10.0 * np.arange(2 * len(weights)).reshape(-1, 2) if means is None else means
    return sg.Mixture(weights, means, covariances, covariance_type=kind)


def test_fewer_rows_than_span_a_covariance():
    two = model([0.98, 0.02], np.array([np.eye(2)] * 2))
    assert supported(two, 1000, 1e-6) and supported(two, 150, 1e-6)  # 3 rows
    found = unsupported(two, 100, 1e-6)
    assert list(found) == [1] and "holds 2.0 rows, fewer than the 3" in found[1]


@pytest.mark.parametrize(
    ("kind", "thin"), [("full", np.diag([1.0, 1e-6])), ("diag", [1.0, 1.5e-6]), ("spherical", 1e-6)]
)
def test_a_variance_that_is_regularisation(kind, thin):
    wide = {"full": np.eye(2), "diag": [1.0, 1.0], "spherical": 1.0}[kind]
    two = model([0.5, 0.5], np.array([thin, wide]), kind=kind)
    assert list(unsupported(two, 1000, 1e-6)) == [0]
    assert supported(two, 1000, 1e-8)
    assert supported(model([0.5, 0.5], np.array([wide, wide]), kind=kind), 1000, 1e-6)


def test_a_direction_that_is_narrow_in_all_rows_is_nobodys_fault():
    """A constant feature, or features in small units."""
    flat = np.diag([1.0, 1e-6])
    two = model([0.5, 0.5], np.array([flat, flat]), means=[[0.0, 5.0], [9.0, 5.0]])
    assert supported(two, 1000, 1e-6)
    assert supported(model([1.0], np.array([flat]), means=[[0.0, 0.0]]), 1, 1e-6)


def test_without_regularisation_only_rounding_is_thin():
    assert supported(model([0.5, 0.5], np.array([np.diag([1.0, 1e-6]), np.eye(2)])), 1000, 0.0)
    assert not supported(model([0.5, 0.5], np.array([np.diag([1.0, 1e-14]), np.eye(2)])), 1000, 0.0)


def test_select_passes_over_what_diagnose_calls_thin():
    """Rows of exactly one height beside a group: three components have less BIC than two by that."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(460, 2))
    X[:200, 0] -= 40.0
    X[400:, 1] = 6.0
    found = sg.select(X, range(1, 4), n_init=1, random_state=0)
    marked = [row for row in found.table if row["unsupported"]]
    assert found.best.n_components == 2 == found.minimum["full"]
    chosen = next(row for row in found.table if row["n_components"] == 2)
    assert not chosen["unsupported"] and found.best.bic(X) == pytest.approx(chosen["bic"], rel=1e-6)
    assert marked and any(row["bic"] < chosen["bic"] for row in marked)
    (word,) = [text for text in found.report["warnings"] if text.startswith("Passed over")]
    assert marked[0]["unsupported"][0] in word
    fitted = found.models[found.table.index(marked[0])]
    gm = sg.GaussianMixture.from_parameters(fitted.weights, fitted.means, fitted.covariances)
    thin = [finding for finding in sg.diagnose(gm, X) if finding.code in ("thin-components", "dead-components")]
    assert marked[0]["unsupported"][0].removeprefix("c") in thin[0].message
    assert not {"thin-components", "dead-components"} & {finding.code for finding in sg.diagnose(found.best, X)}


def test_a_sound_start_stands_for_its_number_of_components():
    """Iris has petals of one width by the dozen: the best start of five components has one of no width, others not."""
    X = load_iris().data
    found = sg.select(X, range(1, 8), random_state=0)
    assert found.best.n_components == 2
    assert not any(row["unsupported"] for row in found.table[:5])


def test_where_nothing_is_supported_the_criterion_decides_and_a_warning_says_so():
    X = np.random.default_rng(0).normal(size=(12, 5))
    found = sg.select(X, (3, 4), n_init=2, random_state=0)
    assert all(row["unsupported"] for row in found.table)
    assert found.report["warnings"][0].startswith("Every candidate of more than one component")


def test_features_that_are_constant_in_every_group_speak_against_no_candidate():
    """One component alone has variance in all directions, and is not the answer: the groups are there."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    X[:, 1] = np.where(np.arange(400) < 150, 0.0, 6.0)
    found = sg.select(X, range(1, 4), random_state=0)
    assert found.best.n_components == 2 == found.minimum["full"]
    assert found.table[1]["unsupported"] and found.report["warnings"][0].startswith("Every candidate of more than one")


@pytest.mark.parametrize(
    ("family", "n", "value"),
    [("full", 3, -999.0), ("full", 1, 1e20), ("tied", 1, 1e200), ("diag", 10, 1e20), ("spherical", 1, 1e6)],
)
def test_rows_of_a_fill_value_do_not_speak_against_the_clusters_beside_them(family, n, value):
    """Three components: two clusters, and the rows far away, too few to span a covariance."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 600)
    good = rng.normal(size=(600, 3)) + 6.0 * label[:, None]
    X = np.concatenate([good, np.full((n, 3), value)])
    found = sg.select(X, range(1, 4), covariance_types=(family,), n_init=2, random_state=0)
    assert found.best.n_components == 3 and not found.table[2]["unsupported"]
    assert adjusted_rand_score(label, found.best.predict(good)) >= 0.95


def test_components_too_far_apart_for_one_covariance():
    far = model([0.5, 0.5], np.array([np.eye(2)] * 2), means=[[0.0, 0.0], [1e20, 1e20]])
    with pytest.raises(ValueError, match="so far apart"):
        far.merge_components([[0, 1]])
    three = model([0.4, 0.3, 0.3], np.array([np.eye(2)] * 3), means=[[0.0, 0.0], [3.0, 0.0], [1e20, -1e20]])
    np.testing.assert_allclose(three.merge_components(n_components=2).weights, [0.7, 0.3])
