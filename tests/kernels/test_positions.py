"""Compiled functions take their arrays by position; one page says which is which, made from the sources.

``python -m tests.kernels.test_positions`` writes the page again.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "streamgmm" / "kernels"
PAGE = KERNELS / "positions.md"
MOST = 12
"""Parameters above which a function is listed."""
HEAD = """# Arguments of the compiled kernels, by position

Kernels take arrays one by one and not in groups. With named tuples (model, outputs, scratch arrays) the form for few
features took 21 % longer to compile and 9 % longer to run, and the screened form 5 % and 16 % (processor time, least of
three alternating measurements on a machine with other work: full covariances, K = 8 in 3 features, K = 16 in 16). This
page is made from the sources by `python -m tests.kernels.test_positions`, and a test compares the two.
"""


def shapes(tree):
    """{name: shape} of scratch arrays that are made by ``a, b, ... = zeros(shape, shape, ...)``."""
    found = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "zeros"
        ):
            names = [ast.unparse(name) for name in node.targets[0].elts]
            found |= dict(zip(names, map(ast.unparse, node.value.args), strict=False))
    return found


def described(tree):
    """{name: text} of the parameters that docstrings describe."""
    found = {}
    for node in ast.walk(tree):
        for line in (ast.get_docstring(node) or "").splitlines() if isinstance(node, ast.FunctionDef) else ():
            match = re.fullmatch(r"(\w+(?:, \w+)*) +:? *(.*?)\s*#\s*(IN|OUT|INOUT)\b[ ,]*(.*)", line)
            if match:
                text = f"{match[3]} {match[2]} {match[4]}"
                found |= {name: " ".join(text.split()) for name in match[1].split(", ")}
    return found


def page():
    lines = [HEAD]
    shared = described(ast.parse((KERNELS / "simd" / "dense.py").read_text()))
    for path in sorted(KERNELS.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and len(node.args.args) > MOST and node.decorator_list:
                known = shared | shapes(tree) | described(tree)
                lines += [
                    f"\n## `{path.relative_to(KERNELS).as_posix()}`: `{node.name}`\n",
                    "| | name | |",
                    "|---|---|---|",
                ]
                lines += [
                    f"| {i} | `{one.arg}` | {known.get(one.arg, '').replace('|', '\\|')} |"
                    for i, one in enumerate(node.args.args, 1)
                ]
    return "\n".join(lines) + "\n"


def test_the_page_of_positions_is_that_of_the_sources():
    assert page().count("\n## ") >= 8
    assert PAGE.read_text() == page(), "python -m tests.kernels.test_positions"


if __name__ == "__main__":
    PAGE.write_text(page())
