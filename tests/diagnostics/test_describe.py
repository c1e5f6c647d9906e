"""What sets components apart: values by hand and in 50 digits, laws, rows of the data, and how it is shown."""

from __future__ import annotations

import json
import re

import mpmath
import numpy as np
import pytest

import streamgmm as sg
from streamgmm.diagnostics.explain import quantiles
from streamgmm.estimators.projection import Projection
from streamgmm.report.description import contrasts
from tests.helpers.mixtures import FAMILIES, random_mixture

THREE = sg.Mixture([0.5, 0.2, 0.3], [[0.0], [1.0], [3.0]], [[1.0], [4.0], [0.25]], "diag")


def twin(weights, means, deviations, k, j):
    """Difference and divergence of one feature of one component against the rest, in 50 digits."""
    with mpmath.workdps(50):
        others = [i for i in range(len(weights)) if i != k]
        w = [mpmath.mpf(float(weights[i])) for i in others]
        m = [mpmath.mpf(float(means[i, j])) for i in others]
        v = [mpmath.mpf(float(deviations[i, j])) ** 2 for i in others]
        total = mpmath.fsum(w)
        mean = mpmath.fdot(w, m) / total
        variance = mpmath.fsum(a * (b + (c - mean) ** 2) for a, b, c in zip(w, v, m, strict=True)) / total
        own_mean, own = mpmath.mpf(float(means[k, j])), mpmath.mpf(float(deviations[k, j])) ** 2
        difference = (own_mean - mean) / mpmath.sqrt((own + variance) / 2)
        divergence = (own / variance + (own_mean - mean) ** 2 / variance - 1 - mpmath.log(own / variance)) / 2
        return float(difference), float(divergence)


def test_three_components_by_hand():
    found = sg.describe(THREE)
    assert found.components.tolist() == [0, 2, 1] and found.weights.tolist() == [0.5, 0.3, 0.2]
    # The rest of component 0: mean 0.4 * 1 + 0.6 * 3, variance 0.4 (4 + 1.2^2) + 0.6 (0.25 + 0.8^2).
    assert found.rest_means[0, 0] == pytest.approx(2.2, rel=1e-14)
    assert found.rest_deviations[0, 0] ** 2 == pytest.approx(2.71, rel=1e-14)
    assert found.differences[0, 0] == pytest.approx(-2.2 / np.sqrt(3.71 / 2), rel=1e-14)
    assert found.divergences[0, 0] == pytest.approx(0.5 * (5.84 / 2.71 - 1 + np.log(2.71)), rel=1e-14)
    assert found.low[0, 0] == pytest.approx(-1.6448536269514722) and found.high[2, 0] == pytest.approx(4.2897072539029)
    assert found.centre[0] == pytest.approx(1.1) and found.rows is None


@pytest.mark.parametrize("offset", [0.0, 2.0**40])
@pytest.mark.parametrize("unit", [1.0, 1e-140, 1e140])
def test_against_fifty_digits_in_any_units(offset, unit):
    rng = np.random.default_rng(1)
    weights, means = rng.dirichlet(np.ones(5)), (offset + np.round(rng.normal(size=(5, 4)), 2)) * unit
    deviations = rng.uniform(0.2, 3.0, size=(5, 4)) * unit
    _, _, difference, divergence = contrasts(weights, means, deviations)
    exact = np.array([[twin(weights, means, deviations, k, j) for j in range(4)] for k in range(5)])
    np.testing.assert_allclose(difference, exact[..., 0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(divergence, exact[..., 1], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_of_two_components_each_is_the_rest_of_the_other(covariance_type):
    mixture = random_mixture(covariance_type, 2, 3)
    found = sg.describe(mixture)
    first, second = found.components
    dense = mixture.family.dense(mixture.covariances, 2, 3)
    np.testing.assert_allclose(found.deviations[0], np.sqrt(np.diag(dense[first])), rtol=1e-14)
    np.testing.assert_allclose(found.rest_means[0], mixture.means[second], rtol=1e-13)
    np.testing.assert_allclose(found.rest_deviations[0], np.sqrt(np.diag(dense[second])), rtol=1e-13)
    np.testing.assert_allclose(found.differences[0], -found.differences[1], rtol=1e-13)


def test_units_and_the_order_of_features_do_not_matter():
    mixture = random_mixture("full", 3, 4)
    scale, order = np.array([1e-3, 7.0, 2.0, 1e5]), [2, 0, 3, 1]
    moved = sg.Mixture(
        mixture.weights, (mixture.means * scale + 5.0)[:, order],
        (mixture.covariances * np.outer(scale, scale))[:, order][:, :, order],
    )  # fmt: skip
    one, other = sg.describe(mixture), sg.describe(moved)
    np.testing.assert_allclose(other.differences, one.differences[:, order], rtol=1e-9)
    np.testing.assert_allclose(other.divergences, one.divergences[:, order], rtol=1e-9)


def test_spread_alone_is_told_and_so_is_nothing():
    wide = sg.Mixture([0.5, 0.5], [[0.0, 1.0], [0.0, 1.0]], [[1.0, 4.0], [9.0, 4.0]], "diag")
    found = sg.describe(wide, feature_names=["pulse", "age"])
    assert found.telling(0) == [0] and found.differences[0].tolist() == [0.0, 0.0]
    assert found.sentences == (
        "Component 0 holds 50.0 % of the rows. Compared with the rest, pulse varies less (deviation 1.0 against 3.0).",
        "Component 1 holds 50.0 % of the rows. Compared with the rest, pulse varies more (deviation 3.0 against 1.0).",
    )
    crossed = sg.Mixture([0.5, 0.5], np.zeros((2, 2)), [[[1.0, 0.9], [0.9, 1.0]], [[1.0, -0.9], [-0.9, 1.0]]])
    assert "No single feature sets it apart" in str(sg.describe(crossed))


def test_the_only_component_is_compared_with_nothing():
    for mixture in (
        sg.Mixture([1.0], [[4.0, 2.0]], [1.0], "spherical"),
        sg.Mixture([1.0, 0.0], [[4.0, 2.0], [9.0, 9.0]], [1.0, 1.0], "spherical"),
        sg.Mixture([0.8], [[4.0, 2.0]], [1.0], "spherical", noise_weight=0.2, box=[[0.0, 0.0], [9.0, 9.0]]),
    ):
        found = sg.describe(mixture)
        assert np.isnan(found.differences[0]).all() and found.order(0) == [0, 1] and not found.telling(0)
        assert "There is no other to compare it with. It is typical that x0 is 4.0 and x1 is 2.0." in found.sentence(0)
        assert found.table[0]["kl"] is None and found.table[0]["rest"] is None


def test_the_background_is_no_part_of_the_rest():
    plain = sg.describe(THREE)
    noisy = sg.describe(THREE.observing(None))
    boxed = sg.Mixture(
        THREE.weights * 0.9, THREE.means, THREE.covariances, "diag", noise_weight=0.1, box=[[-99.0], [99.0]]
    )
    np.testing.assert_allclose(sg.describe(boxed).divergences, plain.divergences, rtol=1e-13)
    np.testing.assert_array_equal(noisy.divergences, plain.divergences)
    assert sg.describe(boxed).weights[0] == pytest.approx(0.45)


def clusters(seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal([0, 10], [1, 2], (300, 2)), rng.normal([8, 10], [1, 5], (100, 2))])


@pytest.fixture(scope="module")
def fitted():
    rows = clusters()
    return sg.GaussianMixture(2, random_state=0).fit(rows), rows


def test_rows_are_counted_and_ranges_come_from_them(fitted):
    gm, rows = fitted
    found = sg.describe(gm, rows)
    resp = gm.predict_proba(rows)[:, found.components]
    np.testing.assert_allclose(found.rows, resp.sum(axis=0), rtol=1e-12)
    assert sg.describe(gm).rows == pytest.approx(400 * found.weights)
    for c in range(2):
        for j in range(2):
            order = np.argsort(rows[:, j])
            below = np.cumsum(resp[order, c])
            low = rows[order[np.searchsorted(below, 0.05 * below[-1])], j]
            assert found.low[c, j] == low and low < found.means[c, j] < found.high[c, j]
        number = found.observed.example_rows[c]
        np.testing.assert_array_equal(found.observed.examples[c], rows[number])
        mine = np.flatnonzero(resp.argmax(axis=1) == c)
        k = found.components[c]
        distance = [d @ np.linalg.solve(gm.covariances_[k], d) for d in rows[mine] - gm.means_[k]]
        assert number == mine[np.argmin(distance)]


def test_quantiles_are_those_of_numpy_with_equal_weights_and_count_weighted_rows():
    values = np.array([3.0, np.nan, 1.0, 2.0, 9.0])
    known = values[~np.isnan(values)]
    levels = (0.05, 0.25, 0.3, 0.75, 0.95)
    found = quantiles(values, np.ones((5, 1)), levels)[:, 0]
    np.testing.assert_array_equal(found, np.quantile(known, levels, method="inverted_cdf"))
    twice = quantiles(values, np.array([[1.0], [7.0], [1.0], [2.0], [0.0]]), (0.5, 0.95))
    np.testing.assert_array_equal(twice[:, 0], np.quantile([3.0, 1.0, 2.0, 2.0], (0.5, 0.95), method="inverted_cdf"))
    assert np.isnan(quantiles(np.full(3, np.nan), np.ones((3, 2)), (0.5,))).all()
    assert np.isnan(quantiles(known, np.zeros((4, 1)), (0.5,))).all()


def test_any_chunking_and_number_of_threads_gives_the_same(fitted, tmp_path):
    gm, rows = fitted
    np.save(tmp_path / "rows.npy", rows)
    one = sg.describe(gm, rows)
    other = sg.describe(gm, sg.open_source(str(tmp_path / "rows.npy"), chunk_rows=37))
    for name in ("low", "high"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.observed.example_rows, other.observed.example_rows)
    np.testing.assert_allclose(one.rows, other.rows, rtol=1e-13)
    assert sg.describe(gm.mixture_, rows).table == one.table


def test_weights_are_repeated_rows_and_weight_zero_is_no_row(fitted):
    gm, rows = fitted
    weight = np.arange(400.0) % 3
    some = rows.copy()
    some[weight == 0] = np.nan
    found, repeated = sg.describe(gm, some, weight), sg.describe(gm, np.repeat(rows, weight.astype(int), axis=0))
    np.testing.assert_allclose(found.rows, repeated.rows, rtol=1e-12)
    np.testing.assert_array_equal(found.low, repeated.low)
    assert found.observed.n_rows == (weight > 0).sum()
    with pytest.raises(ValueError, match="no rows of positive weight"):
        sg.describe(gm, rows, np.zeros(400))


def test_missing_values_stay_missing():
    rows = clusters()
    rows[::3, 1] = np.nan
    gm = sg.GaussianMixture(2, missing="marginalize", random_state=0).fit(rows)
    found = sg.describe(gm, rows)
    assert set(found.low[:, 1]) <= set(rows[:, 1]) and not np.isnan(found.observed.examples).any()
    assert all(number % 3 for number in found.observed.example_rows)  # examples are complete rows
    np.testing.assert_allclose(found.rows, gm.predict_proba(rows).sum(axis=0)[found.components])
    rows[:, 1] = np.where(np.arange(400) < 200, np.nan, rows[:, 1])
    rows[200:, 0] = np.nan
    nobody = sg.describe(gm, rows)
    assert np.isnan(nobody.observed.examples).all() and nobody.table[0]["example"] is None
    assert nobody.table[0]["example_row"] is None


def test_a_row_that_is_not_finite_is_named(fitted):
    gm, rows = fitted
    rows = rows.copy()
    rows[321, 1] = np.nan
    with pytest.raises(ValueError, match="321"):
        sg.describe(gm, rows)


def test_principal_components_are_brought_back_to_the_features():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(m, 1.0, (200, 3)) * [1.0, 10.0, 0.1] for m in (0.0, 9.0)])
    centre = rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    two = Projection(centre, vectors[:, 1:], vectors[:, 1:].T)
    gm = sg.GaussianMixture(2, random_state=0).fit(two.apply(rows)).project(two, ["a", "b", "c"])
    found = sg.describe(gm, sg.open_source(rows).named(("a", "b", "c")))
    back = np.einsum("ij,kil,lj->kj", two.inverse, gm.covariances_, two.inverse)
    np.testing.assert_allclose(found.deviations, np.sqrt(back)[found.components])
    np.testing.assert_allclose(found.means, two.back(gm.means_)[found.components])
    assert found.names == ("a", "b", "c") and set(found.low[:, 2]) <= set(rows[:, 2])
    assert values[0] < values[1]


def test_components_of_a_bayesian_mixture_that_are_not_used_are_left_out():
    gm = sg.BayesianGaussianMixture(6, random_state=0).fit(clusters())
    found = sg.describe(gm)
    assert sorted(found.components) == sorted(gm.components_in_use_) and len(found.components) < 6


def test_names_are_those_of_the_fit_and_others_can_be_given(fitted):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(clusters(), columns=["height", "width"])
    gm = sg.GaussianMixture(2, random_state=0).fit(table)
    assert sg.describe(gm).names == ("height", "width") and sg.describe(fitted[0]).names == ("x0", "x1")
    frame = sg.describe(gm, table).to_frame()
    assert frame.shape == (4, 14) and frame.feature[0] == "height"
    with pytest.raises(ValueError, match="expected 2 names"):
        sg.describe(gm, feature_names=["one"])


@pytest.mark.parametrize("thing", [sg.KMeans(2), "model", None])
def test_what_is_no_mixture_is_refused_with_a_remedy(thing):
    with pytest.raises(TypeError, match=r"Of a Selection describe \.best"):
        sg.describe(thing)


def test_not_fitted():
    with pytest.raises(ValueError, match="not fitted"):
        sg.describe(sg.GaussianMixture(2))


def test_html_escapes_names_and_holds_every_feature():
    hostile = ["<script>alert(1)</script>", "\"&'", "a\nb"]
    html = sg.describe(random_mixture("full", 3, 3), feature_names=hostile)._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and html.count("<details>") == 3


def test_the_profile_shows_means_in_deviations(fitted):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = sg.describe(fitted[0], feature_names=["$a_", "b$"])
    ax = found.plot()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), (found.means[0] - found.centre) / found.scale)
    ax.figure.canvas.draw()  # names are no formulas
    assert "components differ" in ax.get_title()
    many = sg.describe(random_mixture("diag", 3, 86)).plot()
    assert len(many.get_xticks()) == 30 and "30 of 86" in many.get_title()
    plt.close("all")


def test_at_the_shell(fitted, tmp_path, capsys):
    from streamgmm.cli.app import run

    gm, rows = fitted
    gm.save(tmp_path / "m.safetensors")
    np.save(tmp_path / "rows.npy", rows)
    assert run(["inspect", str(tmp_path / "m.safetensors"), "--explain"]) == 0
    out = capsys.readouterr().out
    for sentence in sg.describe(gm).sentences:
        assert sentence in re.sub(r"\s+", " ", out)
    assert run(["inspect", str(tmp_path / "m.safetensors"), "--explain", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["explained"][0]["sentence"] == sg.describe(gm).sentences[0]
    assert document["explained"][0]["features"][0]["kl"] == sg.describe(gm).table[0]["kl"]
    words = ["inspect", str(tmp_path / "m.safetensors"), "--explain", "--data", str(tmp_path / "rows.npy"), "--json"]
    assert run(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["explained"][0]["features"][0]["example_row"] == sg.describe(gm, rows).observed.example_rows[0]


def test_pictures_at_the_shell(fitted, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from streamgmm.cli.app import run

    gm, rows = fitted
    model, data = str(tmp_path / "m.safetensors"), str(tmp_path / "rows.npy")
    gm.save(model)
    np.save(data, rows)
    given = ["--data", data]
    for kind, name, more in (("corner", "c.png", given), ("profiles", "p.svg", []), ("density", "d.pdf", [])):
        assert run(["inspect", model, "--plot", kind, "--out", str(tmp_path / name), *more]) == 0
        assert (tmp_path / name).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")
    picture = ["--out", str(tmp_path / "x.png")]
    for words, said in (
        (["--plot", "corner"], "belong together"),
        (["--plot", "pie", *picture], "kind must be"),
        (["--plot", "timeline", *picture], "needs X"),
        (given, "belongs to --explain"),
    ):
        capsys.readouterr()
        assert run(["inspect", model, *words]) == 1
        assert said in capsys.readouterr().err
    assert run(["inspect", model, "--plot", "corner", "--out", str(tmp_path / "x.jpg")]) == 2
    assert not (tmp_path / "x.png").exists()
