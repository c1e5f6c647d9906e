"""One table in every format: whatever its columns, labels, header and missing values look like, the same statistics."""

from __future__ import annotations

import decimal
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
import zarr

import streamgmm as sg
from tests.helpers import tables

RNG = np.random.default_rng(9)
FRAME = pd.DataFrame(
    {"a": RNG.normal(size=240), "b": RNG.normal(50, 3, 240), "c": RNG.integers(-9, 9, 240).astype(float)}
)
HOLES = RNG.random(FRAME.shape) < 0.08
GAPS = FRAME.mask(HOLES)
KNOWN = sg.GaussianMixture(1, reg_covar=0.0).fit(FRAME)


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def same_statistics(data, frame=FRAME):
    """One pass over `data` gives the means and covariances of `frame`, whatever the order of its columns."""
    gm = sg.GaussianMixture(1, reg_covar=0.0).fit(data)
    names = [str(name) for name in getattr(gm, "feature_names_in_", frame.columns)]
    assert sorted(names) == sorted(map(str, frame)) and gm.report_["rows"] == len(frame)
    right = frame.set_axis(list(map(str, frame)), axis=1)[names].to_numpy()
    np.testing.assert_allclose(gm.means_[0], right.mean(0), rtol=1e-12)
    spread = np.sqrt(right.var(0))
    found = gm.covariances_[0] / np.outer(spread, spread)
    np.testing.assert_allclose(found, np.cov(right.T, bias=True) / np.outer(spread, spread), rtol=1e-12, atol=1e-12)


# Writers: (frame) -> what is handed over ------------------------------------------------------------------------------


def csv(sep=",", **options):
    def write(frame, index=False):
        frame.to_csv("x.csv", sep=sep, index=index, **options)
        return "x.csv"

    return write


def parquet(frame):
    frame.to_parquet("x.parquet", row_group_size=100)
    return "x.parquet"


def parquet_folder(frame):
    Path("parts").mkdir(exist_ok=True)
    for i in range(3):
        frame[80 * i : 80 * i + 80].to_parquet(f"parts/{i}.parquet")
    return "parts"


def arrow(frame):
    return pa.Table.from_pandas(frame)


def feather(frame):
    import pyarrow.feather

    pyarrow.feather.write_feather(arrow(frame), "x.feather", chunksize=100)
    return "x.feather"


def arrow_stream(frame):
    table = arrow(frame)
    with pa.OSFile("x.arrows", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return "x.arrows"


def stored(name):
    def write(frame):
        tables.TABLES[name](name, frame)
        return name

    return write


def dask_frame(frame):
    import dask.dataframe as dd

    return dd.from_pandas(frame, npartitions=3, sort=False)


def dask_folder(frame):
    dask_frame(frame).to_parquet("dask")
    return "dask"


def dataset(frame):
    return frame.to_xarray()


def dataset_of_dask(frame):
    return frame.to_xarray().chunk(100)


def data_array(frame):
    import xarray as xr

    return xr.DataArray(frame.to_numpy(), dims=("row", "feature"), coords={"feature": list(map(str, frame))})


def zarr_named(frame):
    names = {"streamgmm": {"feature_names": list(map(str, frame)), "weight": None}}
    zarr.create_array("n.zarr", data=frame.to_numpy(), chunks=(100, frame.shape[1]), attributes=names, overwrite=True)
    return "n.zarr"


def npy(frame):
    np.save("x.npy", frame.to_numpy())
    return "x.npy"


def hdf5_matrix(frame):
    with h5py.File("m.h5", "w") as file:
        file.create_dataset("x", data=frame.to_numpy(), chunks=(100, frame.shape[1]))
    return "m.h5"


def matlab_matrix(frame):
    tables.matlab("m.mat", X=frame.to_numpy())
    return "m.mat"


def dask_array(frame):
    import dask.array as da

    return da.from_array(frame.to_numpy(), chunks=(100, -1))


def titled(frame):
    with open("x.csv", "w", encoding="utf-8") as file:
        file.write("Measured in 2020\n\n" + frame.to_csv(index=False))
    return "x.csv"


def arrow_dictionaries(frame):
    return pa.table({name: pa.array(frame[name].to_numpy()).dictionary_encode() for name in frame})


def pandas_arrow(frame):
    return frame.convert_dtypes(dtype_backend="pyarrow")


def pandas_sparse(frame):
    return frame.astype(pd.SparseDtype(float, 0.0))


NAMED = {
    "csv with a title": titled, "arrow dictionaries": arrow_dictionaries,
    "pandas of arrow": pandas_arrow, "pandas sparse": pandas_sparse,
    "csv": csv(), "tsv": csv("\t"), "semicolons": csv(";"), "quoted csv": csv(quoting=1), "parquet": parquet,
    "parquet folder": parquet_folder, "feather": feather, "arrow stream": arrow_stream, "pyarrow": arrow,
    "pandas": lambda frame: frame, "polars": lambda frame: pl.from_pandas(frame, include_index=False),
    "dask frame": dask_frame, "dask folder": dask_folder, "xarray": dataset, "xarray of dask": dataset_of_dask,
    "xarray table": data_array, "zarr with names": zarr_named, **{name: stored(name) for name in tables.TABLES},
}  # fmt: skip
NAMELESS = {
    "array": lambda frame: frame.to_numpy(), "npy": npy, "hdf5 matrix": hdf5_matrix, "MATLAB matrix": matlab_matrix,
    "dask array": dask_array, "Fortran order": lambda frame: np.asfortranarray(frame.to_numpy()),
}  # fmt: skip
OPENED = {"pandas", "polars", "pyarrow", "arrow dictionaries", "pandas of arrow", "pandas sparse"}
"""Read as sources as well as tables that scikit-learn validates."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # Dask's, when it writes Parquet
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
]


def handed(kind, frame, **options):
    data = (NAMED | NAMELESS)[kind](frame, **options)
    return sg.open_source(data) if kind in OPENED else data


@pytest.mark.parametrize("kind", NAMELESS)
def test_columns_without_names(kind):
    same_statistics(handed(kind, FRAME))


@pytest.mark.parametrize("kind", NAMED)
def test_columns_in_another_order(kind):
    data = handed(kind, FRAME[["c", "a", "b"]])
    assert KNOWN.score(data) == pytest.approx(KNOWN.score(FRAME), rel=1e-12)
    same_statistics(data)


INDICES = {
    "of numbers": pd.RangeIndex(7, 247),
    "shuffled": pd.Index(RNG.permutation(240)),
    "named": pd.Index(np.arange(240) * 3, name="id"),
    "of text": pd.Index([f"r{i}" for i in range(240)]),
    "of two levels": pd.MultiIndex.from_arrays([np.arange(240) // 9, np.arange(240)], names=["u", "v"]),
}
WITH_INDEX = ["parquet", "parquet folder", "feather", "arrow stream", "pyarrow", "pandas", "dask frame", "dask folder",
              "xarray", "xarray.zarr", "xarray2.zarr"]  # fmt: skip


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("kind", [*WITH_INDEX, "csv", "semicolons"])
def test_row_labels(kind, index):
    frame = FRAME.set_index(INDICES[index])
    if index == "of two levels" and kind not in ("parquet", "feather", "arrow stream", "pyarrow", "pandas"):
        return
    if kind in ("csv", "semicolons"):
        if frame.index.name is None and index != "of two levels":  # a header without a name for it
            same_statistics(handed(kind, frame, index=True))
        return
    same_statistics(handed(kind, frame))


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("names", [["0", "1", "2"], ["2019", "2020", "2021"]], ids=" ".join)
def test_headers_of_numbers(kind, names):
    if kind.endswith(".mat"):
        return  # MATLAB has no such names
    frame = FRAME.set_axis(names, axis=1)
    if kind == "csv with a title":  # nothing tells where the table begins
        with pytest.raises(ValueError, match="remove what stands above it"):
            sg.open_source(handed(kind, frame))
        return
    same_statistics(handed(kind, frame), frame)


# Missing values -------------------------------------------------------------------------------------------------------


def packed(kind, fill, attribute, scale=None, version=3):
    """Whole numbers with a fill value, unpacked to the frame's; netCDF and Zarr."""
    codes = {name: np.round(GAPS[name].fillna(0) * 10).astype("i4").to_numpy() for name in GAPS}
    attributes = {attribute: np.int32(fill)} | ({"scale_factor": 0.1, "add_offset": 2.0} if scale else {})

    def write():
        import xarray as xr

        data = {}
        for name, stored_ in codes.items():
            values = np.where(GAPS[name].isna(), fill, stored_).astype("i4")
            data[name] = ("row", values, dict(attributes))
        if kind == "zarr":
            raw = xr.Dataset(data)
            raw.to_zarr("p.zarr", mode="w", zarr_format=version, consolidated=False)
            return "p.zarr"
        with h5py.File("p.nc", "w") as file:
            for name, (_, values, attrs) in data.items():
                file.create_dataset(name, data=values).attrs.update(attrs)
        return "p.nc"

    values = pd.DataFrame(codes).mask(GAPS.isna())
    return write, values * 0.1 + 2 if scale else values


def text(word, quoted=False):
    def write():
        GAPS.to_csv("x.csv", index=False, na_rep=word, quoting=1 if quoted else 0)
        return "x.csv"

    return write


def nullable(kind):
    frame = GAPS.astype({"a": "Float64", "b": "Float64", "c": "Int64"})
    return {
        "pandas": lambda: sg.open_source(frame), "parquet": lambda: parquet(frame), "dask": lambda: dask_frame(frame),
        "pyarrow": lambda: sg.open_source(arrow(frame)), "polars": lambda: sg.open_source(pl.from_pandas(frame)),
        "feather": lambda: feather(frame), "stream": lambda: arrow_stream(frame),
    }[kind]  # fmt: skip


def decimals():
    rounded = [None if hole else decimal.Decimal(f"{v:.3f}") for v, hole in zip(FRAME.a, HOLES[:, 0], strict=True)]
    table = pa.table({"a": pa.array(rounded), "b": pa.array(GAPS.b, from_pandas=True), "c": pa.array(GAPS.c)})
    pa.parquet.write_table(table.set_column(2, "c", table["c"].dictionary_encode()), "x.parquet")
    return "x.parquet"


def lists():
    rows = pa.array(FRAME.to_numpy().ravel(), mask=HOLES.ravel())
    pa.parquet.write_table(pa.table({"v": pa.FixedSizeListArray.from_arrays(rows, 3)}), "x.parquet")
    return "x.parquet"


def masked():
    return np.ma.array(np.where(HOLES, -9999.0, FRAME.to_numpy()), mask=HOLES)


def dask_masked():
    import dask.array as da

    return da.from_array(masked(), chunks=(100, 3))


MISSING = {
    **{f"csv {word!r}": (text(word), GAPS) for word in ("", "NA", "NaN", "nan", "null", "N/A", "None", "NULL")},
    "csv quoted": (text("", quoted=True), GAPS),
    **{
        f"{kind} null": (nullable(kind), GAPS)
        for kind in ("pandas", "parquet", "dask", "pyarrow", "polars", "feather", "stream")
    },
    "decimals and dictionaries": (decimals, GAPS.assign(a=GAPS.a.round(3))),
    "lists": (lists, GAPS.set_axis(["v_0", "v_1", "v_2"], axis=1)),
    "numpy.ma": (masked, GAPS),
    "dask of numpy.ma": (dask_masked, GAPS),
    "netCDF _FillValue": packed("nc", -9999, "_FillValue"),
    "netCDF missing_value": packed("nc", -9999, "missing_value"),
    "netCDF packed": packed("nc", -9999, "_FillValue", scale=True),
    "zarr 3 packed": packed("zarr", -9999, "_FillValue", scale=True),
    "zarr 2 packed": packed("zarr", -9999, "missing_value", scale=True, version=2),
    **{f"{kind} NaN": ((lambda kind=kind: handed(kind, GAPS)), GAPS) for kind in (NAMED | NAMELESS)},
}  # fmt: skip


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values(kind):
    make, expected = MISSING[kind]
    scaler = sg.Scaler(missing="ignore").fit(make())
    expected = expected.set_axis(list(map(str, expected)), axis=1)
    names = list(getattr(scaler, "feature_names_in_", expected.columns))
    right = expected[names].to_numpy(np.float64)
    np.testing.assert_allclose(scaler.mean_, np.nanmean(right, 0), rtol=1e-12)
    np.testing.assert_allclose(scaler.scale_, np.nanstd(right, 0), rtol=1e-12)
    with pytest.raises(ValueError, match=r"(?i)nan|missing"):
        sg.GaussianMixture(1).fit(make())
