"""Every example in a docstring runs, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

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
