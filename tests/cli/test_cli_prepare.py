"""Scaling and principal components on the command line: the model that is left answers for the data as they are."""

from __future__ import annotations

import json
from base64 import b64decode

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from streamgmm.cli.wording import in_options

UNITS, OFFSET = np.array([1e-3, 1.0, 1e4]), np.array([0.5, -20.0, 3e5])
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def rows():
    truth = sg.Mixture([0.5, 0.3, 0.2], [[0, 0, 0], [5, -5, 3], [-5, 4, 6]], [np.eye(3), np.eye(3) * 2, np.eye(3)])
    return truth.sample(1500, random_state=0)[0] * UNITS + OFFSET


@pytest.fixture
def table(tmp_path, rows):
    """A CSV of those rows with weights, gaps and two columns of words."""
    gaps = np.random.default_rng(1).random(rows.shape) < 0.05
    lines = ["id,a,b,note,c,w"]
    for i, (row, gone) in enumerate(zip(rows, gaps, strict=True)):
        a, b, c = ("" if g else repr(float(v)) for v, g in zip(row, gone, strict=True))
        lines.append(f"u{i},{a},{b},fine,{c},{1 + i % 3}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv", np.where(gaps, np.nan, rows), 1.0 + np.arange(len(rows)) % 3


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_scaled_fit_is_written_in_the_units_of_the_data(cli, tmp_path, rows, kind):
    np.save(tmp_path / "x.npy", rows)
    code, out, err = cli(
        "fit", tmp_path / "x.npy", "-k", 3, "--covariance", kind, "--scale", "--set", "solver=exact",
        "--out", tmp_path / "m", "--json",
    )  # fmt: skip
    document, gm = json.loads(out), sg.load(tmp_path / "m" / MODEL)
    assert code == 0 and "scaled: 3 features" in err
    scaler = sg.Scaler()
    Z = scaler.fit_transform(rows)
    inside = sg.GaussianMixture(3, covariance_type=kind, solver="exact", random_state=0).fit(Z)
    assert gm.covariance_type == ("diag" if kind == "spherical" else kind)
    assert gm.means_ == pytest.approx(scaler.inverse_transform(inside.means_), rel=1e-6)
    assert gm.predict_proba(rows) == pytest.approx(inside.predict_proba(Z), abs=1e-6)
    shift = np.log(scaler.scale_).sum()
    assert gm.score_samples(rows) == pytest.approx(inside.score_samples(Z) - shift, abs=1e-5)
    assert gm.lower_bounds_ == pytest.approx(np.array(inside.lower_bounds_) - shift, abs=1e-8)
    assert document["passes"] == inside.n_passes_ + 1
    told = json.loads(cli("score", tmp_path / "m", tmp_path / "x.npy", "--json")[1])
    assert told["log_likelihood_per_row"] == pytest.approx(document["log_likelihood_per_row"], abs=1e-5)
    if kind != "spherical":  # whose diagonal form has more parameters
        assert told["bic"] == pytest.approx(document["bic"], abs=0.1)


def test_weights_gaps_and_words(cli, table, tmp_path):
    path, rows, weight = table
    code, out, err = cli(
        "fit", path, "-k", 3, "--scale", "--set", "missing=marginalize", "--set", "weight=w", "--set", "n_init=3",
        "--out", tmp_path / "m", "--json",
    )  # fmt: skip
    document, gm = json.loads(out), sg.load(tmp_path / "m" / MODEL)
    assert code == 0 and "left out, because they hold no numbers: id, note. Used: a, b, c." in err
    assert document["feature_names"] == ["a", "b", "c"] == list(gm.feature_names_in_)
    assert document["log_likelihood_per_row"] == pytest.approx(
        np.average(gm.mixture_.log_prob(rows), weights=weight), abs=1e-5
    )
    assert document["bic"] == pytest.approx(
        -2 * weight.sum() * document["log_likelihood_per_row"] + 29 * np.log(weight.sum()), rel=1e-6
    )
    code, out, _ = cli("predict", tmp_path / "m", path)  # the columns of the fit, without being told
    assert code == 0 and len(out.splitlines()) == 1501


def test_all_words_are_refused(cli, tmp_path):
    (tmp_path / "w.csv").write_text("a,b\nred,x\nblue,y\n")
    code, _, err = cli("fit", tmp_path / "w.csv", "-k", 1)
    assert code == 1 and "'a' holds text" in err and "left out" not in err


@pytest.mark.parametrize("scale", [True, False])
def test_a_fit_of_principal_components_takes_rows_as_they_are(cli, tmp_path, scale):
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(2000, 2)) + np.repeat([[0.0, 0.0], [8.0, 2.0]], 1000, axis=0)
    rows = hidden @ rng.normal(size=(2, 6)) + 0.05 * rng.normal(size=(2000, 6)) + 100
    np.save(tmp_path / "x.npy", rows)
    words = ["fit", tmp_path / "x.npy", "-k", 2, "--pca", 2, "--set", "n_init=3", "--out", tmp_path / "m"]
    code, out, err = cli(*words, *(["--scale"] if scale else []), "--json")
    document = json.loads(out)
    assert code == 0 and "principal components: 2 of 6" in err
    Z = sg.Scaler().fit_transform(rows) if scale else rows
    Y = sg.PCA(2).fit_transform(Z)
    gm = sg.load(tmp_path / "m" / MODEL)
    assert gm.n_features_in_ == 6 and gm.mixture_.n_features == 2
    assert np.array_equal(gm.predict(rows), gm.mixture_.labels(Y))
    labels = np.array(cli("predict", tmp_path / "m", tmp_path / "x.npy")[1].split()[1:], int)
    assert np.array_equal(labels, gm.mixture_.labels(Y)) and sorted(np.bincount(labels)) == [1000, 1000]
    told = json.loads(cli("score", tmp_path / "m", tmp_path / "x.npy", "--json")[1])
    assert told["log_likelihood_per_row"] == pytest.approx(gm.mixture_.log_prob(Y).mean(), abs=1e-6)
    assert told["log_likelihood_per_row"] == pytest.approx(document["log_likelihood_per_row"], abs=1e-4)
    means = np.stack([rows[labels == k].mean(axis=0) for k in (0, 1)])
    assert np.array(document["means"]) == pytest.approx(means, abs=0.2)
    assert np.array(json.loads(cli("inspect", tmp_path / "m", "--json")[1])["means"]) == pytest.approx(means, abs=0.2)
    code, out, _ = cli("sample", tmp_path / "m", "-n", 4000)
    drawn = np.loadtxt(out.splitlines()[1:], delimiter=",")
    assert drawn.shape == (4000, 6) and drawn.mean(axis=0) == pytest.approx(rows.mean(axis=0), abs=0.5)
    code, _, err = cli("report", tmp_path / "m")
    page = (tmp_path / "m" / "report.html").read_text()
    content = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert code == 0 and err.count("\n") == 1 and len(content["names"]) == 6
    labels = [axis["label"] for axis in content["axes"]]
    assert labels[:2] == ["principal component 1", "principal component 2"] and labels[2:] == [
        f"x{j}" for j in range(6)
    ]
    np.save(tmp_path / "narrow.npy", rows[:, :3])
    code, _, err = cli("predict", tmp_path / "m", tmp_path / "narrow.npy")
    assert code == 1 and "has 3 feature(s), the model was fitted to 6" in err
    # written again without, the folder holds a plain model
    assert cli("fit", tmp_path / "x.npy", "-k", 2, "--out", tmp_path / "m")[0] == 0
    assert sg.load(tmp_path / "m" / MODEL).n_features_in_ == 6
    assert cli("predict", tmp_path / "m", tmp_path / "x.npy", "--json")[0] == 0


def test_components_by_share_of_variance_and_what_they_cannot_do(cli, table, tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    code, _, err = cli("fit", tmp_path / "x.npy", "-k", 1, "--scale", "--pca", "0.999")
    assert code == 0 and "principal components: 3 of 3" in err
    assert cli("fit", tmp_path / "x.npy", "-k", 1, "--pca", 0)[0] == 2
    code, _, err = cli("fit", table[0], "-k", 1, "--pca", 2, "--set", "missing=marginalize")
    assert code == 2 and "missing = marginalize" in err


def test_select_does_the_whole_work(cli, table, tmp_path):
    path, rows, _ = table
    code, out, err = cli(
        "select", path, "--columns", "a,b,c", "--k-max", 5, "--scale", "--set", "missing=marginalize",
        "--set", "n_init=4", "--report", "--out", tmp_path / "m", "--proba", tmp_path / "soft.npy",
    )  # fmt: skip
    assert code == 0 and "left out" not in err and "valid feature names" not in err
    assert "chosen by BIC: K = 3, full; elbow at 3" in out and "diagnosed, the chosen K only" in out
    gm = sg.load(tmp_path / "m" / MODEL)
    assert gm.n_components == 3
    order = np.argsort(-gm.weights_)
    assert gm.weights_[order] == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    true = np.array([[0, 0, 0], [5, -5, 3], [-5, 4, 6]])
    assert (gm.means_[order] - OFFSET) / UNITS == pytest.approx(true, abs=0.25)
    assert np.load(tmp_path / "soft.npy") == pytest.approx(gm.mixture_.responsibilities(rows), abs=1e-12)
    document = json.loads((tmp_path / "m" / "report.json").read_text())
    chosen = document["selection"]["table"][document["selection"]["chosen"]]
    assert chosen["n_components"] == 3 and chosen["bic"] == pytest.approx(
        -2 * gm.mixture_.log_prob(rows).sum() + 29 * np.log(len(rows)), rel=1e-6
    )
    page = (tmp_path / "m" / "report.html").read_text()
    models = json.loads(page.split('id="data">')[1].split("</script>")[0])["models"]
    assert [len(model["used"]) for model in models] == [1, 2, 3, 4, 5]
    for model in models:  # the path of each K ends where its figures are, in the units of the data
        row = document["selection"]["table"][model["K"] - 1]
        frames = model["frames"]
        assert frames["level"][-1] == pytest.approx(row["lower_bound"], rel=1e-7)
        assert len(b64decode(frames["weights"])) == 4 * model["K"] * len(frames["iteration"])
    # the page of the folder alone shows the path of the chosen K, and the config repeats the choice
    assert cli("report", tmp_path / "m", "--out", tmp_path / "again.html")[0] == 0
    again = json.loads((tmp_path / "again.html").read_text().split('id="data">')[1].split("</script>")[0])
    frames = again["models"][0]["frames"]
    assert len(b64decode(frames["weights"])) == 4 * 3 * len(frames["iteration"])
    code, out, _ = cli("fit", tmp_path / "m" / "config.toml", "--out", tmp_path / "fit", "--json")
    assert json.loads(out)["bic"] == pytest.approx(document["bic"], abs=0.5)


def test_select_by_held_out_rows_within_a_memory_limit(cli, rows, tmp_path):
    np.save(tmp_path / "x.npy", rows)
    words = ["select", tmp_path / "x.npy", "--scale", "--k-min", 2, "--k-max", 4, "--set", "n_init=2", "--json"]
    document = json.loads(cli(*words, "--criterion", "cv", "--set", "folds=3", "--set", "memory_limit=1GB")[1])
    table = document["selection"]["table"]
    assert document["n_components"] == max(table, key=lambda row: row["cv"])["n_components"] == 3
    fold = sg.select(sg.Scaler().fit_transform(rows), range(2, 5), n_init=2, criterion="cv", folds=3, random_state=0)
    shift = np.log(rows.std(axis=0)).sum()
    assert [r["cv"] for r in table] == pytest.approx([r["cv"] - shift for r in fold.table], abs=1e-6)
    code, _, err = cli(*words, "--set", "memory_limit=100kB")
    assert code == 1 and "100 kB may be used" in err
    code, _, err = cli(*words, "--set", "noise=uniform")
    assert code == 2 and "noise: not understood by select" in err


def test_the_largest_k_is_not_a_choice(cli, rows, tmp_path):
    np.save(tmp_path / "x.npy", rows)
    out = cli("select", tmp_path / "x.npy", "--k-max", 2, "--set", "n_init=1")[1]
    assert "the best K is the largest that was tried" in out and "--k-max 4" in out


def test_check_says_what_to_add(cli, table):
    err = cli("data", "check", table[0], "--columns", "a,b,c")[2]
    assert "add --scale" in err and "add --set missing=marginalize" in err
    assert f"streamgmm select {table[0]} --columns a,b,c --scale --set missing=marginalize --report" in err


def test_a_table_of_a_few_rows(cli, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a\n" + "".join(f"{i * i}\n" for i in range(40)))
    assert f"select {path} --k-max 4 --report   or   streamgmm fit {path} -k 4 --out" in cli("data", "check", path)[2]
    path.write_text("a,b\n" + "".join(f"{i % 6},{i * i % 7 + 20 * (i > 5)}\n" for i in range(12)))
    code, out, _ = cli("select", path)
    assert code == 0 and "full  4" in out and "full  5" not in out
    path.write_text("a\n1\n")
    assert "nothing to fit: 1 row(s)" in cli("data", "check", path)[2]


def test_remedies_are_in_the_words_of_the_terminal(cli, tmp_path):
    (tmp_path / "x.csv").write_text("a,b c,city\n1,2,Rom\n3,,Bern\n")
    assert "Leave it out, --columns 'a,b c', or" in cli("fit", tmp_path / "x.csv", "-k1", "--columns", "a,city")[2]
    assert cli("fit", tmp_path / "x.csv", "-k1", "--columns", "a", "--out", tmp_path / "one")[0] == 0
    (tmp_path / "other.csv").write_text("z\n" + "1\n" * 9)
    assert "Choose them by name, --columns A,B, or rename" in cli("score", tmp_path / "one", tmp_path / "other.csv")[2]
    assert (
        "row 1 of chunk 0, column 'b c'. Expected finite numbers; drop or impute such rows, or fit with --set missing="
        in (cli("fit", tmp_path / "x.csv", "-k1")[2])
    )


def test_findings_are_in_the_words_of_the_terminal(cli, tmp_path):
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(m, 1.0, (300, 2)) for m in (-30.0, 7.0, 15.0)])
    np.save(tmp_path / "x.npy", rows)
    words = json.loads(cli("select", tmp_path / "x.npy", "--k-max", 2, "--set", "n_init=1", "--json")[1])["findings"]
    assert any("Raise K to 3." in text for text in words), words
    assert not any("n_components" in text or "('" in text for text in words)
    wide = rng.normal(size=(120, 22))
    wide[:, 0] += wide[:, 1]
    np.save(tmp_path / "wide.npy", wide)
    words = cli("select", tmp_path / "wide.npy", "--k-max", 1)[1]
    assert "Use --covariance diag, which needs" in words


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Scale first: make_pipeline(sg.Scaler(), ...).", "Scale first: --scale."),
        ("Set n_components=2.", "Take K = 2: -k 2."),
        ("Leave them out: sg.open_source(path, exclude=['a', 'b,c']).", "Leave them out: --exclude 'a,\"b,c\"'."),
        ("let a background take them: noise=\"uniform\".", "let a background take them: --set noise=uniform."),
        ("Set reg_covar=1e-08, or scale", "Add --set reg_covar=1e-08, or scale"),
        ("reg_covar=1e-06 is added to every variance", "reg_covar=1e-06 is added to every variance"),
        ("by ICL: criterion='icl'.", "by ICL: --criterion icl."),
        ("For clusters, merge components: merge_components.", "For clusters, merge components (merge_components, in "
         "Python)."),
        ("Set prior='default', which keeps", "Add --set prior=default, which keeps"),
    ],
)  # fmt: skip
def test_parameters_become_options(said, meant):
    assert in_options(said) == meant


def test_one_component_alone_is_selected(cli, rows, tmp_path):
    """The first pass solves it: no start takes a step, and there is no curve to speak of."""
    np.save(tmp_path / "x.npy", rows)
    code, out, _ = cli("select", tmp_path / "x.npy", "--k-max", 1, "--report", "--out", tmp_path / "m")
    assert code == 0 and "elbow" not in out and "largest that was tried" not in out
    content = json.loads((tmp_path / "m" / "report.html").read_text().split('id="data">')[1].split("</script>")[0])
    assert content["title"] == "K = 1" and content["elbow"] is None
    code, out, _ = cli("select", tmp_path / "x.npy", "--k-min", 3, "--k-max", 3, "--set", "n_init=1")
    assert code == 0 and "elbow" not in out and "largest that was tried" not in out


def test_columns_without_names_go_by_number_and_have_to_be_those_of_the_fit(cli, tmp_path):
    rows = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "pair.npy", rows[:, [0, 2]])
    for path, options in ((tmp_path / "pair.npy", ()), (tmp_path / "x.npy", ("--columns", "0,2"))):
        assert cli("fit", path, "-k1", "--out", tmp_path / "m", *options)[0] == 0
        assert cli("score", tmp_path / "m", tmp_path / "x.npy", "--columns", "0,2")[0] == 0
    code, _, err = cli("score", tmp_path / "m", tmp_path / "x.npy")
    assert code == 1 and "has 3 feature(s), the model was fitted to 2" in err and "--columns A,B" in err


def test_check_leaves_out_what_is_the_same_everywhere(cli, tmp_path):
    lines = [f'"Zürich, City";{i},5;1;{i * i}' for i in range(50)]
    (tmp_path / "my table.csv").write_text("\n".join(["Ort;Länge in m;eins;b", *lines]), encoding="utf-8")
    code, out, err = cli("data", "check", tmp_path / "my table.csv")
    assert code == 0 and "the same in every row, so left out below: eins" in err
    assert f"streamgmm fit '{tmp_path}/my table.csv' --exclude eins --scale -k 5" in err
    assert "49.5" in out
    named = cli("data", "check", tmp_path / "my table.csv", "--columns", "eins,Länge in m,b")[2]
    assert "--columns 'Länge in m,b' --scale" in named


def test_check_leaves_out_codes_and_row_numbers(cli, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["rownames,height,short,wide,three,holes"]
    for i in range(100):
        lines.append(f"{i},{rng.normal():.5f},{int(i % 7 == 0)},{3 + 4 * (i % 2)},{i % 3},{'' if i == 9 else i // 50}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    code, _, err = cli("data", "check", tmp_path / "t.csv")
    assert code == 0 and "two values only, as codes have, so left out below: short, wide, holes" in err
    assert "row numbers or identifiers, so left out below: rownames" in err
    next_line = err.splitlines()[-1]
    assert next_line.startswith("next:") and "--exclude short,wide,holes,rownames" in next_line
    assert "logarithm" not in err  # a rare code has no long tail
    words = next_line.split("   or")[0].removeprefix("next: streamgmm ").replace(" --report", "").split()
    code, out, _ = cli(*words, "--k-max", "2", "--set", "n_init=1")
    assert code == 0 and "chosen by BIC" in out
    given = cli("data", "check", tmp_path / "t.csv", "--exclude", "height,rownames")[2]
    assert "--exclude height,rownames,short,wide,holes" in given
    chosen = cli("data", "check", tmp_path / "t.csv", "--columns", "short,height")[2]
    assert "--columns short,height" in chosen and "two values" not in chosen  # what was named is meant


@pytest.mark.parametrize(
    ("options", "value"),
    [(["--pca", "2"], 1e20), (["--pca", "0.9"], -9.97e36), (["--scale", "--pca", "2"], 1e200), (["--scale"], 1e200)],
    ids=str,
)
def test_fill_values_have_no_say_in_scale_and_principal_components(cli, tmp_path, options, value):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 300)
    good = rng.normal(size=(300, 3)) * [1, 10, 0.1] + np.outer(label, [8.0, 80.0, 0.8])
    np.savetxt(tmp_path / "good.csv", good, delimiter=",", header="a,b,c", comments="")
    np.savetxt(tmp_path / "wild.csv", np.vstack([[[value] * 3], good]), delimiter=",", header="a,b,c", comments="")
    code, _, err = cli("fit", "wild.csv", "-k", 3, *options, "--out", "m")
    assert code == 0 and "rows far from all others have no say in the" in err
    assert cli("predict", "m", "good.csv", "--out", "labels.npy")[0] == 0
    assert adjusted_rand_score(label, np.load(tmp_path / "labels.npy")) >= 0.95
