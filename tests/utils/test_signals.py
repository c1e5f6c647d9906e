"""Signals to the command line, at moments that are hard to hit: the exit code is the documented one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers.killing import _hang_up_ends

ROOT = Path(__file__).parents[2]


def ended(folder, number, *, run="return 0", module=""):
    """(exit code, output) of a command line whose command is `run`, which may send a signal by `send()`."""
    text = textwrap.dedent(
        """
        import os, signal, sys
        import streamgmm.cli.app
        from streamgmm.cli import main
        def send():
            os.kill(os.getpid(), NUMBER)
        def run(argv):
            BODY
        streamgmm.cli.app.run = run
        main([])
        """
    )
    text = textwrap.dedent(module) + text.replace("BODY", textwrap.dedent(run).strip().replace("\n", "\n    "))
    (folder / "command.py").write_text(text.replace("NUMBER", str(int(number))))
    done = subprocess.run(
        [sys.executable, "-m", "command"],  # CPython ends by SIGINT under -m only
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        preexec_fn=_hang_up_ends,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_string_that_is_executed(tmp_path, number):
    """As dataclasses, named tuples and Numba make functions."""
    assert ended(tmp_path, number, run="exec('send()', globals())") == (130, "", "interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_after_the_last_word(tmp_path, number):
    """At the exit of the interpreter: in what is registered for it, and when modules are taken down."""
    run = """
        import atexit
        atexit.register(send)
        print("done", flush=True)
        return 3
    """
    assert ended(tmp_path, number, run=run) == (3, "done\n", "")
    module = """
        class Last:
            def __init__(self, kill, pid):
                self.kill, self.pid = kill, pid
            def __del__(self):
                self.kill(self.pid, NUMBER)
        import os
        last = Last(os.kill, os.getpid())
    """
    assert ended(tmp_path, number, run="return 3", module=module) == (3, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_twice_is_one_request(tmp_path, number):
    """As a terminal that closes does, and a program that passes Ctrl-C on."""
    run = """
        try:
            send()
        finally:
            send()
            print("cleaned")
    """
    assert ended(tmp_path, number, run=run) == (130, "cleaned\n", "interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_finalizer(tmp_path, number):
    """Python ignores exceptions there."""
    run = """
        import time
        class One:
            def __del__(self):
                send()
        One()
        time.sleep(30)
        return 1
    """
    assert ended(tmp_path, number, run=run) == (130, "", "interrupted\n")
