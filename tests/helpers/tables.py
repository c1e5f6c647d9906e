"""A frame stored as people store tables in HDF5, Zarr and npz; every writer takes a path below the working folder."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import zarr

MATLAB = b"MATLAB 7.3 MAT-file, Platform: GLNXA64"


def matlab(path, **variables):
    """As ``save -v7.3`` writes: columns of MATLAB's arrays one after the other, in a file with a block in front."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            data = file.create_dataset(name.replace("__", "/"), data=np.atleast_2d(np.asarray(value).T))
            data.attrs["MATLAB_class"] = np.bytes_("char" if data.dtype == np.uint16 else "double")
            if "__" in name:
                file[name.split("__")[0]].attrs["MATLAB_class"] = np.bytes_("struct")
    with open(path, "r+b") as file:
        file.write(MATLAB.ljust(512))


def pandas_table(path, frame, key="df", labels=()):
    """As `frame.to_hdf(path, key, format="table")` writes with PyTables: names of columns are pickles, made of text."""
    blocks = {}
    for name in frame:
        blocks.setdefault(frame[name].dtype, []).append(name)
    kinds = [("index", "<i8")] + [(f"values_block_{i}", d, (len(n),)) for i, (d, n) in enumerate(blocks.items())]
    records = np.zeros(len(frame), [*kinds, *((label, "<i8") for label in labels)])
    records["index"] = np.arange(len(frame)) + 5
    with h5py.File(path, "w") as file:
        table = file.create_dataset(f"{key}/table", (len(frame),), records.dtype, chunks=(200,), compression="gzip")
        for i, names in enumerate(blocks.values()):
            records[f"values_block_{i}"] = frame[names].to_numpy()
            texts = "a".join(f"V{name}\np{j + 1}\n" for j, name in enumerate(names))
            table.attrs[f"values_block_{i}_kind"] = np.bytes_(f"(lp0\n{texts}a.")
        table[:] = records
        file[key].attrs.update(pandas_type=np.bytes_("frame_table"), levels=np.int64(1))
        if labels:
            file[key].attrs["levels"] = np.bytes_("(lp0\n" + "".join(f"V{label}\na" for label in labels) + ".")
        index = file.create_group(f"{key}/_i_table/index")
        index["sorted"], index["ranges"] = np.arange(5.0), np.ones((3, 2))


def pandas_fixed(path, frame, key="df", times=()):
    """As `frame.to_hdf(path, key)` writes."""
    blocks = {}
    for name in frame:
        blocks.setdefault((frame[name].dtype, name in times), []).append(name)
    with h5py.File(path, "w") as file:
        group = file.create_group(key)
        group.attrs.update(pandas_type=np.bytes_("frame"), nblocks=len(blocks), ndim=2)
        group["axis0"], group["axis1"] = np.array(list(map(str, frame)), "S"), np.arange(len(frame))
        for i, ((_, is_time), names) in enumerate(blocks.items()):
            group[f"block{i}_items"] = np.array(list(map(str, names)), "S")
            group[f"block{i}_values"] = frame[names].to_numpy()
            group[f"block{i}_values"].attrs["transposed"] = np.uint8(1)
            if is_time:
                group[f"block{i}_values"].attrs["value_type"] = np.bytes_("datetime64[ns]")


def columns(path, frame, **options):
    with h5py.File(path, "w", track_order=True) as file:
        for name in frame:
            file.create_dataset(name, data=frame[name].to_numpy(), **options)


def netcdf(path, frame):
    """As netCDF 4 writes: the values along the dimension are a scale, and a dimension without values is one too."""
    with h5py.File(path, "w", track_order=True) as file:
        file["index"], file["other"] = frame.index.to_numpy(), np.zeros(7, ">f4")
        file["index"].make_scale("index")
        file["other"].make_scale("This is a netCDF dimension but not a netCDF variable.         7")
        for name in frame:
            data = file.create_dataset(name, data=frame[name].to_numpy())
            data.dims[0].attach_scale(file["index"])
            data.attrs["coordinates"] = "lat"
        file["lat"] = np.arange(len(frame)) / 7


def h5_records(path, frame):
    with h5py.File(path, "w") as file:
        file["table"] = frame.to_records()


def zarr_columns(path, frame, **options):
    group = zarr.open_group(path, mode="w", **options)
    for name in frame:
        group.create_array(name, data=frame[name].to_numpy(), chunks=(128,))


def zarr_xarray(path, frame, version=3):
    frame.to_xarray().chunk(128).to_zarr(path, mode="w", zarr_format=version, consolidated=version == 2)


def zarr_zip(path, frame):
    zarr_columns("folder.zarr", frame)
    shutil.make_archive(path.removesuffix(".zip"), "zip", "folder.zarr")


def zarr_zip_of_a_folder(path, frame):
    zarr_columns("folder.zarr", frame)
    shutil.make_archive(path.removesuffix(".zip"), "zip", ".", "folder.zarr")


def npz(path, frame):
    np.savez(path, **{name: frame[name].to_numpy() for name in frame})


def npz_compressed(path, frame):
    np.savez_compressed(path, **{name: frame[name].to_numpy() for name in frame})


TABLES = {
    "records.h5": h5_records,
    "columns.h5": columns,
    "gzip.h5": lambda path, frame: columns(path, frame, chunks=(100,), compression="gzip", shuffle=True),
    "lzf.h5": lambda path, frame: columns(path, frame, chunks=(100,), compression="lzf"),
    "table.h5": pandas_table,
    "fixed.h5": pandas_fixed,
    "netcdf.nc": netcdf,
    "vectors.mat": lambda path, frame: matlab(path, **{name: frame[[name]].to_numpy() for name in frame}),
    "rows.mat": lambda path, frame: matlab(path, **{name: frame[[name]].to_numpy().T for name in frame}),
    "struct.mat": lambda path, frame: matlab(path, **{f"s__{name}": frame[[name]].to_numpy() for name in frame}),
    "columns.zarr": zarr_columns,
    "columns2.zarr": lambda path, frame: zarr_columns(path, frame, zarr_format=2),
    "xarray.zarr": zarr_xarray,
    "xarray2.zarr": lambda path, frame: zarr_xarray(path, frame, 2),
    "columns.zarr.zip": zarr_zip,
    "folder.zip": zarr_zip_of_a_folder,
    "columns.npz": npz,
    "compressed.npz": npz_compressed,
}
