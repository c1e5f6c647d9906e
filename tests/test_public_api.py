"""What users import keeps its names, signatures and summaries wherever the code stands.

``python -m tests.test_public_api`` writes the list again after a change that is meant.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

LIST = Path(__file__).parent / "data" / "public_api.json"
MODULES = ("", ".diagnostics", ".errors", ".report", ".sources", ".stream", ".stream.connectors")


def summary(thing):
    text = inspect.getdoc(thing) if callable(thing) or isinstance(thing, property) else None
    return (text or "").strip().partition("\n")[0]


def signature(thing):
    """Names, kinds and defaults of the parameters; types may become more exact."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in found.parameters.values()]
    text = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return text.replace("streamgmm.", "") if " at 0x" not in text else ""


def members(cls):
    """Public methods and properties that this package defines."""
    for name in sorted(vars(cls).keys() | {n for base in own(cls) for n in vars(base)}):
        if not name.startswith("_"):
            found = inspect.getattr_static(cls, name)
            found = getattr(found, "__func__", found)
            if callable(found) or isinstance(found, property):
                yield name, found


def own(cls):
    return [base for base in cls.__mro__ if base.__module__.startswith("streamgmm")]


def described():
    """{name: [signature, summary]} of everything public."""
    found = {}
    for module in MODULES:
        face = importlib.import_module(f"streamgmm{module}")
        for name in sorted(getattr(face, "__all__", [n for n in dir(face) if not n.startswith("_")])):
            thing = getattr(face, name)
            if inspect.ismodule(thing) or not getattr(thing, "__module__", "streamgmm").startswith("streamgmm"):
                continue
            full = f"streamgmm{module}.{name}"
            found[full] = [signature(thing), summary(thing)]
            if inspect.isclass(thing):
                found |= {f"{full}.{n}": [signature(m), summary(m)] for n, m in members(thing)}
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_signatures_and_summaries_are_those_of_the_list():
    before, now = json.loads(LIST.read_text()), described()
    assert len(now) > 150
    changed = {name: (before.get(name), now.get(name)) for name in before.keys() | now.keys()
               if before.get(name) != now.get(name)}  # fmt: skip
    assert not changed, "where that is meant: python -m tests.test_public_api"


if __name__ == "__main__":
    LIST.write_text(json.dumps(described(), indent=0, sort_keys=True) + "\n")
