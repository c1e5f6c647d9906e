"""Statistics: equal to the naive twin, and the laws of their algebra."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamgmm as sg
from streamgmm.runtime.fold import Fold, fold
from tests.helpers import naive
from tests.helpers.mixtures import FAMILIES, random_mixture

FIELDS = ("weight", "mean", "scatter", "loglik", "entropy", "log_max", "count", "rows")
few = settings(max_examples=25, deadline=None)


def close(a, b, rtol=1e-12):
    """Agreement relative to the largest entry: entries that cancel to nothing have no digits of their own.

    Entropy and log max r are sums of logarithms of 1 + u over the rows, where 1 + u is rounded before u can be seen.
    """
    for field in FIELDS:
        x, y = np.asarray(getattr(a, field)), np.asarray(getattr(b, field))
        scale = max(1e-300, float(np.abs(y).max()))
        rounding = np.finfo(float).eps * b.count if field in ("entropy", "log_max") else 0.0
        assert np.abs(x - y).max() <= rtol * scale + rounding, field


def parameters(mixture):
    return mixture.weights, mixture.means, mixture.covariances, mixture.family.name


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("D", [1, 2, 5])
def test_accumulate_equals_the_naive_twin(family, D):
    model = random_mixture(family, 4, D)
    X, _ = model.sample(700, 1)
    w = np.random.default_rng(2).uniform(size=700)
    stats = model.accumulate(X, w)
    for field, expected in zip(FIELDS, naive.stats(X, *parameters(model), w), strict=False):
        np.testing.assert_allclose(getattr(stats, field), expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())
    assert stats.count == pytest.approx(w.sum(), rel=1e-14)
    assert stats.rows == 700


@few
@given(cuts=st.lists(st.integers(0, 300), max_size=5), seed=st.integers(0, 3), name=st.sampled_from(FAMILIES))
def test_any_chunking_gives_the_same_statistics(cuts, seed, name):
    model = random_mixture(name, 3, 3, seed)
    X, _ = model.sample(300, seed)
    edges = [0, *sorted(cuts), 300]
    parts = [model.accumulate(X[a:b]) for a, b in pairwise(edges)]
    close(fold(parts, sg.merge), model.accumulate(X))


@few
@given(seed=st.integers(0, 5), name=st.sampled_from(FAMILIES))
def test_merge_is_associative_and_has_a_neutral_element(seed, name):
    model = random_mixture(name, 3, 2, seed)
    X, _ = model.sample(90, seed)
    a, b, c = (model.accumulate(X[i::3]) for i in range(3))
    close(sg.merge(sg.merge(a, b), c), sg.merge(a, sg.merge(b, c)))
    zero = sg.Stats.zeros(model.family, 3, 2)
    for merged in (sg.merge(a, zero), sg.merge(zero, a)):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(merged, field), getattr(a, field))


def test_weight_two_is_the_row_twice_and_weight_zero_is_no_row(family):
    model = random_mixture(family, 3, 3)
    X, _ = model.sample(200, 0)
    w = np.random.default_rng(0).integers(0, 3, 200)
    weighted = model.accumulate(X, w.astype(float))
    repeated = model.accumulate(np.repeat(X, w, axis=0))
    for field in FIELDS[:-1]:
        np.testing.assert_allclose(getattr(weighted, field), getattr(repeated, field), rtol=1e-11, atol=1e-11)
    assert weighted.rows == (w > 0).sum()


def test_scaled_and_blend(family):
    model = random_mixture(family, 3, 2)
    X, _ = model.sample(400, 0)
    a, b = model.accumulate(X[:100]), model.accumulate(X[100:])
    # Blending normalised statistics with rate n_b / n is the merge, per row.
    blended = a.scaled(1 / 100).blend(b.scaled(1 / 300), 300 / 400)
    whole = model.accumulate(X).scaled(1 / 400)
    for field in FIELDS[:-1]:
        np.testing.assert_allclose(getattr(blended, field), getattr(whole, field), rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(a.scaled(3.0).mean, a.mean)


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row(family, n):
    model = random_mixture(family, 3, 2)
    X = np.full((n, 2), 0.5)
    stats = model.accumulate(X)
    assert stats.rows == n and stats.count == n
    assert stats.weight.sum() == pytest.approx(n, abs=1e-15)
    assert np.isfinite(stats.scatter).all()
    assert model.log_prob(X).shape == (n,)
    assert model.responsibilities(X).shape == (n, 3)


def test_float32_readonly_and_strided_rows(family):
    model = random_mixture(family, 3, 4)
    X, _ = model.sample(100, 0)
    X32 = X.astype(np.float32)
    exact = model.accumulate(X32.astype(np.float64))
    X32.flags.writeable = False
    close(model.accumulate(X32), exact, 1e-14)
    wide = np.zeros((100, 8))
    wide[:, ::2] = X
    close(model.accumulate(wide[:, ::2]), model.accumulate(X), 1e-15)
    close(model.accumulate(np.asfortranarray(X)), model.accumulate(X), 1e-15)


def test_shift_and_scale_move_the_model_and_nothing_else(family):
    model = random_mixture(family, 3, 2)
    X, _ = model.sample(500, 0)
    shift = np.array([100.0, -7.0])
    scale = 8.0  # a power of two: exact
    moved = sg.Mixture(model.weights, model.means * scale + shift, model.covariances * scale**2, model.family)
    a, b = model.accumulate(X), moved.accumulate(X * scale + shift)
    np.testing.assert_allclose(b.weight, a.weight, rtol=1e-11)
    np.testing.assert_allclose(b.mean, a.mean * scale + shift, rtol=1e-11)
    np.testing.assert_allclose(b.scatter, a.scatter * scale**2, rtol=1e-9, atol=1e-8)
    assert b.loglik == pytest.approx(a.loglik - 500 * 2 * np.log(scale), rel=1e-12)


def test_identities():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3))
    one = random_mixture("full", 1, 3).accumulate(X).maximize()
    np.testing.assert_allclose(one.means[0], X.mean(axis=0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(one.covariances[0], np.cov(X.T, bias=True), rtol=1e-11, atol=1e-12)
    # For the same responsibilities, tied is the pooled full and spherical the averaged diag.
    full = random_mixture("spherical", 3, 3)
    dense = np.stack([c * np.eye(3) for c in np.full(3, 2.0)])
    models = {
        "full": sg.Mixture(full.weights, full.means, dense),
        "tied": sg.Mixture(full.weights, full.means, dense[0], "tied"),
        "diag": sg.Mixture(full.weights, full.means, np.full((3, 3), 2.0), "diag"),
        "spherical": sg.Mixture(full.weights, full.means, np.full(3, 2.0), "spherical"),
    }
    stats = {name: model.accumulate(X) for name, model in models.items()}
    np.testing.assert_allclose(stats["tied"].scatter, stats["full"].scatter.sum(axis=0), rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(stats["diag"].scatter, np.diagonal(stats["full"].scatter, axis1=1, axis2=2), rtol=1e-11)
    np.testing.assert_allclose(stats["spherical"].scatter, stats["diag"].scatter.sum(axis=1), rtol=1e-11)
    np.testing.assert_allclose(
        stats["spherical"].maximize().covariances, stats["diag"].maximize().covariances.mean(axis=1), rtol=1e-11
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [([1, -1], "row 1 has -1"), ([1, np.nan], "row 1 has nan"), ([1, np.inf], "finite"), ([1], "one weight a row")],
)
def test_bad_weights_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        random_mixture("full", 2, 2).accumulate(np.zeros((2, 2)), weight)


KINDS = [("spherical", "diag", 2, 2), ("tied", "diag", 2, 2), ("full", "full", 1, 2), ("full", "spherical", 2, 2)]


@pytest.mark.parametrize(("one", "other", "K", "more"), KINDS)
def test_statistics_of_another_kind_are_not_merged(one, other, K, more):
    X = np.random.default_rng(0).normal(size=(20, 2))
    a, b = random_mixture(one, K, 2).accumulate(X), random_mixture(other, more, 2).accumulate(X)
    for merged in (sg.merge, lambda a, b: b.merge(a), lambda a, b: a.blend(b, 0.5)):
        with pytest.raises(ValueError, match="Accumulate both with one mixture"):
            merged(a, b)


@pytest.mark.parametrize("each", [1e308, 1e-310])
def test_weights_beyond_the_range_of_doubles_are_refused(each, tmp_path):
    X = np.random.default_rng(0).normal(size=(50, 2))
    weight = np.full(50, each)
    with pytest.raises(ValueError, match=r"the weights sum to .* Divide them by their mean"):
        sg.GaussianMixture(2).fit(X, sample_weight=weight)
    np.save(tmp_path / "x.npy", np.column_stack([X, weight]))
    with np.errstate(over="ignore", under="ignore"), pytest.raises(ValueError, match="the weights sum to"):
        sg.GaussianMixture(2).fit(sg.open_source(tmp_path / "x.npy", weight=2))


def test_statistics_of_one_kernel_are_merged_whatever_the_structure():
    X = np.random.default_rng(0).normal(size=(20, 2))
    a = random_mixture("diag", 2, 2).accumulate(X)
    b = pickle.loads(pickle.dumps(sg.Mixture([0.5, 0.5], [[0, 0], [1, 1]], [[1, 2], [2, 4]], "VEI").accumulate(X)))
    assert sg.merge(a, b).rows == 40


@given(n=st.integers(0, 40), order=st.randoms(use_true_random=False))
def test_fold_has_one_shape_whatever_the_order(n, order):
    expected = fold(list(map(str, range(n))), lambda a, b: f"({a}{b})")
    leaves = list(range(n))
    order.shuffle(leaves)
    tree = Fold(lambda a, b: f"({a}{b})")
    for leaf in leaves:
        tree.add(leaf, str(leaf))
    assert tree.result() == expected


def test_fold_takes_whole_nodes():
    def combine(a, b):
        return f"({a}{b})"

    tree = Fold(combine)
    for i in (0, 1, 2):
        part = fold([str(j) for j in range(4 * i, 4 * i + 4)], combine)
        tree.add(i, part, level=2)
    tree.add(12, "12")
    assert tree.result() == fold([str(j) for j in range(13)], combine)


def test_statistics_from_another_process_become_a_mixture(tmp_path):
    """Nothing but the file is imported there: the M-step comes with the package of the statistics."""
    stats = sg.Mixture([1.0], [[0.0]], [1.0], "spherical").accumulate([[1.0], [3.0]])
    (tmp_path / "stats").write_bytes(pickle.dumps(stats))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).maximize().means)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "stats")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[[2.]]\n"
