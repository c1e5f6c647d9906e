"""`--help`: on one screen of 80 columns and 36 lines, with an example that runs; and the completion of a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

import streamgmm as sg
from streamgmm.cli.app import app, run

WIDTH, HEIGHT = 80, 36
CONFIGS = Path(__file__).parents[2] / "configs"


def commands():
    """Every command and group with its words, in the order in which they are listed."""

    def walk(command, words):
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*words, name])

    return list(walk(typer.main.get_command(app), []))


@pytest.fixture
def help_of(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    def call(words):
        assert run([*words, "--help"]) == 0
        return capsys.readouterr().out

    return call


def examples(text):
    """Command lines after "Example:", joined where the screen broke them."""
    tail = re.search(r"(?s)Example:(.*)", text)
    return [] if tail is None else [" ".join(tail[1].split())]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_fits_one_screen(help_of, words):
    lines = help_of(words).splitlines()
    assert len(lines) <= HEIGHT and max(map(len, lines)) <= WIDTH
    if words in ([], ["data"]):  # lists of commands
        assert all(name in "\n".join(lines) for *group, name in commands()[1:] if group == words)
    else:
        assert examples("\n".join(lines))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_examples_run_one_after_the_other(help_of, tmp_path, monkeypatch, capsys):
    """In one folder that holds a table and the configs; what takes a minute is marked slow, below."""
    monkeypatch.chdir(tmp_path)
    truth = sg.Mixture([0.5, 0.3, 0.2], [[0, 0], [6, 4], [-6, 7]], [np.eye(2)] * 3)
    rows = truth.sample(600, random_state=0)[0] * [1, 1000]
    np.savetxt("table.csv", rows, delimiter=",", header="a,b", comments="")
    shutil.copytree(CONFIGS, "configs")
    done = []
    for words in commands():
        for line in examples(help_of(words)):
            program, *argv = shlex.split(line)
            assert program == "streamgmm" and argv[: len(words)] == words
            if words not in (["demo"], ["stream"]):
                assert run(argv) == 0, f"{line}: {capsys.readouterr().err}"
                done.append(" ".join(words))
    assert len(done) >= 11
    capsys.readouterr()
    for made in ("model/model.safetensors", "out/selected/report.html", "labels.csv", "density.csv", "page.html",
                 "table.json", "table.zarr/zarr.json"):  # fmt: skip
        assert Path(made).exists(), made
    assert len(Path("labels.csv").read_text().split()) == 601


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "stream"])
def test_the_long_examples_run(help_of, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS, "configs")
    (line,) = examples(help_of([name]))
    assert run(shlex.split(line)[1:]) in (0, 3)


@pytest.fixture
def program(tmp_path):
    """A `streamgmm` to be found on the path, as an installation makes one."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "streamgmm"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streamgmm "$@"\n')
    path.chmod(0o755)
    return os.environ | {"PATH": f"{path.parent}:{os.environ['PATH']}"}


def printed(*words, env):
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("ins", {"inspect"}), ("data ''", {"describe", "check", "convert"}), ("fit --sc", {"--scale"})],
)
def test_bash_completes(program, tmp_path, typed, offered):
    (tmp_path / "complete.sh").write_text(printed("streamgmm", env=program | {"_STREAMGMM_COMPLETE": "source_bash"}))
    script = f'''. "$1"; COMP_WORDS=(streamgmm {typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _streamgmm_completion streamgmm; printf "%s\\n" "${{COMPREPLY[@]}}"'''
    assert set(printed("bash", "-c", script, "-", str(tmp_path / "complete.sh"), env=program).split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_script(program, shell):
    assert "_STREAMGMM_COMPLETE" in printed("streamgmm", env=program | {"_STREAMGMM_COMPLETE": f"source_{shell}"})
