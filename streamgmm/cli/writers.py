"""Rows of results to a file of the format its extension names, atomically; or to stdout."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from streamgmm.utils.atomic import atomic_folder, atomic_path
from streamgmm.utils.printable import printable

FORMATS = (".npy", ".csv", ".parquet", ".zarr")


def write_rows(out: str | None, columns: Sequence[str], parts: Iterator[NDArray[Any]]) -> int:
    """Write arrays (n,) or (n, columns) one after the other; the number of rows written.

    Parameters
    ----------
    out : path ending in one of `FORMATS`, or None for CSV on stdout
    """
    rows = 0
    with _writer(out, columns) as write:
        for part in parts:
            write(part.reshape(len(part), -1))
            rows += len(part)
    return rows


def write_columns(out: str | None, columns: Sequence[str], parts: Iterator[list[Any]]) -> int:
    """As `write_rows`, from lists of columns: arrays (n,), or texts."""
    rows = 0
    with _writer(out, columns) as write:
        for part in parts:
            write(part)
            rows += len(part[0])
    return rows


def _as_array(part: Any, out: str) -> NDArray[Any]:
    """Columns side by side, for files that hold numbers only.

    Raises
    ------
    ValueError
        Where a column holds text.
    """
    if isinstance(part, np.ndarray):
        return part
    texts = next((column for column in part if not isinstance(column, np.ndarray)), None)
    if texts is not None and part[0] is texts:
        try:
            part = [np.array(texts, np.float64), *part[1:]]
        except ValueError:
            raise ValueError(
                f"{out}: holds numbers only, and the column of --id holds text such as {texts[0]!r}. Choose .csv or "
                ".parquet."
            ) from None
    return part[0][:, None] if len(part) == 1 else np.column_stack(part)


def check_out(out: str | None, *inputs: str) -> None:
    """Refuse an output that cannot be written, or would replace what is read, before any work.

    Raises
    ------
    typer.BadParameter, FileNotFoundError
    """
    if out is None:
        return
    path = Path(out)
    if path.suffix not in FORMATS:
        raise typer.BadParameter(f"{out}: the extension must be one of {', '.join(FORMATS)}.", param_hint="--out")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {path.parent} does not exist. Make it first.")
    if path.exists() and any(_holds(read, out) for read in inputs):
        raise typer.BadParameter(f"{out} is among the data that are read; choose another name.", param_hint="--out")


def _holds(pattern: str, out: str) -> bool:
    """True if `out` is one of the files that `pattern` names, or lies in a folder of them."""
    there = os.path.realpath(out)
    for path in glob.glob(pattern.partition("::")[0], recursive=True):
        real = os.path.realpath(path)
        if there == real or there.startswith(real + os.sep):
            return True
    return False


def _writer(out: str | None, columns: Sequence[str]) -> Any:
    if out is None:
        return _csv(None, columns)
    check_out(out)
    return {".npy": _npy, ".csv": _csv, ".parquet": _parquet, ".zarr": _zarr}[Path(out).suffix](out, columns)


def _fields(column: Any) -> list[Any]:
    """A column as fields of CSV; text is quoted where it has to be."""
    return column.tolist() if isinstance(column, np.ndarray) else [_field(text) for text in column]


def _field(text: str) -> str:
    plain = not re.search(r'[",\r\n]', text) and text == text.strip() and text[:1] not in ("=", "+", "-", "@", "#")
    return text if plain or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text) else '"' + text.replace('"', '""') + '"'


def _header(columns: Sequence[str], *, escaped: bool) -> str:
    """Names as a line of CSV; those that are no plain words, or that a spreadsheet would run, are quoted."""

    def field(name: str) -> str:
        name = printable(name) if escaped else name
        plain = re.fullmatch(r"[^\s\",;=+@\-#|'][^\",;|\x00-\x1f\x7f-\x9f\u2028\u2029]*", name) and name == name.strip()
        return name if plain else '"' + name.replace('"', '""') + '"'

    return ",".join(map(field, columns))


@contextmanager
def _csv(out: str | None, columns: Sequence[str]) -> Iterator[Any]:
    with ExitStack() as stack:
        if out is None:
            file: Any = sys.stdout
        else:
            file = stack.enter_context(stack.enter_context(atomic_path(out)).open("w", encoding="utf-8"))
        file.write(_header(columns, escaped=out is None and file.isatty()) + "\n")

        def write(part: NDArray[Any]) -> None:
            rows = part.tolist() if isinstance(part, np.ndarray) else zip(*map(_fields, part), strict=True)
            file.writelines(",".join(map(str, row)) + "\n" for row in rows)

        yield write


@contextmanager
def _npy(out: str, columns: Sequence[str]) -> Iterator[Any]:
    with atomic_path(out) as path, path.open("wb+") as file:
        rows, dtype = 0, np.dtype(np.float64)

        def header() -> None:
            shape = (rows, len(columns)) if len(columns) > 1 else (rows,)
            file.seek(0)  # NumPy pads the header so that the count of rows may grow
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            )

        def write(part: NDArray[Any]) -> None:
            nonlocal rows, dtype
            part = _as_array(part, out)
            if rows == 0:
                dtype = part.dtype
                header()
            file.write(np.ascontiguousarray(part, dtype).data)
            rows += len(part)

        yield write
        header()


@contextmanager
def _parquet(out: str, columns: Sequence[str]) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError("writing Parquet needs pyarrow: pip install 'streamgmm[parquet]', or choose .csv.") from None
    with atomic_path(out) as path, ExitStack() as stack:
        writer: Any = None

        def write(part: NDArray[Any]) -> None:
            nonlocal writer
            listed = part.T if isinstance(part, np.ndarray) else part
            rows = pa.table({name: listed[j] for j, name in enumerate(columns)})
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, rows.schema, write_page_checksum=True))
            writer.write_table(rows)

        yield write
        if writer is None:
            write(np.empty((0, len(columns))))


@contextmanager
def _zarr(out: str, columns: Sequence[str]) -> Iterator[Any]:
    import zarr

    if Path(out).exists() and not any((Path(out) / name).exists() for name in ("zarr.json", ".zarray")):
        raise FileExistsError(f"{out} exists and is no Zarr array; choose another name.")
    with atomic_folder(out) as folder:
        array: Any = None

        def write(part: NDArray[Any]) -> None:
            nonlocal array
            part = _as_array(part, out)
            part = part if len(columns) > 1 else part[:, 0]
            if array is None:
                chunks = (min(max(len(part), 1), 2**20), *part.shape[1:])
                array = zarr.create_array(
                    store=str(folder), shape=(0, *part.shape[1:]), chunks=chunks, dtype=part.dtype,
                    attributes={"columns": list(columns)}, config={"write_empty_chunks": True},
                )  # fmt: skip
            array.append(part)

        yield write
        if array is None:
            write(np.empty((0, len(columns))))
