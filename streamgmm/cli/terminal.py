"""Terminal output of the commands, and options that they share."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from streamgmm.cli import completion
from streamgmm.utils.jsonable import jsonable
from streamgmm.utils.printable import printable, short_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_CONVERGED = 3

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Out = Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help=".npy, .csv, .parquet or .zarr.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of fit --out, or a file.", show_default=False)]
Data = Annotated[
    list[str],
    typer.Argument(metavar="DATA...", help="Files, folders, patterns, URLs.", show_default=False),
]
Id = Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column that names the rows.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1.", show_default=False, autocompletion=completion.devices
    ),
]
Exclude = Annotated[str | None, typer.Option("--exclude", metavar="A,B,...", help="Columns to leave out.")]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="CSV: names in the first line.", show_default=False),
]


def one_or_more(data: list[str]) -> str | list[str]:
    """Arguments of `open_source` from the words of a command."""
    return data[0] if len(data) == 1 else data


def names_of(text: str | None) -> list[str] | None:
    """The names in A,B,...; a name that holds a comma stands between double quotes."""
    return None if text is None else [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def as_option(names: Iterable[str]) -> str:
    """Names as `names_of` reads them."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(names)
    return out.getvalue()


def message(text: str) -> None:
    """A line for the person at the terminal."""
    print(printable(text), file=sys.stderr, flush=True)


def emit(document: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(jsonable(document), allow_nan=False, indent=2))


def stderr_console() -> Console:
    return Console(stderr=True)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    head = [printable(name) for name in head]
    widths = [max(len(str(line[i])) for line in [list(head), *cells]) for i in range(len(head))]
    lines = [head, *cells]
    return "\n".join("  ".join(str(c).rjust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one a line, aligned."""
    pairs = [(printable(name), _cell(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)


def components(weights: NDArray[np.float64], means: NDArray[np.float64], names: Sequence[str] | None) -> str:
    """Weights (K,) and the first of the means (K, D) as a table, the heaviest first."""
    names = names or [f"x{j}" for j in range(means.shape[1])]
    shown = min(means.shape[1], 4)
    order = sorted(range(len(means)), key=lambda k: -weights[k])
    head = ["component", "weight", *(f"mean {short_name(name, 24)}" for name in names[:shown])]
    body = [[k, f"{weights[k]:.4f}", *(float(v) for v in means[k, :shown])] for k in order[:12]]
    more = f"\n... and {len(means) - 12} lighter ones" if len(means) > 12 else ""
    return table(head, body) + more


def _cell(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))


def n_rows(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"
