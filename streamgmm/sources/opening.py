"""What was handed over, and which file of this room reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.masked import unmasked
from streamgmm.sources.array import ArraySource
from streamgmm.sources.base import Source
from streamgmm.sources.labels import tell_left_out
from streamgmm.sources.unreadable import refuse_unreadable

_MISSING = ("error", "skip", "fill")

_SUFFIXES = {
    ".npy": "npy",
    ".zarr": "zarr",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".nc": "hdf5",
}
_MAGIC = {b"\x93NUMPY": "npy", b"PAR1": "parquet", b"ARROW1": "arrow", b"\x89HDF": "hdf5"}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, Zstandard


def open_source(
    obj: Any,
    *,
    columns: Any = None,
    weight: Any = None,
    chunk_rows: int | None = None,
    missing_chunks: str = "error",
) -> Source:
    """Open rows of numbers, wherever they are, as a `Source`.

    Parameters
    ----------
    obj : path, URL, array, table or collection
        A path to ``.npy``, ``.zarr``, ``.parquet`` (file or folder), ``.arrow``/``.feather``, ``.csv`` or
        ``file.h5::dataset`` (``store.zarr::array`` for a Zarr group); a URL of a Zarr store or Parquet file; an
        ndarray or memmap; a `zarr.Array`; a `h5py.Dataset`; a pandas, polars or pyarrow table; a dask array or
        dataframe; an xarray DataArray or Dataset. A `Source` is returned as it is.
    columns : list of names or positions, optional
        Features to read, in this order; by default all but the weights and row labels: the index that pandas or Dask
        wrote, or a first column without a name. What is left out as row labels is logged, and stands in
        ``source.left_out``.
    weight : name or position of a column, or (N,) array, optional
        Sample weights >= 0: 0 is no row, 2 is the row twice.
    chunk_rows : int, optional
        Rows per chunk, where the format leaves a choice.
    missing_chunks : {"error", "skip", "fill"}
        What a Zarr or HDF5 chunk that is not stored means: damage, no rows, or rows of the fill value.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        Where nothing is there, or what is there are not rows of numbers.
    ChunkReadError
        Where part of the data is missing or damaged.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> source = sg.open_source(np.zeros((1000, 3)), chunk_rows=250)
    >>> source.n_rows, source.n_features, source.n_chunks
    (1000, 3, 4)
    """
    source = open_quietly(obj, columns=columns, weight=weight, chunk_rows=chunk_rows, missing_chunks=missing_chunks)
    if source is not obj:
        tell_left_out(source.name, source.left_out)
    return source


def open_quietly(
    obj: Any, *, columns: Any = None, weight: Any = None, chunk_rows: int | None = None, missing_chunks: str = "error"
) -> Source:
    """As `open_source`, without a word about row labels; `Source.left_out` has them."""
    if missing_chunks not in _MISSING:
        raise ValueError(f"missing_chunks must be one of {', '.join(map(repr, _MISSING))}; got {missing_chunks!r}.")
    if isinstance(obj, Source):
        given = {"columns": columns, "weight": weight, "chunk_rows": chunk_rows}
        extra = [key for key, value in given.items() if value is not None]
        if extra:
            raise ValueError(f"{extra[0]}= belongs where the source is opened: open_source(path, {extra[0]}=...).")
        return obj
    choices = {"columns": columns, "weight": weight, "chunk_rows": chunk_rows}
    if isinstance(obj, (str, os.PathLike)):
        return _open_path(os.fspath(obj), choices, missing_chunks)
    return _open_object(obj, choices, missing_chunks)


def _open_path(path: str, choices: dict[str, Any], missing: str) -> Source:
    remote = "://" in path.replace("file://", "", 1)
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    file, _, inner = path.partition("::") if not remote else (path, "", "")
    if not remote and not os.path.exists(file):
        raise FileNotFoundError(f"{file}: there is no such file or folder. Check the path{near(file)}")
    kind = _kind_of(file, remote)
    if remote and kind not in ("zarr", "parquet", "arrow"):
        raise ValueError(
            f"{path}: of files behind a URL, Zarr, Parquet and Arrow are read; copy this {kind} file first."
        )
    if inner and kind not in ("hdf5", "zarr"):
        raise ValueError(f"{path}: '::' chooses an array inside an HDF5 file or a Zarr group; this is {kind}.")
    if remote:
        return _open_kind(file, inner, kind, choices, missing)
    # Workers have folders of their own: they are sent where the file is; messages name it as it was given.
    absolute = os.path.abspath(file)
    source = _open_kind(absolute, inner, kind, choices, missing)
    source.name = source.name.replace(absolute, file.rstrip("/") or file, 1)
    return source


def _open_kind(file: str, inner: str, kind: str, choices: dict[str, Any], missing: str) -> Source:
    if kind == "npy":
        from streamgmm.sources.npy import FileSource, npy_layout

        return FileSource(npy_layout(file), name=file, **choices)
    if kind == "zarr":
        from streamgmm.sources.zarr import open_zarr

        return open_zarr(file, path=inner, missing_chunks=missing, **choices)
    if kind == "hdf5":
        from streamgmm.sources.hdf5 import open_hdf5

        return open_hdf5(file, inner, missing_chunks=missing, **choices)
    if kind == "csv":
        from streamgmm.sources.csv import CsvSource

        return CsvSource(file, **choices)
    from streamgmm.sources.parquet import ParquetSource

    return ParquetSource(file, kind, **choices)


def _kind_of(file: str, remote: bool) -> str:
    kind = _SUFFIXES.get(Path(file.rstrip("/")).suffix.lower())
    if remote:
        return kind or "zarr"
    if os.path.isdir(file):
        names = set(os.listdir(file))
        if names & {"zarr.json", ".zarray", ".zgroup"}:
            return "zarr"
        inside = {_SUFFIXES.get(Path(name).suffix.lower()) for _, _, files in os.walk(file) for name in files} - {None}
        if len(inside) == 1 and inside <= {"parquet", "arrow"}:
            return str(inside.pop())
        raise ValueError(
            f"{file}: expected a Zarr store or a folder of Parquet or Arrow files; found "
            f"{'nothing of the kind' if not inside else ' and '.join(sorted(map(str, inside)))}."
        )
    with open(file, "rb") as stream:
        head = stream.read(8)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"CDF"):
        raise ValueError(
            f"{file}: this is classic NetCDF; of NetCDF only version 4 is read. Open it with xarray.open_dataset and "
            "pass the dataset, or write it as NetCDF 4."
        )
    if head.startswith(_COMPRESSED):
        raise ValueError(
            f"{file}: a compressed file can only be read from its beginning, not in parts. Unpack it, or write it as "
            "Parquet, which compresses and can."
        )
    if kind is None:
        raise ValueError(
            f"{file}: the format is not known; expected one of {', '.join(sorted(_SUFFIXES))}, or a folder. "
            "Write it as one of these, or open it in Python and pass the array or table."
        )
    return kind


def near(file: str) -> str:
    """The end of a sentence: what is called nearly like a path that is not there."""
    import difflib

    folder = os.path.dirname(file) or "."
    if not os.path.isdir(folder):
        return f"; the folder {folder} is not there either."
    close = difflib.get_close_matches(os.path.basename(file), os.listdir(folder), n=1)
    return f"; did you mean {os.path.join(os.path.dirname(file), close[0])}?" if close else "."


def _open_object(obj: Any, choices: dict[str, Any], missing: str) -> Source:
    refuse_unreadable(obj)
    module = type(obj).__module__.partition(".")[0]
    if module == "zarr":
        from streamgmm.sources.zarr import open_zarr

        return open_zarr(obj, missing_chunks=missing, **choices)
    if module == "h5py":
        from streamgmm.sources.hdf5 import open_hdf5

        return open_hdf5(obj, missing_chunks=missing, **choices)
    if module in ("dask", "dask_expr"):
        from streamgmm.sources.dask import open_dask

        return open_dask(obj, **choices)
    if module == "xarray":
        from streamgmm.sources.xarray import open_xarray

        return open_xarray(obj, **choices)
    if module in ("pandas", "polars", "pyarrow"):
        from streamgmm.sources.tables import TableSource, is_frame

        if not is_frame(obj):
            raise TypeError(f"Expected a table; got a {module} {type(obj).__name__}. Make it a frame first.")

        return TableSource(obj, **choices)
    if module == "scipy" or hasattr(obj, "tocsr"):
        raise TypeError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to a dense "
            "numpy array."
        )
    return _open_array(obj, choices)


def _open_array(obj: Any, choices: dict[str, Any]) -> Source:
    from streamgmm.sources.npy import FileSource, check_two_dimensional, memmap_layout

    try:
        array = np.asarray(unmasked(obj))
    except ValueError as error:
        raise ValueError(f"Expected a table of numbers: rows of the same length; {error}.") from error
    check_two_dimensional(array.shape, type(obj).__name__)
    layout = memmap_layout(array)
    if layout is not None:
        return FileSource(layout, name=layout.path, **choices)
    return ArraySource(array, choices["weight"], columns=choices["columns"], chunk_rows=choices["chunk_rows"])
