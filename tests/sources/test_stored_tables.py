"""Tables as people store them in HDF5, Zarr and npz: records, a dataset for each column, MATLAB, groups, zip files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.errors import ChunkReadError
from streamgmm.sources import limit_chunks, open_source
from streamgmm.sources.formats.tables import NotNumbersError
from tests.helpers.chunks import check_chunks, read
from tests.helpers.tables import MATLAB, TABLES, matlab, npz, pandas_fixed, pandas_table, zarr_columns

RNG = np.random.default_rng(4)
X = RNG.normal(size=(700, 3))
FRAME = pd.DataFrame(X, columns=list("bac"))


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=TABLES)
def table(request):
    TABLES[request.param](request.param, FRAME)
    return request.param


def test_columns_have_names_and_are_chosen_by_them(table):
    source = open_source(table)
    assert sorted(source.feature_names) == ["a", "b", "c"]
    check_chunks(source, FRAME[list(source.feature_names)].to_numpy())
    for some in (["c", "b"], ["a"]):
        chosen = open_source(table, columns=some, chunk_rows=90)
        assert chosen.feature_names == tuple(some) and chosen.max_chunk_rows <= 90
        check_chunks(chosen, FRAME[some].to_numpy())
        check_chunks(limit_chunks(chosen, 40), FRAME[some].to_numpy())
    source = open_source(table, exclude=["b"], chunk_rows=300)
    check_chunks(source, FRAME[list(source.feature_names)].to_numpy())
    assert set(source.feature_names) == {"a", "c"}
    with pytest.raises(ValueError, match="there is no column 'z'"):
        open_source(table, columns=["a", "z"])


def test_weights_are_a_column_or_an_array(table):
    TABLES[table](table, FRAME.assign(w=np.arange(700.0)))
    source = open_source(table, weight="w", chunk_rows=150)
    rows, weights = read(source)
    np.testing.assert_array_equal(rows, FRAME[list(source.feature_names)])
    np.testing.assert_array_equal(weights, np.arange(700.0))
    rows, weights = read(open_source(table, columns=["a"], weight=np.arange(700.0)[::-1]))
    np.testing.assert_array_equal(weights, np.arange(700.0)[::-1])
    with pytest.raises(ValueError, match="one for each row"):
        open_source(table, weight=np.ones(3))
    TABLES[table](table, FRAME.assign(w=np.where(np.arange(700) == 411, -1, 1.0)))
    with pytest.raises(ValueError, match="row 411 has -1"):
        read(open_source(table, weight="w"))


def test_types_and_missing_values(table):
    mixed = FRAME.assign(a=FRAME.a.astype("f4"), c=np.arange(700) // 3)
    mixed.loc[5, "b"] = np.nan
    TABLES[table](table, mixed)
    source = open_source(table)
    check_chunks(source, mixed[list(source.feature_names)].to_numpy(np.float64))
    single = FRAME.astype("f4")
    TABLES[table](table, single)
    source = open_source(table)
    check_chunks(source, single[list(source.feature_names)].to_numpy(), np.float32)


def test_a_fit_is_that_of_the_frame(table, capsys):
    right = sg.GaussianMixture(1).fit(FRAME)
    gm = sg.GaussianMixture(1, memory_limit="300MB").fit(table)
    names = list(gm.feature_names_in_)
    np.testing.assert_allclose(gm.means_[0], right.means_[0][[list("bac").index(n) for n in names]], rtol=1e-12)
    assert right.score(table) == pytest.approx(right.score(FRAME), rel=1e-12)
    np.testing.assert_array_equal(np.concatenate(list(right.predict(table))), 0)
    with pytest.raises(ValueError, match="missing: 'b'"):
        right.score(open_source(table, columns=["a", "c"]))
    if table in ("records.h5", "struct.mat", "columns.zarr", "columns.zarr.zip", "columns.npz"):
        assert run(["fit", table, "-k", "1", "--out", "m"]) == 0
        np.testing.assert_allclose(sg.load("m").means_, gm.means_, rtol=1e-12)
        assert run(["data", "check", table]) == 0
        capsys.readouterr()


def test_a_file_that_changes_is_noticed(table):
    if table == "compressed.npz":
        pytest.skip("held in memory")
    source = open_source(table)
    for file in [table] if os.path.isfile(table) else [
        os.path.join(folder, name) for folder, _, names in os.walk(table) for name in names
    ]:  # fmt: skip
        os.utime(file, ns=(1, 1))
    with pytest.raises(ChunkReadError, match="has changed since it was opened"):
        read(source)


# Labels and text ------------------------------------------------------------------------------------------------------


def test_row_labels_are_left_out(table):
    if table in ("records.h5", "table.h5", "fixed.h5"):
        TABLES[table](table, FRAME)  # pandas writes its index with them
    elif "xarray" in table or table == "netcdf.nc":
        TABLES[table](table, FRAME.rename_axis("index"))
    else:
        TABLES[table](table, FRAME.reset_index())
    source = open_source(table)
    assert sorted(source.feature_names) == ["a", "b", "c"]
    if table != "fixed.h5":
        assert source.left_out == (("index", "lat") if table == "netcdf.nc" else ("index",))
        rows, _ = read(open_source(table, columns=["index", "a"]))
        np.testing.assert_array_equal(rows[:, 0], np.arange(700) + 5 * (table == "table.h5"))
        np.testing.assert_array_equal(rows[:, 1], FRAME.a)


def test_an_index_is_never_the_only_feature():
    labels = pd.DataFrame({"index": np.arange(20), "name": np.array(["a", "b"] * 10, "S")})

    def pandas_records(path, frame):
        with h5py.File(path, "w") as file:
            file["t"] = frame.set_index("index").to_records(column_dtypes={"name": "S1"})

    for kind, make in (("x.npz", npz), ("x.h5", pandas_records)):
        make(kind, labels)
        for use in (open_source, sg.GaussianMixture(1).fit):
            with pytest.raises(ValueError, match=r"holds text|row labels"):
                use(kind)
        assert run(["fit", kind, "-k", "1"]) == 1


@pytest.mark.parametrize("kind", ["parquet", "csv", "feather", "h5"])
def test_nor_is_another_row_number_when_the_rest_is_text(kind, capsys):
    frame = pd.DataFrame({"id": np.arange(1, 41), "name": np.array(["a", "b"] * 20)})
    path = f"x.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["t"] = frame.to_records(index=False, column_dtypes={"name": "S1"})
    else:
        frame.to_csv(path, index=False) if kind == "csv" else getattr(frame, f"to_{kind}")(path)
    for command in (["fit", path, "-k", "1"], ["data", "check", path]):
        assert run(command) == 2
        assert "nothing is left but 'id', which numbers the rows" in capsys.readouterr().err
    assert run(["fit", path, "-k", "1", "--columns", "id"]) == 0
    frame.assign(id=frame.id % 7).to_csv("y.csv", index=False)
    assert run(["fit", "y.csv", "-k", "1"]) == 0


def test_pandas_levels_are_labels():
    pandas_table("x.h5", FRAME, labels=("n", "m"))
    source = open_source("x.h5")
    assert source.feature_names == ("b", "a", "c") and source.left_out == ("index", "n", "m")


def test_text_and_times_are_named_and_left_out_at_the_command_line(capfd):
    text = FRAME.assign(s=np.array(["x", "yy"] * 350, "S"), t=np.arange(700))
    with h5py.File("records.h5", "w") as file:
        file["t"] = text.drop(columns="t").to_records(column_dtypes={"s": "S2"})
    pandas_fixed("fixed.h5", text.drop(columns="s"), times=("t",))
    with h5py.File("columns.h5", "w") as file:
        for name in "bac":
            file[name] = FRAME[name]
        file.create_dataset("s", data=["x", "yy"] * 350)
    for path, what in (("records.h5", "text"), ("fixed.h5", "times"), ("columns.h5", "text")):
        with pytest.raises(NotNumbersError, match=f"holds {what}") as error:
            open_source(path)
        assert sorted(error.value.numeric) == ["a", "b", "c"]
        assert run(["data", "check", path]) == 0
        assert "left out, because they hold no numbers" in capfd.readouterr().err


def test_fields_in_fields_and_arrays_in_fields():
    kind = [("id", "<i4"), ("p", [("x", ">f8"), ("y", "<f4")]), ("v", "<f8", (2, 2)), ("ok", "?"), ("one", "<f8", (1,))]
    records = np.zeros(50, kind)
    records["p"]["x"], records["v"] = X[:50, 0], X[:200].reshape(50, -1)[:, :4].reshape(50, 2, 2)
    records["ok"] = np.arange(50) % 2
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("t", data=records, chunks=(20,))
    source = open_source("x.h5", chunk_rows=7)
    assert source.feature_names == ("id", "p.x", "p.y", "v_0_0", "v_0_1", "v_1_0", "v_1_1", "ok", "one")
    rows, _ = read(source)
    np.testing.assert_array_equal(rows[:, 1], X[:50, 0])
    np.testing.assert_array_equal(rows[:, 3:7], records["v"].reshape(50, 4))
    np.testing.assert_array_equal(rows[:, 7], records["ok"])


# Choices --------------------------------------------------------------------------------------------------------------


def test_what_is_ambiguous_is_one_error_that_lists_the_choices():
    with h5py.File("x.h5", "w") as file:
        file["g/a"], file["g/b"], file["h/c"], file["h/d"] = X.T[[0, 1, 2, 0]]
    with pytest.raises(ValueError, match=r"found 2.*x\.h5::g \(columns a, b\), .*x\.h5::h \(columns c, d\)"):
        open_source("x.h5")
    check_chunks(open_source("x.h5::g"), X[:, :2])
    check_chunks(open_source("x.h5::h/c"), X[:, [2]])
    check_chunks(open_source("x.h5", columns=["d", "c"]), X[:, [0, 2]])
    assert open_source("x.h5::h/c").feature_names == ("c",)
    with h5py.File("x.h5", "r") as file:
        check_chunks(open_source(file["g"]), X[:, :2])
    with pytest.raises(ValueError, match=r"no such dataset. Choose one of: .*x\.h5::g"):
        open_source("x.h5::nothing")
    with h5py.File("two.h5", "w") as file:
        file["x"], file["a"], file["b"] = X, X[:10, 0], X[:10, 1]
    with pytest.raises(ValueError, match=r"found 2.*two\.h5::x \(700 x 3\), .*two\.h5::/ \(columns a, b\)"):
        open_source("two.h5")
    check_chunks(open_source("two.h5::x"), X)
    check_chunks(open_source("two.h5::/", columns=["b"]), X[:10, [1]])
    np.savez("two.npz", x=X, y=X[:, :2])
    with pytest.raises(ValueError, match=r"found 2.*two\.npz::x \(700 x 3\), .*two\.npz::y \(700 x 2\)"):
        open_source("two.npz")
    check_chunks(open_source("two.npz::y"), X[:, :2])


def test_a_matrix_with_labels_of_its_rows_is_the_matrix():
    with h5py.File("x.h5", "w") as file:
        file["x"], file["y"], file["name"] = X, np.arange(700) % 2, "words"
    check_chunks(open_source("x.h5"), X)
    np.savez("x.npz", x=X, y=np.arange(700) % 2)
    check_chunks(open_source("x.npz"), X)
    group = zarr.open_group("x.zarr", mode="w")
    group.create_array("deep/x", data=X, chunks=(100, 3))
    group.create_array("deep/y", data=np.arange(700))
    for name in ("x.zarr", "x.zarr::deep", "x.zarr::deep/x", group, group["deep"]):
        check_chunks(open_source(name), X)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["h5", "zarr", "npz"])
def test_matrices_of_one_column_each_are_columns(kind, mixed):
    thin = {"b": X[:, 0] if mixed else X[:, :1], "a": X[:, 1:2]}
    if kind == "h5":
        with h5py.File("x.h5", "w") as file:
            for name, value in thin.items():
                file.create_dataset(name, data=value, chunks=(100, 1)[: value.ndim], compression="gzip")
    elif kind == "zarr":
        for name, value in thin.items():
            zarr.open_group("x.zarr", mode="a").create_array(name, data=value, chunks=(100, 1)[: value.ndim])
    else:
        np.savez("x.npz", **thin)
    source = open_source(f"x.{kind}", columns=["b", "a"], chunk_rows=150)
    check_chunks(source, X[:, :2])
    assert sorted(open_source(f"x.{kind}").feature_names) == ["a", "b"]
    source = open_source(f"x.{kind}::a")
    check_chunks(source, X[:, 1:2])
    assert source.feature_names is None


def test_columns_of_other_lengths_are_told():
    with h5py.File("x.h5", "w") as file:
        file["a"], file["b"], file["c"] = X[:, 0], X[:, 1], X[:5, 2]
    with pytest.raises(ValueError, match=r"same length; found a \(700\), b \(700\), c \(5\).*x\.h5::a"):
        open_source("x.h5")
    check_chunks(open_source("x.h5", columns=["b", "a"]), X[:, [1, 0]])


@pytest.mark.parametrize("kind", ["h5", "zarr", "npz"])
def test_other_dimensions_and_nothing_at_all(kind):
    cube = X[:200].reshape(10, 20, 3)
    if kind == "h5":
        with h5py.File("x.h5", "w") as file:
            file["scene"] = cube
        with h5py.File("none.h5", "w") as file:
            file["words"] = "a b c"
    elif kind == "zarr":
        zarr.open_group("x.zarr", mode="w").create_array("scene", data=cube)
        zarr.open_group("none.zarr", mode="w")
    else:
        np.savez("x.npz", scene=cube)
        np.savez("none.npz", words=np.array(["a", "b"]))
    for name in (f"x.{kind}", f"x.{kind}::scene"):
        with pytest.raises(ValueError, match=r"Found array with dim 3.*\(10, 20, 3\).*reshape\("):
            open_source(name)
    with pytest.raises(ValueError, match=r"expected rows of numbers|no arrays|nothing but"):
        open_source(f"none.{kind}")


def test_what_was_never_written_of_a_column_is_told_or_left_out():
    with h5py.File("x.h5", "w") as file:
        for i, name in enumerate("ab"):
            data = file.create_dataset(name, (700,), "f8", chunks=(100,))
            data[: 300 + 100 * i], data[500:] = X[: 300 + 100 * i, i], X[500:, i]
    with pytest.raises(ChunkReadError, match=r"x\.h5::a: .*rows 300 to 399 were never written"):
        open_source("x.h5")
    present = np.r_[0:300, 500:700]
    np.testing.assert_array_equal(read(open_source("x.h5", missing_chunks="skip"))[0], X[present, :2])
    filled = read(open_source("x.h5", missing_chunks="fill"))[0]
    assert (filled[300:500, 0] == 0).all() and (filled[400:500, 1] == 0).all()
    zarr_columns("x.zarr", FRAME)
    os.unlink("x.zarr/b/c/2")
    with pytest.raises(ChunkReadError, match=r"x\.zarr::b: .*rows 256 to 383\) is not there"):
        open_source("x.zarr")
    skipped = open_source("x.zarr", missing_chunks="skip", columns=["c", "b"])
    np.testing.assert_array_equal(read(skipped)[0], X[np.r_[0:256, 384:700]][:, [2, 0]])
    check_chunks(open_source("x.zarr", columns=["a"]), X[:, [1]])
    with h5py.File("r.h5", "w") as file:
        data = file.create_dataset("t", (700,), [("a", "f8"), ("b", "f8")], chunks=(100,))
        data[200:] = np.rec.fromarrays(X[200:, :2].T, names="a,b")
    with pytest.raises(ChunkReadError, match="rows 0 to 99 were never written"):
        open_source("r.h5")
    np.testing.assert_array_equal(read(open_source("r.h5", missing_chunks="skip"))[0], X[200:, :2])


def test_a_filter_that_is_not_installed_is_named():
    with h5py.File("x.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((100, 3))
        plist.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL)  # Blosc, which PyTables uses
        space = h5py.h5s.create_simple(X.shape)
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, plist)
    if h5py.h5z.filter_avail(32_001):
        pytest.skip("Blosc is installed for HDF5")
    with pytest.raises(ChunkReadError, match=r"x\.h5::x: .*which is not installed. Import hdf5plugin"):
        open_source("x.h5")


def test_links_are_followed_once():
    with h5py.File("x.h5", "w") as file:
        file["entry/data/x"] = X
        file["entry/again"] = h5py.SoftLink("/entry/data/x")
        file["entry/loop"] = h5py.SoftLink("/entry")
        file["entry/broken"] = h5py.SoftLink("/nowhere")
        file["kind"] = np.dtype("f8")
    check_chunks(open_source("x.h5"), X)
    check_chunks(open_source("x.h5::entry/again"), X)


# MATLAB ---------------------------------------------------------------------------------------------------------------


def test_matlab_keeps_columns_together():
    matlab("x.mat", X=X)
    check_chunks(open_source("x.mat"), X)
    check_chunks(open_source("x.mat::X", chunk_rows=64), X)
    matlab("square.mat", X=X[:3])
    check_chunks(open_source("square.mat"), X[:3])
    matlab("more.mat", X=X, n=3.0, note=np.frombuffer(b"h\0i\0", "u2"), y=np.arange(700.0)[:, None])
    check_chunks(open_source("more.mat"), X)
    with h5py.File("chunked.mat", "w", userblock_size=512) as file:
        file.create_dataset("X", data=X.T, chunks=(3, 128), compression="gzip")
    with open("chunked.mat", "r+b") as file:
        file.write(MATLAB.ljust(512))
    source = open_source("chunked.mat")
    check_chunks(source, X)
    check_chunks(limit_chunks(source, 200), X)


def test_older_matlab_files_are_named():
    with open("old.mat", "wb") as file:
        file.write(b"MATLAB 5.0 MAT-file, Platform".ljust(600))
    with pytest.raises(ValueError, match=r"before version 7\.3.*-v7\.3.*loadmat"):
        open_source("old.mat")


# npz and zip ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_only_array_of_an_npz(save, order):
    save("x.npz", np.asarray(X, order=order))
    check_chunks(open_source("x.npz", chunk_rows=100), X)
    check_chunks(open_source("x.npz::arr_0", columns=[2, 0]), X[:, [2, 0]])
    assert sg.GaussianMixture(1).fit("x.npz").report_["rows"] == 700


def test_damaged_and_other_zip_files_are_named():
    np.savez("x.npz", X)
    content = Path("x.npz").read_bytes()
    for length in (len(content) - 1, 500, 30):
        with open("cut.npz", "wb") as file:
            file.write(content[:length])
        with pytest.raises(ChunkReadError, match="cut short or damaged"):
            open_source("cut.npz")
    with open("t.csv", "w") as file:
        file.write("a,b\n1,2\n")
    os.mkdir("sheet")
    shutil.move("t.csv", "sheet")
    shutil.make_archive("sheet", "zip", "sheet")
    with pytest.raises(ValueError, match=r"of zip files, Zarr stores and \.npz are read; this one holds t\.csv"):
        open_source("sheet.zip")
    np.savez("objects.npz", np.array([[1, "a"]], object))
    with pytest.raises(ValueError, match=r"nothing but text or objects"):
        open_source("objects.npz")


@pytest.mark.parametrize("version", [2, 3])
def test_a_zip_store_of_one_array(version):
    store = zarr.storage.ZipStore("x.zarr.zip", mode="w")
    zarr.create_array(store, data=X, chunks=(100, 3), zarr_format=version)
    store.close()
    source = open_source("x.zarr.zip")
    check_chunks(source, X)
    assert source.limited(100).n_chunks == 7
    os.mkdir("days")
    shutil.copy("x.zarr.zip", "days/1.zarr.zip")
    shutil.move("x.zarr.zip", "days/0.zarr.zip")
    check_chunks(open_source("days"), np.concatenate([X, X]))


# Files as PyTables itself writes them ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"format": "table"}, {"format": "table", "data_columns": True}], ids=str)
def test_files_of_pandas(options):
    pytest.importorskip("tables")
    frame = FRAME.assign(a=FRAME.a.astype("f4"), n=np.arange(700) % 7, ok=FRAME.b > 0)
    frame.to_hdf("x.h5", key="some/frame", **options)
    source = open_source("x.h5")
    assert set(source.feature_names) == set(frame)
    check_chunks(source, frame[list(source.feature_names)].to_numpy(np.float64))
    frame.columns = range(5)
    frame.to_hdf("y.h5", key="df", **({"format": "table"} if options else {}))
    source = open_source("y.h5")
    assert set(source.feature_names) == set("01234")
    check_chunks(source, frame[[int(name) for name in source.feature_names]].to_numpy(np.float64))
