"""Commands that are sent a signal in the middle of what they write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def half_written(folder):
    """What stands in `folder` under a hidden name."""
    return [name for name in names(folder) if name.startswith(".")]


def _hang_up_ends():
    """As in a terminal: tests under nohup ignore SIGHUP, and so would the process."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def started(words, **options):
    """`streamgmm WORDS` in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "streamgmm", *map(str, words)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.Popen(command, env=environment, preexec_fn=_hang_up_ends, **(quiet | options))


def signalled(words, folder, which, wait=0.0):
    """Run a command until it writes something in `folder`, and `wait` seconds more; send a signal: the exit code."""
    process = started(words)
    try:
        end = time.monotonic() + 60
        while not half_written(folder) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)  # nothing tells when a file appears
        time.sleep(wait)
        process.send_signal(which)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


ENDS = {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGHUP: 130, signal.SIGKILL: -9}
