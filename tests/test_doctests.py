"""Every example in a docstring runs, and every public function, class and method has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import streamgmm as sg
import streamgmm.stream
from streamgmm.diagnostics import Finding
from streamgmm.diagnostics.cluster_scores import ClusterScores
from streamgmm.diagnostics.explain import Description
from streamgmm.mixture.divergence import Divergence

MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(sg.__path__, "streamgmm.")
    if not name.endswith(("__main__", ".cupy_backend")) and ".stream.connectors." not in name
)
"""Without those that need a package which is not installed everywhere."""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


RESULTS = (Finding, ClusterScores, Description, Divergence)
"""What public functions give back, of classes that have no public name."""


def public():
    """(name, thing) of every public function, class, method and property; inherited ones too, where they are ours."""
    homes = [(f"sg.{name}", getattr(sg, name)) for name in sg.__all__ if name != "__version__"]
    homes += [(f"sg.stream.{name}", getattr(sg.stream, name)) for name in sg.stream.__all__]
    homes += [(result.__name__, result) for result in RESULTS]
    for name, thing in homes:
        yield name, thing
        for member in dir(thing) if inspect.isclass(thing) else ():
            found = inspect.getattr_static(thing, member)
            maker = getattr(found, "fget", None) or getattr(thing, member)
            if not member.startswith("_") and (getattr(maker, "__module__", None) or "").startswith("streamgmm."):
                yield f"{name}.{member}", found if isinstance(found, property) else maker


def test_everything_public_has_an_example_in_its_own_docstring():
    seen = dict(public())
    missing = [
        name
        for name, thing in seen.items()
        if (not isinstance(thing, property) and ">>>" not in (thing.__doc__ or "")) or "+SKIP" in (thing.__doc__ or "")
    ]  # a property is a noun: its sentence is enough
    assert len(seen) > 150 and not missing
