"""README and docs: Python blocks and command lines run in order, links lead somewhere, pictures are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from streamgmm.cli.app import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "<!-- not run by the tests of the documents"
RUN = [page for page in PAGES if "```" in page.read_text("utf-8") and NOT_RUN not in page.read_text("utf-8")]


def blocks(page: Path):
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?ms)^```(\w+)\n(.*?)^```", text):
        yield text[: match.start()].count("\n") + 2, match[1], match[2]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_is_written_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("agg")
    space: dict[str, object] = {"__name__": "__main__"}
    for line, language, text in blocks(page):
        if language == "python":
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), space)
            if "X" in space and not Path("X.npy").exists():
                np.save("X.npy", space["X"])
        elif language == "sh":
            for command in text.replace("\\\n", " ").splitlines():
                if command.startswith("streamgmm "):
                    words = shlex.split(command.split("  #")[0])[1:]
                    code = run(words)
                    assert code == 0, f"{page.name}: {command}: {capsys.readouterr().err}"


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


def test_every_page_is_reachable_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(re.findall(r"\((\S+\.md)\)", index))


def test_pictures_are_small_and_used():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.name in text and picture.stat().st_size < 400_000
