"""One command line for all benchmarks.

    python -m benchmarks                  every benchmark with a sentence
    python -m benchmarks NAME --help      its options
    python -m benchmarks NAME [...]       run it

``--write PAGE`` puts the table between the markers of a page, ``--tiny`` runs in seconds, where a benchmark has them.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent


def benchmarks() -> dict[str, tuple[str, str]]:
    """{name: (module, what it measures)} of every module here that has a `main`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        runs = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        if runs and not path.stem.startswith("__"):
            module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            found[path.stem] = module, " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
    return found


def run(arguments: Sequence[str]) -> int:
    """Run the benchmark that is named first, with the other arguments; without a name, list them."""
    known = benchmarks()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("usage: python -m benchmarks NAME [--help] [options]\n")
        for name, (module, what) in sorted(known.items(), key=lambda item: item[1]):
            print(f"  {name:{width}}  {module.split('.')[1]:10}  {what}")
        return 0
    name, *others = arguments
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; python -m benchmarks lists them."
        print(f"There is no benchmark {name!r}{hint}", file=sys.stderr)
        return 2
    sys.argv = [f"python -m benchmarks {name}", *others]
    return import_module(known[name][0]).main(others) or 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
