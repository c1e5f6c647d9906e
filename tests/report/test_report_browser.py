"""The interactive page in a real browser: sliders move what they should, nothing is clipped, no request leaves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.report.history import History
from streamgmm.report.page import Head, Shown, page
from streamgmm.report.rows import read_rows
from streamgmm.runtime.executors import Threads

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # of the fits behind the pages
]

# Text that overlaps other text of its chart, is cut by it, or is missing.
FAULTS = (Path(__file__).parent / "faults.js").read_text()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def shown(rows, K, **settings):
    gm = sg.GaussianMixture(K, random_state=0, **settings)
    history = History()
    for step in gm.fit_steps(rows, watcher=history):
        history.add(step)
    criteria = {"bic": gm.bic(rows), "aic": gm.aic(rows), "icl": gm.icl(rows)}
    return Shown(gm.mixture_, frames=history.arrays(), criteria=criteria), history.plane


def written(path, models, rows, **head):
    found = read_rows(sg.open_source(rows), [one.asked for one in models], Threads(1), size=2000)
    path.write_text(page(models, found, Head(path.stem, **head)))
    return path


@pytest.fixture(scope="module")
def faithful_page(tmp_path_factory):
    stored = json.loads((Path(__file__).parents[1] / "data" / "mclust.json").read_text())
    rows = np.array(stored["sets"]["faithful"]["X"])
    models, planes = zip(*(shown(rows, K, tol=1e-4, max_iter=300, solver="exact") for K in (1, 2, 3)), strict=True)
    path = tmp_path_factory.mktemp("page") / "faithful.html"
    written(path, models, rows, plane=planes[1], names=["eruptions", "waiting"], best=1, elbow=2)
    return path, models, rows


@pytest.fixture(scope="module")
def patches_page(tmp_path_factory):
    from streamgmm.cli.demo_data import FEATURE_NAMES, grey_images, patch_rows

    rows = np.concatenate([part[::40] for part in patch_rows(grey_images())])
    one, plane = shown(rows, 8, tol=0, max_iter=6)
    path = tmp_path_factory.mktemp("page") / "patches.html"
    return written(path, [one], rows[::7], plane=plane, names=FEATURE_NAMES), [one], rows[::7]


@pytest.fixture(scope="module")
def auto_page(tmp_path_factory):
    """A fit at its defaults: nearly all of its way lies on the sample."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 3)) + rng.choice([-2.0, 0.0, 3.0], size=(2000, 1))
    one, plane = shown(rows, 3, n_init=2)
    return written(tmp_path_factory.mktemp("page") / "auto.html", [one], rows, plane=plane), [one], rows


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202egnp.exe",
    "",
    "a" * 300,
    "\x00\ud800&amp;'\"`",
]


def mixture_page(path, K, D, names=None, gaps=0.0, seed=0):
    """A page about K Gaussians in D features."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, 3.0))
    root = rng.normal(size=(K, D, D)) / np.sqrt(D)
    truth = sg.Mixture(
        weights, 3 * rng.normal(size=(K, D)), root @ root.swapaxes(1, 2) + 0.1 * np.eye(D),
        missing="marginalize" if gaps else "error",
    )  # fmt: skip
    rows = truth.sample(2500, seed)[0]
    rows[rng.random(rows.shape) < gaps] = np.nan
    models = [Shown(truth, criteria={"bic": 1.0, "aic": 2.0, "icl": 3.0})]
    return written(path, models, rows, names=names)


SHAPES = {
    "one feature": {"K": 3, "D": 1},
    "50 features": {"K": 4, "D": 50},
    "86 features": {"K": 2, "D": 86, "gaps": 0.05},
    "one component": {"K": 1, "D": 4},
    "50 components": {"K": 50, "D": 3},
    "hostile names": {"K": 3, "D": 6, "names": HOSTILE, "gaps": 0.1},
    "one of one": {"K": 1, "D": 1},
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("shapes"), {}

    def call(name):
        if name not in made:
            made[name] = mixture_page(folder / f"{name.replace(' ', '_')}.html", **SHAPES[name])
        return made[name]

    return call


@pytest.fixture
def opened(browser, request):
    """A page that was opened, with what it complained of and asked for."""

    def call(path, width=1280, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.complaints, tab.requests = [], []
        tab.on("console", lambda m: tab.complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: tab.complaints.append(str(e)))
        tab.on("request", lambda r: tab.requests.append(r.url))
        tab.goto(path.as_uri())
        request.addfinalizer(tab.close)
        return tab

    return call


def slide(tab, name, value):
    tab.eval_on_selector(f"#{name}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value))


@pytest.mark.parametrize("which", ["faithful_page", "patches_page", "auto_page"])
def test_sliders_move_what_they_should(opened, request, which):
    path, models, rows = request.getfixturevalue(which)
    best = models[1 if len(models) > 1 else 0]
    tab = opened(path)
    frames = best.frames
    sampled, last = int(frames["sampled"].sum()), int(frames["iteration"][-1])
    assert f"{last} of {last}:" in tab.inner_text("#stepnote")
    assert tab.locator(".sampled").count() == (sampled > 0)
    outline = tab.get_attribute(".ellipse", "d")
    dot = float(tab.get_attribute("#dot", "cx"))
    slide(tab, "step", 0)
    first = f"1 of {sampled} on the sample:" if sampled else f"1 of {last}:"
    assert first in tab.inner_text("#stepnote")
    told = float(tab.inner_text("#stepnote").rsplit(" ", 1)[1])
    assert told == pytest.approx(frames["objective"][0], rel=1e-4)
    assert tab.get_attribute(".ellipse", "d") != outline and float(tab.get_attribute("#dot", "cx")) < dot
    assert tab.locator(".ellipse").count() == 2 * best.mixture.n_components

    logp = np.sort(best.mixture.log_prob(rows))
    for percent in (0, 1, 5.5, 20):
        slide(tab, "cut", percent)
        expected = round(percent / 100 * len(rows))
        assert abs(tab.locator(".anomaly.drawn").count() - expected) <= 1
        note = tab.inner_text("#cutnote")
        if expected:
            assert float(note.rsplit(" ", 1)[1].replace("−", "-")) == pytest.approx(
                logp[expected - 1], rel=1e-3, abs=1e-3
            )
    row = int(tab.inner_text("#lowest tbody tr:first-child td:nth-child(1)").replace(",", ""))
    lowest = float(tab.inner_text("#lowest tbody tr:first-child td:nth-child(2)"))
    assert lowest == pytest.approx(logp[0], rel=1e-3) and row == best.mixture.log_prob(rows).argmin()
    assert tab.complaints == [] and tab.requests == [path.as_uri()]
    assert path.stat().st_size < 3_000_000


def test_k_is_switched(opened, faithful_page):
    path, models, _ = faithful_page
    tab = opened(path)
    assert tab.locator(".ellipse").count() == 4
    tab.select_option("#k", index=2)
    assert tab.locator(".ellipse").count() == 6
    assert tab.locator("#components tbody tr").count() == 3
    heaviest = float(tab.inner_text("#components tbody tr:first-child td:nth-child(2)"))
    assert heaviest == pytest.approx(models[2].mixture.weights.max(), abs=1e-4)
    assert "least at K = " in tab.inner_text("#criterianote") and tab.complaints == []


def test_structures_are_one_line_each(opened, tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 2))
    kinds = ("EII", "VEV", "full")
    models = [shown(rows, K, covariance_type=kind, max_iter=3)[0] for kind in kinds for K in (1, 2)]
    tab = opened(written(tmp_path / "structures.html", models, rows, criterion="icl"))
    assert tab.locator("#criteria path.criterion").count() == 3
    note = tab.inner_text("#criterianote")
    assert note.startswith("ICL, one line for each covariance type") and all(kind in note for kind in kinds)
    assert tab.evaluate(FAULTS) == [] and tab.complaints == []


def test_play_steps_to_the_end(opened, faithful_page):
    tab = opened(faithful_page[0])
    tab.click("#play")
    sync_api.expect(tab.locator("#play")).to_have_text("Pause")
    sync_api.expect(tab.locator("#play")).to_have_text("Play", timeout=20_000)
    assert tab.eval_on_selector("#step", "e => e.value === e.max")


def test_the_way_on_the_sample_is_shown_and_ends_where_readings_begin(auto_page):
    _, (one,), _ = auto_page
    sampled = one.frames["sampled"].astype(bool)
    assert sampled.sum() > 10 and sampled.sum() + (~sampled).sum() == len(sampled) and not sampled[-1]
    assert (np.diff(sampled.astype(int)) <= 0).all()  # first on the sample, then passes
    assert (np.diff(one.frames["objective"]) > -1e-9).all()  # the sample is all rows here: one and the same climb
    moved = np.abs(np.diff(one.frames["means"], axis=0)).max(axis=(1, 2))
    assert moved[~sampled[1:]].max() < 0.01 < moved.max()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["faithful_page", "patches_page", "auto_page"])
def test_nothing_overlaps_or_is_cut(opened, request, which, width):
    tab = opened(request.getfixturevalue(which)[0], width)
    assert tab.evaluate(FAULTS) == []
    tab.set_viewport_size({"width": 700, "height": 900})  # redrawn when the window changes
    tab.wait_for_timeout(100)
    assert tab.evaluate(FAULTS) == []


# Words that contrast less than WCAG's 4.5 with what is behind them; SVG text counts with the card behind it.
FAINT = (Path(__file__).parent / "faint.js").read_text()

# Elements that reach beyond the screen, or whose text does.
CUT = (Path(__file__).parent / "cut.js").read_text()


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_data_has_a_page_that_fits_and_is_legible(opened, shapes, name):
    path = shapes(name)
    assert path.stat().st_size < 3_000_000
    for width, scheme in ((1400, "light"), (390, "dark")):
        tab = opened(path, width, scheme)
        assert tab.complaints == [] and tab.requests == [path.as_uri()]
        assert tab.evaluate(FAULTS) == [] and tab.evaluate(FAINT) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        if width == 390:
            assert tab.evaluate(CUT) == []
        tab.emulate_media(color_scheme="dark" if scheme == "light" else "light")
        assert tab.evaluate(FAINT) == []
        drawn = ".points path" if SHAPES[name]["D"] > 1 else "#scatter rect"
        assert tab.locator(f"#scatter {drawn}".replace("#scatter #scatter", "#scatter")).count() >= 1
        assert tab.locator("#scatter .ellipse").count() >= SHAPES[name]["K"]
        assert tab.locator("#components tbody tr").count() == SHAPES[name]["K"]
        assert (tab.locator("#profile .cell").count() > 0) == (SHAPES[name]["K"] > 1 or SHAPES[name]["D"] > 1)
        tab.close()


# Marks what a pointer can operate and can be seen now; gives their number.
OPERATED = """() => [...document.querySelectorAll('button, select, input, summary, a[href], [tabindex], [role=button]')]
    .filter(e => e.checkVisibility({ visibilityProperty: true }) && !e.disabled)
    .map((e, i) => { e.dataset.control = i; }).length"""


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", SHAPES)
def test_whatever_the_data_the_keyboard_reaches_every_control(opened, shapes, name, width):
    tab = opened(shapes(name), width)
    number, reached = tab.evaluate(OPERATED), set()
    assert number >= 5
    for _ in range(2 * number + 10):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.dataset.control"))
        seen = "(e => { const s = getComputedStyle(e); return s.outlineStyle !== 'none' || s.boxShadow !== 'none'; })"
        assert tab.evaluate(f"document.activeElement === document.body || {seen}(document.activeElement)")
    assert {str(i) for i in range(number)} <= reached and tab.complaints == []


def test_all_controls_are_reached_by_the_keyboard(opened, faithful_page):
    tab = opened(faithful_page[0])
    slide(tab, "cut", 10)
    reached = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
    assert {"k", "beside", "across", "up", "colour", "extent", "play", "step", "cut", "morelowest"} <= reached
    tab.focus("#cut")
    before = tab.locator(".anomaly.drawn").count()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".anomaly.drawn").count() >= before and "10.2 %" in tab.inner_text("#cutnote")
    tab.focus("#extent")
    tab.keyboard.press("Enter")
    assert tab.get_attribute("#extent", "aria-pressed") == "true"
    tab.focus("#k")
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#components tbody tr").count() == 3 and tab.complaints == []


def test_two_k_stand_side_by_side(opened, faithful_page):
    path, models, _ = faithful_page
    tab = opened(path)
    assert not tab.is_visible("#besidecard")
    tab.select_option("#beside", index=3)
    assert tab.locator("#scatter .ellipse").count() == 4 and tab.locator("#scatterb .ellipse").count() == 6
    bic = [float(text.replace(",", "")) for text in tab.locator("#versus tr:has-text('BIC') td").all_inner_texts()[1:]]
    assert bic == [pytest.approx(models[i].criteria["bic"], abs=0.5) for i in (1, 2)]
    assert tab.locator("#flows li").count() == 2
    assert tab.evaluate(FAULTS) == [] and tab.complaints == []
    tab.select_option("#beside", index=0)
    assert not tab.is_visible("#besidecard")


def test_axes_and_colours_are_chosen(opened, shapes):
    tab = opened(shapes("50 features"))
    first = tab.get_attribute("#scatter .points path", "d")
    labels = tab.locator("#across option").all_inner_texts()
    assert labels[0].startswith("principal axis 1") and "x7" in labels
    tab.select_option("#across", label="x7")
    tab.select_option("#up", label="x3")
    assert tab.text_content("#scatter .xlabel") == "x7" and tab.text_content("#scatter .ylabel") == "x3"
    assert tab.get_attribute("#scatter .points path", "d") != first
    for colour in ("uncertainty", "density"):
        tab.select_option("#colour", colour)
        assert tab.locator("#legend .swatch").count() == 6
    tab.select_option("#up", label="density")
    assert tab.locator("#scatter .total").count() == 1 and tab.complaints == []


def test_rows_outside_the_picture_are_told_and_can_be_shown(opened, tmp_path):
    model = sg.Mixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    rows = np.concatenate([model.sample(500, 0)[0], [[900.0, 0.0], [0.0, -700.0]]])
    tab = opened(written(tmp_path / "far.html", [Shown(model)], rows))
    assert tab.locator("#scatter .outside").count() >= 2 and "lie outside the picture" in tab.inner_text("#scatternote")
    tab.click("#extent")
    assert tab.locator("#scatter .outside").count() == 0 and "outside" not in tab.inner_text("#scatternote")
    slide(tab, "cut", 1)
    first, second = (tab.locator("#lowest tbody tr").nth(i).inner_text() for i in (0, 1))
    assert first.startswith("500\t") and second.startswith("501\t")
    assert "x0 900: 900 deviations above 0" in first and "x1 -700: 700 deviations below 0" in second.replace("−", "-")


def test_one_component_does_not_rule_the_axis_of_the_criteria(opened, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2))
    models = [
        Shown(sg.Mixture(np.full(K, 1 / K), rng.normal(size=(K, 2)), [np.eye(2)] * K), criteria={"bic": bic})
        for K, bic in ((1, 90_000.0), (2, 5000.0), (3, 4900.0), (4, 4950.0), (5, 5010.0))
    ]
    tab = opened(written(tmp_path / "criteria.html", models, rows, best=2))
    assert tab.locator("#criteria .above").count() == 1 and "K = 1 lies above" in tab.inner_text("#criterianote")
    heights = tab.eval_on_selector_all("#criteria circle", "all => all.map(e => +e.getAttribute('cy'))")
    assert len(heights) == 4 and max(heights) - min(heights) > 60


def test_what_was_not_observed_is_a_dash(opened, tmp_path):
    model = sg.Mixture([0.5, 0.5], [[0.0, 0.0], [9.0, 9.0]], [np.eye(2)] * 2, missing="marginalize")
    rows = np.array([[0.0, 0.1], [9.0, 8.8], [np.nan, 30.0], [0.2, np.nan], [4.5, np.nan]])
    tab = opened(written(tmp_path / "holes.html", [Shown(model)], rows))
    slide(tab, "cut", 20)
    cells = tab.locator("#lowest tbody tr").first.locator("td").all_inner_texts()
    assert cells[0] == "2" and cells[-2:] == ["–", "30"]
    assert float(cells[1]) == pytest.approx(model.log_prob(rows[[2]])[0], rel=1e-4)
    unsure = tab.locator("#uncertain tbody tr").first.locator("td").all_inner_texts()
    assert unsure[0] == "4" and unsure[1].endswith("(50 %)") and unsure[-1] == "–"
    assert "2 miss" in tab.inner_text("#scatternote") or "3 miss" in tab.inner_text("#scatternote")
