"""Choose the reader for a path, a URL or an object."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import numpy as np

from streamgmm.errors import ChunkReadError
from streamgmm.kernels.cuda.base import DeviceArray
from streamgmm.sources.base import Readable, Source
from streamgmm.sources.columns import ColumnChoice, Exclude, WeightChoice
from streamgmm.sources.files import MAGIC, are_paths, files_in, files_like, open_files
from streamgmm.sources.formats.array import ArraySource
from streamgmm.sources.formats.device import DeviceArraySource, lies_on_card
from streamgmm.sources.labels import tell_of
from streamgmm.sources.partitions import folder_of, is_partition
from streamgmm.sources.retry import patiently
from streamgmm.sources.unreadable import refuse_unreadable
from streamgmm.utils.masked import unmasked

_MISSING = ("error", "skip", "fill")

_SUFFIXES = {
    ".npy": "npy",
    ".npz": "npz",
    ".zarr": "zarr",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".nc": "hdf5",
    ".mat": "hdf5",
}
_TEXTS = (".asc", ".dat", ".data", ".prn", ".psv", ".tab")
"""Suffixes of text tables that are read where they are named, and not looked for in folders."""
_ZIP = b"PK\x03\x04"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, Zstandard


def open_source(
    obj: Readable,
    *,
    columns: ColumnChoice = None,
    weight: WeightChoice = None,
    chunk_rows: int | None = None,
    missing_chunks: str = "error",
    exclude: ColumnChoice = None,
    header: bool | None = None,
) -> Source:
    """Open rows of numbers, wherever they are, as a `Source`.

    Parameters
    ----------
    obj : path, URL, array, table or collection
        A path to ``.npy``, ``.npz``, ``.zarr`` (also zipped), ``.parquet`` (file or folder), ``.arrow``/``.feather``
        (files and streams), ``.csv``, ``.h5``, ``.nc`` or ``.mat`` (version 7.3). Where a file or store holds several
        tables ``path::group/array`` names one; columns that are stored apart are read side by side. A URL of a Zarr
        store or Parquet file; an ndarray or memmap; a `zarr.Array` or `zarr.Group`; a `h5py.Dataset` or `h5py.Group`;
        a pandas, polars or pyarrow table; a dask array or dataframe; an xarray DataArray or Dataset. A `Source` is
        returned as it is. Several files are read one after the other: a list of paths in its order, a pattern
        (``"data/*.csv"``) or a folder in the order of sorted paths; their columns are matched by name. Folders called
        ``column=value`` add that column.
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
    exclude : list of names or positions, optional
        Columns to leave out, where `columns` does not say what to read.
    header : bool, optional
        Text tables: whether the first line names the columns. None looks at it, and logs a notice where it could be
        taken for either.

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
    source = open_quietly(
        obj, columns=columns, exclude=exclude, weight=weight, chunk_rows=chunk_rows, missing_chunks=missing_chunks,
        header=header,
    )  # fmt: skip
    if source is not obj:
        tell_of(source)
    return source


def open_quietly(
    obj: Readable,
    *,
    columns: ColumnChoice = None,
    exclude: ColumnChoice = None,
    weight: WeightChoice = None,
    chunk_rows: int | None = None,
    missing_chunks: str = "error",
    header: bool | None = None,
) -> Source:
    """As `open_source`, but logs nothing of row labels and headers: see `Source.left_out` and `Source.notice`."""
    if missing_chunks not in _MISSING:
        raise ValueError(f"missing_chunks must be one of {', '.join(map(repr, _MISSING))}; got {missing_chunks!r}.")
    if not (header is None or isinstance(header, (bool, np.bool_))):  # 0 is the first line for pandas, and not False
        raise ValueError(
            f"header must be True, False or None (the first line is looked at); got {header!r}. True: the first line "
            "names the columns."
        )
    if isinstance(obj, Source):
        given: dict[str, object] = {
            "columns": columns, "exclude": exclude, "weight": weight, "chunk_rows": chunk_rows, "header": header
        }  # fmt: skip
        extra = [key for key, value in given.items() if value is not None]
        if extra:
            raise ValueError(f"{extra[0]}= belongs where the source is opened: open_source(path, {extra[0]}=...).")
        return obj
    if exclude is not None:
        if columns is not None:
            raise ValueError("columns= says what is read, exclude= what is not: give one of the two.")
        columns = exclude if isinstance(exclude, Exclude) else Exclude.from_columns(exclude)
    elif isinstance(columns, (str, int, np.integer)):
        columns = [columns]
    elif isinstance(columns, (set, frozenset, slice)):
        raise ValueError(f"columns= must be a list of names or positions, in order; got {columns!r}.")
    choices: dict[str, Any] = {"columns": columns, "weight": weight, "chunk_rows": chunk_rows}
    how = _How(missing_chunks, header)
    if are_paths(obj):
        paths = [os.fspath(path) for path in obj]
        if len(paths) == 1:
            return patiently(lambda: _open_path(paths[0], choices, how))
        shown = ", ".join(paths[:2]) + (f", ... ({len(paths)} files)" if len(paths) > 2 else "")
        return patiently(lambda: _open_several(shown, paths, choices, how))
    if isinstance(obj, (str, os.PathLike)):
        return patiently(lambda: _open_path(os.fspath(obj), choices, how))
    return _open_object(obj, choices, missing_chunks)


@dataclass(frozen=True, slots=True)
class _How:
    """Options that concern some formats only."""

    missing: str
    header: bool | None


def _open_several(name: str, paths: list[str], choices: dict[str, Any], how: _How, root: str | None = None) -> Source:
    return open_files(name, paths, lambda path, some: _open_path(path, some, how), choices, root)


def _open_path(path: str, choices: dict[str, Any], how: _How) -> Source:
    path = _local(path)
    remote = "://" in path
    file, inner = (path, "") if remote else _split(path)
    if not remote and not os.path.exists(file):
        if set(file) & set("*?["):
            paths = [f"{found}::{inner}" if inner else found for found in files_like(file)]
            return _open_several(path, paths, choices, how, folder_of(file))
        raise FileNotFoundError(f"{file}: there is no such file or folder. Check the path{near(file)}")
    kind = _kind_of(file, remote)
    if remote and kind not in ("zarr", "parquet", "arrow"):
        raise ValueError(
            f"{path}: of files behind a URL, Zarr, Parquet and Arrow are read; copy this {kind} file first."
        )
    if inner and kind not in ("hdf5", "zarr", "npz"):
        raise ValueError(f"{path}: '::' chooses an array in an HDF5, Zarr or npz file; this is {kind}.")
    if remote:
        return _open_kind(file, inner, kind, choices, how)
    if kind == "files":
        return _open_several(file, [found for found, _ in files_in(file, _SUFFIXES)], choices, how, file)
    # Workers have folders of their own: they are sent where the file is; messages name it as it was given.
    absolute = os.path.abspath(file)
    source = _open_kind(absolute, inner, kind, choices, how)
    source.name = source.name.replace(absolute, file.rstrip("/") or file, 1)
    return source


def _local(path: str) -> str:
    """The path that a file URL or a leading ~ means; anything else as it is."""
    if path.startswith("file://"):
        rest = path.removeprefix("file://").removeprefix("localhost")
        decoded = unquote(rest)
        return rest if os.path.exists(rest) and not os.path.exists(decoded) else decoded
    return os.path.expanduser(path) if path.startswith("~") and not os.path.exists(path) else path


def _split(path: str) -> tuple[str, str]:
    """File and what "::" chooses in it; a name may hold "::" itself."""
    file, inner = path, ""
    while not os.path.exists(file) and "::" in file:
        file, _, rest = file.rpartition("::")
        inner = f"{rest}::{inner}" if inner else rest
    if os.path.exists(file):
        return file, inner
    file, _, inner = path.partition("::")
    return file, inner


def _open_kind(file: str, inner: str, kind: str, choices: dict[str, Any], how: _How) -> Source:
    missing = how.missing
    if kind == "npy":
        from streamgmm.sources.formats.npy import FileSource, npy_layout

        return FileSource(npy_layout(file), name=file, **choices)
    if kind == "zarr":
        from streamgmm.sources.formats.zarr import open_zarr

        return open_zarr(file, path=inner, missing_chunks=missing, **choices)
    if kind == "hdf5":
        from streamgmm.sources.formats.hdf5 import open_hdf5

        return open_hdf5(file, inner, missing_chunks=missing, **choices)
    if kind == "npz":
        from streamgmm.sources.formats.npz import open_npz

        return open_npz(file, inner, **choices)
    if kind == "csv":
        from streamgmm.sources.formats.csv import CsvSource

        return CsvSource(file, header=how.header, **choices)
    from streamgmm.sources.formats.parquet import ParquetSource

    return ParquetSource(file, kind, **choices)


def _kind_of(file: str, remote: bool) -> str:
    suffix = Path(file.rstrip("/")).suffix.lower()
    kind = "csv" if suffix in _TEXTS else _SUFFIXES.get(suffix)
    if remote:
        return kind or "zarr"
    if os.path.isdir(file):
        names = set(os.listdir(file))
        if names & {"zarr.json", ".zarray", ".zgroup"}:
            return "zarr"
        found = files_in(file, _SUFFIXES)
        inside = {kind for _, kind in found}
        if not inside:
            raise ValueError(
                f"{file}: expected a Zarr store or a folder of files, {', '.join(sorted(_SUFFIXES))}; found nothing of "
                "the kind."
            )
        parted = any(is_partition(part) for path, _ in found for part in Path(path).relative_to(file).parts[:-1])
        return inside.pop() if len(inside) == 1 and inside <= {"parquet", "arrow"} and not parted else "files"
    if not os.path.isfile(file):
        raise ValueError(
            f"{file}: a pipe or a device can be read once, and from its beginning; a fit needs several passes. Write "
            "it to a file first, or learn from it as a stream: streamgmm stream."
        )
    with open(file, "rb") as stream:
        head = stream.read(20)
        if head.startswith(_ZIP):
            return _kind_of_zip(file)
        if _is_behind_a_block(stream):
            return "hdf5"
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"MATLAB"):
        raise ValueError(
            f"{file}: this is a MATLAB file of before version 7.3, which cannot be read in parts. Save it with "
            "save(..., '-v7.3'), or pass scipy.io.loadmat(path)['X']."
        )
    if head.startswith(b"FEA1"):
        raise ValueError(
            f"{file}: this is version 1 of Feather; version 2 is read, which is Arrow. Write it again: "
            "pyarrow.feather.write_feather(pyarrow.feather.read_table(path), path)."
        )
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
            f"{file}: the format is not known; expected one of {', '.join(sorted([*_SUFFIXES, *_TEXTS]))}, or a "
            "folder. Rename a text table to .csv; write it as one of these, or open it in Python and pass the array or "
            "table."
        )
    return kind


def _is_behind_a_block(stream: BinaryIO) -> bool:
    """True for HDF5 content behind a block of the user's, at byte 512 or twice as far and so on."""
    at, size = 512, os.fstat(stream.fileno()).st_size
    while at < min(size, 2**16):
        stream.seek(at)
        if stream.read(8) == b"\x89HDF\r\n\x1a\n":
            return True
        at *= 2
    return False


def _kind_of_zip(file: str) -> str:
    """Contents of a zip file: a Zarr store or arrays of NumPy."""
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(file) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except BadZipFile as error:
        raise ChunkReadError(file, 0, f"the zip file is cut short or damaged ({error}). Restore it.") from error
    if any(name in ("zarr.json", ".zarray", ".zgroup") for name in names):
        return "zarr"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise ValueError(
        f"{file}: of zip files, Zarr stores and .npz are read; this one holds {', '.join(names[:3]) or 'nothing'}. "
        "Unpack it, or save a spreadsheet as CSV."
    )


def near(file: str) -> str:
    """The end of a sentence: what is called nearly like a path that is not there."""
    import difflib

    folder = os.path.dirname(file) or "."
    if not os.path.isdir(folder):
        return f"; the folder {folder} is not there either."
    close = difflib.get_close_matches(os.path.basename(file), os.listdir(folder), n=1)
    return f"; did you mean {os.path.join(os.path.dirname(file), close[0])}?" if close else "."


def _open_object(obj: object, choices: dict[str, Any], missing: str) -> Source:
    if lies_on_card(obj):
        return DeviceArraySource(
            cast(DeviceArray, obj), choices["weight"], columns=choices["columns"], chunk_rows=choices["chunk_rows"]
        )  # fmt: skip
    refuse_unreadable(obj)
    module = type(obj).__module__.partition(".")[0]
    if module == "zarr":
        from streamgmm.sources.formats.zarr import open_zarr

        return open_zarr(obj, missing_chunks=missing, **choices)
    if module == "h5py":
        from streamgmm.sources.formats.hdf5 import open_hdf5

        return open_hdf5(obj, missing_chunks=missing, **choices)
    if module in ("dask", "dask_expr"):
        from streamgmm.sources.formats.dask import open_dask

        return open_dask(obj, **choices)
    if module == "xarray":
        from streamgmm.sources.formats.xarray import open_xarray

        return open_xarray(obj, **choices)
    if module in ("pandas", "polars", "pyarrow"):
        from streamgmm.sources.formats.tables import TableSource, is_frame

        if not is_frame(obj):
            raise TypeError(f"Expected a table; got a {module} {type(obj).__name__}. Make it a frame first.")

        return TableSource(obj, **choices)
    if module == "scipy" or hasattr(obj, "tocsr"):
        raise TypeError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to a dense "
            "numpy array."
        )
    return _open_array(obj, choices)


def _open_array(obj: object, choices: dict[str, Any]) -> Source:
    from streamgmm.sources.formats.npy import FileSource, check_two_dimensional, memmap_layout

    try:
        array = np.asarray(unmasked(obj))
    except ValueError as error:
        raise ValueError(f"Expected a table of numbers: rows of the same length; {error}.") from error
    check_two_dimensional(array.shape, type(obj).__name__)
    layout = memmap_layout(array)
    if layout is not None:
        return FileSource(layout, name=layout.path, **choices)
    return ArraySource(array, choices["weight"], columns=choices["columns"], chunk_rows=choices["chunk_rows"])
