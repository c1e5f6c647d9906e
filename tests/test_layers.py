"""Imports point down the list of rooms, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "streamgmm"

# From the top of the house to the bottom; rooms in one line may import each other.
HOUSE = [
    {"__main__", "cli"},
    {"report"},
    {"config"},
    {"selection", "diagnostics", "outlier", "scoring", "stream"},
    {"estimator", "kmeans", "transforms"},
    {"partial", "fitted"},
    {"predicting", "storing", "values"},
    {"parameters", "outcome"},
    {"reading", "asking", "exchange"},
    {"projection"},
    {"plotting"},
    {"checkpoint"},
    {"persistence"},
    {"encoding"},
    {"learner", "surgery"},
    {"beginnings"},
    {"kmeans_parallel", "lloyd", "moments"},
    {"draws"},
    {"sweep"},
    {"starts"},
    {"growing"},
    {"solvers", "local"},
    {"fitting", "folds", "updates", "candidates", "seeding", "imputing", "accelerate", "memory", "dealing"},
    {"stopping", "rowcount", "criteria"},
    {"repair"},
    {"em"},
    {"rules"},
    {"schedules"},
    {"executors", "executors_dask"},
    {"sources"},
    {"reduce", "sketch"},
    {"prior", "distances", "sampling"},
    {"mixture", "centres"},
    {"questions", "prepared"},
    {"missing", "queries"},
    {"given"},
    {"covariance"},
    {"stats"},
    {"affine"},
    {"kernels"},
    {"_locks"},
    {"_jit", "errors", "_atomic", "resident", "delimited", "masked", "weights"},
]
LATE = {
    ("stats", "em"),  # Stats.maximize
    ("stats", "mixture"),  # types
    ("missing", "mixture"),
    ("queries", "mixture"),
    ("questions", "mixture"),
    ("prepared", "mixture"),
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("streamgmm"):
            parts = node.module.split(".")
            for alias in node.names:
                yield parts[1] if len(parts) > 1 else alias.name
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("streamgmm."))


def test_imports_point_down():
    level = {name: i for i, line in enumerate(HOUSE) for name in line}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = room(path)
        if here == "__init__":
            continue
        assert here in level, f"{here} has no place in the house"
        for there in imports(path):
            upwards = there != here and level.get(there, -1) < level[here]
            late = (here, there) in LATE or (here == "stats" and there == "covariance")
            if there in level and upwards and not late:
                wrong.append(f"{here} imports {there}")
    assert not wrong


@pytest.mark.parametrize("heavy", ["numba", "dask", "distributed", "zarr", "pyarrow", "matplotlib", "typer"])
def test_import_is_light(heavy):
    code = f"import sys, streamgmm; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
