"""Every number of the page is one that the estimator gives, whatever is missing, scaled, projected or weighted."""

from __future__ import annotations

import base64
import copy
import json
import pickle

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.report.rows import SURE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = ["length", "depth", "mass"]


def content(path):
    return json.loads(path.read_text().split('id="data">')[1].split("</script>")[0])


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def birds(n=400, share=0.15, seed=3):
    """Three clusters with units of their own, and holes."""
    rng = np.random.default_rng(seed)
    centres = np.array([[39.0, 18.0, 3700.0], [47.0, 15.0, 5000.0], [60.0, 18.0, 3800.0]])
    rows = centres[rng.integers(3, size=n)] + rng.normal(size=(n, 3)) * [2.0, 1.0, 300.0]
    rows[rng.random(rows.shape) < share] = np.nan
    rows[0] = np.nan
    return rows


def check_numbers(document, at, gm, rows):
    """Model `at` of a page against what the estimator says of the same rows."""
    one, gm = document["models"][at], copy.copy(gm)
    gm.__dict__.pop("feature_names_in_", None)  # asked for rows without names
    seen = np.flatnonzero(~np.isnan(rows).all(axis=1))
    logp, resp = gm.score_samples(rows), gm.predict_proba(rows)
    largest = resp.max(axis=1)
    assert document["rows"] == {"stored": len(rows), "used": len(seen), "drawn": min(len(seen), 2000)}
    assert one["log_density"] == pytest.approx(gm.score(rows), rel=1e-12)
    assert one["members"] == np.bincount(resp.argmax(axis=1)[seen], minlength=resp.shape[1]).tolist()
    assert one["unsure"] == [(largest[seen] < s).sum() for s in SURE]
    means = [largest[seen][resp[seen].argmax(axis=1) == k].mean() for k in range(resp.shape[1])]
    assert one["certain"] == pytest.approx(means, rel=1e-5)
    assert one["weights"] == pytest.approx(gm.weights_.tolist(), rel=1e-12)
    numbers = document["numbers"]
    assert unpacked(one["logp"], "<f4") == pytest.approx(logp[numbers], rel=1e-6)
    assert unpacked(one["labels"], "<i2").tolist() == gm.predict(rows)[numbers].tolist()
    assert unpacked(one["certainty"], "<u1") == pytest.approx(255 * largest[numbers], abs=0.51)
    lowest = [document["listed"][said["at"]]["row"] for said in one["lowest"]]
    score = logp
    if gm.missing == "marginalize":  # densities of rows that miss different values cannot be compared
        score = np.log(gm.tail_probability(rows))
        assert [said["log_tail"] for said in one["lowest"]] == pytest.approx(score[lowest], rel=1e-6)
        assert unpacked(one["score"], "<f4") == pytest.approx(score[numbers], rel=1e-5, abs=1e-6)
    assert lowest == seen[np.argsort(score[seen], kind="stable")][: len(lowest)].tolist() and len(lowest) >= 12
    for said in one["lowest"] + one["uncertain"]:
        row = document["listed"][said["at"]]["row"]
        assert said["logp"] == pytest.approx(logp[row], rel=1e-8)
        assert said["shares"] == pytest.approx(np.sort(resp[row])[::-1][:2].tolist(), rel=1e-4, abs=1e-8)
        assert document["listed"][said["at"]]["values"] == [
            None if np.isnan(v) else v for v in rows[row, document["shown"]]
        ]
        for feature, value, expected, deviations, given in said["why"]:
            assert value == rows[row, feature]
            if not given:
                k = said["nearest"]
                sigma = gm.mixture_.family.variances(gm.covariances_, *gm.means_.shape)[k, feature] ** 0.5
                assert expected == pytest.approx(gm.means_[k, feature], rel=1e-5)
                assert deviations == pytest.approx((value - gm.means_[k, feature]) / sigma, rel=6e-3)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_missing_values_stay_missing(tmp_path, covariance_type):
    rows = birds()
    gm = sg.GaussianMixture(3, covariance_type=covariance_type, missing="marginalize", random_state=0).fit(rows)
    path = gm.report(rows, tmp_path / "page.html")
    document = content(path)
    check_numbers(document, 0, gm, rows)
    assert document["models"][0]["bic"] == pytest.approx(gm.report_["bic"])
    points = unpacked(document["points"], "<f4").reshape(len(document["numbers"]), -1)
    axes = document["axes"]
    stored = points * [a["scale"] for a in axes] + [a["centre"] for a in axes]
    kept = rows[document["numbers"]]
    assert np.allclose(stored[:, document["planar"] :], kept, rtol=1e-5, equal_nan=True)
    assert document["holes"] == np.flatnonzero(np.isnan(kept).any(axis=1)).tolist()


def test_the_page_of_the_shell_says_what_score_says(tmp_path, capsys):
    rows = birds()
    lines = [f"b{i},{'x' if i % 2 else 'y'}," + ",".join("" if np.isnan(v) else repr(float(v)) for v in row)
             for i, row in enumerate(rows)]  # fmt: skip
    table, folder = tmp_path / "birds.csv", tmp_path / "m"
    table.write_text(f"bird,island,{','.join(NAMES)}\n" + "\n".join(lines) + "\n")
    words = [str(table), "--id", "bird", "--scale", "--set", "missing=marginalize", "--out", str(folder)]
    assert run(["select", *words, "--k-max", "3", "--set", "n_init=2", "--report"]) in (0, 3)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next:")]
    assert "inspect" in line and "streamgmm report" not in line  # it would take this page's place
    gm = sg.load(folder)
    document = content(folder / "report.html")
    assert document["names"] == NAMES and len(document["models"]) == 3
    check_numbers(document, gm.n_components - 1, gm, rows)
    assert document["ids"] == [f"b{i}" for i in document["numbers"]] and document["id_name"] == "bird"
    assert all(one["id"] == f"b{one['row']}" for one in document["listed"])
    capsys.readouterr()
    assert run(["score", str(folder), str(table), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["log_likelihood_per_row"]
    assert document["models"][document["best"]]["log_density"] == pytest.approx(told, rel=1e-12)
    # the page of the recommended K does not take the place of that of all
    assert run(["report", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{folder / 'chosen.html'}\n" and "every K of the selection, and stays" in said.err
    assert content(folder / "report.html") == document
    one = content(folder / "chosen.html")
    assert run(["report", str(folder), "--out", str(tmp_path / "one.html")]) == 0
    assert content(tmp_path / "one.html") == one and "every K" not in capsys.readouterr().err
    check_numbers(one, 0, gm, rows)
    assert one["ids"] == document["ids"] and one["models"][0]["frames"]


def test_values_of_anomalies_are_those_of_the_file_behind_principal_components(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) * [1, 10, 100, 1, 1, 1000.0] + 500
    rows[123] += [0, 0, 0, 0, 0, 90_000]
    np.save(tmp_path / "x.npy", rows)
    folder = tmp_path / "m"
    assert run(["fit", str(tmp_path / "x.npy"), "-k", "1", "--pca", "2", "--scale", "--out", str(folder)]) in (0, 3)
    assert run(["report", str(folder)]) == 0
    document = content(folder / "report.html")
    gm = sg.load(folder)
    said = document["models"][0]["lowest"][0]
    listed = document["listed"][said["at"]]
    assert listed["row"] == 123 and listed["values"] == rows[123, document["shown"]].tolist()
    assert said["logp"] == pytest.approx(gm.score_samples(rows)[123], rel=1e-8)
    assert all(value == rows[123, feature] for feature, value, *_ in said["why"])


def test_a_selection_has_a_page_of_every_k(tmp_path):
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(m, 1, (120, 2)) for m in (-6, 0, 6)])
    found = sg.select(rows, range(1, 5), n_init=2, random_state=0)
    n_passes = found.report["n_passes"]
    path = found.report(rows, tmp_path / "page.html", id=[f"row {i}" for i in range(360)])
    document = content(path)
    assert [one["K"] for one in document["models"]] == [1, 2, 3, 4] and document["best"] == found.best.n_components - 1
    check_numbers(document, document["best"], found.best, rows)
    for one, row, mixture in zip(document["models"], found.table, found.models, strict=True):
        assert one["bic"] == row["bic"]
        assert one["log_density"] == pytest.approx(mixture.log_prob(rows).mean(), rel=1e-12)
    assert document["listed"][0]["id"] == f"row {document['listed'][0]['row']}"
    again = pickle.loads(pickle.dumps(found))
    assert again.report["n_passes"] == n_passes
    assert again.report(rows, tmp_path / "again.html").read_text() != ""


def test_weights_noise_and_bayesian_fits(tmp_path):
    rng = np.random.default_rng(2)
    rows = np.concatenate([rng.normal(0, 1, (200, 2)), rng.normal(8, 1, (200, 2)), rng.uniform(-40, 40, (20, 2))])
    weight = rng.integers(0, 3, 420).astype(float)
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0).fit(rows, sample_weight=weight)
    one = content(gm.report(rows, tmp_path / "a.html", sample_weight=weight))["models"][0]
    assert one["log_density"] == pytest.approx(gm.score(rows, sample_weight=weight), rel=1e-12)
    label = gm.predict(rows)[weight > 0]
    assert one["members"] == [(label == 0).sum(), (label == 1).sum(), (label == -1).sum()]
    assert one["background"] == pytest.approx(gm.noise_weight_)
    bayes = sg.BayesianGaussianMixture(6, random_state=0).fit(rows[:400])
    document = content(bayes.report(rows[:400], tmp_path / "b.html"))
    one = document["models"][0]
    assert sorted(one["used"]) == bayes.components_in_use_.tolist() and one["K"] == bayes.n_components_in_use_
    assert one["log_density"] == pytest.approx(bayes.score_samples(rows[:400]).mean(), rel=1e-12)
    label = bayes.predict(rows[:400])
    assert one["members"][:6] == np.bincount(label, minlength=6).tolist()


def test_a_sample_that_was_filled_in_has_no_level(tmp_path, cli):
    """Its log-likelihood is that of all features; and rows in which nothing was observed are told."""
    rows = birds(share=0.3)
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",", header="length,depth,mass", comments="")
    words = ["select", "x.csv", "--k-max", 4, "--set", "missing=marginalize", "--set", "n_init=2"]
    assert cli(*words, "--report", "--out", "m")[0] == 0
    document = content(tmp_path / "m" / "report.html")
    empty = int(np.isnan(rows).all(axis=1).sum())
    said = f"x.csv: 400 rows of 3 features; {empty} not used, of weight 0 or with nothing observed"
    assert document["subtitle"] == said and empty > 1
    seen = 0
    for one in document["models"]:
        of_sample = np.array(one["frames"]["sampled"], bool)
        known = np.array([level is not None for level in one["frames"]["level"]])
        assert (known == ~of_sample).all()
        seen += of_sample.sum()
    assert seen > 0
    best = document["models"][document["best"]]
    assert best["frames"]["level"][-1] == pytest.approx(best["log_density"], abs=1e-5)


def test_ids_are_columns_or_values_and_wrong_ones_are_refused(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(birds(100, 0.0)[1:], columns=NAMES)
    gm = sg.GaussianMixture(1).fit(frame)
    named = frame.assign(who=[f"w{i}" for i in range(99)])
    document = content(gm.report(named, tmp_path / "a.html", id="who"))
    assert document["ids"] == [f"w{i}" for i in document["numbers"]]
    for suffix in ("parquet", "feather", "csv"):
        path = tmp_path / f"t.{suffix}"
        getattr(named, f"to_{suffix}")(path, **({"index": False} if suffix == "csv" else {}))
        assert content(gm.report(path, tmp_path / "b.html", id="who"))["ids"] == document["ids"]
        with pytest.raises((ValueError, sg.ChunkReadError), match="no column 'nobody'"):
            gm.report(path, tmp_path / "b.html", id="nobody")
    with pytest.raises(ValueError, match="one value for each of 99 rows; got 5"):
        gm.report(frame, tmp_path / "b.html", id=[1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="no column of X"):
        gm.report(frame, tmp_path / "b.html", id="nobody")
    with pytest.raises(ValueError, match="X has no names"):
        sg.GaussianMixture(1).fit(frame.to_numpy()).report(frame.to_numpy(), tmp_path / "b.html", id="who")
    with pytest.raises(FileNotFoundError, match="Make it first"):
        gm.report(frame, tmp_path / "nowhere" / "b.html")
    with pytest.raises(TypeError, match="needs a fitted mixture"):
        sg.write_report(frame, frame, tmp_path / "b.html")
