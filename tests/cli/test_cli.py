"""The command line: exit codes, one line for every error, results on stdout, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from streamgmm.cli.app import run


def test_version_and_module(cli):
    import streamgmm

    assert cli("--version")[1].strip() == streamgmm.__version__
    done = subprocess.run([sys.executable, "-m", "streamgmm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == streamgmm.__version__


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["fitt"], 2, "Did you mean 'fit'"),
        (["fit"], 2, "Missing argument"),
        (["fit", "x.npy", "-k", "two"], 2, "valid int"),
        (["fit", "nosuch.toml"], 2, "nosuch.toml: no such config file"),
        (["fit", "x.npy", "--set", "toll=1"], 2, "did you mean 'tol' in [fit]"),
        (["inspect", "nosuch"], 1, "nosuch: no such file or folder. Check the path"),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(cli, words, code, says):
    got, out, err = cli(*words)
    assert got == code and says in err and out == ""
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        run(["inspect", "nosuch", "--debug"])


def test_patches_of_the_photographs():
    from streamgmm.cli.demo_data import N_ROWS, grey_images, patch_rows

    images = grey_images()
    sizes, first = [], None
    for part in patch_rows(images):
        first = part if first is None else first
        sizes.append(len(part))
    assert sum(sizes) == N_ROWS == 531_720 and set(sizes[:-1]) == {16_384}
    patch = images[0][:8, 5:13].reshape(-1)[:63]  # row 5: without noise, up to its mean
    assert np.abs(np.diff(first[5] - patch)).max() <= 1.0
    assert first.dtype == np.float32 and first.shape[1] == 63


@pytest.fixture(scope="module")
def two_clusters():
    rng = np.random.default_rng(5)
    return rng.normal(size=(600, 2)) * [1.0, 0.5] + np.repeat([[0.0, 0.0], [8.0, 3.0]], [200, 400], axis=0)


@pytest.fixture
def rows_file(tmp_path, two_clusters):
    np.save(tmp_path / "rows.npy", two_clusters)
    return tmp_path / "rows.npy"


def test_fit_writes_a_folder_and_the_rest_reads_it(cli, rows_file, tmp_path, two_clusters):
    folder = tmp_path / "out" / "model"
    code, out, err = cli("fit", rows_file, "-k", 2, "--out", folder, "--json")
    document = json.loads(out)
    assert code == 0 and document["rows"] == 600 and document["converged"]
    assert {"trace", "seconds", "passes", "repairs", "versions", "memory"} <= document.keys()
    assert json.loads((folder / "report.json").read_text()) == document
    assert "600 rows x 2" in err

    code, out, _ = cli("predict", folder, rows_file)
    labels = np.array(out.split()[1:], int)
    assert code == 0 and sorted(np.bincount(labels).tolist()) == [200, 400]
    code, out, _ = cli("predict", folder, rows_file, "--json")
    assert sorted(json.loads(out)["counts"]) == [200, 400]
    code, out, _ = cli("score", folder, rows_file, "--json")
    assert json.loads(out)["log_likelihood_per_row"] == pytest.approx(document["trace"][-1], abs=1e-6)
    code, out, _ = cli("inspect", folder, "--json")
    assert sorted(np.round(json.loads(out)["weights"], 2)) == [0.33, 0.67]
    code, out, _ = cli("sample", folder, "-n", 3)
    assert len(out.splitlines()) == 4 and out.startswith("x0,x1")
    # the resolved config alone repeats the fit, to the bit
    code, out, _ = cli("fit", folder / "config.toml", "--json", "--out", tmp_path / "again")
    assert json.loads(out)["trace"] == document["trace"]


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet", ".zarr"])
def test_outputs_by_extension(cli, rows_file, tmp_path, suffix):
    assert cli("fit", rows_file, "-k", 2, "--out", tmp_path / "m")[0] == 0
    gm = __import__("streamgmm").load(tmp_path / "m" / "model.safetensors")
    proba, rows = tmp_path / f"proba{suffix}", tmp_path / f"sample{suffix}"
    assert cli("predict", tmp_path / "m", rows_file, "--proba", "--out", proba)[0] == 0
    assert cli("sample", tmp_path / "m", "-n", 70_000, "--out", rows)[0] == 0
    readers = {
        ".npy": np.load,
        ".csv": lambda p: np.loadtxt(p, delimiter=",", skiprows=1),
        ".parquet": lambda p: pytest.importorskip("pandas").read_parquet(p).to_numpy(),
        ".zarr": lambda p: __import__("zarr").open_array(str(p))[:],
    }
    assert np.array_equal(readers[suffix](proba), gm.predict_proba(np.load(rows_file)))
    drawn = readers[suffix](rows)
    assert drawn.shape == (70_000, 2)
    assert np.allclose(drawn.mean(axis=0), gm.weights_ @ gm.means_, atol=0.1)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_not_converged_is_3(cli, rows_file, tmp_path):
    code, _, err = cli("fit", rows_file, "-k", 3, "--set", "max_iter=1", "--set", "tol=0", "--out", tmp_path / "m")
    assert code == 3 and (tmp_path / "m" / "model.safetensors").exists() and "Traceback" not in err


def broken(kind, tmp_path, rows):
    """A file of rows with something wrong."""
    path = tmp_path / "bad.npy"
    if kind == "truncated":
        np.save(path, rows)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "deleted chunk":
        import zarr

        path = tmp_path / "bad.zarr"
        array = zarr.create_array(store=str(path), shape=rows.shape, chunks=(100, 2), dtype=float)
        array[:] = rows + 1
        (path / "c" / "2" / "0").unlink()
    elif kind == "text":
        np.save(path, rows.astype(str))
    elif kind == "text columns":
        path = tmp_path / "bad.csv"
        path.write_text("a,b\nold,red\nnew,blue\nold,red\n")
    else:
        rows = rows.copy()
        rows[317, 1] = {"NaN": np.nan, "infinity": np.inf}[kind]
        np.save(path, rows)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("truncated", ["bad.npy"]),
        ("deleted chunk", ["bad.zarr", "missing_chunks"]),
        ("text", ["numbers", "text"]),
        ("text columns", ["bad.csv", "'a'"]),
        ("NaN", ["NaN", "row 317, column 1", "marginalize"]),
        ("infinity", ["infinity", "row 317, column 1"]),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(cli, tmp_path, two_clusters, kind, says):
    path = broken(kind, tmp_path, two_clusters)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli("fit", path, "-k", 2, "--out", tmp_path / "m")
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1 and out == "" and len(errors) == 1 and "Traceback" not in err
    assert all(word in errors[0] for word in says), errors
    assert sorted(tmp_path.rglob("*")) == before


def test_more_mistakes_in_data(cli, rows_file, tmp_path):
    for words, says in [
        (["fit", "nosuch.npy"], "nosuch.npy"),
        (["fit", rows_file, "-k", 601], "Lower n_components"),
        (["predict", tmp_path / "nosuch", rows_file], "nosuch"),
    ]:
        code, _, err = cli(*words)
        assert code == 1 and says in err.splitlines()[-1] and "Traceback" not in err


def test_negative_weight(cli, tmp_path, two_clusters):
    weights = np.ones(600)
    weights[3] = -1
    text = "\n".join(f"{a},{b},{w}" for (a, b), w in zip(two_clusters, weights, strict=True))
    (tmp_path / "rows.csv").write_text("a,b,w\n" + text)
    code, _, err = cli("fit", tmp_path / "rows.csv", "-k", 2, "--set", "weight=w")
    assert code == 1 and "row 3" in err and "-1" in err


def test_interrupt_is_130_and_leaves_nothing(cli, rows_file, tmp_path, monkeypatch):
    from streamgmm.cli.commands import fit

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "follow", interrupted)
    assert cli("fit", rows_file, "-k", 2, "--out", tmp_path / "m")[0] == 130
    assert not (tmp_path / "m").exists()


def test_quickstart_is_what_the_demo_runs():
    from pathlib import Path

    from streamgmm.cli.commands.demo import QUICKSTART
    from streamgmm.cli.config import load_config

    file = load_config(Path(__file__).parents[2] / "configs" / "quickstart.toml")
    here = load_config(None, QUICKSTART | {"data.path": "demo/patches.zarr", "output.dir": "demo/model"})
    assert file == here


def test_data_commands(cli, rows_file, tmp_path, two_clusters):
    document = json.loads(cli("data", "describe", rows_file, "--json")[1])
    assert (document["rows"], document["features"], document["dtype"]) == (600, 2, "float64")
    code, out, err = cli("data", "convert", rows_file, tmp_path / "rows.zarr", "--chunk-rows", 100, "--json")
    assert code == 0 and json.loads(out)["chunks"] == 6 and "streamgmm fit" not in out
    manifest = tmp_path / "manifest.json"
    code, out, err = cli("data", "check", tmp_path / "rows.zarr", "--manifest", manifest, "--json")
    assert code == 0 and json.loads(out)["max"]["x0"] == pytest.approx(two_clusters[:, 0].max())
    chunk = next((tmp_path / "rows.zarr").rglob("c/2/0"))
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(data)
    code, _, err = cli("data", "check", tmp_path / "rows.zarr", "--against", manifest)
    assert code == 1 and "rows.zarr: chunk 0" in err and "Traceback" not in err
    code, _, err = cli("data", "convert", rows_file, tmp_path / "rows.zarr")
    assert code == 1 and "rows.zarr" in err and "Traceback" not in err


def test_select_chooses_and_leaves_a_page(cli, rows_file, tmp_path):
    folder = tmp_path / "chosen"
    code, out, _ = cli("select", rows_file, "--k-max", 4, "--set", "n_init=2", "--out", folder, "--report", "--json")
    document = json.loads(out)
    assert code == 0 and document["n_components"] == 2 == document["selection"]["minimum"]["full"]
    assert [row["n_components"] for row in document["selection"]["table"]] == [1, 2, 3, 4]
    page = (folder / "report.html").read_text()
    models = json.loads(page.split('id="data">')[1].split("</script>")[0])["models"]
    assert [model["K"] for model in models] == [1, 2, 3, 4] and all(len(m["frames"]["level"]) >= 1 for m in models)
    assert cli("predict", folder, rows_file, "--json")[0] == 0
    assert cli("select", rows_file, "--k-min", 3, "--k-max", 2)[0] == 2


def test_select_lists_structures_one_a_line(cli, rows_file, tmp_path):
    words = ("--k-max", 2, "--covariance", "EII", "--covariance", "VEV", "--set", "n_init=1")
    code, out, _ = cli("select", rows_file, *words, "--out", tmp_path / "chosen", "--report")
    document = json.loads((tmp_path / "chosen" / "report.json").read_text())
    lines = out.splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.split() == ["BIC", "K=1", "K=2"]]
    table = document["selection"]["table"]
    for line, kind in zip(lines[head + 1 :], ("EII", "VEV"), strict=False):
        name, *values = line.split()
        assert name == kind
        wanted = [row["bic"] for row in table if row["covariance_type"] == kind]
        assert [float(value.lstrip("->!")) for value in values] == pytest.approx(wanted, abs=0.06)
    assert sum("->" in line for line in lines[head + 1 : head + 3]) == 1 and code in (0, 3)
    page = (tmp_path / "chosen" / "report.html").read_text()
    models = json.loads(page.split('id="data">')[1].split("</script>")[0])["models"]
    assert [(model["kind"], model["K"]) for model in models] == [("EII", 1), ("EII", 2), ("VEV", 1), ("VEV", 2)]
