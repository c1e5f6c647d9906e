"""README: its commands are one line each, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", README)[1]


@pytest.mark.parametrize("title", ["Run", "Test"])
def test_one_command_line(title):
    blocks = re.findall(r"(?s)```sh\n(.*?)```", section(title))
    assert len(blocks[0].strip().splitlines()) == 1


def test_opening_is_ten_lines():
    opening = README.split("## Run")[0].strip().splitlines()
    assert len(opening) <= 13


def test_setup_uses_what_the_project_declares():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"setup\.sh (\w+)", README):
        assert re.search(rf"(?m)^{extra} = \[", project)
