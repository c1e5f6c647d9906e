"""Columns are matched by name in every format; row labels are no features."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest

import streamgmm as sg

NAMES = ["a", "b", "c"]
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Dask's, when it writes Parquet


@pytest.fixture(scope="module")
def table():
    """Two groups; the columns differ in place and scale, so that none can stand for another."""
    rng = np.random.default_rng(0)
    low = rng.random(600) < 0.5
    return pd.DataFrame(
        {"a": rng.normal(size=600) + 6 * low, "b": rng.normal(50, 1, 600) + 3 * low, "c": rng.normal(-7, 0.1, 600)}
    )


@pytest.fixture(scope="module")
def gm(table):
    return sg.GaussianMixture(2, random_state=0, tol=1e-4).fit(table)


# Writers: what a frame becomes in each format that has names ---------------------------------------------------------


def arrow(frame, **options):
    import pyarrow as pa

    return pa.Table.from_pandas(frame, **options)


def parquet(folder, frame):
    frame.to_parquet(folder / "x.parquet", row_group_size=250)
    return folder / "x.parquet"


def parquet_folder(folder, frame):
    (folder / "parts").mkdir()
    for i in range(3):
        frame[200 * i : 200 * (i + 1)].to_parquet(folder / "parts" / f"{i}.parquet")
    return str(folder / "parts")


def feather(folder, frame):
    import pyarrow.feather

    pyarrow.feather.write_feather(arrow(frame), str(folder / "x.feather"), chunksize=200)
    return folder / "x.feather"


def csv(folder, frame, **options):
    frame.to_csv(folder / "x.csv", **options)
    return folder / "x.csv"


def csv_plain(folder, frame):
    return csv(folder, frame, index=False)


def dask_frame(folder, frame):
    import dask.dataframe as dd

    return dd.from_pandas(frame, npartitions=3)


def dask_folder(folder, frame):
    dask_frame(folder, frame).to_parquet(str(folder / "dask"))
    return folder / "dask"


def xarray_dataset(folder, frame):
    import xarray as xr

    return xr.Dataset({name: ("row", frame[name].to_numpy()) for name in frame})


def xarray_dask(folder, frame):
    return xarray_dataset(folder, frame).chunk(row=200)


def xarray_table(folder, frame):
    import xarray as xr

    return xr.DataArray(frame.to_numpy(), dims=("row", "feature"), coords={"feature": list(frame)})


def xarray_table_dask(folder, frame):
    return xarray_table(folder, frame).chunk(row=200)


def zarr_named(folder, frame):
    import zarr

    names = {"streamgmm": {"feature_names": list(frame), "weight": None}}
    zarr.create_array(str(folder / "x.zarr"), data=frame.to_numpy(), chunks=(200, frame.shape[1]), attributes=names)
    return folder / "x.zarr"


def opened(folder, frame):
    return sg.open_source(frame)


def opened_polars(folder, frame):
    import polars as pl

    return sg.open_source(pl.from_pandas(frame))


NAMED = {
    "parquet": parquet, "parquet folder": parquet_folder, "feather": feather, "csv": csv_plain,
    "dask frame": dask_frame, "dask folder": dask_folder, "xarray": xarray_dataset, "xarray of dask": xarray_dask,
    "zarr with names": zarr_named, "xarray table": xarray_table, "xarray table of dask": xarray_table_dask,
    "opened frame": opened,
    "opened polars": opened_polars,
}  # fmt: skip


def whole(answer):
    if hasattr(answer, "compute"):
        return answer.compute()
    return answer if isinstance(answer, np.ndarray) else np.concatenate(list(answer))


# Reordered columns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["cab", "bac", "cba"])
@pytest.mark.parametrize("kind", NAMED)
def test_reordered_columns_give_the_same_numbers(kind, order, table, gm, tmp_path):
    X = NAMED[kind](tmp_path, table[list(order)])
    np.testing.assert_array_equal(whole(gm.predict(X)), gm.predict(table))
    np.testing.assert_allclose(whole(gm.score_samples(X)), gm.score_samples(table), rtol=1e-12)
    np.testing.assert_allclose(whole(gm.impute(X)), table, rtol=1e-12)
    assert gm.score(X) == pytest.approx(gm.score(table), rel=1e-12)
    for criterion in ("bic", "aic", "icl"):
        assert getattr(gm, criterion)(X) == pytest.approx(getattr(gm, criterion)(table), rel=1e-12)


@pytest.mark.parametrize("kind", NAMED)
def test_other_columns_are_an_error_with_both_lists(kind, table, gm, tmp_path):
    made = NAMED[kind]
    for i, other in enumerate((table.rename(columns={"b": "x"}), table[["a", "c"]], table.assign(d=1.0))):
        (tmp_path / str(i)).mkdir()
        X = made(tmp_path / str(i), other)
        with pytest.raises(ValueError, match="feature names should match") as error:
            gm.score(X)
        said = str(error.value)
        assert ("unseen at fit time: 'x'" in said, "missing: 'b'" in said, "unseen at fit time: 'd'" in said) == (
            i == 0, i < 2, i == 2
        )  # fmt: skip
        assert "Expected the columns 'a', 'b', 'c'; found" in said


@pytest.fixture(scope="module")
def others(table):
    """Estimators of other kinds, fitted to the table."""
    return (
        sg.KMeans(2, random_state=0, n_init=1).fit(table),
        sg.OutlierDetector(2, random_state=0, tol=1e-2).fit(table),
        sg.select(table, [2], n_init=1, random_state=0, tol=1e-3).best,
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "dask frame", "xarray"])
def test_every_estimator_matches_by_name(kind, table, others, tmp_path):
    km, detector, best = others
    X = NAMED[kind](tmp_path, table[["c", "a", "b"]])
    np.testing.assert_array_equal(whole(km.predict(X)), km.predict(table))
    np.testing.assert_allclose(whole(km.transform(X)), km.transform(table), rtol=1e-12)
    assert km.score(X) == pytest.approx(km.score(table), rel=1e-12)
    np.testing.assert_array_equal(whole(detector.predict(X)), detector.predict(table))
    for moving in (sg.Scaler(), sg.PCA(2)):
        right = moving.fit_transform(table)
        rows = [chunk.load()[0] for chunk in moving.transform(X).chunks()]
        np.testing.assert_allclose(np.concatenate(rows), right, rtol=1e-9, atol=1e-12)
    scaler = sg.Scaler().fit(table).partial_fit(X)
    np.testing.assert_allclose(scaler.mean_, table.mean(), rtol=1e-12)
    assert best.score(X) == pytest.approx(best.score(table), rel=1e-12)
    assert sg.cluster_scores(best, X).davies_bouldin == pytest.approx(sg.cluster_scores(best, table).davies_bouldin)
    assert [f.code for f in sg.diagnose(best, X)] == [f.code for f in sg.diagnose(best, table)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "dask frame", "xarray"])
def test_partial_fit_and_warm_start_match_by_name(kind, table, gm, tmp_path):
    X = NAMED[kind](tmp_path, table[["c", "a", "b"]])
    there = sg.GaussianMixture(2, random_state=0).partial_fit(table).partial_fit(X)
    here = sg.GaussianMixture(2, random_state=0).partial_fit(table).partial_fit(table)
    np.testing.assert_allclose(there.means_, here.means_, rtol=1e-9)
    again = sg.GaussianMixture(2, random_state=0, tol=1e-4, warm_start=True).fit(table).fit(X)
    assert list(again.feature_names_in_) == NAMES
    np.testing.assert_allclose(np.sort(again.means_, axis=0), np.sort(gm.means_, axis=0), rtol=1e-3)
    with pytest.raises(ValueError, match="missing: 'b'"):
        again.fit(NAMED[kind](tmp_path, table.rename(columns={"b": "x"})))
    assert list(again.feature_names_in_) == NAMES
    frame = sg.GaussianMixture(2, random_state=0, tol=1e-4, warm_start=True).fit(table).fit(table[["c", "a", "b"]])
    np.testing.assert_allclose(frame.means_, again.means_, rtol=1e-9)


def test_a_new_fit_takes_the_names_of_its_data(table, tmp_path):
    gm = sg.GaussianMixture(1).fit(table)
    assert list(gm.fit(parquet(tmp_path, table[["c", "a"]])).feature_names_in_) == ["c", "a"]
    assert not hasattr(gm.fit(table.to_numpy()), "feature_names_in_")


def test_models_read_back_match_by_name(table, gm, tmp_path):
    X = parquet(tmp_path, table[["c", "a", "b"]])
    gm.save(tmp_path / "m.safetensors")
    for back in (sg.load(tmp_path / "m.safetensors"), sg.GaussianMixture.from_json(gm.to_json())):
        assert back.score(X) == pytest.approx(gm.score(table), rel=1e-12)


def test_without_names_on_one_side_the_position_counts(table, gm, tmp_path):
    np.save(tmp_path / "x.npy", table.to_numpy())
    assert gm.score(tmp_path / "x.npy") == pytest.approx(gm.score(table), rel=1e-12)
    nameless = sg.GaussianMixture(2, random_state=0, tol=1e-4).fit(table.to_numpy())
    assert nameless.score(parquet(tmp_path, table)) == pytest.approx(gm.score(table), rel=1e-9)


def test_weights_follow_and_dask_runs_alike(table, gm, tmp_path):
    from streamgmm.runtime.dask import Dask

    weight = np.arange(600.0)
    X = dask_frame(tmp_path, table[["c", "a", "b"]])
    right = gm.score(table, sample_weight=weight)
    source = sg.open_source(parquet(tmp_path, table[["c", "a", "b"]]), weight=weight)
    assert gm.score(source) == pytest.approx(right, rel=1e-12)
    source = sg.open_source(xarray_table(tmp_path, table[["c", "a", "b"]]), weight=weight)
    assert gm.score(source) == pytest.approx(right, rel=1e-12)
    back = sg.GaussianMixture.from_json(gm.to_json()).set_params(executor=Dask())
    assert back.score(X) == pytest.approx(gm.score(table), rel=1e-12)


def test_regression_takes_the_columns_of_a_frame_by_name(table, gm):
    right = gm.regression(table[["a", "c"]].to_numpy(), given=["a", "c"])
    for X, given in ((table[["c", "a"]], ["a", "c"]), (table[["c", "a"]], [0, 2])):
        np.testing.assert_allclose(gm.regression(X, given)[0], right[0], rtol=1e-12)
    with pytest.raises(ValueError, match="missing: 'c'"):
        gm.regression(table[["a", "b"]], ["a", "c"])


def test_frames_of_pandas_in_memory_keep_the_rule_of_scikit_learn(table, gm):
    with pytest.raises(ValueError, match="must be in the same order"):
        gm.predict(table[["c", "a", "b"]])


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
def test_other_frames_in_memory_are_put_in_order(kind, table, gm):
    made = arrow if kind == "pyarrow" else __import__("polars").from_pandas
    X = made(table[["c", "a", "b"]])
    np.testing.assert_array_equal(gm.predict(X), gm.predict(table))
    assert gm.score(X) == pytest.approx(gm.score(table), rel=1e-12)
    stream = sg.GaussianMixture(1, random_state=0).partial_fit(made(table)).partial_fit(X)
    right = sg.GaussianMixture(1, random_state=0).partial_fit(table).partial_fit(table)
    np.testing.assert_allclose(stream.means_, right.means_, rtol=1e-12)
    np.testing.assert_allclose(sg.Scaler().fit(table).transform(X), sg.Scaler().fit(table).transform(table), rtol=1e-12)
    for other in (table[["a", "b"]], table.assign(d=1.0), table.rename(columns={"b": "x"})):
        with pytest.raises(ValueError, match="feature names should match"):
            gm.predict(made(other))


def test_column_numbers_of_dask_frames_are_names(table, tmp_path):
    numbered = table.set_axis([0, 1, 2], axis=1)
    gm = sg.GaussianMixture(2, random_state=0, tol=1e-4).fit(dask_frame(tmp_path, numbered))
    assert list(gm.feature_names_in_) == ["0", "1", "2"]
    right = gm.score(dask_frame(tmp_path, numbered))
    assert gm.score(dask_frame(tmp_path, numbered[[2, 0, 1]])) == pytest.approx(right, rel=1e-12)


def test_column_numbers_as_names(table, tmp_path):
    numbered = table.set_axis([0, 1, 2], axis=1)
    numbered.set_axis(["0", "1", "2"], axis=1).to_parquet(tmp_path / "x.parquet")
    gm = sg.GaussianMixture(2, random_state=0, tol=1e-4).fit(tmp_path / "x.parquet")
    assert gm.predict(numbered).shape == (600,)
    with pytest.raises(ValueError, match="same order"):
        gm.predict(numbered[[2, 0, 1]])


# Row labels -----------------------------------------------------------------------------------------------------------


def filtered(table):
    return table.sample(frac=1, random_state=0)


def with_index_of(frame, values, name=None):
    return frame.set_index(pd.Index(values, name=name))


def csv_of_index(values):
    return lambda folder, frame: csv(folder, with_index_of(frame, values(len(frame))))


def read_as_it_is(folder, frame):
    """A frame that pandas made of `to_csv`: the labels are called "Unnamed: 0"."""
    return pd.read_csv(csv(folder, frame))


def read_and_written(folder, frame):
    read_as_it_is(folder, frame).to_parquet(folder / "again.parquet")
    return folder / "again.parquet"


def two_levels(folder, frame):
    return csv(folder, frame.set_index(pd.MultiIndex.from_product([range(len(frame) // 2), list("xy")])))


LABELLED = {
    "parquet": lambda f, x: parquet(f, filtered(x)),
    "parquet, named": lambda f, x: parquet(f, with_index_of(x, np.arange(len(x)) * 1.5, "t")),
    "parquet, two named": lambda f, x: parquet(f, x.set_index([pd.Index(range(len(x)), name="i"), np.ones(len(x))])),
    "parquet folder": lambda f, x: parquet_folder(f, filtered(x)),
    "feather": lambda f, x: feather(f, filtered(x)),
    "feather, named": lambda f, x: feather(f, with_index_of(x, np.arange(len(x)) * 1.5, "t")),
    "dask folder": dask_folder,
    "dask folder, named": lambda f, x: dask_folder(f, x.rename_axis("id")),
    "csv": csv,
    "csv, shuffled": lambda f, x: csv(f, filtered(x)),
    "csv, times": csv_of_index(lambda n: np.arange(n) * 0.25),
    "csv, text": csv_of_index(lambda n: [f"row {i}" for i in range(n)]),
    "csv, two levels": two_levels,
    "csv, semicolons": lambda f, x: csv(f, x, sep=";"),
    "pandas": read_as_it_is,
    "written again": read_and_written,
    "polars": lambda f, x: __import__("polars").read_parquet(parquet(f, filtered(x))),
    "pyarrow": lambda f, x: arrow(filtered(x)),
    "dask of csv": lambda f, x: __import__("dask.dataframe").dataframe.read_csv(csv(f, x)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELLED)
def test_row_labels_are_left_out_with_one_notice(kind, table, tmp_path, caplog):
    X = LABELLED[kind](tmp_path, table)
    with caplog.at_level(logging.WARNING, "streamgmm"):
        gm = sg.GaussianMixture(1).fit(X)
        score = gm.score(X)
    assert list(gm.feature_names_in_) == NAMES
    np.testing.assert_allclose(gm.means_[0], table.mean(), rtol=1e-9)
    assert score == pytest.approx(gm.score(table), rel=1e-9)
    assert len(caplog.records) == 1 and "left out the row labels" in caplog.text
    scaler = sg.Scaler().fit(X)
    np.testing.assert_allclose(scaler.mean_, table.mean(), rtol=1e-12)


@pytest.mark.parametrize("kind", ["parquet", "parquet, named", "csv", "dask folder"])
def test_labels_that_are_named_are_read(kind, table, tmp_path, caplog):
    X = LABELLED[kind](tmp_path, table)
    (label,) = sg.open_source(X).left_out
    caplog.clear()
    gm = sg.GaussianMixture(1).fit(sg.open_source(X, columns=["a", label]))
    assert list(gm.feature_names_in_) == ["a", label]
    more = sg.GaussianMixture(1).fit(sg.open_source(X, columns=[label, *NAMES]))
    assert np.isfinite(more.score(X))  # the model knows it as a feature
    assert caplog.records == []
    weighted = sg.open_source(X, weight=label)
    assert weighted.feature_names == tuple(NAMES) and weighted.has_weights and weighted.left_out == ()


def test_a_first_column_without_a_name_that_holds_measurements_stays(table, tmp_path):
    table.rename(columns={"a": ""}).to_csv(tmp_path / "x.csv", index=False)
    assert sg.open_source(tmp_path / "x.csv").feature_names == ("", "b", "c")
    gap = table.rename(columns={"a": ""})
    gap.iloc[3, 0] = np.nan
    gap.to_csv(tmp_path / "gap.csv", index=False)
    assert sg.open_source(tmp_path / "gap.csv").n_features == 3
    gap.rename(columns={"": "Unnamed: 0"}).to_parquet(tmp_path / "x.parquet")
    assert sg.open_source(tmp_path / "x.parquet").n_features == 3


def test_files_without_names_have_no_labels(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n2,3\n3,5\n")
    assert sg.open_source(tmp_path / "x.csv").n_features == 2
    (tmp_path / "y.csv").write_text("a,\n1,2\n2,3\n")
    assert sg.open_source(tmp_path / "y.csv").n_features == 2  # the last one is no label


def test_row_labels_are_never_all_that_is_left(tmp_path):
    alone = pd.DataFrame(index=pd.Index(np.arange(20)[::-1], name="i"))
    alone.to_parquet(tmp_path / "alone.parquet")
    with pytest.raises(ValueError, match=r"nothing but the row labels 'i' .* expected at least one column"):
        sg.GaussianMixture().fit(tmp_path / "alone.parquet")
    words = pd.DataFrame({"word": list("abcdefghij") * 2}, index=np.arange(20)[::-1])
    for X in (parquet(tmp_path, words), csv(tmp_path, words), read_as_it_is(tmp_path, words)):
        with pytest.raises(ValueError, match=r"expected numbers.*word|word.*expected numbers"):
            sg.GaussianMixture().fit(X)


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv", "feather"])
def test_the_command_line_matches_by_name(kind, table, tmp_path, cli):
    (tmp_path / "test").mkdir()
    train, test = NAMED[kind](tmp_path, table), NAMED[kind](tmp_path / "test", table[["c", "a", "b"]])
    assert cli("fit", train, "-k", 2, "--out", tmp_path / "model", "--set", "tol=1e-3")[0] in (0, 3)
    one, two = (json.loads(cli("score", tmp_path / "model", X, "--json")[1]) for X in (train, test))
    assert one["log_likelihood_per_row"] == pytest.approx(two["log_likelihood_per_row"], rel=1e-12)
    other = NAMED[kind](tmp_path / "test", table.rename(columns={"b": "x"}))
    code, out, said = cli("predict", tmp_path / "model", other)
    assert code == 1 and out == "" and "unseen at fit time: 'x'" in said and "missing: 'b'" in said
    more = NAMED[kind](tmp_path / "test", table.assign(word="x", d=1.0))  # the columns of the fit are chosen
    assert json.loads(cli("score", tmp_path / "model", more, "--json")[1]) == one


@pytest.mark.parametrize("kind", ["parquet", "parquet, named", "csv", "dask folder"])
def test_the_command_line_leaves_row_labels_out_and_says_so_once(kind, table, tmp_path, cli):
    X = LABELLED[kind](tmp_path, table)
    code, out, said = cli("fit", X, "-k", 1, "--json", "--out", tmp_path / "model")
    assert code == 0 and json.loads(out)["feature_names"] == NAMES
    assert said.count("left out") == 1 and "note:" in said
    code, out, said = cli("score", tmp_path / "model", X, "--json")
    assert code == 0 and "left out" not in said


def test_the_command_line_never_fits_row_labels_alone(tmp_path, cli):
    words = pd.DataFrame({"word": list("abcdefghij") * 2}, index=np.arange(20)[::-1])
    for X in (parquet(tmp_path, words), csv(tmp_path, words)):
        code, out, said = cli("fit", X, "-k", 1)
        assert code == 1 and out == "" and "word" in said
