"""One virtual environment per peer, in the user's cache, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.data.cache import cache

REQUIREMENTS = {
    "scikit-learn": ("3.12", ["scikit-learn"]),
    "oneDAL": ("3.11", ["daal4py==2024.7", "numpy<2.3", "scikit-learn<1.6", "packaging"]),
    "pomegranate": ("3.11", ["torch==2.13.0", "pomegranate"]),
    "Spark": ("3.11", ["pyspark", "numpy", "pandas", "pyarrow"]),
}
PEERS = tuple(REQUIREMENTS)


def _interpreter(version: str) -> str | None:
    """An interpreter of that version: on the path, among pyenv's, or this one."""
    if sys.version.startswith(version):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found:
        return found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return next((str(p) for p in sorted(pyenv.glob(f"{version}.*/bin/python"))), None)


def python_of(peer: str) -> str | None:
    """The interpreter of a peer's environment, made where it is missing; None, with the reason printed, on failure."""
    version, packages = REQUIREMENTS[peer]
    folder = cache() / peer
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == "\n".join(packages):
        return str(python)
    base = _interpreter(version)
    if base is None:
        print(f"{peer}: left out, there is no Python {version}", file=sys.stderr)
        return None
    print(f"{peer}: making its environment", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    done = subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], capture_output=True, text=True)
    if done.returncode:
        print(f"{peer}: left out, its wheels do not install here\n{done.stderr[-500:]}", file=sys.stderr)
        return None
    ready.write_text("\n".join(packages))
    return str(python)
