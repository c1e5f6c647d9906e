"""Annotations say what things are: `Any` alone is for what users pass, and functions take few parameters."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "streamgmm"
LOWER = ("utils", "kernels", "mixture", "runtime", "em")
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def annotations(tree):
    """(line, annotation) of every parameter, result and variable that has one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            yield from ((a.lineno, a.annotation) for a in named if a is not None and a.annotation is not None)
            if node.returns is not None:
                yield node.lineno, node.returns
        elif isinstance(node, ast.AnnAssign):
            yield node.lineno, node.annotation


def bare(packages=None):
    """(number of annotations, places of those that are `Any`)."""
    count, places = 0, []
    for name, tree in TREES.items():
        if packages is None or name.partition("/")[0] in packages:
            for line, found in annotations(tree):
                count += 1
                if isinstance(found, ast.Name) and found.id == "Any":
                    places.append(f"{name}:{line}")
    return count, places


def test_any_alone_is_rare_where_things_are_computed():
    count, places = bare(LOWER)
    assert count > 4000
    assert len(places) < 0.03 * count, places
