"""Annotations say what things are: `Any` alone is for what users pass, and functions take few parameters."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "streamgmm"
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


def bare():
    """(number of annotations, places of those that are `Any`)."""
    count, places = 0, []
    for name, tree in TREES.items():
        for line, found in annotations(tree):
            count += 1
            if isinstance(found, ast.Name) and found.id == "Any":
                places.append(f"{name}:{line}")
    return count, places


def test_any_alone_is_rare():
    count, places = bare()
    assert count > 9000
    assert len(places) < 0.03 * count, places


MANY = {
    "em/online/learner.py:__init__",  # the settings of an estimator that learns from a stream
    "kernels/plain/factor.py:run_missing", "kernels/plain/missing.py:missing",  # as the compiled forms
    # parameters of estimators, as scikit-learn demands, and of what stands beside them for users
    "estimators/bayesian_mixture.py:__init__", "estimators/gaussian_mixture.py:__init__",
    "estimators/kmeans.py:__init__", "estimators/outlier_detector.py:__init__", "estimators/select.py:select",
    "stream/connectors/kafka.py:__init__", "stream/session.py:__init__",
    # options of commands
    "cli/commands/data.py:convert", "cli/commands/fit.py:fit", "cli/commands/predict.py:predict",
    "cli/commands/select.py:select", "cli/commands/stream.py:stream",
}  # fmt: skip


def functions():
    """(place, function) of every function."""
    for name, tree in TREES.items():
        found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        yield from ((f"{name}:{node.name}", node) for node in found)


def test_functions_are_no_longer_than_a_page():
    assert not [place for place, node in functions() if node.end_lineno - node.lineno >= 80]


def test_functions_take_eight_parameters_at_most():
    compiled = ("kernels/simd/", "kernels/lloyd.py", "kernels/missing.py", "kernels/cuda/components.py")
    many = set()
    for place, node in functions():
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(named) - (bool(named) and named[0].arg in ("self", "cls"))
        if count > 8 and not place.startswith(compiled):
            many.add(place)
    assert many == MANY


def test_files_hold_one_subject_each():
    assert not [name for name in TREES if len((PACKAGE / name).read_text().splitlines()) > 600]
