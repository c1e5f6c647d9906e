"""Missing and encoded values of every format: the same rows and statistics as NaN and plain doubles, or one error."""

from __future__ import annotations

import decimal
import errno
import os

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.errors import ChunkReadError, NonFiniteRowError
from streamgmm.sources import open_source

RNG = np.random.default_rng(11)
X = RNG.normal(size=(600, 2)) + 6 * (RNG.random(600) < 0.5)[:, None]
HOLES = RNG.random(X.shape) < 0.05
HOLES[:8] = [[False, False]] * 7 + [[False, True]]
WANTED = np.where(HOLES, np.nan, X)


def read(source):
    return np.concatenate([chunk.load()[0] for chunk in source.chunks()])


# Masks ----------------------------------------------------------------------------------------------------------------


def masked(dtype=np.float64):
    under = np.where(HOLES, -9999 if dtype != np.float64 else np.inf, X)
    return np.ma.array(under.astype(dtype), mask=HOLES)


def dask_masked(dtype=np.float64):
    da = pytest.importorskip("dask.array")
    return da.from_array(masked(dtype), chunks=(150, 2))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("make", [masked, dask_masked])
def test_what_is_masked_is_nan(make, dtype):
    wanted = np.where(HOLES, np.nan, X.astype(dtype))
    np.testing.assert_array_equal(read(open_source(make(dtype))), wanted)


@pytest.mark.parametrize("make", [masked, dask_masked])
@pytest.mark.parametrize("fit", ["GaussianMixture", "KMeans", "Scaler", "PCA", "partial_fit", "predict", "score"])
def test_masked_values_are_refused_as_nan_is(make, fit):
    data = make()

    def use():
        if fit == "partial_fit":
            return sg.GaussianMixture(2).partial_fit(data)
        if fit in ("predict", "score"):
            return np.asarray(getattr(sg.GaussianMixture(2, random_state=0).fit(X), fit)(data))
        return getattr(sg, fit)(*((2,) if fit == "KMeans" else ())).fit(data)

    with pytest.raises(ValueError, match=r"(?i)nan|missing"):
        use()


@pytest.mark.parametrize("make", [masked, dask_masked])
def test_masked_values_are_marginalized(make):
    def fit(rows):
        return sg.GaussianMixture(2, missing="marginalize", means_init=[[0, 0], [6, 6]], random_state=0).fit(rows)

    np.testing.assert_allclose(fit(make()).means_, fit(WANTED).means_, rtol=1e-8)


def test_the_statistics_of_a_mixture_know_no_masked_values():
    mixture = sg.Mixture([1.0], [[0.0, 0.0]], np.eye(2)[None])
    assert HOLES[7].any() and not HOLES[:7].any()
    with pytest.raises(NonFiniteRowError, match="7"):
        mixture.accumulate(masked())


def test_masked_weights_are_refused():
    weight = np.ma.array(np.ones(600), mask=np.arange(600) == 41)
    with pytest.raises(ValueError, match="row 41 has nan"):
        sg.GaussianMixture(2).fit(X, sample_weight=weight)


# Arrow's types --------------------------------------------------------------------------------------------------------


def stored(table, kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    elif kind == "feather":
        pytest.importorskip("pyarrow.feather").write_feather(table, str(path))
    else:
        return table
    return path


@pytest.mark.parametrize("kind", ["parquet", "feather", "table"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_beyond_2_to_53_are_the_nearest_double(kind, dtype, tmp_path):
    pa = pytest.importorskip("pyarrow")
    values = [2**53 + 1, 1767225600000000001, 2**63 - 1, 2**62 + 1, 3] + (
        [2**64 - 1] if dtype == np.uint64 else [-(2**53) - 3]
    )
    table = pa.table({"when": np.array(values, dtype), "x": np.arange(6.0)})
    found = read(open_source(stored(table, kind, tmp_path)))
    assert found[:, 0].tolist() == [float(value) for value in values]


@pytest.mark.parametrize("kind", ["parquet", "feather", "table"])
def test_decimals_and_numbers_in_dictionaries_are_numbers(kind, tmp_path):
    pa = pytest.importorskip("pyarrow")
    price = [decimal.Decimal("12.34"), None, decimal.Decimal("-0.07"), decimal.Decimal("99999.99")]
    code = pa.array([5, 5, None, 7], pa.int32()).dictionary_encode()
    wide = pa.array(price, pa.decimal256(50, 2))
    table = pa.table({"price": pa.array(price), "wide": wide, "code": code})
    source = open_source(stored(table, kind, tmp_path))
    expected = [12.34, np.nan, -0.07, 99999.99]
    np.testing.assert_array_equal(read(source), np.column_stack([expected, expected, [5, 5, np.nan, 7]]))


# Damage and transient errors ------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"a": X[:, 0], "b": X[:, 1]})
    (tmp_path / "parts").mkdir()
    path = tmp_path / "parts" / "x.parquet"
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False, row_group_size=200)
    content = bytearray(path.read_bytes())
    content[bytes(content).find(X[250, 0].tobytes()) + 6] ^= 0x40
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("chunk_rows", [None, 70, 200])
def test_a_flipped_bit_under_a_page_checksum_is_found(damaged, chunk_rows):
    with pytest.raises(ChunkReadError, match=r"(?i)checksum"):
        read(open_source(damaged, chunk_rows=chunk_rows))


def test_a_stream_finds_it_too(damaged):
    from streamgmm.stream.connectors import connect

    with pytest.raises(OSError, match=r"(?i)checksum"):
        list(connect("parquet", path=damaged.parent).open(None))


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_read_of_npy_that_fails_once_is_tried_again(number, order, tmp_path, monkeypatch):
    import streamgmm.sources.formats.npy as npy
    import streamgmm.sources.retry as transient

    real, failures = npy.read_into, [number]

    def flaky(file, into):
        if failures:
            raise OSError(failures.pop(), os.strerror(number))
        return real(file, into)

    monkeypatch.setattr(npy, "read_into", flaky)
    monkeypatch.setattr(transient, "_PAUSES", (0.0,))
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    np.testing.assert_array_equal(read(open_source(tmp_path / "x.npy")), X)


@pytest.mark.parametrize(
    "header", ["{'descr': '<f8', 'shape': (-3, 2), 'fortran_order': False}", "{'descr': (((", "[" * 60, "{1: 2, 'a'}"]
)
def test_damaged_npy_headers_are_named(header, tmp_path):
    text = header.encode() + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
    with pytest.raises(ValueError, match=r"x\.npy: expected a \.npy file of numbers"):
        open_source(tmp_path / "x.npy")


# Packed values --------------------------------------------------------------------------------------------------------

PACKED = {
    "fill of doubles": (np.float64, {"_FillValue": -9999.0}),
    "fill of singles": (np.float32, {"_FillValue": np.float32(1e20)}),
    "packed": (np.int16, {"_FillValue": np.int16(-999), "scale_factor": 0.01, "add_offset": 3.0}),
    "scaled only": (np.int32, {"scale_factor": 0.5}),
    "missing value": (np.int32, {"missing_value": np.int32(-1)}),
}


def packed(name):
    """What is stored, its attributes, and the values."""
    dtype, attributes = PACKED[name]
    fill = attributes.get("_FillValue", attributes.get("missing_value"))
    stored = np.round(100 + 10 * X).astype(dtype) if np.dtype(dtype).kind == "i" else X.astype(dtype)
    values = stored.astype(np.float64) * attributes.get("scale_factor", 1) + attributes.get("add_offset", 0)
    if fill is not None:
        stored[HOLES] = fill
        values[HOLES] = np.nan
    return stored, attributes, values


@pytest.mark.parametrize("kind", ["hdf5", "zarr 2", "zarr 3"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_values_are_unpacked_as_by_xarray(name, kind, tmp_path):
    xr = pytest.importorskip("xarray")
    stored, attributes, values = packed(name)
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        path = tmp_path / "x.nc"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=stored, chunks=(100, 2), compression="gzip").attrs.update(attributes)
        raw = xr.Dataset({"x": (("row", "feature"), stored, attributes)})
        expected = xr.decode_cf(raw)["x"].values
    else:
        path = tmp_path / "x.zarr"
        raw = xr.Dataset({"x": (("row", "feature"), stored, attributes)})
        raw.to_zarr(path, zarr_format=int(kind[-1]), consolidated=False)
        expected = xr.open_zarr(path, consolidated=False, chunks=None)["x"].values
    np.testing.assert_allclose(values, expected, rtol=3e-7)
    source = open_source(f"{path}::x", chunk_rows=70)
    found = read(source)
    assert found.dtype == source.dtype == (np.float32 if name == "fill of singles" else np.float64)
    np.testing.assert_array_equal(found, values)


def test_attributes_that_are_no_numbers_are_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=X).attrs["scale_factor"] = "ten"
    with pytest.raises(ValueError, match="the attribute scale_factor must be a number; got 'ten'"):
        open_source(tmp_path / "x.h5")


def test_unsigned_whole_numbers(tmp_path):
    h5py = pytest.importorskip("h5py")
    stored = np.array([[-1, 1], [-128, 127]], np.int8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=stored).attrs.update({"_Unsigned": "true", "_FillValue": np.int8(-1)})
    np.testing.assert_array_equal(read(open_source(tmp_path / "x.h5")), [[np.nan, 1], [128, 127]])


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_files_of_a_folder_may_order_their_columns_otherwise(suffix, tmp_path):
    pa = pytest.importorskip("pyarrow")
    for i, order in enumerate([["a", "b"], ["b", "a"], ["a", "b"]]):
        part = pa.table({"a": X[200 * i : 200 * i + 200, 0], "b": X[200 * i : 200 * i + 200, 1]}).select(order)
        stored(part, suffix, tmp_path).rename(tmp_path / f"{i}.{suffix}")
    np.testing.assert_array_equal(read(open_source(tmp_path)), X)
