"""`streamgmm data`: look at, verify and convert data."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from streamgmm.cli.preprocessing import leaving_out_late_text, open_rows
from streamgmm.cli.terminal import (
    Data,
    Exclude,
    Header,
    Json,
    as_option,
    emit,
    facts,
    message,
    names_of,
    one_or_more,
    stderr_console,
    table,
)  # fmt: skip
from streamgmm.sources.base import Source
from streamgmm.utils.printable import short_name

if TYPE_CHECKING:
    from streamgmm.sources.convert import Manifest

Told = Callable[..., None]
"""Called with the chunks and rows done so far, and the chunks in all where they are known."""
app = typer.Typer(help="Look at, verify and convert data.", no_args_is_help=True)
Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B,...", help="Columns to use of a table.")]
Weight = Annotated[str | None, typer.Option("--weight", metavar="NAME", help="Column of sample weights.")]
NEXT = "next: streamgmm select {0}{1} --report   or   streamgmm fit {0}{2} -k {3} --out out/model"
BY_FEATURE = ("missing", "min", "max", "mean", "deviation")
MOST_FEATURES = 200
"""Features of a table that are listed."""
REG_COVAR = 1e-6
"""Default of the estimators."""
LONG_TAIL = 1.5
"""Deviation over mean beyond which positive values have a long tail: that of a log-normal over two decades."""
FEWEST_OF_CODES = 40
"""Rows in which two values are a code."""
FEW = 150
"""Rows below which fewer numbers of components are proposed than usual: one for each ten."""


def _open(data: list[str], columns: str | None, weight: str | None, exclude: str | None, header: bool | None) -> Any:
    chosen = {"columns": names_of(columns), "exclude": names_of(exclude)}
    return open_rows(one_or_more(data), weight=weight, header=header, **chosen)


@leaving_out_late_text
def _read_all(
    data: list[str], columns: str | None, weight: str | None, exclude: str | None, header: bool | None,
    earlier: Manifest | None, progress: Told,
) -> tuple[Manifest, str | None, list[str]]:  # fmt: skip
    """Open and check: the manifest, a sentence on checksums where there are none, and identifiers."""
    from streamgmm.sources.convert import check as checked
    from streamgmm.sources.convert import without_checksums
    from streamgmm.sources.features import identifiers

    source = _open(data, columns, weight, exclude, header)
    found = checked(source, against=earlier, progress=lambda done, rows: progress(done, rows, source.n_chunks))
    return found, without_checksums(source), identifiers(source)


def _may_crash(data: list[str]) -> bool:
    """True if the library behind the data is one that damaged files bring down."""
    files = [word.partition("::")[0] for word in data]
    return any(file.endswith((".h5", ".hdf5", ".hdf", ".nc", ".h5ad", ".mat")) or _is_hdf5(file) for file in files)


def _is_hdf5(file: str) -> bool:
    try:
        with open(file, "rb") as stream:
            return stream.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False


def _in_another_process(data: list[str], *given: Any) -> tuple[Manifest, str | None, list[str]]:
    """As `_read_all`; a crash of the library becomes a problem of the file."""
    from streamgmm.sources.convert import Manifest
    from streamgmm.utils.isolated import CrashedError, isolated

    *options, progress = given
    try:
        return isolated(_read_all, data, *options, progress=progress)
    except CrashedError as error:
        problem = (
            f"{', '.join(data)}: the library that reads it crashed ({error.how}), so the file is damaged, or memory "
            "ran out. Restore or rewrite it; a fit would end without a message."
        )
        return Manifest({}, 0, None, problems=[problem]), None, []


@contextmanager
def _counting(source: Source | None = None) -> Iterator[Told]:
    """Live progress of one pass; quiet where stderr is no terminal."""
    console = stderr_console()
    columns = (BarColumn(bar_width=20), TextColumn("{task.completed}/{task.total} chunks, {task.fields[rows]} rows"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        known = None if source is None else source.n_chunks
        task = bar.add_task("", total=known, rows="0")
        yield lambda chunks, rows, total=known: bar.update(task, completed=chunks, total=total, rows=f"{rows:,}")


@app.command(epilog="Example:  streamgmm data describe table.csv")
def describe(
    data: Data,
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = None,
    weight: Weight = None,
    json: Json = False,
) -> None:
    """Say what is there, without reading the rows: shape, type, chunks, columns."""
    from streamgmm.sources.convert import describe as described

    document = described(_open(data, columns, weight, exclude, header))
    if json:
        emit(document)
        return
    names = document["feature_names"] or ()
    listed = ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
    print(facts((k.replace("_", " "), v) for k, v in {**document, "feature_names": listed or None}.items()))
    words = shlex.join(data)
    message(f"next: streamgmm data check {words}   or   streamgmm fit {words} -k 5 --out out/model")


@app.command(epilog="Example:  streamgmm data check table.csv --manifest table.json")
def check(
    data: Data,
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = None,
    weight: Weight = None,
    manifest: Annotated[str | None, typer.Option("--manifest", metavar="FILE", help="Write what was found.")] = None,
    against: Annotated[str | None, typer.Option("--against", metavar="FILE", help="An earlier manifest.")] = None,
    json: Json = False,
) -> None:
    """Read everything: rows, ranges, NaN, chunks that cannot be read or have changed.

    Exit code 1 where a chunk is damaged or differs from the manifest.
    """
    from streamgmm.sources.convert import load_manifest

    earlier = None if against is None else load_manifest(against)
    with _counting() as progress:
        given = (data, columns, weight, exclude, header, earlier)
        found, checksums, ids = (_in_another_process if _may_crash(data) else _read_all)(*given, progress)
    if manifest is not None:
        found.save(manifest)
        message(f"written: {manifest}")
    names = found.feature_names or [f"x{j}" for j in range(found.n_features)]
    document = {
        "rows": found.rows,
        "weight": found.weight,
        "nan": found.nan,
        "infinite": found.infinite,
        "chunks": len(found.chunks),
        "checksums": checksums is None,
        "problems": found.problems,
        **{name: dict(zip(names, getattr(found, name), strict=True)) for name in BY_FEATURE if getattr(found, name)},
    }
    if json:
        emit(document)
    else:
        print(facts((k, v) for k, v in document.items() if k != "problems" and k not in BY_FEATURE))
        print()
        print(_by_feature(names, found))
    for problem in found.problems:
        message(f"problem: {problem}")
    if checksums is not None:
        message(f"note: {checksums}")
    if found.problems:
        raise typer.Exit(1)
    if found.infinite:
        message(f"{found.infinite:,} values are infinite: drop or clip those rows before a fit")
        return
    options = _chosen(found, ids, columns, exclude)
    options += {None: "", True: " --header", False: " --no-header"}[header]
    options += "" if weight is None else f" --set {shlex.quote(f'weight={weight}')}"
    options += _scaling(found, names)
    _tell_long_tails(found, names)
    if found.nan:
        message(
            f"{found.nan:,} values are missing: add --set missing=marginalize, and every row is used for what it has"
        )
        options += " --set missing=marginalize"
    if found.rows < 2:
        message(
            f"nothing to fit: {found.rows} row(s), where a mixture needs two, and ten for each component to be of use"
        )
        return
    most = max(1, found.rows // 10)
    choice = options if found.rows >= FEW else f"{options} --k-max {most}"
    message(NEXT.format(shlex.join(data), choice, options, min(5, most)))


def _chosen(found: Manifest, ids: list[str], columns: str | None, exclude: str | None) -> str:
    """The options that choose columns: those that were given, without columns that say nothing of the rows."""
    names = [] if found.feature_names is None else [str(name) for name in found.feature_names]
    low, high, mean, deviation = (np.array(getattr(found, name), float) for name in ("min", "max", "mean", "deviation"))
    same = [name for name, width in zip(names, high - low, strict=True) if width == 0] if names else []
    kinds = [("the same in every row", same)]
    if columns is None and names:
        # Of two values alone the variance is as large as the mean allows.
        with np.errstate(invalid="ignore"):
            two = np.isclose(deviation**2, (mean - low) * (high - mean), rtol=1e-9, atol=0.0) & (high > low)
        codes = [name for name, is_code in zip(names, two, strict=True) if is_code and found.rows >= FEWEST_OF_CODES]
        kinds += [("two values only, as codes have", codes), ("row numbers or identifiers", ids)]
    left = list(dict.fromkeys(name for _, which in kinds for name in which))
    if left and len(left) < len(names):
        for why, which in kinds:
            if which:
                message(f"{why}, so left out below: {', '.join(which)}")
        if columns is not None:
            columns = as_option(name for name in names if name not in left)
        else:
            exclude = as_option([*(names_of(exclude) or ()), *left])
    options = "" if columns is None else f" --columns {shlex.quote(columns)}"
    return options + ("" if exclude is None else f" --exclude {shlex.quote(exclude)}")


def _scaling(found: Manifest, names: list[str]) -> str:
    """Say where features differ much in scale; the option that helps, or nothing."""
    from streamgmm.estimators.fit_report import words_of_drowned

    asked = ""
    deviation = np.array(found.deviation, float)
    present = deviation[deviation > 0]
    if len(present) > 1 and present.max() > 30 * present.min():
        factor = present.max() / present.min()
        message(f"standard deviations of the features differ by a factor of {factor:.2g}: add --scale")
        asked = " --scale"
    variance = np.nan_to_num(deviation**2)
    words = words_of_drowned(np.zeros(len(names)), variance, REG_COVAR, names)
    if words:
        message(f"{words[0]} {words[1]}")
        asked = " --scale"
    return asked


def _tell_long_tails(found: Manifest, names: list[str]) -> None:
    """Say which features `diagnose` would have in logarithms, as far as moments tell."""
    from streamgmm.estimators.fit_report import words_of_long_tails

    low, high, mean, deviation = (np.array(getattr(found, name), float) for name in ("min", "max", "mean", "deviation"))
    with np.errstate(invalid="ignore"):
        spread_out = deviation**2 < 0.5 * (mean - low) * (high - mean)  # a few large values are no tail
        long = (low >= 0) & (deviation > LONG_TAIL * mean) & (high > 15 * mean) & spread_out
    if long.any():
        words = words_of_long_tails([str(names[j]) for j in np.flatnonzero(long)])
        message(f"{words[0]} {words[1]}")


def _by_feature(names: list[str], found: Manifest) -> str:
    """One line for each feature; of very many the first."""
    columns: list[Any] = [[short_name(str(name)) for name in names]] + [
        getattr(found, name) for name in BY_FEATURE if getattr(found, name)
    ]
    head = ["feature", *(name for name in BY_FEATURE if getattr(found, name))]
    rows = list(zip(*columns, strict=True))
    more = len(rows) - MOST_FEATURES
    return table(head, rows[:MOST_FEATURES]) + (f"\n... and {more:,} more; --json has all" if more > 0 else "")


@leaving_out_late_text
def _converted(
    data: list[str], columns: str | None, weight: str | None, exclude: str | None, header: bool | None, out: str,
    **how: Any,
) -> Any:  # fmt: skip
    """Open and convert, with live progress."""
    from streamgmm.sources.convert import convert as converted

    source = _open(data, columns, weight, exclude, header)
    with _counting(source) as progress:
        return converted(source, out, progress=progress, **how)


@app.command(epilog="Example:  streamgmm data convert table.csv table.zarr")
def convert(
    data: Data,
    out: Annotated[str, typer.Argument(metavar="OUT.zarr", help="The new store.", show_default=False)],
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = None,
    weight: Weight = None,
    chunk_rows: Annotated[int | None, typer.Option("--chunk-rows", help="Rows of a stored chunk.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32 or float64.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it is a Zarr array.")] = False,
    json: Json = False,
) -> None:
    """Copy any source to a checksummed Zarr array: whole or not at all."""
    from dataclasses import asdict

    if Path(out.rstrip("/")).suffix not in ("", ".zarr"):
        raise typer.BadParameter(f"OUT {out}: convert writes a Zarr array. Choose a name that ends in .zarr.")
    how = {"chunk_rows": chunk_rows, "dtype": dtype, "overwrite": overwrite}
    done = _converted(data, columns, weight, exclude, header, out, **how)
    if json:
        emit(asdict(done))
    else:
        print(facts(asdict(done).items()))
        message(NEXT.format(shlex.quote(out), "", "", 5))
