"""Blocks of documents: what is in them, and to run them in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.cli.app import run


def blocks(page: Path):
    """(line, language, text) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?ms)^```(\w+)\n(.*?)^```", text):
        yield text[: match.start()].count("\n") + 2, match[1], match[2]


def run_blocks(page: Path, capsys: Any) -> None:
    """Run the Python blocks in one namespace, and the lines of `streamgmm` between them, in the present folder."""
    space: dict[str, object] = {"__name__": "__main__"}
    for line, language, text in blocks(page):
        if language == "python":
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), space)
            if "X" in space and not Path("X.npy").exists():
                np.save("X.npy", space["X"])
        elif language == "sh":
            for command in text.replace("\\\n", " ").splitlines():
                if command.startswith("streamgmm "):
                    words = shlex.split(command.split("  #")[0])[1:]
                    code = run(words)
                    assert code == 0, f"{page.name}: {command}: {capsys.readouterr().err}"
