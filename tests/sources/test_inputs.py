"""What cannot be read is refused with the remedy, by whatever door it came; partitions are what their metadata say."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.pipeline import make_pipeline

import streamgmm as sg

X = np.random.default_rng(0).normal(size=(200, 2))
FRAME = pd.DataFrame(X, columns=["a", "b"])


# Words ----------------------------------------------------------------------------------------------------------------


def lazy_frame(folder):
    import polars as pl

    return pl.from_pandas(FRAME).lazy()


def chunked_csv(folder):
    FRAME.to_csv(folder / "c.csv", index=False)
    return pd.read_csv(folder / "c.csv", chunksize=50)


def open_file(folder):
    FRAME.to_csv(folder / "c.csv", index=False)
    return open(folder / "c.csv", "rb")


def dask_series(folder):
    import dask.dataframe as dd

    return dd.from_pandas(FRAME, npartitions=2).a


def delayed(folder):
    import dask

    return dask.delayed(lambda: X)()


def unknown_width(folder):
    import dask.array as da

    return da.from_delayed(delayed(folder), shape=(np.nan, np.nan), dtype=float)


def record_batch(folder):
    import pyarrow as pa

    return pa.RecordBatch.from_pandas(FRAME)


def reader(folder):
    import pyarrow as pa

    return pa.Table.from_pandas(FRAME).to_reader()


def npz(folder):
    np.savez(folder / "x.npz", x=X)
    return np.load(folder / "x.npz")


UNREADABLE = {
    "polars LazyFrame": (lazy_frame, "X.collect()"),
    "generator": (lambda folder: (row for row in X), "partial_fit"),
    "map": (lambda folder: map(list, X), "partial_fit"),
    "chunks of pandas": (chunked_csv, "path of the file"),
    "open file": (open_file, "path of the file"),
    "bytes": (lambda folder: b"c.csv", "os.fsdecode"),
    "dask Series": (dask_series, "to_frame"),
    "Delayed": (delayed, "from_delayed"),
    "list of Delayed": (lambda folder: [delayed(folder)], "from_delayed"),
    "unknown width": (unknown_width, "shape="),
    "record batch": (record_batch, "from_batches"),
    "record batch reader": (reader, "read_all"),
    "dict": (lambda folder: {"a": [1.0], "b": [2.0]}, "DataFrame"),
    "records": (lambda folder: FRAME.to_records(), "DataFrame"),
    "npz": (npz, "X['x']"),
    "None": (lambda folder: None, "open_source"),
    "a set": (lambda folder: {1.0, 2.0}, "open_source"),
    "a function": (lambda folder: len, "open_source"),
}
DOORS = {
    "open_source": sg.open_source,
    "fit": lambda obj: sg.GaussianMixture().fit(obj),
    "predict": lambda obj: sg.GaussianMixture().fit(X).predict(obj),
    "score": lambda obj: sg.GaussianMixture().fit(X).score(obj),
    "KMeans": lambda obj: sg.KMeans(2, n_init=1).fit(obj),
    "Scaler": lambda obj: sg.Scaler().fit(obj),
    "select": lambda obj: sg.select(obj, [1]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_the_remedy(kind, door, tmp_path):
    make, remedy = UNREADABLE[kind]
    obj = make(tmp_path)
    try:
        with pytest.raises((TypeError, ValueError), match=r"xpected|not known") as error:
            DOORS[door](obj)
    finally:
        if hasattr(obj, "close"):
            obj.close()
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    "kind", ["bytes", "open file", "dask Series", "Delayed", "polars LazyFrame", "records", "None"]
)
def test_partial_fit_refuses_them_too(kind, tmp_path):
    make, remedy = UNREADABLE[kind]
    obj = make(tmp_path)
    try:
        with pytest.raises((TypeError, ValueError)) as error:
            sg.GaussianMixture().partial_fit(obj)
    finally:
        if hasattr(obj, "close"):
            obj.close()
    assert remedy in str(error.value)


def test_partial_fit_takes_chunks_of_pandas(tmp_path):
    with chunked_csv(tmp_path) as parts:
        gm = sg.GaussianMixture().partial_fit(parts)
    np.testing.assert_allclose(gm.means_, sg.GaussianMixture().partial_fit(FRAME).means_, rtol=1e-12)
    assert list(gm.feature_names_in_) == ["a", "b"]


@pytest.mark.parametrize(
    "column", [pd.date_range("2026", periods=200), pd.timedelta_range("1s", periods=200), ["x"] * 200]
)
@pytest.mark.parametrize("door", ["fit", "KMeans", "Scaler"])
def test_columns_of_times_and_text_are_named(column, door):
    import polars as pl

    frame = FRAME.assign(t=column)
    for obj in (frame, pl.from_pandas(frame)):
        with pytest.raises(ValueError, match=r"hold none: 't' .*drop"):
            DOORS[door](obj)
    with pytest.raises(ValueError, match="hold none: 't'"):
        sg.GaussianMixture().partial_fit(frame)


def test_arrays_of_times_are_no_numbers():
    times = pd.date_range("2026", periods=200).to_numpy()[:, None]
    for learn in (sg.GaussianMixture().fit, sg.GaussianMixture().partial_fit, sg.Scaler().fit):
        with pytest.raises(ValueError, match=r"dtype datetime64.* \(times\)"):
            learn(times)


# Grids ----------------------------------------------------------------------------------------------------------------


def grid():
    import xarray as xr

    values = np.random.default_rng(1).normal(size=(2, 5, 6, 7))
    return xr.Dataset({"t": (("time", "lat", "lon"), values[0]), "p": (("time", "lat", "lon"), values[1])})


def test_a_gridded_dataset_is_told_how_to_stack_and_the_advice_works():
    data = grid()
    with pytest.raises(ValueError, match=r"pass X\.stack\(row=\('time', 'lat', 'lon'\)\)"):
        sg.GaussianMixture().fit(data)
    gm = sg.GaussianMixture().fit(data.stack(row=("time", "lat", "lon")))
    right = sg.GaussianMixture().fit(np.column_stack([data.t.values.ravel(), data.p.values.ravel()]))
    np.testing.assert_allclose(gm.means_, right.means_, rtol=1e-12)
    with pytest.raises(ValueError, match=r"X\[\['t', 'p'\]\]\.stack"):
        sg.GaussianMixture().fit(data.assign(bounds=("lat", np.arange(6.0))))
    with pytest.raises(ValueError, match=r"stack\(row=\('time', 'lat'\)\)\.transpose\('row', 'lon'\)"):
        sg.GaussianMixture().fit(data.t)
    assert sg.open_source(data.t.stack(row=("time", "lat")).transpose("row", "lon")).n_features == 7
    assert sg.open_source(data.t.to_dataset(name="x").stack(row=("time", "lat", "lon"))).n_features == 1


# Partitions that are not what their metadata say ----------------------------------------------------------------------


def dask_of(block, dtype=float, columns=2, rows=100):
    """A dask array of two partitions; the second is really `block`."""
    import dask
    import dask.array as da

    parts = [X[:100].astype(dtype)[:, :columns], block]
    return da.concatenate(
        [da.from_delayed(dask.delayed(lambda p=p: p)(), shape=(rows, columns), dtype=dtype) for p in parts],
        allow_unknown_chunksizes=True,
    )


BLOCKS = {
    "another number of columns": (X[:100, :1], r"shape \(100, 1\); expected \(100, 2\)"),
    "more columns": (np.ones((100, 3)), r"shape \(100, 3\)"),
    "one dimension": (np.ones(100), r"shape \(100,\)"),
    "other rows": (X[:90], r"shape \(90, 2\); expected \(100, 2\)"),
    "None": (None, "a NoneType"),
    "a list": ([[1.0, 2.0]] * 100, "a list"),
    "text": (np.full((100, 2), "1.5"), "dtype <U3; expected float64"),
    "objects": (np.full((100, 2), None), "dtype object"),
    "complex": (np.ones((100, 2), complex), "dtype complex128"),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_partitions_unlike_their_metadata_are_an_error_with_their_number(kind):
    block, said = BLOCKS[kind]
    data = dask_of(block)
    gm = sg.GaussianMixture().fit(X)
    for ask in (
        lambda: sg.GaussianMixture().fit(data),
        lambda: gm.score(data),
        lambda: gm.predict(data).compute(),
        lambda: sg.KMeans(2, n_init=1, random_state=0).fit(data),
        lambda: sg.Scaler().fit(data),
        lambda: sg.GaussianMixture().partial_fit(data),
        lambda: sg.GaussianMixture(executor="dask").fit(data),
    ):
        with pytest.raises(sg.ChunkReadError, match=said) as error:
            ask()
        assert error.value.index == 1 and "meta=" in str(error.value)


def test_partitions_may_be_narrower_in_type_but_never_wider():
    wide, narrow = X[:100] * 1e8, X[:100].astype(np.float32)
    with pytest.raises(sg.ChunkReadError, match="dtype float64; expected float32"):
        sg.GaussianMixture().fit(dask_of(wide, np.float32))
    whole = np.arange(200).reshape(100, 2)
    for block in (narrow, whole, whole > 50):
        rows = [chunk.load()[0] for chunk in sg.open_source(dask_of(block)).chunks()]
        np.testing.assert_array_equal(rows[1], np.asarray(block, np.float64))


@pytest.mark.parametrize("unknown", [np.nan])
def test_partitions_of_unknown_length_may_have_any(unknown):
    rows = [chunk.load()[0] for chunk in sg.open_source(dask_of(X[:30], rows=unknown)).chunks()]
    assert [len(part) for part in rows] == [100, 30]
    with pytest.raises(sg.ChunkReadError, match=r"shape \(100, 1\); expected \(n, 2\)"):
        sg.GaussianMixture().fit(dask_of(X[:100, :1], rows=unknown))


FRAMES = {
    "a column less": (FRAME[["a"]], "no column 'b' among 'a'"),
    "None": (None, "a NoneType"),
    "an array": (X, "a ndarray"),
    "text": (FRAME.assign(b="1.5"), "text or objects|str"),
    "times": (FRAME.assign(b=pd.date_range("2026", periods=200)), "times in the column 'b'"),
}


@pytest.mark.parametrize(
    "block", [FRAME[:0].astype(object), FRAME[:50].assign(b=None), FRAME[["b", "a"]].assign(c="x")]
)
def test_empty_partitions_missing_entries_and_other_columns_are_no_harm(block):
    import dask
    import dask.dataframe as dd

    source = sg.open_source(dd.from_pandas(FRAME, npartitions=2))
    source.blocks[1] = dask.delayed(lambda: block)()
    rows = list(source.chunks())[1].load()[0]
    np.testing.assert_array_equal(rows, block[["a", "b"]].to_numpy(float, na_value=np.nan))


def test_partitions_of_xarray_and_behind_a_scaler_are_checked_too():
    import xarray as xr

    for block, said in ((X[:, :1], "shape"), (None, "NoneType")):
        data = xr.DataArray(dask_of(block), dims=("row", "feature"))
        with pytest.raises(sg.ChunkReadError, match=said):
            sg.GaussianMixture().fit(data)
        with pytest.raises(sg.ChunkReadError, match=said):
            sg.GaussianMixture().fit(sg.Scaler().fit(X).transform(data))


@pytest.mark.parametrize("kind", FRAMES)
def test_partitions_of_dask_frames_are_tables_of_these_columns(kind):
    import dask.dataframe as dd

    block, said = FRAMES[kind]
    whole = dd.from_pandas(FRAME, npartitions=2)
    data = whole.map_partitions(
        lambda part, partition_info=None: block if partition_info["number"] == 1 else part, meta=FRAME[:0],
        enforce_metadata=False,
    )  # fmt: skip
    source = sg.open_source(data)
    source.blocks[1] = __import__("dask").delayed(lambda: block)()  # Dask itself lets some of them not pass
    with pytest.raises(sg.ChunkReadError, match=said) as error:
        sg.GaussianMixture().fit(source)
    assert error.value.index == 1


def test_weights_of_partitions_are_one_number_for_each_row():
    import dask
    import dask.array as da

    data = da.from_array(X, chunks=(100, 2))
    for bad in (None, np.full(100, "1"), np.ones(90)):
        parts = [np.ones(100), bad]
        weight = da.concatenate([da.from_delayed(dask.delayed(lambda p=p: p)(), (100,), float) for p in parts])
        with pytest.raises(ValueError, match="partition 1 has 100 rows and weights of shape"):
            sg.GaussianMixture().fit(data, sample_weight=weight)


def test_streams_of_other_columns_are_not_merged():
    a, b = (sg.GaussianMixture(1, random_state=0).partial_fit(FRAME[names]) for names in (["a", "b"], ["b", "a"]))
    with pytest.raises(ValueError, match="another order"):
        sg.merge_streams(a, b)


# Containers that scikit-learn is asked for ----------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    import dask.array as da

    np.save(tmp_path / "x.npy", X)
    FRAME.to_parquet(tmp_path / "x.parquet")
    return {"npy": tmp_path / "x.npy", "parquet": str(tmp_path / "x.parquet"), "dask": da.from_array(X, (50, 2))}


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_containers_are_for_what_is_in_memory(output, stored):
    module = pytest.importorskip(output)
    scaled = sg.Scaler().fit_transform(X)
    settings = {"random_state": 0, "solver": "exact", "tol": 1e-2}
    right = sg.GaussianMixture(2, **settings).fit(scaled).score(scaled)
    with sklearn.config_context(transform_output=output):
        for moving in (sg.Scaler(), sg.PCA(1), sg.KMeans(2, init=X[:2], max_iter=2)):
            for data in (X, FRAME):
                for moved in (moving.fit(data).transform(data), moving.fit_transform(data)):
                    assert isinstance(moved, module.DataFrame)
                    assert list(moved.columns) == list(moving.get_feature_names_out())
            for data in stored.values():
                for moved in (moving.fit(data).transform(data), moving.fit_transform(data)):
                    assert not isinstance(moved, module.DataFrame)
        for data in (X, FRAME, *stored.values()):
            pipe = make_pipeline(sg.Scaler(), sg.GaussianMixture(2, **settings)).fit(data)
            assert pipe.score(data) == pytest.approx(right, rel=1e-9)
    scaler = sg.Scaler().set_output(transform=output).fit(X)
    assert isinstance(scaler.transform(X), module.DataFrame)
    assert scaler.transform(stored["npy"]).n_features == 2
    assert isinstance(sg.Scaler().fit_transform(FRAME), np.ndarray)


# Model files ----------------------------------------------------------------------------------------------------------


def test_load_takes_the_folder_that_fit_wrote(tmp_path, capsys):
    from streamgmm.cli.app import run

    np.save(tmp_path / "x.npy", X)
    assert run(["fit", str(tmp_path / "x.npy"), "-k", "1", "--out", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    for where in (tmp_path / "model", str(tmp_path / "model") + os.sep, tmp_path / "model" / "model.safetensors"):
        np.testing.assert_allclose(sg.load(where).means_[0], X.mean(axis=0))
    with pytest.raises(FileNotFoundError, match=r"modl: no such file or folder.*did you mean .*model\?"):
        sg.load(tmp_path / "modl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        sg.load(tmp_path / "empty")
    with pytest.raises(sg.ModelFileError, match="not a streamgmm-model file"):
        sg.load(tmp_path / "x.npy")


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("half_life", [None, 500.0])
def test_a_model_of_a_stream_goes_on_after_loading_as_if_nothing_had_been(covariance_type, half_life, tmp_path):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(3000, 2)) + 5 * (rng.random(3000) < 0.5)[:, None]
    gm = sg.GaussianMixture(2, covariance_type=covariance_type, half_life=half_life, random_state=0)
    gm.partial_fit(rows[:1777])
    gm.save(tmp_path / "m.safetensors")
    back = sg.load(tmp_path / "m.safetensors")
    assert back.report_["rows_waiting"] == gm.report_["rows_waiting"]
    assert back.effective_sample_size_ == gm.effective_sample_size_
    for one in (gm, back):
        one.partial_fit(rows[1777:])
    np.testing.assert_array_equal(back.means_, gm.means_)
    np.testing.assert_array_equal(back.covariances_, gm.covariances_)
    assert back.report_["rows"] == gm.report_["rows"] == 3000


def test_a_model_file_with_the_statistics_of_another_stream_is_refused(tmp_path):
    from streamgmm.estimators.model_file import load_model, save_model

    gm = sg.GaussianMixture(2, random_state=0).partial_fit(X[:190])  # ten rows wait
    gm.save(tmp_path / "m.safetensors")
    content = load_model(tmp_path / "m.safetensors")
    numbers = [name for name, array in content.arrays.items() if array.dtype == np.float64]
    assert len(numbers) == 10
    for name in numbers:
        for bad, said in (
            (np.ones((2, 3)), "cannot reshape array of size 6"),
            (np.full(content.arrays[name].shape, np.inf), "of the stream must hold finite float64"),
        ):
            arrays = {**content.arrays, name: bad}
            save_model(tmp_path / "bad.safetensors", content.mixture, header=content.header, arrays=arrays)
            with pytest.raises(sg.ModelFileError, match=said):
                sg.load(tmp_path / "bad.safetensors")


# Settings that change between calls of partial_fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_components": 3}, "n_components=2 and covariance_type 'full'; expected the same, got 3"),
        ({"covariance_type": "diag"}, "got 2 and 'diag'"),
        ({"missing": "marginalize"}, "missing='marginalize' is for fit"),
        ({"noise": "uniform"}, "noise='uniform' is for fit"),
        ({"prior": "default"}, "prior='default' is for fit"),
    ],
)
@pytest.mark.parametrize("first", ["partial_fit", "fit", "a few rows"])
def test_settings_that_change_between_calls_are_an_error(changed, said, first):
    gm = sg.GaussianMixture(2, random_state=0)
    {"fit": gm.fit, "partial_fit": gm.partial_fit, "a few rows": lambda rows: gm.partial_fit(rows[:5])}[first](X)
    with pytest.raises(ValueError, match=said):
        gm.set_params(**changed).partial_fit(X)
    with pytest.raises(ValueError, match=said):
        gm.partial_fit(iter([X]))


def test_a_stream_cannot_go_on_from_a_background():
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0).fit(X)
    with pytest.raises(ValueError, match="has a background"):
        gm.set_params(noise=None).partial_fit(X)
