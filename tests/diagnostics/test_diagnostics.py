"""Each finding fires where it should, and stays silent where it should."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import make_circles, make_moons

import streamgmm as sg
from streamgmm.diagnostics.case import Finding
from streamgmm.diagnostics.ranking import HIDES, MOST, RANK, ranked
from streamgmm.diagnostics.shapes import connected, pieces_of, shape_of
from streamgmm.sources import ArraySource

RNG = np.random.default_rng


def fit(X, K=1, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sg.GaussianMixture(K, **{"random_state": 0, "n_init": 3, "max_iter": 200, "tol": 1e-4, **settings}).fit(
            X
        )


def codes(X, K=1, gm=None, **settings):
    return {finding.code for finding in sg.diagnose(gm or fit(X, K, **settings), X)}


def pair(n=1000, distance=8.0, D=2, seed=0):
    X = RNG(seed).normal(size=(n, D))
    X[::2, 0] += distance
    return X


def test_a_good_fit_has_no_findings():
    assert codes(pair(2000), 2) == set()
    assert codes(pair(2000, D=5), 2, covariance_type="diag") == set()
    parts = [RNG(1).normal(size=(900, 3)), RNG(2).normal(size=(600, 3)) * 0.5 + 6, RNG(3).normal(size=(500, 3)) - 7]
    assert codes(np.concatenate(parts), 3) == set()


def test_unscaled_features():
    for kind in ("spherical",):
        assert "unscaled-features" in codes(pair() * [1, 1000], 2, covariance_type=kind)
        assert "unscaled-features" not in codes(pair() * [1, 10], 2, covariance_type=kind)
    for kind in ("full", "diag"):  # in other units they are the same mixture
        assert "unscaled-features" not in codes(pair() * [1, 1000], 2, covariance_type=kind)


def test_constant_and_categorical_columns():
    X = np.column_stack([pair(), RNG(0).integers(0, 3, 1000), np.full(1000, 4.0)])
    findings = {f.code: f for f in sg.diagnose(fit(X, 2), X)}
    assert findings["categorical-columns"].evidence["distinct"] == {"2": 3}
    assert findings["constant-features"].evidence["features"] == ["3"]
    counts = np.column_stack([pair(), RNG(0).poisson(100, 1000)])
    assert not {"categorical-columns", "constant-features"} & codes(counts, 2)


def test_many_features():
    X = RNG(0).normal(size=(150, 16)) @ RNG(1).normal(size=(16, 16))
    assert "few-rows-for-full" in codes(X)
    assert "few-rows-for-full" not in codes(X, covariance_type="diag")
    assert "few-rows-for-full" not in codes(X[:, :10])
    wide = RNG(0).normal(size=(500, 24)) @ RNG(1).normal(size=(24, 24))
    assert "many-features" in codes(wide)
    assert "many-features" not in codes(sg.PCA().fit_transform(wide))
    assert "many-features" not in codes(wide[:, :20])


def test_single_start():
    assert "single-start" in codes(pair(), 2, n_init=1)
    assert "single-start" not in codes(pair(), 2, n_init=2)
    assert "single-start" not in codes(pair(), 1, n_init=1)
    assert "single-start" not in codes(pair(), 2, n_init=1, means_init=[[0, 0], [8, 0]])


def test_not_converged():
    X = pair(distance=2)
    assert "not-converged" in codes(X, 2, max_iter=3, solver="exact")
    assert "not-converged" not in codes(X, 2, max_iter=1000)


def test_falling_trace():
    X = pair()
    gm = fit(X, 2, reg_covar=0)
    assert "falling-trace" not in codes(X, gm=gm)
    gm.lower_bounds_ = [-4.0, -3.0, -3.001, -2.9]
    finding = next(f for f in sg.diagnose(gm, X) if f.code == "falling-trace")
    assert finding.evidence["iteration"] == 3 and finding.evidence["largest_fall"] == pytest.approx(1e-3)
    gm.reg_covar = 1e-3  # then small falls are normal
    assert "falling-trace" not in codes(X, gm=gm)


def given(weights, means, variances):
    covariances = np.array(variances)[:, None, None] * np.eye(np.shape(means)[1])
    return sg.GaussianMixture.from_parameters(weights, means, covariances, n_init=3)


def test_dead_and_duplicate_components():
    X = pair()
    dead = given([0.4995, 0.4995, 0.001], [[0, 0], [8, 0], [4, 0]], [1, 1, 1])
    assert {"dead-components"} <= codes(X, gm=dead)
    twins = given([0.5, 0.25, 0.25], [[0, 0], [8, 0], [8.1, 0]], [1, 1, 1])
    finding = next(f for f in sg.diagnose(twins, X) if f.code == "duplicate-components")
    assert finding.evidence["pairs"] == [(1, 2)]
    assert not {"dead-components", "duplicate-components"} & codes(X, 2)
    same_place = given([0.5, 0.25, 0.25], [[0, 0], [8, 0], [8, 0]], [1, 1, 25])
    assert "duplicate-components" not in codes(X, gm=same_place)


def test_one_component_owns_everything_and_outliers_own_one():
    X = RNG(0).normal(size=(2000, 2))
    X[:8] = RNG(1).normal(size=(8, 2)) * 0.1 + 20
    found = codes(X, 2)  # what explains the share of the other one is told alone
    assert "outliers-own-a-component" in found and "one-component-owns-everything" not in found
    broad = given([0.97, 0.03], [[0, 0], [0, 0]], [1, 6])
    assert "one-component-owns-everything" in codes(RNG(0).normal(size=(2000, 2)), gm=broad)
    assert not {"one-component-owns-everything", "outliers-own-a-component"} & codes(pair(), 2)


def test_too_many_components():
    X = RNG(0).normal(size=(3000, 2))
    assert "too-many-components" in codes(X, 6)
    assert "too-many-components" not in codes(X, 1)
    assert "too-many-components" not in codes(pair(), 2)


def test_too_few_components():
    X = np.concatenate([pair(), pair() + np.array([0, 12])])
    finding = next(f for f in sg.diagnose(fit(X, 2), X) if f.code == "too-few-components")
    assert set(finding.evidence["clusters"].values()) == {2}
    assert all(gain > 0.1 for gain in finding.evidence["gain_per_row"].values())
    assert "not-gaussian" not in codes(X, 2)
    assert "too-few-components" not in codes(X, 4)


def test_heavy_tails():
    X = RNG(0).standard_t(3, size=(3000, 2))
    assert "heavy-tails" in codes(X)
    assert "too-few-components" not in codes(X)
    assert "heavy-tails" not in codes(RNG(0).normal(size=(3000, 2)))
    assert "heavy-tails" not in codes(RNG(0).standard_t(60, size=(3000, 2)))


@pytest.mark.parametrize("K", [1, 2])
def test_shapes_no_gaussian_fits(K):
    ring = make_circles(1500, noise=0.03, factor=0.99, random_state=0)[0]
    assert "not-gaussian" in codes(ring, K)
    moons = make_moons(1500, noise=0.05, random_state=0)[0]
    assert "not-gaussian" in codes(moons, 2)
    assert "not-gaussian" in codes(RNG(0).exponential(size=(2000, 2)) ** 1.2, 1) | codes(
        RNG(0).uniform(size=(3000, 2)), 1
    )
    assert "not-gaussian" not in codes(pair(), 2)
    assert "not-gaussian" not in codes(pair(2000), 1)  # two clusters in one component: that is too few


@pytest.mark.parametrize("K", [2, 3])
def test_a_skewed_feature_has_no_separate_clusters(K):
    """A wide component holds rows on both sides of a narrow one, and single rows at the end of the tail."""
    rng = RNG(0)
    for X in (rng.exponential(1.0, (3000, 1)), np.exp(0.5 * rng.normal(size=(3000, 1)))):
        found = codes(X, K, tol=1e-6)
        assert "too-few-components" not in found
        assert K > 2 or found & {"not-gaussian", "heavy-tails"}


def test_clusters_on_both_sides_of_a_narrow_component_are_told():
    parts = [RNG(k + 1).normal(9.0 * k, 1.0, (400, 1)) for k in (-1, 0, 1)]
    wide = sg.GaussianMixture.from_parameters([1 / 3, 2 / 3], [[0.0], [0.0]], [[[1.0]], [[82.0]]])
    X = np.concatenate(parts)
    start = sg.GaussianMixture(
        2, weights_init=wide.weights_, means_init=wide.means_, precisions_init=wide.precisions_, max_iter=50
    )
    (few,) = [f for f in sg.diagnose(start.fit(X), X) if f.code == "too-few-components"]
    assert few.evidence["clusters"] == {1: 2} and "n_components to 3" in few.remedy


def test_a_choice_that_parameters_rule_is_told():
    """Four groups far apart in 40 features, of which 861 parameters each leave BIC one."""
    rng = RNG(5)
    X = rng.normal(size=(600, 40)) + 3.0 * rng.normal(size=(4, 40))[rng.integers(4, size=600)] * (np.arange(40) < 5)
    found = sg.select(X, range(1, 3), n_init=2, random_state=0)
    (said,) = [f for f in sg.diagnose(found.best, X) if f.code == "few-rows-for-full"]
    assert "takes 861 parameters, and there are 600 rows: BIC prefers few components" in said.message
    assert "few-rows-for-full" not in codes(X, 2)  # nobody chose


def test_identifiers():
    X = np.column_stack([pair(), RNG(0).permutation(1000)])
    import pandas as pd

    table = pd.DataFrame(X, columns=["a", "b", "customer_id"])
    gm = fit(table, 2)
    finding = next(f for f in sg.diagnose(gm, table) if f.code == "identifier-columns")
    assert finding.evidence["features"] == ["customer_id"] and "exclude=['customer_id']" in finding.remedy
    assert "identifier-columns" not in {f.code for f in sg.diagnose(fit(table[["a", "b"]], 2), table[["a", "b"]])}


def test_at_most_five_and_none_against_another():
    one = {code: Finding(code, code, {}) for code in RANK}
    told = [finding.code for finding in ranked(list(one.values())[::-1])]
    assert len(told) == MOST == 5 and told == sorted(told, key=RANK.index) and told[0] == "drowned-features"
    for code, hidden in HIDES.items():
        assert next(f.code for f in ranked([*(one[name] for name in hidden), one[code]])) == code
        assert not hidden & {f.code for f in ranked([one[code], *(one[name] for name in hidden)])}
    for a, b in (("too-few-components", "too-many-components"), ("duplicate-components", "too-few-components"),
                 ("not-gaussian", "too-many-components"), ("heavy-tails", "too-many-components"),
                 ("dead-components", "too-few-components"), ("long-tails", "too-few-components")):  # fmt: skip
        assert len(ranked([one[a], one[b]])) == 1


def test_a_poor_optimum_is_told_as_one():
    four = np.concatenate([pair(), pair() + np.array([0, 12])])
    stuck = given([0.5, 0.25, 0.25], [[4, 0], [0, 12], [8, 12]], [17, 1, 1])
    assert "too-few-components" in codes(four, gm=stuck)
    shared = given([0.5, 0.125, 0.125, 0.25], [[4, 0], [0, 12], [0.05, 12], [8, 12]], [17, 1, 1, 1])
    found = {f.code: f for f in sg.diagnose(shared, four)}
    assert not {"too-few-components", "duplicate-components", "too-many-components"} & found.keys()
    assert found["poor-optimum"].evidence["pair"] == [1, 2] and "n_init" in found["poor-optimum"].remedy


def test_remedies_fit_the_case():
    flat = RNG(0).uniform(size=(3000, 1))
    finding = next(f for f in sg.diagnose(fit(flat, 1), flat) if f.code == "not-gaussian")
    assert "DBSCAN" not in finding.remedy and finding.remedy.startswith("Transform the feature")
    X = RNG(0).normal(size=(3000, 2))
    gm = fit(X, 6)
    gm.report_["chosen_by"] = "bic"  # as select leaves it
    assert all("sg.select" not in f.remedy for f in sg.diagnose(gm, X))
    best = sg.select(X, range(2, 4), n_init=2, random_state=0).best
    assert best.report_["chosen_by"] == "bic"
    assert all("sg.select" not in f.remedy for f in sg.diagnose(best, X))
    wide = np.column_stack([pair(), np.ones((1000, 84)), RNG(1).normal(size=(1000, 2))])
    constant = next(f for f in sg.diagnose(fit(wide, 1, covariance_type="diag"), wide) if f.code == "constant-features")
    assert "and 79 more" in constant.message and len(constant.evidence["features"]) == 84


def amounts(n=1000, sigma=1.2, seed=0):
    """Two groups in one feature; the other is an amount of money."""
    return np.column_stack([pair(n, seed=seed)[:, 0], 500.0 * np.exp(sigma * RNG(seed + 1).normal(size=n))])


@pytest.mark.parametrize(("K", "kind"), [(1, "full"), (4, "diag")])
def test_amounts_are_to_be_fitted_in_logarithms(K, kind):
    X = amounts()
    found = {f.code: f for f in sg.diagnose(fit(X, K, covariance_type=kind), X)}
    finding = found["long-tails"]
    assert list(finding.evidence) == ["1"] and "np.log" in finding.remedy
    tail = finding.evidence["1"]
    log = np.log(X[:, 1])
    assert tail["components_of_logarithm"] == 1
    assert tail["decades"] == pytest.approx(np.subtract(*np.quantile(log, [0.99, 0.01])) / np.log(10), rel=0.1)
    assert tail["skewness"] > 4 and abs(tail["skewness_of_logarithm"]) < 0.3
    if K == 1:  # one Gaussian of the logarithm, and one of the amount itself
        gain = 0.5 * np.log(X[:, 1].var() / log.var()) - log.mean()
        assert tail["nats_per_row"] == pytest.approx(gain, rel=1e-3)
    assert not {"too-few-components", "too-many-components", "not-gaussian", "heavy-tails"} & found.keys()
    after = np.column_stack([X[:, 0], log])
    assert codes(after, 2) == set()


def test_amounts_with_zeros_holes_and_weights():
    X = amounts()
    X[:20, 1] = 0.0
    assert "long-tails" in codes(X, 3)
    X[RNG(5).random(X.shape) < 0.1] = np.nan
    assert "long-tails" in codes(X, 3, missing="marginalize")
    weight = np.r_[np.ones(800), np.zeros(200)]
    plain = amounts()
    plain[800:, 1] = -1.0  # rows of no weight are no rows
    gm = fit(plain[:800], 2)
    assert "long-tails" in {f.code for f in sg.diagnose(gm, plain, sample_weight=weight)}


def test_missing_values_are_no_evidence():
    """Values that are missing are drawn from the fitted mixture, so a right model has no findings."""
    rng = RNG(1)
    means = np.array([[300, 101e3, 0.5, 2], [330, 140e3, 2, 12], [365, 150e3, 4.5, 15]])
    deviations = np.array([[2, 1500, 0.1, 0.4], [3, 3000, 0.3, 1], [4, 3000, 0.6, 1.2]])
    group = rng.choice(3, size=2400, p=[0.5, 0.4, 0.1])
    X = means[group] + rng.normal(size=(2400, 4)) * deviations[group]
    X[:, 2:][rng.random((2400, 2)) < 0.08] = np.nan
    for kind in ("full", "diag"):
        assert codes(X, 3, covariance_type=kind, missing="marginalize") == set()
    heavy = X.copy()  # what was observed still tells
    heavy[:, 0] = means[group, 0] + rng.standard_t(2, size=2400) * deviations[group, 0]
    assert "heavy-tails" in codes(heavy, 3, missing="marginalize")


def test_amounts_in_groups():
    """Two groups of amounts, each with a tail of its own; in logarithms they are two Gaussians."""
    rng = RNG(0)
    large = rng.random(1500) < 0.3
    X = np.column_stack([np.exp(np.where(large, 7.8 + 0.8 * rng.normal(size=1500), 3.7 + 0.5 * rng.normal(size=1500))),
                         5 + 7 * large + rng.normal(size=1500)])  # fmt: skip
    for K in (1, 2, 5):
        found = {f.code: f for f in sg.diagnose(fit(X, K), X)}
        assert list(found["long-tails"].evidence) == ["0"]
        assert not {"too-few-components", "not-gaussian"} & found.keys()
    assert codes(np.column_stack([np.log(X[:, 0]), X[:, 1]]), 2) == set()


def test_features_that_are_well_as_they_are():
    rng = RNG(3)
    groups = np.concatenate([c * (1 + 0.05 * rng.normal(size=(900 // c, 1))) for c in (1, 10, 100)])
    few = np.concatenate([groups, [[100.0], [101.0]]])
    for K in (1, 2, 3):  # groups at 1, 10 and 100 are groups in any unit
        assert "long-tails" not in codes(few, K, n_init=5)
    for X in (rng.exponential(size=(600, 1)), rng.uniform(0, 1, (600, 1)), rng.normal(size=(600, 1)),
              np.exp(0.3 * rng.normal(size=(600, 1))), -np.exp(1.5 * rng.normal(size=(600, 1))),
              np.exp(1.5 * rng.normal(size=(600, 1))) - 0.5, np.ones((300, 1))):  # fmt: skip
        assert "long-tails" not in codes(X, 1)
    assert "long-tails" not in codes(np.exp(1.5 * rng.normal(size=(50, 1))), 1)  # too few rows to say so


def test_the_shell_speaks_of_long_tails_as_diagnose_does(tmp_path, monkeypatch, capsys):
    from streamgmm.cli.app import run
    from streamgmm.estimators.fit_report import words_of_long_tails

    monkeypatch.chdir(tmp_path)
    np.savetxt("t.csv", amounts(), delimiter=",", header="score,income", comments="")
    words = words_of_long_tails(["income"])
    assert run(["data", "check", "t.csv"]) == 0
    assert " ".join(words) in capsys.readouterr().err
    assert run(["select", "t.csv", "--scale", "--k-max", "3", "--set", "n_init=2", "--report", "--out", "m"]) in (0, 3)
    assert f"long-tails: {' '.join(words)}" in capsys.readouterr().out
    assert words[0] in (tmp_path / "m" / "report.html").read_text()
    np.savetxt("t.csv", pair(), delimiter=",", header="a,b", comments="")
    assert run(["data", "check", "t.csv"]) == 0
    assert "Feature(s)" not in capsys.readouterr().err


def test_float32_resolution():
    X = pair() * 0.01 + 1e4
    single = X.astype(np.float32)
    assert "float32-resolution" in codes(single, 2)
    assert "float32-resolution" not in codes(X, 2)
    assert "float32-resolution" not in codes(pair().astype(np.float32), 2)


def test_one_reading_and_any_source():
    class Counted(ArraySource):
        passes = 0

        def chunks(self):
            self.passes += 1
            return super().chunks()

    X = pair(30_000)
    source = Counted(X, chunk_rows=5000)
    gm = fit(source, 1)
    source.passes = 0
    findings = sg.diagnose(gm, source)
    assert source.passes == 1
    assert {f.code for f in findings} == codes(X, gm=gm)
    assert all(f.message and f.remedy and f.evidence for f in findings)
    assert str(findings[0]).startswith(findings[0].code)
    gaps = X[:2000].copy()
    gaps[::5, 1] = np.nan
    assert sg.diagnose(fit(gaps, 2, missing="marginalize"), gaps) == []
    weight = np.r_[np.ones(15_000), np.zeros(15_000)]
    assert sg.diagnose(gm, X, sample_weight=weight)


def test_shape_measures_of_known_distributions():
    rows = RNG(0).normal(size=(200_000, 3)) @ RNG(1).normal(size=(3, 3)) + 5
    ones = np.ones(len(rows))
    gaussian = shape_of(rows, ones)
    assert gaussian.kurtosis == pytest.approx(1, abs=0.02)
    assert gaussian.skewness < 0.01 and gaussian.beyond == pytest.approx(0.001, abs=3e-4)
    uniform = shape_of(RNG(0).uniform(size=(200_000, 1)), ones)
    assert uniform.kurtosis == pytest.approx(1.8 / 3, abs=0.01)
    exponential = shape_of(RNG(0).exponential(size=(200_000, 1)), ones)
    assert exponential.skewness == pytest.approx(4, rel=0.1)  # the square of the skewness 2
    doubled = shape_of(np.repeat(rows[:500], 2, axis=0), np.ones(1000))
    weighted = shape_of(rows[:500], np.full(500, 2.0))
    assert weighted.kurtosis == pytest.approx(doubled.kurtosis) and weighted.skewness == pytest.approx(doubled.skewness)


def test_pieces_hang_together_where_the_density_has_no_dip():
    eye = np.stack([np.eye(2)] * 3)
    assert connected(sg.Mixture([0.3, 0.3, 0.4], [[0, 0], [1.5, 0], [9, 0]], eye)).tolist() == [0, 0, 1]
    pieces = pieces_of(pair(2000), np.ones(2000))
    assert (pieces.groups, pieces.count) == (2, 2)
    assert all(s.kurtosis == pytest.approx(1, abs=0.2) for s in pieces.shapes)
    assert pieces_of(pair(2000, distance=0), np.ones(2000)).count == 1


def test_three_rows_in_a_line_are_no_cluster():
    rows = RNG(0).normal(size=(200, 3)) + np.repeat([[0], [8]], 100, axis=0)  # BIC would have a piece of three rows
    assert pieces_of(rows[100:], np.ones(100)).count == 1
    gm = fit(rows, 2)
    assert codes(rows, gm=gm) == set()
    found = sg.select(rows, range(1, 4), n_init=3, random_state=0)
    assert found.best.n_components == 2 and sg.diagnose(found.best, rows) == []
