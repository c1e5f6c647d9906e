"""Tables go into the README by the program that measured them, between markers."""

from __future__ import annotations

import platform
from pathlib import Path

from streamgmm.kernels._target import registers


def processor() -> str:
    """The processor, and the width of the vectors that kernels are compiled for there."""
    width = registers().width
    return f"{model_name()}, vectors of {width} doubles ({64 * width} bits)"


def model_name() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name` in `path`.

    Raises
    ------
    ValueError
        Where the markers are missing.
    """
    begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
    old = path.read_text()
    if begin not in old or end not in old:
        raise ValueError(f"{path} must hold the lines {begin} and {end}; add them where the table belongs.")
    head, tail = old.split(begin, 1)[0], old.split(end, 1)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
