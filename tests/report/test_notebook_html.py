"""What notebooks show: well-formed, escaped, with the numbers of the objects themselves."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn import config_context
from sklearn.datasets import load_iris

import streamgmm as sg
from streamgmm.diagnostics import Finding
from streamgmm.utils import html
from tests.helpers.mixtures import FAMILIES, random_mixture

HOSTILE = "<script>alert(1)</script>\"'&\n\u202e"
VOID = {"br", "img", "input", "meta", "link", "hr"}


class Reader(HTMLParser):
    """Tags with their attributes, the cells of tables, and whether everything that opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.broken = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data):
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read(thing):
    text = thing if isinstance(thing, str) else thing._repr_html_()
    found = Reader(text)
    assert not found.broken and not found.open
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        picture = ElementTree.fromstring(svg)
        assert picture.find("{http://www.w3.org/2000/svg}title").text
        numbers = re.findall(r"[-\d.]+(?:e-?\d+)?", " ".join(re.findall(r'(?:points|cx|cy|rx|ry)="([^"]*)"', svg)))
        assert numbers and np.isfinite(np.array(numbers, float)).all()
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", text)  # self-contained
    return found


@pytest.fixture(scope="module")
def iris():
    pandas = pytest.importorskip("pandas")
    data = load_iris()
    return pandas.DataFrame(data.data, columns=data.feature_names)


@pytest.fixture(scope="module")
def selection(iris):
    return sg.select(iris, range(1, 5), ("full", "diag"), n_init=3, random_state=0)


@pytest.mark.parametrize("covariance_type", FAMILIES)
@pytest.mark.parametrize("D", [1, 2, 5])
def test_a_mixture_shows_weights_means_and_ellipses(covariance_type, D):
    mixture = random_mixture(covariance_type, 4, D)
    found = read(mixture)
    order = np.argsort(-mixture.weights)
    assert [int(row[0].strip("\u25cf\xa0")) for row in found.rows[1:]] == order.tolist()
    weights = [float(row[1].strip().split("\xa0")[0]) for row in found.rows[1:]]
    np.testing.assert_allclose(weights, 100 * mixture.weights[order], atol=0.051)
    sigma = np.sqrt(mixture.family.variances(mixture.covariances, 4, D))
    means = np.array([[float(cell) for cell in row[2:]] for row in found.rows[1:]])
    assert (np.abs(means - mixture.means[order]) <= 0.05 * sigma[order] + 1e-12).all()
    assert sum(tag == "ellipse" for tag, _ in found.tags) == (4 if D > 1 else 0)
    assert any(tag == "polyline" for tag, _ in found.tags) == (D == 1)


def test_ellipses_stand_where_the_components_are():
    mixture = sg.Mixture([0.5, 0.5], [[0.0, 0.0], [10.0, 5.0]], [[[4.0, 0.0], [0.0, 1.0]]] * 2)
    shapes = [attributes for tag, attributes in read(mixture).tags if tag == "ellipse"]
    at = np.array([[float(v) for v in re.search(r"translate\((\S+) (\S+)\)", s["transform"]).groups()] for s in shapes])
    step = at[1] - at[0]
    assert step[0] > 0 > step[1]  # to the right, and up
    # Twice the deviations, 4 and 2, in pixels of 10 and 5 units.
    assert float(shapes[0]["rx"]) / step[0] == pytest.approx(0.4, abs=0.01)
    assert float(shapes[0]["ry"]) / -step[1] == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (50, 2), (50, 86)])
def test_many_components_and_features_stay_small(shape):
    found = random_mixture("diag", *shape)._repr_html_()
    read(found)
    assert len(found) < 60_000
    if shape[0] == 50:
        assert "20 lighter components" in found
    if shape[1] > 10:
        assert f"{shape[1] - 10} more features" in found


@pytest.mark.parametrize("unit", [1e-150, 1e150])
def test_extreme_units(unit):
    read(sg.Mixture([0.5, 0.5], [[unit, 0.0], [-unit, 1.0]], [[unit**2, 1.0]] * 2, "diag"))
    read(sg.Mixture([0.5, 0.5], [[unit], [-unit]], [[unit**2]] * 2, "diag"))


def test_an_estimator_shows_the_fit_beside_the_diagram(iris):
    gm = sg.GaussianMixture(3, random_state=0)
    plain = gm._repr_html_()
    assert "sk-" in plain and 'class="streamgmm"' not in plain
    gm.fit(iris)
    text = gm._repr_html_()
    card = text[text.index('<div class="streamgmm"') : text.index("<style>")]
    found = read(card)
    assert "sk-" in text and gm._repr_mimebundle_()["text/html"].startswith('<div class="streamgmm"')
    facts = {row[0]: row[1] for row in found.rows if len(row) == 2}
    assert facts["passes"] == str(gm.n_passes_) and facts["rows"] == "150" and facts["converged"] == "yes"
    assert facts["BIC"] == f"{gm.report_['bic']:.6g}" and "mean petal length (cm)" in card
    with config_context(display="text"):
        assert not hasattr(gm, "_repr_html_") and "text/html" not in gm._repr_mimebundle_()


def test_other_estimators(iris):
    from streamgmm.estimators.projection import Projection

    bayesian = sg.BayesianGaussianMixture(8, random_state=0).fit(iris)
    text = bayesian._repr_html_()
    assert text.count("<ellipse") == bayesian.n_components_in_use_ < 8
    rows = iris.to_numpy()
    first = Projection(rows.mean(axis=0), np.eye(4)[:, :2], np.eye(4)[:2])
    gm = sg.GaussianMixture(2, random_state=0).fit(first.apply(rows)).project(first, list(iris.columns))
    assert "mean petal width (cm)" in gm._repr_html_() and "principal component 1" in gm._repr_html_()
    noisy = sg.GaussianMixture(2, noise="uniform", random_state=0).fit(rows)
    assert "background" in noisy._repr_html_()
    assert "streamgmm" in sg.GaussianMixture(1).partial_fit(np.tile(rows, (4, 1)))._repr_html_()


def facts_of(text):
    return {row[0]: row[1] for row in read(text).rows if len(row) == 2}


def card_of(estimator):
    text = estimator._repr_html_()
    assert "sk-" in text and estimator._repr_mimebundle_()["text/html"].startswith('<div class="streamgmm"')
    return text[text.index('<div class="streamgmm"') : text.index("<style>")]


def test_kmeans_shows_rows_of_any_size():
    """All zero, or so small or large that their squares are."""
    rows = np.random.default_rng(0).normal(size=(20, 2))
    for X, K in ((np.zeros((5, 2)), 1), (np.zeros((5, 1)), 1), (1e-200 * rows, 1), (1e150 * rows, 2)):
        card_of(sg.KMeans(K, random_state=0).fit(X))


@pytest.mark.parametrize("kept", [True, False])
def test_kmeans_shows_sizes_and_centres(iris, kept, tmp_path):
    assert 'class="streamgmm"' not in sg.KMeans(3)._repr_html_()
    np.save(tmp_path / "rows.npy", iris.to_numpy())
    km = sg.KMeans(3, random_state=0).fit(iris if kept else str(tmp_path / "rows.npy"))
    labels = np.concatenate(list(km.predict(str(tmp_path / "rows.npy"))))
    sizes = np.bincount(labels, minlength=3)
    np.testing.assert_array_equal(km.report_["sizes"], sizes)
    text = card_of(km)
    facts, table = facts_of(text), [row for row in read(text).rows if len(row) == 7]
    assert facts["clusters"] == "3" and facts["rows"] == "150" and facts["inertia"] == f"{km.inertia_:.6g}"
    assert facts["deviation within clusters"] == f"{np.sqrt(km.inertia_ / 600):.4g} in every feature"
    assert table[0][:3] == ["cluster", "rows", "share"]
    assert table[0][3] == ("centre sepal length (cm)" if kept else "centre x0")
    order = np.argsort(-sizes, kind="stable")
    assert [int(row[1]) for row in table[1:]] == sizes[order].tolist()
    centres = np.array([[float(cell) for cell in row[3:]] for row in table[1:]])
    np.testing.assert_allclose(centres, km.cluster_centers_[order], atol=0.05)
    assert text.count("<ellipse") == 3


def test_kmeans_shows_odd_fits():
    rows = np.repeat([[0.0, 1.0], [5.0, 1.0]], 6, axis=0)
    weights = np.linspace(0.5, 2.0, 12)
    apart = sg.KMeans(2, random_state=0).fit(rows, sample_weight=weights)  # inertia 0
    assert sorted(apart.report_["sizes"]) == pytest.approx(sorted([weights[:6].sum(), weights[6:].sum()]))
    read(card_of(apart))
    read(card_of(sg.KMeans(1, random_state=0).fit(rows[:, :1])))
    with pytest.warns(UserWarning, match="distinct clusters"):
        surplus = sg.KMeans(3, random_state=0).fit(rows)
    assert sum(surplus.report_["sizes"]) == 12
    read(card_of(surplus))


@pytest.mark.parametrize("missing", ["error", "marginalize"])
def test_an_outlier_detector_shows_its_threshold(iris, missing, tmp_path):
    assert 'class="streamgmm"' not in sg.OutlierDetector()._repr_html_()
    detector = sg.OutlierDetector(range(1, 4), contamination=0.1, missing=missing, random_state=0).fit(iris)
    text = card_of(detector)
    facts = facts_of(text)
    assert facts["is below the threshold of"] == f"{detector.offset_:.6g}"
    share = (detector.predict(iris) == -1).mean()
    assert facts["outliers among the training rows"] == f"{100 * share:.3g}\xa0%" and 0.09 < share <= 0.1
    assert ("tail" if missing == "marginalize" else "log-density") in facts["a row is an outlier where its"]
    assert facts["numbers of components tried"] == "1, 2, 3" and "mean petal length (cm)" in text
    np.save(tmp_path / "rows.npy", iris.to_numpy())
    streamed = sg.OutlierDetector(2, contamination=0.1, random_state=0).fit(str(tmp_path / "rows.npy"))
    assert "short by up to" in facts_of(card_of(streamed))["outliers among the training rows"]


def test_a_selection_shows_its_table_its_curve_and_why(selection):
    found = read(selection)
    head, *lines = found.rows
    assert len(lines) == len(selection.table) == 8
    bic = head.index("BIC")
    assert [line[bic] for line in lines] == [f"{row['bic']:.6g}" for row in selection.table]
    bold = [attributes for tag, attributes in found.tags if tag == "tr" and "style" in attributes]
    assert len(bold) == 1 and sum(tag == "polyline" for tag, _ in found.tags) == 2
    buttons = [attributes for tag, attributes in found.tags if tag == "button"]
    assert len(buttons) == len(head) and all("sort" in button["onclick"] for button in buttons)
    best = min(row["bic"] for row in selection.table if not row["unsupported"])
    assert selection.why.startswith(f"Chosen: {selection.best.n_components} component")
    assert f"smallest BIC, {best:.6g}; the next best is" in selection.why
    assert "Chosen:" in selection._repr_html_()


def test_a_selection_prints_in_a_line_and_becomes_a_frame(selection):
    assert len(repr(selection)) < 200 and f"bic={selection.table[selection.chosen]['bic']:.6g}" in repr(selection)
    assert str(selection) == selection.why
    frame = selection.to_frame()
    assert frame.bic.tolist() == [row["bic"] for row in selection.table]


@pytest.mark.parametrize("criterion", ["icl", "cv"])
def test_why_follows_the_criterion(iris, criterion):
    found = sg.select(iris, range(1, 4), n_init=2, criterion=criterion, random_state=0)
    pick = max if criterion == "cv" else min
    best = pick(row[criterion] for row in found.table if not row["unsupported"])
    assert f"{best:.6g}" in found.why
    assert ("largest cross-validated" if criterion == "cv" else "smallest ICL") in found.why
    read(found)
    one = sg.select(iris, [2], n_init=1, random_state=0)
    assert "next best" not in one.why
    read(one)


def test_text_is_escaped_everywhere():
    table = pytest.importorskip("pandas").DataFrame({HOSTILE: np.arange(40.0) % 7, "b": np.arange(40.0) % 11})
    gm = sg.GaussianMixture(2, random_state=0).fit(table)
    finding = Finding("code", HOSTILE, {}, HOSTILE)
    for thing in (gm, finding, sg.open_source(table), sg.describe(gm, table), html.table([HOSTILE], [[HOSTILE]])):
        text = thing if isinstance(thing, str) else thing._repr_html_()
        assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_findings(iris):
    found = sg.diagnose(sg.GaussianMixture(5, random_state=0).fit(iris * [1, 1, 1, 1e4]), iris * [1, 1, 1, 1e4])
    assert isinstance(found, list) and found == list(found) and found
    lines = read(found).rows[1:]
    assert [line[2] for line in lines] == [finding.remedy for finding in found]
    assert str(found).splitlines()[0] == str(found[0])
    assert "Nothing to remark" in type(found)()._repr_html_() and str(type(found)()) == "nothing to remark"
    read(found[0])


def test_scores_and_sources(iris, tmp_path):
    rows = iris.to_numpy()
    scores = sg.cluster_scores(sg.KMeans(3, random_state=0).fit(rows), rows)
    cells = read(scores).rows
    assert f"{scores.davies_bouldin:.6g}" in [row[1] for row in cells if len(row) == 2]
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    source = sg.open_source(str(tmp_path / "rows.npy"), chunk_rows=40)
    facts = {row[0]: row[1] for row in read(source).rows}
    assert facts["rows"] == "150" and facts["features"] == "4" and facts["type"] == "float32" and facts["chunks"] == "4"
    assert facts["size, decoded"] == "2.4 kB"
    stacked = sg.open_source([str(tmp_path / "rows.npy")] * 2)
    assert {row[0]: row[1] for row in read(stacked).rows}["rows"] == "300"


def test_a_report_has_a_short_form_and_stays_a_dict(iris, tmp_path):
    gm = sg.GaussianMixture(3, random_state=0).fit(iris)
    report = gm.report_
    assert isinstance(report, dict) and report["rows"] == 150 and "explored" in repr(report)
    first, second = str(report).splitlines()
    assert first == f"converged after {gm.n_iter_} iterations, {gm.n_passes_} passes over 150 rows (solver auto)"
    assert f"BIC {report['bic']:.6g}" in second
    read(report)
    gm.save(tmp_path / "model")
    assert str(sg.load(tmp_path / "model").report_) == str(report)
    for other in (sg.KMeans(2, random_state=0).fit(iris), sg.GaussianMixture(1).partial_fit(iris)):
        assert len(str(other.report_)) < 200
        read(other.report_)


def test_cells_of_tables():
    text = html.table(["a"], [[None], [float("nan")], [True], [1234567], [0.1234567891], [html.Number(2.0, "two")]])
    cells = re.findall(r'<td style="[^"]*" data-v="([^"]*)">([^<]*)</td>', text)
    assert cells == [
        ("", "-"), ("", "-"), ("1", "yes"), ("1234567.0", "1,234,567"), ("0.1234567891", "0.123457"), ("2.0", "two")
    ]  # fmt: skip
    assert "<button" not in text and "<button" in html.table(["a"], [], sortable=True)


def test_the_table_is_sorted_in_a_browser(selection):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    values = [row["bic"] for row in selection.table]
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(f"<!doctype html><body>{selection._repr_html_()}</body>")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        shown = "[...document.querySelectorAll('tbody tr')].map(r => r.cells[2].textContent)"
        for expected, order in ((sorted(values), "ascending"), (sorted(values, reverse=True), "descending")):
            page.get_by_role("button", name="BIC").press("Enter")
            assert page.evaluate(shown) == [f"{value:.6g}" for value in expected]
            assert page.evaluate("document.querySelectorAll('th')[2].ariaSort") == order
        page.get_by_role("button", name="covariances").click()
        kinds = page.evaluate("[...document.querySelectorAll('tbody tr')].map(r => r.cells[1].textContent)")
        assert kinds == sorted(kinds) and not errors
        browser.close()
