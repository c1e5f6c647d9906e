"""The documentation site: one command builds it without a warning, it is complete, and it fits a screen and a phone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import streamgmm as sg

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason="the extra docs is not installed: pip install 'streamgmm[docs]'"),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


def test_every_public_name_is_in_the_reference(site):
    text = "".join(page.read_text("utf-8") for page in (site / "api").glob("*.html"))
    missing = [name for name in sg.__all__ if name != "__version__" and f"sg.{name}" not in text]
    assert not missing
    assert "predict_proba" in text and "Raises" in text  # methods, and sections of docstrings


def test_commands_and_config_keys_are_complete(site):
    from streamgmm.cli.config import Config

    commands = (site / "reference" / "commands.html").read_text("utf-8")
    for name in ("fit", "select", "predict", "score", "sample", "stream", "report", "inspect", "data check", "demo"):
        assert f"streamgmm {name}" in commands
    keys = (site / "reference" / "config.html").read_text("utf-8")
    assert all(f"<code>{key}</code>" in keys for key in Config().flat())


def test_search_and_pages_work_without_a_network(site):
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    assert any("OutlierDetector" in one["text"] + one["title"] for one in index["docs"])
    assert (site / "search" / "search_index.js").exists()  # for pages that are opened from a folder
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img)[^>]+src=\"?(https?:[^\" >]+)", page.read_text("utf-8"))
        loaded += re.findall(r"<link[^>]+rel=\"?stylesheet[^>]+href=\"?(https?:[^\" >]+)", page.read_text("utf-8"))
        assert not loaded, (page.name, loaded)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)")
@pytest.mark.parametrize("width", [1400, 390])
def test_pages_fit_the_screen(site, width):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 900})
        problems = []
        view.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        view.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") else None)
        for name in ("index", "examples", "api/estimators", "benchmarks", "reference/config"):
            view.goto((site / f"{name}.html").as_uri())
            if view.evaluate("document.documentElement.scrollWidth > innerWidth"):
                problems.append(f"{name} is wider than the screen")
        assert not problems
        view.goto((site / "index.html").as_uri())
        view.keyboard.press("/")
        view.keyboard.type("memory_limit")
        view.wait_for_selector(".md-search-result__item", timeout=20_000)
        browser.close()
