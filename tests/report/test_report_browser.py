"""The interactive page in a real browser: sliders move what they should, nothing is clipped, no request leaves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.report.history import History
from streamgmm.report.page import Shown, page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # of the fits behind the pages
]

# Text that overlaps other text of its chart, is cut by it, or is missing.
FAULTS = """() => {
  const faults = [], root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`page is ${root.scrollWidth} wide in ${root.clientWidth}`);
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect(), name = svg.getAttribute('aria-label');
    if (frame.width === 0) continue;
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    for (const cls of ['xlabel', 'ylabel'])
      if (!svg.querySelector('.' + cls)?.textContent) faults.push(`${name}: no ${cls}`);
    if (texts.length < 6) faults.push(`${name}: only ${texts.length} texts`);
    texts.forEach(([text, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        faults.push(`${name}: "${text}" is cut`);
      for (const [other, b] of texts.slice(i + 1))
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
          faults.push(`${name}: "${text}" overlaps "${other}"`);
    });
  }
  return faults;
}"""


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
    return Shown(gm.mixture_, history.arrays(), criteria), history.plane


@pytest.fixture(scope="module")
def faithful_page(tmp_path_factory):
    stored = json.loads((Path(__file__).parents[1] / "data" / "mclust.json").read_text())
    rows = np.array(stored["sets"]["faithful"]["X"])
    models, planes = zip(*(shown(rows, K, tol=1e-4, max_iter=300, solver="exact") for K in (1, 2, 3)), strict=True)
    text = page(models, rows, title="faithful", plane=planes[1], names=["eruptions", "waiting"], best=1, elbow=2)
    path = tmp_path_factory.mktemp("page") / "faithful.html"
    path.write_text(text)
    return path, models, rows


@pytest.fixture(scope="module")
def patches_page(tmp_path_factory):
    from streamgmm.cli.demo_data import FEATURE_NAMES, grey_images, patch_rows

    rows = np.concatenate([part[::40] for part in patch_rows(grey_images())])
    one, plane = shown(rows, 8, tol=0, max_iter=6)
    path = tmp_path_factory.mktemp("page") / "patches.html"
    path.write_text(page([one], rows[::7], title="patches", plane=plane, names=FEATURE_NAMES))
    return path, [one], rows[::7]


@pytest.fixture(scope="module")
def auto_page(tmp_path_factory):
    """A fit at its defaults: nearly all of its way lies on the sample."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 3)) + rng.choice([-2.0, 0.0, 3.0], size=(3000, 1))
    one, plane = shown(rows, 3, n_init=2)
    path = tmp_path_factory.mktemp("page") / "auto.html"
    path.write_text(page([one], rows, title="auto", plane=plane))
    return path, [one], rows


@pytest.fixture
def opened(browser, request):
    """A page that was opened, with what it complained of and asked for."""

    def call(path, width=1280):
        tab = browser.new_page(viewport={"width": width, "height": 900})
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
        assert abs(tab.locator(".anomaly").count() - expected) <= 1
        note = tab.inner_text("#cutnote")
        if expected:
            assert float(note.rsplit(" ", 1)[1].replace("−", "-")) == pytest.approx(
                logp[expected - 1], rel=1e-3, abs=1e-3
            )
    lowest = float(tab.inner_text("#lowest tbody tr:first-child td:nth-child(2)"))
    assert lowest == pytest.approx(logp[0], rel=1e-3)
    assert tab.complaints == [] and tab.requests == [path.as_uri()]
    assert path.stat().st_size < 6_000_000


def test_k_is_switched(opened, faithful_page):
    path, models, _ = faithful_page
    tab = opened(path)
    assert tab.locator(".ellipse").count() == 4
    tab.select_option("#k", "2")
    assert tab.locator(".ellipse").count() == 6
    assert tab.locator("#components tbody tr").count() == 3
    heaviest = float(tab.inner_text("#components tbody tr:first-child td:nth-child(2)"))
    assert heaviest == pytest.approx(models[2].mixture.weights.max(), abs=1e-4)
    assert "least at K = " in tab.inner_text("#criterianote") and tab.complaints == []


def test_structures_are_one_line_each(opened, tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 2))
    kinds = ("EII", "VEV", "full")
    models = [shown(rows, K, covariance_type=kind, max_iter=3)[0] for kind in kinds for K in (1, 2)]
    path = tmp_path / "structures.html"
    path.write_text(page(models, rows, title="structures", best=0, criterion="icl"))
    tab = opened(path)
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
