"""Versions of the program: processes that share the work of a fit have to run the same one."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import streamgmm
from streamgmm.errors import ClusterError

__all__ = ["check", "here"]

LIBRARIES = ("numpy", "scipy", "numba", "scikit-learn")
"""Versions and hardware that the bits of a fit depend on, beside the package itself."""


@cache
def here() -> dict[str, str]:
    """Versions in this process, and a digest of the package's own files: checkouts share their version number."""
    found = {
        "streamgmm": streamgmm.__version__,
        "code": _digest(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest() -> str:
    """Of the sources; empty where they are not files."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def check(driver: dict[str, str]) -> None:
    """See that this process runs what the driver runs.

    Raises
    ------
    ClusterError
        Naming this worker, and both versions of everything that differs.
    """
    mine = here()
    if mine != driver:
        raise ClusterError(f"Worker {_address()}: {differing(mine, driver)}")


def differing(worker: dict[str, str], driver: dict[str, str]) -> str:
    """The differences in words, and the remedy."""
    names = sorted(name for name in worker.keys() | driver.keys() if worker.get(name) != driver.get(name))
    if "streamgmm" in names:
        names = [name for name in names if name != "code"]
    words = {"code": "the sources of streamgmm"}
    found = [
        f"{words.get(name, name)} {worker.get(name, 'none')} there, {driver.get(name, 'none')} here" for name in names
    ]
    return (
        f"runs other versions than the driver ({'; '.join(found)}). Its statistics would be those of another program: "
        "install the same versions on every machine, and start the worker again."
    )


def _address() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # one of Dask's local processes
        return platform.node()
