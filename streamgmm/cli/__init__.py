"""The command line. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 failed, 2 usage or config error, 3 finished without converging, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from streamgmm.utils.signals import terminate, until_exit


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    _open_streams()
    until_exit()
    try:
        from streamgmm.cli.app import run

        terminate.code = run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # while half a second of modules is imported
        terminate.code = 130
        print("interrupted", file=sys.stderr)
    sys.exit(terminate.code)


def _open_streams() -> None:
    """Make the standard streams ones that can be written to.

    Where the caller closed one, the next file to be opened would get its number, and with it what is meant for the
    terminal. What a program reads is UTF-8, whatever the locale; a terminal shows as escapes what it has no letters
    for.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        if out.isatty():
            out.reconfigure(errors="backslashreplace")
        else:
            out.reconfigure(encoding="utf-8")
