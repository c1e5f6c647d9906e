"""What a process is born into: closed streams, other locales, outputs that are inputs, data that are no files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import DONE, FAILED, USAGE, run
from streamgmm.sources import open_source
from tests.helpers.killing import started

X = np.random.default_rng(0).normal(size=(400, 2)) + 5.0 * np.random.default_rng(1).integers(2, size=(400, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lines = [f"{a!r},{b!r}" for a, b in X.tolist()]
    (folder / "x.csv").write_text("größe,値\n" + "\n".join(lines) + "\n", encoding="utf-8")
    sg.GaussianMixture(2, random_state=0).fit(folder / "x.csv").save(folder / "m.safetensors")
    return folder


def closing(*numbers):
    def close():
        for number in numbers:
            os.close(number)

    return close


def python(*words, **options):
    command = [sys.executable, "-m", "streamgmm", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, **options)


# Streams of the process ---------------------------------------------------------------------------------------------


def test_messages_do_not_go_into_the_results_where_stderr_is_closed(folder):
    done = python("fit", folder / "x.csv", "-k", "2", "--json", preexec_fn=closing(2))
    assert done.returncode == DONE and json.loads(done.stdout)["converged"]


def test_no_file_takes_the_place_of_a_closed_stdout(folder, tmp_path):
    """A file that is opened next gets the number of what was closed."""
    done = python(
        "sample", folder / "m.safetensors", "-n", "3", "--out", tmp_path / "x.csv", preexec_fn=closing(0, 1, 2)
    )
    assert done.returncode == DONE
    assert len((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()) == 4
    done = python("inspect", folder / "m.safetensors", preexec_fn=closing(1))
    assert done.returncode == DONE and b"Traceback" not in done.stderr


def test_results_are_utf8_in_any_locale(folder):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = python("sample", folder / "m.safetensors", "-n", "2", env={**os.environ, **plain})
    assert done.returncode == DONE, done.stderr
    assert done.stdout.decode("utf-8").splitlines()[0] == "größe,値"


def test_a_signal_while_modules_are_imported_is_no_traceback(folder):
    with started(["data", "describe", folder / "x.csv"], stderr=subprocess.PIPE) as process:
        process.poll()
        while b"streamgmm" not in maps(process.pid) and process.poll() is None:
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        code = process.wait(60)
    assert code in (130, DONE, -signal.SIGINT)
    assert code == -signal.SIGINT or b"Traceback" not in said


def maps(pid):
    """The command line, once the interpreter has begun."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


# Outputs and inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["predict", "score"])
def test_what_is_read_is_not_written_over(folder, tmp_path, capsys, command):
    (tmp_path / "many").mkdir()
    names = [tmp_path / "x.csv", tmp_path / "many" / "x.csv"]
    for name in names:
        name.write_bytes((folder / "x.csv").read_bytes())
    (tmp_path / "link.csv").symlink_to("x.csv")
    given = {
        str(names[0]): names[0],
        str(tmp_path / "link.csv"): names[0],
        str(tmp_path / "many"): names[1],
        str(tmp_path / "m*" / "*.csv"): names[1],
    }
    for data, out in given.items():
        assert run([command, str(folder / "m.safetensors"), data, "--out", str(out)]) == USAGE
        assert "is among the data that are read; choose another name" in capsys.readouterr().err
        assert out.read_bytes() == (folder / "x.csv").read_bytes()
    assert run([command, str(folder / "m.safetensors"), str(names[1]), "--out", str(names[0])]) == DONE


def test_a_folder_that_cannot_be_written_is_told_before_the_fit(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert run(["fit", str(folder / "x.csv"), "-k", "2", "--out", str(tmp_path / "m")]) == FAILED
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path}/m: permission denied")
    monkeypatch.undo()
    assert run(["fit", str(folder / "x.csv"), "-k", "2", "--out", str(folder / "m.safetensors")]) == FAILED
    assert "m.safetensors: is a file where a folder is expected" in capsys.readouterr().err


# Data that are no plain files ---------------------------------------------------------------------------------------


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    for path in (tmp_path / "x.csv", "/dev/null"):
        with pytest.raises(ValueError, match=r"a pipe or a device can be read once.*streamgmm stream"):
            open_source(path)


def test_links_make_no_rows(folder, tmp_path):
    """A folder inside itself was read 41 times, until the system had enough of its links."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.csv").write_bytes((folder / "x.csv").read_bytes())
    (data / "again").symlink_to("../data")
    (data / "y.csv").symlink_to("x.csv")
    for name in (data / "*.csv", data / "**" / "x.csv", data):
        source = open_source(str(name))
        assert sum(len(chunk.load()[0]) for chunk in source.chunks()) == len(X)
    (data / "more").symlink_to("../data")
    source = open_source(data)
    assert sum(len(chunk.load()[0]) for chunk in source.chunks()) == len(X)


def test_a_link_to_itself_is_an_error(tmp_path):
    (tmp_path / "x.npy").symlink_to("x.npy")
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "x.npy")
    with pytest.raises(OSError, match=r"x\.npy") as caught:
        sg.GaussianMixture(1).fit(X).save(tmp_path / "x.npy")
    assert caught.value.errno == errno.ELOOP
