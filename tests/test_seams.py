"""Packages touch each other at their public names only."""

from __future__ import annotations

import ast
from pathlib import Path

import streamgmm as sg

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamgmm"

OWN = {"self", "cls"}
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}
"""Public names of every named tuple."""


def files():
    """(package below streamgmm, path, tree) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path, ast.parse(path.read_text())


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE


def defined():
    """Private names of attributes, by the packages in which they are defined or set."""
    found = {}
    for package, _, tree in files():
        for node in ast.walk(tree):
            name = None
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                name = node.name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = node.attr
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name) and is_private(target.id):
                        found.setdefault(target.id, set()).add(package)
            if name is not None and is_private(name):
                found.setdefault(name, set()).add(package)
    return found


def own(estimator):
    return [base for base in estimator.__mro__ if base.__module__.startswith("streamgmm")]


def test_estimators_are_four_classes_at_most():
    for estimator in (sg.GaussianMixture, sg.BayesianGaussianMixture, sg.KMeans, sg.OutlierDetector, sg.PCA, sg.Scaler):
        assert 1 < len(own(estimator)) <= 4


def test_classes_of_a_mixture_stand_in_files_that_are_named_after_them():
    found = {base.__module__.rpartition(".")[2].replace("_", "") for base in own(sg.GaussianMixture)}
    assert found == {base.__name__.lower() for base in own(sg.GaussianMixture)} and len(found) == 4


def test_no_private_name_is_imported_from_another_package():
    wrong = []
    for package, path, tree in files():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamgmm."):
                there, *inner = node.module.split(".")[1:]
                names = [*inner, *(alias.name for alias in node.names)]
                if there != package and any(map(is_private, names)):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.module}")
    assert not wrong


def test_no_private_attribute_of_another_package_is_used():
    """`other._name` is for the package that defines the name; names of other libraries do not count."""
    owners, wrong = defined(), []
    for package, path, tree in files():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and is_private(node.attr)):
                continue
            at = node.value
            own = isinstance(at, ast.Name) and at.id in OWN
            inherited = isinstance(at, ast.Call) and isinstance(at.func, ast.Name) and at.func.id == "super"
            if not own and not inherited and owners.get(node.attr) and package not in owners[node.attr]:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong


def test_no_test_imports_from_another_test():
    """What tests share stands in `tests/helpers`, and is imported from there under its full name."""
    wrong = []
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                relative = node.level > 0
            elif isinstance(node, ast.Import):
                names, relative = [alias.name for alias in node.names], False
            else:
                continue
            ours = [name for name in names if name.startswith("tests.")]
            if relative or any(not name.startswith("tests.helpers") for name in ours):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {names[0]}")
    assert not wrong
