"""Manners of the command line: what it offers, how it ends, what it says next, and how wide it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli import completion
from streamgmm.cli.app import app


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 3)) + np.repeat([[0.0], [9.0]], 150, axis=0)
    np.save(tmp_path / "x.npy", X)
    return X


def test_values_of_options_are_completed():
    assert completion.covariances("di") == ["diag"] and {"full", "VEV", "factor"} <= set(completion.covariances(""))
    assert completion.criteria("c") == ["cv"]
    assert completion.settings("sol") == ["solver="] and "fit.solver=squarem" in completion.settings("fit.solver=")
    assert completion.settings("missing=") == ["missing=error", "missing=marginalize"]
    assert completion.settings("data.scale=t") == ["data.scale=true"]
    assert completion.settings("nosuch") == []
    script = {**os.environ, "_STREAMGMM_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    script["COMP_WORDS"] = "streamgmm fit x.npy --covariance sp"
    done = subprocess.run([sys.executable, "-m", "streamgmm"], env=script, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["spherical"], done


def test_every_command_gives_json():
    import typer.main

    def leaves(command, path=()):
        for name, one in getattr(command, "commands", {}).items():
            yield from leaves(one, (*path, name))
        if not getattr(command, "commands", {}):
            yield path, command

    for path, command in leaves(typer.main.get_command(app)):
        assert any("--json" in option.opts for option in command.params), path


def test_doctor(cli, monkeypatch):
    code, out, err = cli("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["problems"] == []
    assert found["versions"]["streamgmm"] == sg.__version__ and found["versions"]["numpy"] == np.__version__
    assert found["kernels"]["doubles_per_vector"] in (2, 4, 8) and found["threads"]["used"] >= 1
    assert {"folder", "writable", "files", "bytes"} == found["cache"].keys()
    code, out, _ = cli("doctor")
    names = [re.split(r"\s{2,}", line)[0] for line in out.splitlines()]
    assert {"streamgmm", "processor", "kernels", "threads", "graphics card", "cache of kernels"} <= set(names)
    from importlib.metadata import PackageNotFoundError

    from streamgmm.cli.commands import doctor

    def absent(name):
        if name == "h5py":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", absent)
    code, out, err = cli("doctor")
    assert code == 0 and "HDF5 files need h5py, which is not installed: pip install 'streamgmm[hdf5]'" in err
    monkeypatch.setattr(doctor, "LEAST_FREE", 1e30)
    code, _, err = cli("doctor")
    assert (code == 1) == ("problem: " in err)


def test_a_page_of_all_K_is_not_overwritten_by_what_is_proposed(cli, rows):
    err = cli("select", "x.npy", "--k-max", 3, "--set", "n_init=1", "--report", "--out", "s")[2]
    last = err.strip().splitlines()[-1]
    assert last.startswith("next: open s/report.html") and "streamgmm report" not in last
    err = cli("select", "x.npy", "--k-max", 2, "--set", "n_init=1", "--out", "a b")[2]
    assert "next: streamgmm report 'a b'   streamgmm inspect 'a b'" in err


def test_check_lists_every_column(cli, rows, tmp_path):
    holes = rows.copy()
    holes[:7, 1] = np.nan
    np.savetxt(tmp_path / "h.csv", holes, delimiter=",", header="a,b,c", comments="")
    code, out, _ = cli("data", "check", "h.csv")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and ["feature", "missing", "min", "max", "mean", "deviation"] in lines
    second = next(line for line in lines if line[:1] == ["b"])
    assert second[1] == "7"
    right = [np.nanmin(holes[:, 1]), np.nanmax(holes[:, 1]), np.nanmean(holes[:, 1]), np.nanstd(holes[:, 1])]
    assert [float(cell) for cell in second[2:]] == pytest.approx(right, rel=1e-5)
    document = json.loads(cli("data", "check", "h.csv", "--json")[1])
    assert document["missing"] == {"a": 0, "b": 7, "c": 0}
    assert document["mean"]["c"] == pytest.approx(holes[:, 2].mean(), rel=1e-13)
    assert document["deviation"]["c"] == pytest.approx(holes[:, 2].std(), rel=1e-13)
    far = np.random.default_rng(0).normal(size=(50_000, 1)) + 1e9  # in several chunks, far from 0
    np.save(tmp_path / "far.npy", np.repeat(far, 40, axis=1))
    document = json.loads(cli("data", "check", "far.npy", "--json")[1])
    assert document["deviation"]["x3"] == pytest.approx(far.std(), rel=1e-9)
    np.savetxt(tmp_path / "wide.csv", np.eye(230), delimiter=",")
    assert "... and 30 more; --json has all" in cli("data", "check", "wide.csv")[1]


def test_an_interrupt_says_what_is_kept(cli, rows, monkeypatch):
    from streamgmm.cli.commands import fit

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "follow", interrupted)
    code, _, err = cli("fit", "x.npy", "-k", 2)
    assert code == 130 and "interrupted: nothing was kept" in err and "--set checkpoint=" in err
    code, _, err = cli("fit", "x.npy", "-k", 2, "--set", "checkpoint=c")
    assert code == 130 and "interrupted: the same command goes on from the checkpoint in c" in err


def test_no_warning_of_floating_point_reaches_the_terminal(cli, tmp_path):
    table = np.column_stack([np.ones(60), np.r_[np.full(30, np.nan), np.arange(30.0)], np.arange(60.0) ** 2 * 1e150])
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header="a,b,c", comments="")
    for words in (["data", "check", "t.csv"], ["fit", "t.csv", "-k", 2, "--scale", "--set", "missing=marginalize"]):
        err = cli(*words)[2]
        assert "encountered" not in err and "RuntimeWarning" not in err


@pytest.mark.parametrize("width", [50, 60, 80])
def test_help_breaks_no_word_in_narrow_terminals(width):
    env = {**os.environ, "COLUMNS": str(width), "TERMINAL_WIDTH": str(width), "NO_COLOR": "1", "LANG": "C.UTF-8"}
    commands = "[], ['fit'], ['predict'], ['data', 'check']"
    code = f"from streamgmm.cli.app import run\nfor words in ({commands}): run([*words, '--help'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "\x1b[" not in done.stdout and max(map(len, done.stdout.splitlines())) <= width
    words = set(re.findall(r"[A-Za-z]+", re.sub(r"[│╭╮╰╯─]", " ", done.stdout)))
    assert {"--exclude", "--covariance"} <= set(re.findall(r"--[a-z-]+", done.stdout))
    assert {"components", "anomalies", "checkpoint"} <= words


def test_a_look_at_a_model_is_quick_and_says_the_same(cli, rows):
    assert cli("fit", "x.npy", "-k", 2, "--out", "m")[0] == 0
    assert cli("fit", "x.npy", "-k", 2, "--pca", 2, "--out", "p")[0] == 0
    assert cli("fit", "x.npy", "-k", 3, "--bayesian", "--out", "b")[0] in (0, 3)
    from streamgmm.cli.commands import inspect
    from streamgmm.cli.output_folder import load

    for model in "mpb":
        quick = cli("inspect", model)[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inspect, "peeked", load)
            assert cli("inspect", model)[1] == quick
    code = (
        "import sys; from streamgmm.cli.app import run; run(['inspect', 'm']); "
        "print([name for name in ('sklearn', 'scipy', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("fit x.npy -k 0", 2, "settings: model.n_components = 0: input should be greater than or equal to 1."),
        (
            "select x.npy --covariance nosuch",
            2,
            "settings: select.covariance_types = 'nosuch': input should be 'full',",
        ),
        ("select x.npy --k-min 5 --k-max 3", 2, "k_min = 5 is larger than k_max = 3. Lower --k-min, or raise --k-max."),
        ("fit nosuch.toml", 2, "nosuch.toml: no such config file. Check the path, or give the data themselves."),
        ("fit x.npy -k 2 --pca 9", 2, "pca = 9: x.npy has 3 feature(s). Take as many at most."),
        ("report nosuch", 1, "nosuch: is no folder. Expected one that `fit --out` or `select --out` wrote."),
        ("report x.npy", 1, "x.npy: is no folder. Expected one that"),
        (
            "report empty",
            1,
            "empty: expected a folder that `fit --out` or `select --out` wrote; there is no report.json",
        ),
        (
            "data convert x.npy out.csv",
            2,
            "OUT out.csv: convert writes a Zarr array. Choose a name that ends in .zarr.",
        ),
    ],
)
def test_errors_say_what_was_expected_what_came_and_what_to_do(cli, rows, tmp_path, words, code, said):
    (tmp_path / "empty").mkdir()
    found, out, err = cli(*words.split())
    assert found == code and out == "" and said in err.splitlines()[-1], err
    assert not (tmp_path / "out.csv").exists()


def test_one_start_is_one_start(cli, rows):
    assert "K = 1 to 2, 1 start of each" in cli("select", "x.npy", "--k-max", "2", "--set", "n_init=1")[2]


def test_a_fault_of_ours_is_called_one(cli, rows, monkeypatch):
    def broken(*_, **__):
        raise KeyError(0)

    monkeypatch.setattr("streamgmm.estimators.select.select", broken)
    code, _, err = cli("select", "x.npy", "--k-max", 2)
    assert code == 1 and "error: KeyError: 0 (a fault of streamgmm; --debug shows the traceback)" in err


def test_tables_and_sentences_have_short_names(cli, tmp_path):
    long = "a name that goes on and on and on, longer than any column of numbers"
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3)) + np.repeat([[0.0], [9.0]], 100, axis=0)
    lines = "\n".join(",".join(f"{value:.6g}" for value in row) for row in rows)
    (tmp_path / "t.csv").write_text(f'"{long}","a,b",\n{lines}\n')
    code, out, _ = cli("data", "check", "t.csv")
    assert code == 0 and "(no name)" in out and max(map(len, out.splitlines())) < 110
    assert cli("fit", "t.csv", "-k", 2, "--set", "n_init=2", "--out", "m")[0] == 0
    code, out, _ = cli("inspect", "m", "--explain")
    assert code == 0 and "(no name) is lower" in out and long not in out and "a name that goes on and on" in out
    assert json.loads(cli("inspect", "m", "--json")[1])["feature_names"] == [long, "a,b", ""]
