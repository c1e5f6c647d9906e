"""The command line: exit codes, one line for every error, results on stdout, nothing left behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from streamgmm.cli.app import app, run

COMMANDS = ["fit", "predict", "score", "sample", "inspect", "demo", "warmup", "data", "data describe"]


@pytest.fixture
def cli(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_one_screen_and_has_an_example(cli, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = cli(*command.split(), "--help")
    assert code == 0
    assert len(out.splitlines()) <= 40
    assert command in ("", "data") or "Example:" in out


def test_every_command_is_listed_here():
    names = [command.name for command in app.registered_commands]
    assert set(names) <= set(COMMANDS), "add the new command to COMMANDS"


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
    from streamgmm.cli.patches import N_ROWS, grey_images, patch_rows

    images = grey_images()
    sizes, first = [], None
    for part in patch_rows(images):
        first = part if first is None else first
        sizes.append(len(part))
    assert sum(sizes) == N_ROWS == 531_720 and set(sizes[:-1]) == {16_384}
    patch = images[0][:8, 5:13].reshape(-1)[:63]  # row 5: without noise, up to its mean
    assert np.abs(np.diff(first[5] - patch)).max() <= 1.0
    assert first.dtype == np.float32 and first.shape[1] == 63
