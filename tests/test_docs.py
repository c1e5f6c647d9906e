"""README and docs: Python blocks and command lines run in order, links lead somewhere, pictures are there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import streamgmm as sg
from tests.helpers.documents import EXTRAS, OTHERS, named_modules, run_blocks, shown_is_said, without

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "<!-- not run by the tests of the documents"
SAYS = {"tutorial.md"}
"""Pages whose blocks of text are what the commands before them say."""
RUN = [page for page in PAGES if "```" in page.read_text("utf-8") and NOT_RUN not in page.read_text("utf-8")]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_is_written_runs_with_what_its_first_lines_name(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("agg")
    without(set().union(OTHERS, *EXTRAS.values()) - named_modules(page), monkeypatch)
    run_blocks(page, capsys, shown_is_said if page.name in SAYS else None)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"(?s)```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    ):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_every_page_is_reachable_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(re.findall(r"\((\S+\.md)\)", index))


def test_pictures_are_small_and_used():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.name in text and picture.stat().st_size < 400_000


def test_screenshots_are_those_of_the_script():
    """Of a screen and of a phone; `python docs/screenshots.py` makes them."""
    from PIL import Image

    widths = {}
    for picture in (ROOT / "docs" / "pictures").glob("*.webp"):
        assert picture.stat().st_size < 150_000
        with Image.open(picture) as opened:
            widths[picture.stem] = opened.width
    pages = {f"site-{name}-{width}": width for name in ("start", "api", "gallery") for width in (1400, 390)}
    assert widths == {**pages, "notebook": 1000}


def test_every_public_name_has_its_place_in_the_reference():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    names = [name for group in hooks.public_names().values() for name in group]
    assert sorted(names) == sorted(set(sg.__all__) - {"__version__"})
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"api/{group}.md" in nav for group in hooks.GROUPS)


def test_every_page_is_in_the_navigation_of_the_site():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f" {page.name}" in nav for page in (ROOT / "docs").glob("*.md"))
