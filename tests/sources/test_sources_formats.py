"""The same rows through every format, and the named error of each for damage."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from streamgmm.errors import ChunkReadError
from streamgmm.sources import cached, limit_chunks, open_source
from streamgmm.sources.formats.tables import NotNumbersError
from tests.helpers.chunks import check_chunks, read
from tests.helpers.formats import DOUBLES_ONLY, FORMATS, NAMED, NO_CHUNK_ROWS, arrow, frame, names

RNG = np.random.default_rng(8)
X = RNG.standard_normal((1000, 4))
W = RNG.uniform(0, 2, 1000)


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1000, 1])
def test_rows_come_out_as_they_went_in(kind, dtype, n, tmp_path):
    x = X[:n].astype(dtype)
    expected = np.float64 if kind in DOUBLES_ONLY else dtype
    source = open_source(FORMATS[kind](tmp_path, x, 64))
    check_chunks(source, x.astype(expected), expected)
    assert source.feature_names == (tuple(names(x)) if kind in NAMED else None)
    again = [chunk.start for chunk in source.chunks()]
    assert again == [chunk.start for chunk in source.chunks()]


@pytest.mark.parametrize("kind", ["npy", "zarr v3", "zarr v2", "hdf5", "parquet", "parquet folder", "feather", "csv"])
def test_paths_hold_in_every_folder(kind, tmp_path, monkeypatch):
    """A worker started somewhere else opens what the driver named by a relative path; messages keep that name."""
    FORMATS[kind](tmp_path, X, 8)
    given = next(path for path in sorted(tmp_path.iterdir()) if path.suffix != ".txt").name
    monkeypatch.chdir(tmp_path)
    source = open_source(given)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source.name.startswith(given)
    check_chunks(source, X)


@pytest.mark.parametrize("chunk_rows", [1, 50, 64, 100_000])
def test_chunk_rows(kind, chunk_rows, tmp_path):
    if kind in NO_CHUNK_ROWS:
        with pytest.raises(ValueError, match="chunk_rows does not apply"):
            open_source(FORMATS[kind](tmp_path, X, 64), chunk_rows=chunk_rows)
        return
    x = X[:200]
    source = open_source(FORMATS[kind](tmp_path, x, 64), chunk_rows=chunk_rows)
    check_chunks(source, x)
    assert source.max_chunk_rows <= chunk_rows
    if kind not in ("zarr sharded", "xarray lazy"):
        check_chunks(limit_chunks(source, 13), x)


def test_no_rows_at_all(kind, tmp_path):
    if kind in ("dask unknown", "xarray lazy"):
        pytest.skip("this writer cannot make it")
    source = open_source(FORMATS[kind](tmp_path, X[:0], 64))
    assert read(source)[0].shape == (0, 4)


def test_one_column_need_not_be_in_a_list(kind, tmp_path):
    source = open_source(FORMATS[kind](tmp_path, X[:40], 16), columns="b" if kind in NAMED else 1)
    np.testing.assert_array_equal(read(source)[0], X[:40, [1]])


def test_columns_and_weight_column(kind, tmp_path):
    table = np.column_stack([X, W])
    labels = kind in NAMED
    data = FORMATS[kind](tmp_path, table, 64)
    source = open_source(data, columns=["c", "a"] if labels else [2, 0], weight="e" if labels else 4)
    rows, weights = read(source)
    np.testing.assert_array_equal(rows, X[:, [2, 0]])
    np.testing.assert_array_equal(weights, W)
    assert source.has_weights and source.feature_names == (("c", "a") if labels else None)
    rows, weights = read(open_source(data, weight="e" if labels else 4))
    np.testing.assert_array_equal(rows, X)
    with pytest.raises(ValueError, match=r"there is no (column|variable) 'nothing'"):
        open_source(data, columns=["nothing"])


def test_weight_array(kind, tmp_path):
    data = FORMATS[kind](tmp_path, X, 64)
    if kind in ("dask unknown", "dask frame"):
        with pytest.raises(ValueError, match="weights must be a dask array"):
            open_source(data, weight=W)
        return
    rows, weights = read(open_source(data, weight=W))
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(weights, W)
    with pytest.raises(ValueError, match="1000"):
        open_source(data, weight=W[:-1])


def test_bad_weight_column_names_the_row(kind, tmp_path):
    bad = W.copy()
    bad[700] = -3.0
    with pytest.raises(ValueError, match=r"row \d+( of chunk \d+)? has -3"):  # noqa: PT012 - arrays complain at once
        source = open_source(FORMATS[kind](tmp_path, np.column_stack([X, bad]), 64), weight="e" if kind in NAMED else 4)
        read(source)


def test_cache(kind, tmp_path):
    source = cached(open_source(FORMATS[kind](tmp_path, X, 64)), 10**6)
    first, second = read(source)[0], read(source)[0]
    np.testing.assert_array_equal(first, X)
    np.testing.assert_array_equal(second, X)


def test_file_replaced_between_passes(kind, tmp_path):
    if kind not in ("npy", "memmap", "hdf5", "parquet", "parquet folder", "feather", "csv"):
        pytest.skip("no single file")
    source = open_source(FORMATS[kind](tmp_path, X, 64))
    read(source)
    victim = next(p for p in sorted(tmp_path.rglob("*")) if p.is_file())
    victim.write_bytes(victim.read_bytes() + b"\n")
    with pytest.raises(ChunkReadError, match="has changed since it was opened"):
        read(source)


# Tables ---------------------------------------------------------------------------------------------------------------

MIXED = {"n": [1.0, 2.0, 3.0], "city": ["Ulm", "Bonn", "Kiel"], "k": [1, 2, 3]}


def mixed(kind, tmp_path):
    table = pa.table(MIXED)
    if kind == "parquet":
        pq.write_table(table, tmp_path / "m.parquet")
        return tmp_path / "m.parquet"
    if kind == "csv":
        pd.DataFrame(MIXED).to_csv(tmp_path / "m.csv", index=False)
        return tmp_path / "m.csv"
    return {
        "pandas": lambda: pd.DataFrame(MIXED),
        "polars": lambda: pl.DataFrame(MIXED),
        "pyarrow": lambda: table,
        "dask": lambda: dd.from_pandas(pd.DataFrame(MIXED), npartitions=2),
    }[kind]()


@pytest.mark.parametrize("kind", ["parquet", "csv", "pandas", "polars", "pyarrow", "dask"])
def test_text_columns_are_refused_by_name_with_the_remedy(kind, tmp_path):
    data = mixed(kind, tmp_path)
    with pytest.raises(ValueError, match=r"column 'city' holds text.*columns=\['n', 'k'\]"):
        open_source(data)
    rows, _ = read(open_source(data, columns=["k", "n"]))
    np.testing.assert_array_equal(rows, [[1, 1], [2, 2], [3, 3]])


@pytest.mark.parametrize("kind", ["parquet", "csv", "pandas", "polars", "pyarrow", "dask"])
def test_nulls_become_nan(kind, tmp_path):
    table = pa.table({"a": pa.array([1.0, None, 3.0]), "b": pa.array([None, 5, 6]), "c": pa.array([True, None, False])})
    if kind == "parquet":
        pq.write_table(table, tmp_path / "x.parquet")
        data = tmp_path / "x.parquet"
    elif kind == "csv":
        (tmp_path / "x.csv").write_text("a,b,c\n1,NA,1\n,5,\n3.0,6,0\n")
        data = tmp_path / "x.csv"
    else:
        nullable = table.to_pandas().astype({"a": "Float64", "b": "Int64", "c": "boolean"})
        data = {
            "pandas": lambda: nullable,
            "polars": lambda: pl.from_arrow(table),
            "pyarrow": lambda: table,
            "dask": lambda: dd.from_pandas(nullable, npartitions=1),
        }[kind]()
    np.testing.assert_array_equal(read(open_source(data))[0], [[1, np.nan, 1], [np.nan, 5, np.nan], [3, 6, 0]])


def test_other_columns_are_refused():
    table = pd.DataFrame({"t": pd.to_datetime(["2026-01-01"]), "c": pd.Categorical(["x"]), "x": [1.0]})
    with pytest.raises(ValueError, match="column 't' holds times"):
        open_source(table)
    with pytest.raises(ValueError, match="column 'c' holds categories"):
        open_source(table, columns=["x", "c"])
    with pytest.raises(ValueError, match="two columns are called 'a'"):
        open_source(pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]))
    with pytest.raises(TypeError, match="Series"):
        open_source(pd.Series([1.0]))


# Parquet and Arrow ----------------------------------------------------------------------------------------------------


def test_parquet_partitions_are_row_groups(tmp_path):
    pq.write_table(arrow(X), tmp_path / "x.parquet", row_group_size=250)
    assert [c.start for c in open_source(tmp_path / "x.parquet", chunk_rows=250).chunks()] == [0, 250, 500, 750]
    assert open_source(tmp_path / "x.parquet").n_chunks == 1  # small ones are put together


def test_truncated_parquet(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(3):
        pq.write_table(arrow(X), folder / f"{i}.parquet")
    whole = (folder / "1.parquet").read_bytes()
    (folder / "1.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ChunkReadError, match=r"1\.parquet is no whole parquet file") as caught:
        open_source(folder)
    assert caught.value.path.endswith("1.parquet") and caught.value.index == 1


def test_damaged_parquet_page(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(arrow(X), path, row_group_size=250, compression="zstd", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    content[offset + 60 : offset + 90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(ChunkReadError, match="cannot be read") as caught:
        read(open_source(path, chunk_rows=250))
    assert (caught.value.path, caught.value.index) == (str(path), 2)


def test_parquet_behind_a_url():
    import fsspec

    with fsspec.open("memory://bucket/x.parquet", "wb") as file:
        pq.write_table(arrow(X), file, row_group_size=100)
    check_chunks(open_source("memory://bucket/x.parquet", chunk_rows=100), X)
    with pytest.raises(ValueError, match="copy this npy file first"):
        open_source("memory://bucket/x.npy")


def test_parquet_files_must_agree(tmp_path):
    pq.write_table(arrow(X), tmp_path / "0.parquet")
    pq.write_table(arrow(X[:, :3]), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match="differ in d"):
        open_source(tmp_path)


# CSV ------------------------------------------------------------------------------------------------------------------


def test_csv_numbers_are_those_of_python_to_the_bit(tmp_path):
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**64, 4000, dtype=np.uint64).view(np.float64)
    doubles = bits[np.isfinite(bits)]
    texts = [form % x for form in ("%r", "%.18e", "%.5g") for x in doubles.tolist()]
    # Ties and near ties of rounding, the smallest and the largest, and more digits than count.
    texts += ["9007199254740993", "1e23", "8.5e-324", "2.4703282292062328e-324", "1.7976931348623158e308", "-0.0", "+5"]
    texts += ["0." + "0" * 30 + "1" * 40, "1" * 30 + ".5", "123456789012345678901234567890e-20"]
    (tmp_path / "x.csv").write_text("value\n" + "\n".join(texts) + "\n")
    found = read(open_source(tmp_path / "x.csv"))[0].ravel()
    assert found.tobytes() == np.array([float(text) for text in texts]).tobytes()


def test_csv_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("streamgmm.sources.formats.csv.CHUNK_BYTES", 1000)
    path = FORMATS["csv"](tmp_path, X, 64)
    source = open_source(path)
    assert source.n_chunks > 50
    check_chunks(source, X)
    for size in range(990, 1010):  # every way an edge can fall beside a line end
        monkeypatch.setattr("streamgmm.sources.formats.csv.CHUNK_BYTES", size)
        np.testing.assert_array_equal(read(open_source(path))[0], X)


@pytest.mark.parametrize(
    ("text", "expected", "labels"),
    [
        ("1,2\n3,4", [[1, 2], [3, 4]], None),
        ("a;b\n1;2\n3;4\n", [[1, 2], [3, 4]], ("a", "b")),
        ("a\tb\n1\t2\n", [[1, 2]], ("a", "b")),
        ("\ufeffa,b\r\n1,2\r\n", [[1, 2]], ("a", "b")),
        ("\ufeff1,2\n3,4\n", [[1, 2], [3, 4]], None),
        ('"a","b"\n"1",2\n', [[1, 2]], ("a", "b")),
        ("a,b\n1,2\n\n3,4\n", [[1, 2], [3, 4]], ("a", "b")),
        ("a\n1\n2\n", [[1], [2]], ("a",)),
        ("a,b\n1e3,-inf\nnan,.5\n", [[1000, -np.inf], [np.nan, 0.5]], ("a", "b")),
        ("a,b\n", np.empty((0, 2)), ("a", "b")),
        ('a,"b, in m"\n1,2\n', [[1, 2]], ("a", "b, in m")),
        ("a;b\n1,5;2\n-0,25;1e3\n", [[1.5, 2], [-0.25, 1000]], ("a", "b")),
        ("a;b\n1.5;2\n3;4\n", [[1.5, 2], [3, 4]], ("a", "b")),
    ],
)
def test_csv_dialects(tmp_path, text, expected, labels):
    (tmp_path / "x.csv").write_bytes(text.encode())
    source = open_source(tmp_path / "x.csv")
    np.testing.assert_array_equal(read(source)[0], expected)
    assert source.feature_names == labels


def test_csv_with_quoted_commas_and_other_encodings(tmp_path):
    """A comma between quotes parts nothing, before the chosen columns and in complaints."""
    path = tmp_path / "x.csv"
    path.write_text('place,age,note\n"Zürich, City",1.5,"a, ""b"""\nBern,2,\n', encoding="latin-1")
    np.testing.assert_array_equal(read(open_source(path, columns=["age"]))[0], [[1.5], [2]])
    with pytest.raises(NotNumbersError, match=r"columns=\['age'\]"):
        open_source(path)
    path.write_text("Größe;Länge\n1;2\n", encoding="latin-1")
    assert open_source(path).feature_names == ("Größe", "Länge")
    lines = ["place,age", *('"A, B",2' for _ in range(20_000))]
    path.write_text("\n".join([*lines, '"A, B",old']))
    with pytest.raises(ChunkReadError, match=r"line 20002, column 'age': expected a number, found 'old'"):
        read(open_source(path, columns=["age"]))


def test_csv_complaints_name_line_and_column(tmp_path):
    lines = ["a,b", *("1,2" for _ in range(200_000))]
    lines[150_003] = "1,oops"
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(ChunkReadError, match=r"line 150004, column 'b': expected a number, found 'oops'"):
        read(open_source(tmp_path / "x.csv"))
    lines[150_003] = "1,2,3"
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(ChunkReadError, match="line 150004: expected 2 fields, found 3"):
        read(open_source(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n4,5\n")
    with pytest.raises(ChunkReadError, match="line 3: expected 2 fields, found 1"):
        read(open_source(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_text("a,b\nx,y\n")
    with pytest.raises(NotNumbersError, match=r"column 'a' holds text .* No other column holds numbers"):
        open_source(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(ValueError, match="empty"):
        open_source(tmp_path / "x.csv")


# Dask and xarray ------------------------------------------------------------------------------------------------------


def test_dask_arrays_that_are_refused():
    with pytest.raises(ValueError, match=r"X\.rechunk\(\{1: -1\}\)"):
        open_source(da.from_array(X, chunks=(100, 2)))
    with pytest.raises(ValueError, match="1D"):
        open_source(da.from_array(X[:, 0]))
    with pytest.raises(ValueError, match="Complex"):
        open_source(da.from_array(X.astype(complex)))
    with pytest.raises(TypeError, match="Bag"):
        open_source(__import__("dask.bag").bag.from_sequence([1]))


def test_dask_weights():
    x, w = da.from_array(X, chunks=(100, -1)), da.from_array(W, chunks=333)
    np.testing.assert_array_equal(read(open_source(x, weight=w))[1], W)
    keep = x[:, 0] > 0
    rows, weights = read(open_source(x[keep], weight=w.rechunk(100)[keep]))
    np.testing.assert_array_equal(rows, X[X[:, 0] > 0])
    np.testing.assert_array_equal(weights, W[X[:, 0] > 0])
    with pytest.raises(ValueError, match="1000 rows but 999"):
        open_source(x, weight=w[1:])
    with pytest.raises(ValueError, match="10 partitions but 4"):
        open_source(x[keep], weight=w[w > 0])
    with pytest.raises(ValueError, match="one number for each row"):
        read(open_source(x[keep], weight=w.rechunk(100)))


def test_filtered_dask_frame_has_empty_partitions():
    table = dd.from_pandas(frame(np.column_stack([np.arange(1000.0), X])), npartitions=8)
    np.testing.assert_array_equal(read(open_source(table[table.a >= 900]))[0][:, 1:], X[900:])


def test_classic_netcdf_is_named(tmp_path):
    (tmp_path / "x.nc").write_bytes(b"CDF\x01" + bytes(60))
    with pytest.raises(ValueError, match=r"classic NetCDF.*xarray.open_dataset"):
        open_source(tmp_path / "x.nc")


def test_xarray_labels_and_choices(tmp_path):
    table = xr.DataArray(X, dims=("row", "what"), coords={"what": list("pqrs")}, name="x")
    assert open_source(table).feature_names == ("p", "q", "r", "s")
    source = open_source(table.chunk(row=100), columns=["s", "p"])
    assert (source.feature_names, source.kind) == (("s", "p"), "dask")
    np.testing.assert_array_equal(read(source)[0], X[:, [3, 0]])
    dataset = xr.Dataset({"x": table, "w": ("row", W)})
    rows, weights = read(open_source(dataset, weight="w"))
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(weights, W)
    with pytest.raises(ValueError, match="1D"):
        open_source(table[0])
    with pytest.raises(ValueError, match="one common dimension"):
        open_source(xr.Dataset({"a": ("row", W), "b": ("other", W)}))


def test_xarray_dataset_in_a_file_is_read_in_chunks(tmp_path):
    xr.Dataset({n: ("row", X[:, j]) for j, n in enumerate("abcd")}).to_zarr(tmp_path / "d.zarr", consolidated=False)
    data = xr.open_zarr(tmp_path / "d.zarr", chunks=None, consolidated=False)
    check_chunks(open_source(data, chunk_rows=300, columns=list("abcd")), X)
    assert not any(v.variable._in_memory for v in data.data_vars.values())
    check_chunks(open_source(xr.open_zarr(tmp_path / "d.zarr", chunks={}, consolidated=False)[list("abcd")]), X)
