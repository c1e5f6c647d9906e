"""One matrix stored in every format that `open_source` reads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import zarr

COLUMNS = "abcdefghijklmnop"


def names(matrix):
    return list(COLUMNS[: matrix.shape[1]])


def frame(matrix):
    import pandas as pd

    return pd.DataFrame(matrix, columns=names(matrix))


def arrow(matrix):
    import pyarrow as pa

    return pa.table({n: matrix[:, j] for j, n in enumerate(names(matrix))})


def npy(folder, x, rows):
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def memmap(folder, x, rows):
    return np.load(npy(folder, x, rows), mmap_mode="r") if len(x) else x


def zarr_v3(folder, x, rows):
    zarr.create_array(folder / "x.zarr", shape=x.shape, dtype=x.dtype, chunks=(rows, x.shape[1]))[:] = x
    return folder / "x.zarr"


def zarr_v2(folder, x, rows):
    shape = {"shape": x.shape, "dtype": x.dtype, "chunks": (rows, x.shape[1])}
    zarr.create_array(folder / "x2.zarr", zarr_format=2, **shape)[:] = x
    return folder / "x2.zarr"


def zarr_sharded(folder, x, rows):
    shape = {"shape": x.shape, "dtype": x.dtype, "chunks": (rows, x.shape[1]), "shards": (4 * rows, x.shape[1])}
    zarr.create_array(folder / "xs.zarr", **shape)[:] = x
    return zarr.open_array(folder / "xs.zarr", mode="r")


def zarr_columns(folder, x, rows):
    zarr.create_array(folder / "xc.zarr", shape=x.shape, dtype=x.dtype, chunks=(rows, 2))[:] = x
    return folder / "xc.zarr"


def hdf5(folder, x, rows):
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        options = {"chunks": (min(rows, len(x)), x.shape[1]), "compression": "gzip"} if len(x) else {}
        file.create_dataset("group/x", data=x, **options)
    return f"{folder}/x.h5::group/x"


def parquet(folder, x, rows):
    import pyarrow.parquet as pq

    pq.write_table(arrow(x), folder / "x.parquet", row_group_size=rows)
    return folder / "x.parquet"


def parquet_folder(folder, x, rows):
    import pyarrow.parquet as pq

    (folder / "parts").mkdir()
    cuts = [0, len(x) // 3, len(x) // 3, len(x)]  # the second file is empty
    for i, (a, b) in enumerate(pairwise(cuts)):
        pq.write_table(arrow(x[a:b]), folder / "parts" / f"{i}.parquet", row_group_size=rows)
    return folder / "parts"


def feather(folder, x, rows):
    import pyarrow.feather as feather

    feather.write_feather(arrow(x), str(folder / "x.feather"), chunksize=rows, compression="lz4")
    return folder / "x.feather"


def csv(folder, x, rows):
    text = "\n".join(",".join(map(repr, row)) for row in x.tolist())
    (folder / "x.csv").write_text(",".join(names(x)) + "\n" + text + ("\n" if text else ""))
    return folder / "x.csv"


def dask_array(folder, x, rows):
    import dask.array as da

    return da.from_array(x, chunks=(rows, -1))


def dask_unknown(folder, x, rows):
    """Unknown lengths, and one partition that is empty."""
    import dask.array as da

    whole = da.from_array(x, chunks=(rows, -1))
    marked = da.concatenate([whole[: 2 * rows], da.full((rows, x.shape[1]), np.inf, dtype=x.dtype), whole[2 * rows :]])
    return marked[~da.isinf(marked[:, 0])]


def dask_frame(folder, x, rows):
    import dask.dataframe as dd

    return dd.from_pandas(frame(x), npartitions=max(1, min(5, len(x))), sort=False)


def xarray_lazy(folder, x, rows):
    import xarray as xr

    data = xr.DataArray(x, dims=("row", "feature"), name="x")
    data.to_dataset().to_zarr(folder / "xr.zarr", encoding={"x": {"chunks": (rows, x.shape[1])}}, consolidated=False)
    return xr.open_zarr(folder / "xr.zarr", chunks=None, consolidated=False)["x"]


def xarray_dataset(folder, x, rows):
    import xarray as xr

    return xr.Dataset({n: ("row", x[:, j]) for j, n in enumerate(names(x))})


FORMATS = {
    "array": lambda folder, x, rows: x,
    "npy": npy,
    "memmap": memmap,
    "zarr v3": zarr_v3,
    "zarr v2": zarr_v2,
    "zarr sharded": zarr_sharded,
    "zarr columns": zarr_columns,
    "hdf5": hdf5,
    "parquet": parquet,
    "parquet folder": parquet_folder,
    "feather": feather,
    "csv": csv,
    "pandas": lambda folder, x, rows: frame(x),
    "pyarrow": lambda folder, x, rows: arrow(x),
    "polars": lambda folder, x, rows: __import__("polars").from_arrow(arrow(x)),
    "dask array": dask_array,
    "dask unknown": dask_unknown,
    "dask frame": dask_frame,
    "xarray": lambda folder, x, rows: __import__("xarray").DataArray(x, dims=("row", "feature")),
    "xarray lazy": xarray_lazy,
    "xarray dataset": xarray_dataset,
}
NAMED = {"parquet", "parquet folder", "feather", "csv", "pandas", "pyarrow", "polars", "dask frame", "xarray dataset"}
DOUBLES_ONLY = {"csv"}
NO_CHUNK_ROWS = {"dask array", "dask unknown", "dask frame"}
