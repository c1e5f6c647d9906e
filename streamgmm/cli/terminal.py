"""What the commands print, and where."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from streamgmm.persistence import jsonable

NOT_CONVERGED = 3

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Out = Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help=".npy, .csv, .parquet or .zarr.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder written by fit --out, or a model file.", show_default=False)
]
Data = Annotated[str, typer.Argument(metavar="DATA", help="File, folder or URL of rows.", show_default=False)]


def message(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def emit(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(jsonable(document), allow_nan=False, indent=2))


def stderr_console() -> Console:
    return Console(stderr=True)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(str(line[i])) for line in [list(head), *cells]) for i in range(len(head))]
    lines = [head, *cells]
    return "\n".join("  ".join(str(c).rjust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one a line, aligned."""
    pairs = [(name, _cell(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)


def components(weights: Any, means: Any, names: Sequence[str] | None) -> str:
    """Weights (K,) and the first of the means (K, D) as a table, the heaviest first."""
    names = names or [f"x{j}" for j in range(means.shape[1])]
    shown = min(means.shape[1], 4)
    order = sorted(range(len(means)), key=lambda k: -weights[k])
    head = ["component", "weight", *(f"mean {name}" for name in names[:shown])]
    body = [[k, f"{weights[k]:.4f}", *(float(v) for v in means[k, :shown])] for k in order[:12]]
    more = f"\n... and {len(means) - 12} lighter ones" if len(means) > 12 else ""
    return table(head, body) + more


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def n_rows(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"
