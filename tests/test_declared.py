"""What the package imports, it declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported():
    for path in (ROOT / "streamgmm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.partition(".")[0]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_imported_for_files_and_clusters_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {plain(re.match(r"[\w.-]+", one)[0]) for one in project["dependencies"]}
    found, names = packages_distributions(), set(imported()) - set(sys.stdlib_module_names)
    assert {"google_crc32c", "cloudpickle", "fsspec"} <= names
    for name in ("google_crc32c", "cloudpickle", "fsspec", "dask", "distributed", "zarr", "numcodecs", "numba"):
        assert declared & {plain(one) for one in found[name]}, f"{name} is imported and not declared"
