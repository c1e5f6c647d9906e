"""Rows that can be found again: ids, row numbers and anomalies of `predict`; going on from a saved model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import streamgmm as sg


@pytest.fixture
def table(tmp_path):
    """300 named rows, three of them far out, one name that CSV has to quote."""
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(300, 2)) * [2.0, 0.5] + np.repeat([[0.0, 0.0], [9.0, 4.0]], 150, axis=0)
    rows[[17, 120, 250]] += [[40.0, 0.0], [0.0, 30.0], [-50.0, 0.0]]
    names = [f"site {i}" for i in range(300)]
    names[3] = 'Bern, "Wabern"'
    frame = pd.DataFrame({"place": names, "a": rows[:, 0], "b": rows[:, 1]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    gm = sg.GaussianMixture(2, random_state=0, max_iter=200).fit(frame.iloc[np.r_[20:120, 160:250]][["a", "b"]])
    gm.save(tmp_path / "m.safetensors")
    return frame, gm


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_id_column_and_row_numbers(cli, table, suffix):
    frame, gm = table
    labels = gm.predict(frame[["a", "b"]])
    for data in ("t.csv", "t.parquet"):
        code, _, err = cli("predict", "m.safetensors", data, "--id", "place", "--row", "--out", f"o.{suffix}")
        assert code == 0 and "300 rows written" in err
        found = pd.read_csv("o.csv") if suffix == "csv" else pd.read_parquet("o.parquet")
        assert list(found.columns) == ["place", "row", "label"]
        assert found["place"].tolist() == frame["place"].tolist() and found["row"].tolist() == list(range(300))
        np.testing.assert_array_equal(found["label"], labels)
    code, out, _ = cli("predict", "m.safetensors", "t.csv", "--id", "place", "--proba")
    assert code == 0 and out.splitlines()[0] == "place,p0,p1" and out.splitlines()[4].startswith('"Bern, ""Wabern""",')
    code, _, err = cli("predict", "m.safetensors", "t.csv", "--id", "plaice")
    assert code == 1 and "plaice" in err and "place" in err
    code, _, err = cli("predict", "m.safetensors", "t.csv", "--id", "place", "--out", "o.npy")
    assert code == 1 and "Choose .csv or .parquet" in err


def test_anomalies_are_marked_and_can_be_found(cli, table):
    frame, gm = table
    X = frame[["a", "b"]]
    code, _, err = cli("predict", "m.safetensors", "t.csv", "--anomalies", 1e-6, "--id", "place", "--out", "o.csv")
    found = pd.read_csv("o.csv")
    assert code == 0 and "anomalies: 3 of 300 rows" in err
    assert found.loc[found.anomaly == 1, "place"].tolist() == ["site 17", "site 120", "site 250"]
    np.testing.assert_allclose(found["log_density"], gm.score_samples(X), rtol=1e-12)
    np.testing.assert_allclose(found["tail_probability"], gm.tail_probability(X), rtol=1e-12)
    np.testing.assert_array_equal(found["label"], gm.predict(X))
    code, out, _ = cli("predict", "m.safetensors", "t.csv", "--threshold", -40, "--json")
    document = json.loads(out)
    assert document["anomalies"] == int((gm.score_samples(X) < -40).sum()) and sum(document["counts"]) == 300
    code, out, _ = cli("predict", "m.safetensors", "t.csv", "--threshold", -40, "--proba")
    assert out.splitlines()[0] == "p0,p1,log_density,tail_probability,anomaly"
    code, _, err = cli("predict", "m.safetensors", "t.csv", "--threshold", -40, "--anomalies", 0.1)
    assert code == 2 and "give one" in err
    code, _, err = cli("score", "m.safetensors", "t.csv", "--out", "s.csv", "--id", "place")
    assert code == 0 and pd.read_csv("s.csv").columns.tolist() == ["place", "log_density"]


def test_score_counts_the_rows_that_it_writes(cli, table, tmp_path):
    frame, _ = table
    holes = frame.copy()
    holes.loc[5:9, ["a", "b"]] = np.nan
    holes.to_csv(tmp_path / "h.csv", index=False)
    assert cli("fit", "h.csv", "-k", 2, "--set", "missing=marginalize", "--out", "h")[0] == 0
    code, out, err = cli("score", "h", "h.csv", "--out", "s.csv")
    assert code == 0 and "300 rows written: s.csv" in err and len(pd.read_csv("s.csv")) == 300
    assert out.splitlines()[0].split() == ["rows", "295"]  # with something observed


@pytest.mark.parametrize("scale", [[], ["--scale"]])
def test_going_on_beside_far_rows(cli, tmp_path, scale):
    """Their distance is in the units of the data, whatever those of the fit were."""
    X = np.random.default_rng(0).normal(size=(400, 2)) + 8.0 * np.repeat([0.0, 1.0], 200)[:, None]
    X = np.concatenate([X * [1.0, 1e3], [[1e12, 0.0], [0.0, -1e30]]])
    np.savetxt(tmp_path / "f.csv", X, delimiter=",", header="a,b", comments="")
    fit = ["fit", "f.csv", "-k", 3, *scale, "--set", "tol=0", "--set", "solver=exact", "--json"]
    for steps, words in ((5, []), (2, ["--out", "m"]), (3, ["--warm-start", "m"])):
        code, out, _ = cli(*fit, "--set", f"max_iter={steps}", *words)
        assert code == 3 and "one point" in json.loads(out)["far_rows"]
        if not words:
            whole = json.loads(out)["trace"]
    assert json.loads(out)["trace"] == pytest.approx(whole, abs=1e-8)


@pytest.mark.parametrize("scale", [[], ["--scale"]])
def test_going_on_from_a_saved_model(cli, table, tmp_path, scale):
    stopped = ["fit", "t.csv", "-k", 3, "--set", "max_iter=2", "--set", "tol=0", "--set", "solver=exact", *scale]
    code, out, err = cli(*stopped, "--out", "m", "--json")
    assert code == 3 and "streamgmm fit m/config.toml --warm-start m --set max_iter=1000" in err
    first = json.loads(out)
    go_on = ["fit", "t.csv", "--warm-start", "m", "--set", "max_iter=3", "--set", "tol=0", "--set", "solver=exact"]
    code, out, _ = cli(*go_on, *scale, "--out", "n", "--json")
    second = json.loads(out)
    assert code == 3 and second["n_components"] == 3 and second["feature_names"] == ["a", "b"]
    whole = json.loads(cli(*stopped[:4], "--set", "max_iter=5", *stopped[6:], "--json")[1])
    # the trace goes on, and is that of a fit which was never stopped
    assert len(second["trace"]) == 5 and second["trace"][:2] == pytest.approx(first["trace"], abs=1e-12)
    assert second["trace"] == pytest.approx(whole["trace"], abs=1e-8)
    assert second["bic"] == pytest.approx(whole["bic"], abs=1e-5)
    code, out, _ = cli(
        "fit", "m/config.toml", "--warm-start", "m", "--set", "max_iter=500", "--set", "tol=1e-6", "--json"
    )
    assert code == 0 and json.loads(out)["converged"]


def test_what_cannot_be_gone_on_with_is_refused(cli, table, tmp_path):
    code, _, err = cli("fit", "t.csv", "--warm-start", "m.safetensors", "-k", 4)
    assert code == 2 and "has -k 2; got -k 4" in err
    frame, _ = table
    frame.assign(c=1.0 + np.arange(300) % 7).to_csv(tmp_path / "u.csv", index=False)
    code, _, err = cli("fit", "u.csv", "--warm-start", "m.safetensors", "--columns", "a,b,c")
    assert code == 2 and "fitted to 2 features; u.csv has 3" in err
    assert cli("fit", "t.csv", "-k", 2, "--pca", 1, "--out", "p")[0] == 0
    code, _, err = cli("fit", "t.csv", "--warm-start", "p")
    assert code == 2 and "principal components" in err


def test_a_bayesian_mixture_goes_on(cli, table):
    words = ["fit", "t.csv", "--bayesian", "-k", 4, "--set", "max_iter=3", "--set", "tol=0"]
    first = json.loads(cli(*words, "--out", "b", "--json")[1])
    code, out, _ = cli("fit", "t.csv", "--warm-start", "b", "--set", "max_iter=300", "--json")
    second = json.loads(out)
    assert code == 0 and second["n_components"] == 4 and second["evidence"] >= first["evidence"] - 1e-6
    assert second["trace"][:3] == pytest.approx(first["trace"], rel=1e-12)
