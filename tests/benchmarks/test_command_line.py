"""`python -m benchmarks`: one command line for all of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import ROOT, benchmarks, run


def test_every_benchmark_has_a_name_of_its_own_and_a_sentence(capsys):
    modules = [
        path for path in ROOT.rglob("*.py")
        if path.parent != ROOT and any(getattr(node, "name", "") == "main" for node in ast.parse(path.read_text()).body)
    ]  # fmt: skip
    known = benchmarks()
    assert len(known) >= len(modules) > 15
    assert run([]) == 0
    listed = capsys.readouterr().out
    for name, (module, what) in known.items():
        assert what.endswith((".", ":", "?")) and len(what) > 20, module
        assert re.search(rf"^  {name} ", listed, re.MULTILINE)


def test_a_name_that_is_not_there_is_told_the_nearest(capsys):
    assert run(["iteratoin"]) == 2
    assert "did you mean iteration?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["iteration", "scaling", "stream", "starts"])
def test_options_are_told_under_the_name_that_was_called(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run([name, "--help"])
    assert ended.value.code == 0
    assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_documents_name_benchmarks_that_are_there():
    known, root = benchmarks(), Path(ROOT).parent
    for page in [*root.glob("*.md"), *root.glob("docs/*.md")]:
        for name in re.findall(r"python -m benchmarks[ .](\w+)", page.read_text()):
            assert name in known, page
