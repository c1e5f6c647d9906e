"""Imports point down the layers of packages, no modules import each other in a circle, and the package is light.

``python -m tests.test_layers`` writes the table of packages on the contributors' page from their docstrings.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamgmm"

# From the bottom to the top; packages in one line do not import each other.
LAYERS = [
    ["errors"],
    ["utils", "kernels"],
    ["mixture", "sources"],
    ["runtime"],
    ["em", "report"],
    ["estimators"],
    ["diagnostics", "stream"],
    ["cli"],
]
LEVEL = {name: i for i, line in enumerate(LAYERS) for name in line}


def modules():
    """Dotted name below the package -> file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".")] = path
    return found


def imports(path, known):
    """Modules of the package that a file imports, wherever in it, for types or late."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "streamgmm":
            module = node.module.removeprefix("streamgmm").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if inner in known else module
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("streamgmm.") for a in node.names if a.name.startswith("streamgmm."))


def graph():
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def package(name):
    return name.partition(".")[0]


def test_imports_point_down():
    assert {package(name) for name in modules()} - {"", "__main__"} == set(LEVEL)
    wrong = [
        f"{here} imports {there}"
        for here, others in graph().items()
        for there in others
        if package(here) in LEVEL and package(there) in LEVEL and package(here) != package(there)
        and LEVEL[package(there)] >= LEVEL[package(here)]
    ]  # fmt: skip
    assert not sorted(wrong)


def test_no_modules_import_each_other_in_a_circle():
    """Wherever they import: at the top, late, or for types only."""
    left = graph()
    while True:
        free = {name for name, others in left.items() if not others & left.keys()}
        if not free:
            break
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, "these import each other in a circle, or stand above such modules"


def table():
    """The packages from the top to the bottom, each with the first paragraph of its docstring."""
    lines = ["| layer | package | purpose |", "|---|---|---|"]
    for line in reversed(LAYERS):
        for name in line:
            path = PACKAGE / name / "__init__.py"
            tree = ast.parse((path if path.exists() else PACKAGE / f"{name}.py").read_text())
            purpose = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
            lines.append(f"| {LEVEL[name] + 1} | `{name}` | {purpose} |")
    return "\n".join(lines) + "\n"


PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- packages -->\n", "<!-- end of packages -->\n"


def test_contributors_see_the_packages_as_they_are():
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == table(), "python -m tests.test_layers"


@pytest.mark.parametrize("heavy", ["numba", "dask", "distributed", "zarr", "pyarrow", "matplotlib", "typer"])
def test_import_is_light(heavy):
    code = f"import sys, streamgmm; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
