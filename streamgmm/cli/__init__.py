"""The command line. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 failed, 2 usage or config error, 3 finished without converging, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    try:
        from streamgmm.cli.app import run

        code = run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # while half a second of modules is imported
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
