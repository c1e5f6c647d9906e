"""Every example in a docstring runs, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import streamgmm as sg

MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(sg.__path__, "streamgmm.")
    if not name.endswith("__main__") and ".stream.connectors." not in name
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", sorted(n for n in sg.__all__ if not (n.endswith("Error") or n == "__version__")))
def test_public_names_have_an_example(name):
    assert ">>>" in (getattr(sg, name).__doc__ or ""), f"sg.{name} shows no example"


INSIDE = {"frame", "frame_stats", "restore", "stats_bytes", "totals", "trusted", "observing", "log_volume", "through"}
"""What the engine asks of a `Mixture`."""


def members():
    """(class, member) of every public class, methods and properties of this package."""
    for name in sorted(sg.__all__):
        thing = getattr(sg, name)
        if not inspect.isclass(thing) or issubclass(thing, Exception):
            continue
        for member in dir(thing):
            static = inspect.getattr_static(thing, member)
            of = getattr(static, "fget", None) or getattr(thing, member)
            if not member.startswith("_") and (getattr(of, "__module__", "") or "").startswith("streamgmm."):
                yield name, member


def test_public_methods_have_an_example():
    """In a docstring, or on the page of examples, which the tests of the documents run."""
    page = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8")
    executed = "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", page))
    missing = [
        f"{name}.{member}"
        for name, member in members()
        if member not in INSIDE
        and f".{member}" not in executed
        and ">>>" not in (getattr(getattr(sg, name), member).__doc__ or "")
    ]
    assert len(list(members())) > 80 and not missing
