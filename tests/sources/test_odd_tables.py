"""Odd tables that people have: each gives the right rows, or one error that says what is wrong and what to do."""

from __future__ import annotations

import decimal
import os

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import streamgmm as sg
from streamgmm.sources.features import open_features
from streamgmm.stream.connectors.parse import Parser

A = np.array([[1.5, 2.5], [3.5, 4.25], [5.5, 6.0]])
BODY = "1.5,2.5\n3.5,4.25\n5.5,6\n"
THOUSANDS = np.array([[1001.5, 2.5], [-1003.5, 4.25], [5.5, 6.0]])
X = np.random.default_rng(4).normal(size=(90, 3)) * [1, 5, 0.2]
W = np.random.default_rng(5).random(90) + 0.1


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows_of(source):
    return np.concatenate([chunk.load()[0] for chunk in source.chunks()])


def write(text, encoding="utf-8", path="t.csv"):
    with open(path, "w", encoding=encoding, newline="") as file:
        file.write(text)
    return path


# Text -----------------------------------------------------------------------------------------------------------------

SPACED = "a;b\n1{0}001,5;2,5\n-1{0}003,5;4,25\n5,5;6\n"
TEXTS = {
    "a title": ("My data\na,b\n" + BODY, A),
    "a title of lines": ("My data\nfrom 2020\n\na,b\n" + BODY, A),
    "other comments": ("// made today\n% by me\na,b\n" + BODY, A),
    "Excel's delimiter": ("sep=;\na;b\n1,5;2,5\n3,5;4,25\n5,5;6\n", A),
    "a comment of as many fields": ("a,b\n1.5,2.5\n# hello, world\n3.5,4.25\n5.5,6\n", A),
    "blanks in thousands": (SPACED.format(" "), THOUSANDS),
    "no-break spaces in thousands": (SPACED.format("\u00a0"), THOUSANDS),
    "narrow spaces in thousands": (SPACED.format("\u202f"), THOUSANDS),
    "apostrophes in thousands": ("a;b\n1'001.5;2.5\n-1'003.5;4.25\n5.5;6\n", THOUSANDS),
    "a header one short": ("a,b\nr1,1.5,2.5\nr2,3.5,4.25\nr3,5.5,6\n", A),
    "numbered rows, one name": ("b\n0,2.5\n1,4.25\n2,6\n", A[:, 1:]),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_text_tables(kind, ends):
    text, expected = TEXTS[kind]
    source = sg.open_source(write(text.replace("\n", ends)))
    assert source.feature_names == (("a", "b") if expected.shape[1] == 2 else ("b",))
    np.testing.assert_array_equal(rows_of(source), expected)
    source = sg.open_source("t.csv", chunk_rows=2)
    assert source.n_rows == 3
    np.testing.assert_array_equal(rows_of(source), expected)


DECIMAL_COMMAS = {  # one column of decimals beside columns of words: the comma parts nothing else
    "semicolons": ("day;station;x\n01.01.2020;Bern;2,5\n02.01.2020;Basel;-3,25\n03.01.2020;Chur;1,5\n", ["x"]),
    "one word": ("name;x\nfoo;2,5\nbar;-3,25\nbaz;1,5\n", ["x"]),
    "words and whole numbers": ("name;n;q;r;x\nfoo;3;u;u;2,5\nbar;9;u;v;-3,25\nbaz;8;w;v;1,5\n", ["n", "x"]),
    "tabs": ("name\tu\tx\nfoo\tq\t2,5\nbar\tq\t-3,25\nbaz\tv\t1,5\n", ["x"]),
    "bars": ("n|s|x\nfoo|q|2,5\nbar|r|-3,25\nbaz|s|1,5\n", ["x"]),
    "blanks": ("name x\nfoo 2,5\nbar -3,25\nbaz 1,5\n", ["x"]),
    "below a title": ("Messwerte, Bern\nday;station;x\n1.1.20;Bern;2,5\n2.1.20;Basel;-3,25\n3.1.20;Chur;1,5\n", ["x"]),
    "no header": ("foo;q;2,5\nbar;r;-3,25\nbaz;s;1,5\n", None),
    "points that could part thousands": ("a;x\n1.234;2,5\n3.234;-3,25\n5.500;1,5\n", ["x"]),
}


@pytest.mark.parametrize("kind", DECIMAL_COMMAS)
def test_a_decimal_comma_beside_words_separates_no_fields(kind):
    text, names = DECIMAL_COMMAS[kind]
    source = open_features(write(text))
    assert source.feature_names == (None if names is None else tuple(names))
    np.testing.assert_array_equal(rows_of(source)[:, -1], [2.5, -3.25, 1.5])
    if names is not None and "n" in names:
        np.testing.assert_array_equal(rows_of(source)[:, 0], [3, 9, 8])


@pytest.mark.parametrize(
    ("text", "doubtful"),
    [
        ("city\tn\nA\t1,234\nB\t12,500\nC\t999\n", True),
        ("1,234;5\n2,500;8\n", True),
        ("a;b\n1,234;5\n0,567;8\n", False),
    ],
)
def test_commas_that_may_set_thousands_apart_are_told(text, doubtful):
    source = open_features(write(text))
    assert rows_of(source)[0, 0] == 1.234 and bool(source.notice) == doubtful
    assert not doubtful or "if they set thousands apart, remove them" in source.notice


def test_a_stream_reads_a_decimal_comma_beside_words():
    parser = Parser("csv", header=None)
    lines = [line.encode() for line in DECIMAL_COMMAS["semicolons"][0].splitlines()]
    rows, bad = parser.parse(lines)
    assert not bad and parser.layout.columns == ("x",)
    np.testing.assert_array_equal(rows, [[2.5], [-3.25], [1.5]])


@pytest.mark.parametrize(
    "text", ["day,x\n2020-01-01 10,5\n2020-01-02 11,8\n", "note\tx\nhello,1\t5\nbye,2\t8\n", "a;b,x\n1;q,5\n3;q,8\n"]
)
def test_commas_that_separate_fields_or_belong_to_words(text):
    source = open_features(write(text))
    np.testing.assert_array_equal(rows_of(source), [[5], [8]])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_thousands_in_other_encodings(encoding):
    source = sg.open_source(write(SPACED.format("\u00a0"), encoding))
    np.testing.assert_array_equal(rows_of(source), THOUSANDS)


def test_ids_in_latin_1():
    source = sg.open_source(write("name,a\nMüller,1\nGrün,2\n", "latin-1"), columns=["a"])
    assert [list(part) for part in source.texts("name")] == [["Müller", "Grün"]]


@pytest.mark.parametrize("word", ["#N/A", "#DIV/0!", "#VALUE!", "#NA", "1.#QNAN", "-1.#IND", "#N/A N/A"])
@pytest.mark.parametrize("head", ["", "# made today\n"], ids=["", "below a comment"])
def test_missing_values_are_no_comments(word, head):
    expected = [[1.5, 2.5], [np.nan, 3], [4, np.nan], [5.5, 6]]
    path = write(f"{head}a,b\n1.5,2.5\n{word},3\n4,{word}\n# done\n5.5,6\n")
    np.testing.assert_array_equal(rows_of(sg.open_source(path)), expected)
    assert sg.open_source(path, chunk_rows=1).n_rows == 4


@pytest.mark.parametrize("word", ["-", "--", "-nan", "-NaN", "-1.#IND"])
def test_dashes_far_down_are_missing_values(word):
    lines = ["1.5,-2.5\n"] * 60_000
    lines[37_001] = f"{word},-3\n"
    rows = rows_of(sg.open_source(write("a,b\n" + "".join(lines))))
    assert len(rows) == 60_000 and np.isnan(rows[37_001, 0]) and rows[37_001, 1] == -3
    assert np.nansum(rows[:, 0]) == 1.5 * 59_999


DOUBTFUL = {
    "names without columns": ("a,b,c\n" + BODY, "names 3 columns, and most lines below have 2"),
    "a decimal comma": ("a\n1,5\n1,7\n3,1\n", "where the comma parts decimals, write points"),
    "a title above numbers": ("My data\n1,2.5,3\n3,4.5,5\n2,1,1\n", "remove what stands above it"),
    "a line of units": ("a,b\nm,s\n" + BODY, r"line 2 \(m,s\) holds no numbers.*units"),
    "names of two levels": ("a,a,b\nx,y,x\n1,2,3\n4,5,6\n", r"line 2 \(x,y,x\) holds no numbers"),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_doubtful_headers_are_errors(kind):
    text, words = DOUBTFUL[kind]
    path = write(text)
    for read in (sg.open_source, sg.GaussianMixture(1).fit, sg.Scaler().fit):
        with pytest.raises(ValueError, match=words):
            read(path)


def test_a_word_in_the_only_column_of_numbers_is_no_header():
    source = sg.open_source(write("id,grade\nBob,Ex\n" + "Al,3\nCy,4\n" * 10), columns=["grade"])
    with pytest.raises(sg.ChunkReadError, match="line 2, column 'grade'"):
        rows_of(source)


@pytest.mark.parametrize("suffix", [".data", ".dat", ".tab", ".psv", ".asc", ".prn"])
def test_names_of_text_tables(suffix):
    np.testing.assert_array_equal(
        rows_of(sg.open_source(write("a\tb\n" + BODY.replace(",", "\t"), path="t" + suffix))), A
    )
    with pytest.raises(ValueError, match=r"Rename a text table to \.csv"):
        sg.open_source(write(BODY, path="t.xyz"))


# Choices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [0, 1, "yes", 2.0])
def test_a_header_is_true_or_false(header):
    with pytest.raises(ValueError, match="header must be True, False or None"):
        sg.open_source(write("a,b\n" + BODY), header=header)


@pytest.mark.parametrize("kind", ["csv", "array", "frame", "dask"])
def test_masks_and_sets_choose_no_columns(kind):
    import dask.array as da

    data = {"csv": write("a,b\n" + BODY), "array": A, "frame": pd.DataFrame(A, columns=["a", "b"]),
            "dask": da.from_array(A, chunks=(2, 2))}[kind]  # fmt: skip
    for given in (
        {"columns": [True, False]},
        {"columns": np.array([True, False])},
        {"exclude": [True]},
        {"weight": True},
    ):
        with pytest.raises(ValueError, match=r"numpy\.flatnonzero"):
            sg.open_source(data, **given)
    for given in ({"a", "b"}, slice(0, 1)):
        with pytest.raises(ValueError, match="must be a list of names or positions"):
            sg.open_source(data, columns=given)


@pytest.mark.parametrize("estimator", [sg.GaussianMixture(1), sg.KMeans(1), sg.Scaler(), sg.OutlierDetector(1)])
def test_weights_beside_a_source_are_refused(estimator):
    source = sg.open_source(X)
    with pytest.raises(ValueError, match=r"belongs where the source is opened: open_source\(\.\.\., weight="):
        estimator.fit(source, sample_weight=W)
    if hasattr(estimator, "partial_fit"):
        with pytest.raises(ValueError, match="belongs where the source is opened"):
            estimator.partial_fit(source, sample_weight=W)
    with pytest.raises(ValueError, match="belongs where the source is opened"):
        sg.select(source, [1], sample_weight=W)


BAD_WEIGHTS = {
    "text": (["x"] * 90, "must be real numbers"), "complex": (W + 1j, "must be real numbers"),
    "a name": ("w", "no column 'w'|open_source.X, weight='w'."), "times": (W.astype("M8[s]"), "must be real numbers"),
    "a missing one": (pd.Series(W).mask(W > 1).astype("Float64"), "must be finite"),
    "too few": (W[:-1], r"must have shape \(90,\)"), "a matrix": (W[:, None], r"must have shape \(90,\)"),
    "a negative one": (W - 0.5, "must be finite and >= 0"), "none": (W * 0, "all of their weights are zero"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_weights_that_are_none(kind):
    frame = pd.DataFrame(X, columns=list("abc"))
    frame.to_parquet("x.parquet")
    weight, words = BAD_WEIGHTS[kind]
    for data in (X, frame, pl.from_pandas(frame), "x.parquet", ["x.parquet"]):
        for estimator in (sg.GaussianMixture(1), sg.KMeans(1)):
            with pytest.raises(ValueError, match=words):
                estimator.fit(data, sample_weight=weight)


def test_paths_of_any_kind():
    class Path:
        def __fspath__(self):
            return "t.csv"

    write("a,b\n" + BODY)
    for path in (Path(), np.str_("t.csv"), [Path()]):
        np.testing.assert_allclose(sg.GaussianMixture(1).fit(path).means_[0], A.mean(0), rtol=1e-12)


# Tables in memory -----------------------------------------------------------------------------------------------------

N = np.tile([[1.5, 2.0, 1.0], [2.25, 7.0, 0.0]], (9, 1))
D18 = [decimal.Decimal("1.5"), decimal.Decimal("2.25")] * 9


def in_memory():
    encoded = pa.array(N[:, 1]).dictionary_encode()
    ends = pa.RunEndEncodedArray.from_arrays(pa.array(range(1, 19), pa.int32()), pa.array(N[:, 1]))
    truth = N[:, 2] > 0
    return {
        "pyarrow": pa.table({"a": pa.array(D18), "b": encoded, "c": truth}),
        "pyarrow runs": pa.table({"a": pa.array(D18, pa.decimal256(9, 3)), "b": ends, "c": pa.array(truth)}),
        "pyarrow half": pa.table({"a": N[:, 0].astype("f2"), "b": encoded, "c": pa.array(truth)}),
        "pyarrow struct": pa.table({"a": pa.array(D18), "s": pa.array([{"b": b, "c": c} for b, c in N[:, 1:]])}),
        "pyarrow lists": pa.table({"v": pa.FixedSizeListArray.from_arrays(N.ravel(), 3)}),
        "polars": pl.DataFrame({"a": pl.Series(D18), "b": pl.Series(N[:, 1]).cast(pl.Int128), "c": truth}),
        "polars array": pl.DataFrame({"v": pl.Series(N.tolist(), dtype=pl.Array(pl.Float64, 3))}),
        "polars list": pl.DataFrame({"v": N.tolist()}),
        "polars struct": pl.DataFrame({"a": D18, "s": [{"b": b, "c": c} for b, c in N[:, 1:].tolist()]}),
        "pandas arrow": pd.DataFrame({
            "a": pd.array(D18, pd.ArrowDtype(pa.decimal128(5, 2))), "b": pd.arrays.ArrowExtensionArray(encoded),
            "c": pd.array(truth, "boolean"),
        }),
        "pandas categories": pd.DataFrame({"a": N[:, 0], "b": pd.Categorical(N[:, 1]), "c": truth}),
        "pandas sparse": pd.DataFrame(N, columns=list("abc")).astype(pd.SparseDtype(float, 0.0)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", in_memory())
def test_numbers_that_numpy_calls_objects(kind):
    table = in_memory()[kind]
    np.testing.assert_array_equal(rows_of(sg.open_source(table)), N)
    gm = sg.GaussianMixture(1).fit(table)
    np.testing.assert_allclose(gm.means_[0], N.mean(0), rtol=1e-12)
    assert len(gm.feature_names_in_) == 3
    right = gm.mixture_.log_prob(N)
    np.testing.assert_allclose(gm.score_samples(table), right, rtol=1e-12)
    np.testing.assert_allclose(sg.Scaler().fit(table).mean_, N.mean(0), rtol=1e-12)
    np.testing.assert_allclose(sg.KMeans(1).fit(table).cluster_centers_[0], N.mean(0), rtol=1e-12)
    if not kind.startswith("pandas"):
        names = list(gm.feature_names_in_)
        other = pl.DataFrame(N[:, ::-1], schema=names[::-1])
        np.testing.assert_allclose(gm.score_samples(other), right, rtol=1e-12)


WITHOUT_NUMBERS = {
    "categories": pd.DataFrame({"a": pd.Categorical(["x", "y"] * 9), "b": range(18)}),
    "periods": pd.DataFrame({"a": pd.period_range("2020", periods=18), "b": range(18)}),
    "polars categories": pl.DataFrame({"a": pl.Series(["x", "y"] * 9).cast(pl.Categorical), "b": range(18)}),
    "pyarrow binary": pa.table({"a": pa.array([b"x"] * 18), "b": range(18)}),
}


@pytest.mark.parametrize("kind", WITHOUT_NUMBERS)
def test_columns_without_numbers_are_named(kind):
    with pytest.raises(ValueError, match=r"hold none: 'a' \(.*\)\. Leave them out with X\.drop.*\['a'\]\)"):
        sg.GaussianMixture(1).fit(WITHOUT_NUMBERS[kind])


def test_lists_of_unequal_lengths():
    for table in (pl.DataFrame({"v": [[1.0, 2.0], [3.0]]}), pa.table({"v": [[1.0, 2.0], [3.0]]})):
        for read in (sg.open_source, sg.GaussianMixture(1).fit):
            with pytest.raises(ValueError, match="'v': expected lists of 2 numbers"):
                read(table)


@pytest.mark.parametrize(
    "table", [pd.DataFrame(index=range(9)), pl.DataFrame(), pa.table({})], ids=["pandas", "polars", "arrow"]
)
def test_tables_without_columns(table):
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        sg.GaussianMixture(1).fit(table)


# Files ----------------------------------------------------------------------------------------------------------------


def folder(*tables):
    os.makedirs("parts")
    for i, table in enumerate(tables):
        pq.write_table(table, f"parts/{i}.parquet")
    return "parts"


def test_text_in_two_encodings_is_left_out():
    first, second = (
        pa.table({"a": X[:, 0], "t": ["x"] * 90}),
        pa.table({"t": pa.array(["x"] * 90).dictionary_encode(), "a": X[:, 1]}),
    )
    gm = sg.GaussianMixture(1).fit(folder(first, second))
    np.testing.assert_allclose(gm.means_, X[:, :2].mean(), rtol=1e-12)


def test_text_and_numbers_are_not_one_column():
    with pytest.raises(ValueError, match=r"differ in b \(text, numbers\)"):
        sg.open_source(folder(pa.table({"a": [1.0], "b": [1.0]}), pa.table({"a": [1.0], "b": ["x"]})))


def test_excluded_columns_may_be_in_some_files_only():
    path = folder(pa.table({"a": X[:, 0]}), pa.table({"b": X[:, 2], "a": X[:, 1]}))
    source = sg.open_source(path, exclude=["b"])
    np.testing.assert_array_equal(rows_of(source)[:, 0], X[:, :2].T.ravel())
    with pytest.raises(ValueError, match="differ in b"):
        sg.open_source(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_text_in_some_files_only_is_left_out(kind, caplog):
    first, second = pd.DataFrame({"a": X[:, 0], "b": X[:, 1]}), pd.DataFrame({"b": X[:, 2], "t": "x", "a": X[:, 0]})
    for i, frame in enumerate((first, second)):
        if kind == "csv":
            frame.to_csv(f"{i}.csv", index=False)
        else:
            frame.to_parquet(f"{i}.parquet")
    gm = sg.GaussianMixture(1).fit([f"0.{kind}", f"1.{kind}"])
    np.testing.assert_allclose(gm.means_[0], [X[:, 0].mean(), X[:, 1:].mean()], rtol=1e-12)
    assert "left out the columns t" in caplog.text
    with pytest.raises(ValueError, match="no column 't'"):  # what a person asked for has to be there
        sg.open_source([f"0.{kind}", f"1.{kind}"], exclude=["t"])


def test_files_without_names_among_others_are_told(caplog):
    np.save("x.npy", X)
    pd.DataFrame(X, columns=list("abc")).to_csv("x.csv", index=False)
    assert sg.open_source(["x.npy", "x.csv"]).n_features == 3
    assert "x.npy has no names of columns: they are taken to stand in the order of x.csv" in caplog.text
    caplog.clear()
    write("1,2,3\n4,5,6\n", path="y.csv")  # the second half of a file that was split
    sg.open_source(["x.csv", "y.csv"])
    assert not caplog.text


def test_labels_may_be_in_some_files_only():
    frame = pd.DataFrame(X, columns=list("abc"))
    marked = pa.Table.from_pandas(frame.set_index(pd.Index(np.arange(90)[::-1], name="id")))
    for tables in ((pa.Table.from_pandas(frame), marked), (marked, pa.Table.from_pandas(frame))):
        source = sg.open_source(folder(*tables))
        assert source.feature_names == ("a", "b", "c")
        np.testing.assert_array_equal(rows_of(source), np.vstack([X, X]))
        for i in (0, 1):
            os.remove(f"parts/{i}.parquet")
        os.rmdir("parts")


def test_categories_in_tables_of_pandas():
    pytest.importorskip("tables", reason="pandas writes HDF5 with PyTables")
    frame = pd.DataFrame({"a": X[:, 0], "t": pd.Categorical(["x", "y"] * 45), "b": X[:, 1]})
    frame.to_hdf("p.h5", key="d", mode="w", format="table")
    gm = sg.GaussianMixture(1).fit("p.h5")
    order = ["ab".index(name) for name in gm.feature_names_in_]
    np.testing.assert_allclose(gm.means_[0], X[:, order].mean(0), rtol=1e-12)


def test_codes_of_an_enumeration_are_no_numbers():
    with h5py.File("e.h5", "w") as file:
        file.create_dataset("kind", data=np.array([0, 1, 1], "i1"), dtype=h5py.enum_dtype({"x": 0, "y": 1}, "i1"))
        file.create_dataset("good", data=np.array([True, False, True]))
        file.create_dataset("a", data=[1.0, 2.0, 4.0])
    gm = sg.GaussianMixture(1).fit("e.h5")
    assert sorted(gm.feature_names_in_) == ["a", "good"]


def nothing(kind):
    import dask.array as da

    if kind == "npy":
        np.save("e.npy", X[:0])
    elif kind == "parquet":
        pq.write_table(pa.table({"a": X[:0, 0]}), "e.parquet")
    elif kind == "csv":
        write("a,b\n", path="e.csv")
    return da.zeros((0, 3)) if kind == "dask" else f"e.{kind}"


@pytest.mark.parametrize("kind", ["npy", "parquet", "csv", "dask"])
def test_no_rows(kind):
    for estimate in (sg.GaussianMixture(2).fit, lambda data: sg.select(data, [1, 2]), sg.KMeans(2).fit):
        with pytest.raises(ValueError, match=r"nothing to fit: no rows|n_samples=0 .* should be >= n_clusters"):
            estimate(nothing(kind))


@pytest.mark.parametrize("dtype", [object, "U3", "M8[s]", complex])
def test_types_are_told_with_the_file(dtype):
    np.save("x.npy", np.array([[1, 2], [3, 4]]).astype(dtype))
    with pytest.raises(ValueError, match=r"x\.npy: (Expected numbers|Complex data)"):
        sg.open_source("x.npy")


# xarray ---------------------------------------------------------------------------------------------------------------

VARIABLES = {name: ("row", X[:, j]) for j, name in enumerate("abc")}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_dataset_with_more_than_its_columns(chunked):
    held = xr.Dataset(VARIABLES | {"t": ("row", ["x"] * 90), "crs": 7})
    held = held.chunk(40) if chunked else held
    with pytest.raises(ValueError, match="column 't' holds text"):
        sg.open_source(held)
    np.testing.assert_array_equal(rows_of(sg.open_source(held, exclude="t")), X)
    np.testing.assert_array_equal(rows_of(sg.open_source(held, columns=["c", "a"])), X[:, [2, 0]])
    np.testing.assert_allclose(sg.GaussianMixture(1).fit(held).means_[0], X.mean(0), rtol=1e-12)
    weighted = sg.open_source(held.assign(w=("row", W)), weight="w", columns=["b"])
    np.testing.assert_allclose(sg.Scaler().fit(weighted).mean_, W @ X[:, 1] / W.sum(), rtol=1e-12)


@pytest.mark.parametrize("name", ["variable", "feature", "Features", "columns"])
def test_rows_come_first(name):
    table = xr.DataArray(X.T, dims=(name, "time"), coords={name: list("abc")})
    for data in (table, table.chunk(30), table.to_dataset(name="x")):
        with pytest.raises(ValueError, match=rf"X\.transpose\('time', '{name}'\)"):
            sg.open_source(data)
    source = sg.open_source(table.T)
    assert source.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(rows_of(source), X)


@pytest.mark.parametrize("version", [2, 3])
def test_rows_come_first_in_zarr(version):
    table = xr.DataArray(X.T, dims=("variable", "time"), name="x")
    table.to_dataset().to_zarr("x.zarr", zarr_format=version, consolidated=False)
    with pytest.raises(ValueError, match=r"x\.zarr.*: expected the rows first.*transpose\('time', 'variable'\)"):
        sg.GaussianMixture(1).fit("x.zarr")


def test_rows_come_first_in_netcdf():
    for path, values, names in (("wrong.nc", X.T, ("feature", "row")), ("right.nc", X, ("row", "feature"))):
        with h5py.File(path, "w") as file:
            data = file.create_dataset("x", data=values)
            for axis, name in enumerate(names):
                file.create_dataset(name, data=np.arange(float(values.shape[axis]))).make_scale(name)
                data.dims[axis].attach_scale(file[name])
    with pytest.raises(ValueError, match="expected the rows first; its first dimension is called 'feature'"):
        sg.open_source("wrong.nc")
    np.testing.assert_array_equal(rows_of(sg.open_source("right.nc")), X)


# Answers --------------------------------------------------------------------------------------------------------------


def test_answers_are_not_cut_to_another_type():
    gm = sg.GaussianMixture(1).fit(X)
    for dtype in (np.int64, np.uint8, "U8", bool):
        with pytest.raises(ValueError, match="cannot hold the answers"):
            gm.score_samples(X, out=np.zeros(90, dtype))
    with pytest.raises(ValueError, match=r"out has shape \(90, 2\); expected \(rows,\)"):
        gm.predict(X, out=np.zeros((90, 2), int))
    places = np.arange(300.0)[:, None]
    many = sg.GaussianMixture.from_parameters(np.full(300, 1 / 300), places, np.full(300, 0.01), "spherical")
    with pytest.raises(ValueError, match="cannot hold labels from 0 to 299"):
        many.predict(places, out=np.zeros(300, np.uint8))
    np.testing.assert_array_equal(gm.predict(X, out=np.ones(90, np.uint8)), 0)
    np.testing.assert_allclose(gm.score_samples(X, out=np.zeros(90, np.float32)), gm.score_samples(X), rtol=1e-6)
