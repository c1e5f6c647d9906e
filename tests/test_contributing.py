"""The contributors' page answers five questions with file and line, and stays right.

``python -m tests.test_contributing`` writes the table; the lines may drift a little between two writings.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- where -->\n", "<!-- end of where -->\n"
DRIFT = 80
"""Lines that a definition may have moved since the table was written."""

QUESTIONS = [
    (
        "Where is the EM loop?",
        [("em/loop.py", "em", "the loop"), ("em/passes.py", "passes", "its stages, pass by pass")],
    ),
    (
        "How do I add a format?",
        [
            ("sources/base.py", "Source", "write one, in a file of `sources/formats/`"),
            ("sources/opening.py", "_open_kind", "and a branch here"),
        ],
    ),
    ("Where is the BIC computed?", [("mixture/criteria.py", "criteria", "with AIC and ICL")]),
    (
        "What happens on collapse?",
        [
            ("mixture/repair.py", "repairing_m_step", "re-seeds and floors"),
            ("em/update.py", "Maximize", "decides between that and raising"),
        ],
    ),
    (
        "What is in a checkpoint?",
        [
            ("runtime/checkpoint.py", "FileJournal", "the named values of a fit"),
            ("em/candidates.py", "Candidate", "what is known of each start"),
            ("runtime/encoding.py", "encode", "how values become JSON and arrays"),
        ],
    ),
]


def line_of(file: str, name: str) -> int:
    """Where a function or class of a file is defined."""
    tree = ast.parse((ROOT / "streamgmm" / file).read_text(encoding="utf-8"))
    return next(
        node.lineno for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    )


def table() -> str:
    lines = ["| question | look at |", "|---|---|"]
    for question, places in QUESTIONS:
        answers = [
            f"`{file}:{line_of(file, name)}`, `{name}`: {words}" for file, name, words in places
        ]  # fmt: skip
        lines.append(f"| {question} | {'; '.join(answers)} |")
    return "\n".join(lines) + "\n"


def without_lines(text: str) -> str:
    return re.sub(r"(\.py):\d+", r"\1", text)


def test_five_questions_are_answered_by_file_and_line():
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert without_lines(written) == without_lines(table()), "python -m tests.test_contributing"
    found = re.findall(r"`([\w/]+\.py):(\d+)`, `(\w+)`", written)
    assert len(found) == sum(len(places) for _, places in QUESTIONS)
    far = [(file, line, name) for file, line, name in found if abs(int(line) - line_of(file, name)) > DRIFT]
    assert not far, "python -m tests.test_contributing"


def test_every_file_that_the_page_names_exists():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text))
    places = (ROOT, ROOT / "streamgmm")
    missing = [name for name in sorted(named) if not any((place / name).exists() for place in places)]
    assert len(named) > 15 and not missing


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
