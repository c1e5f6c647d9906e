"""`streamgmm doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from streamgmm.cli.terminal import Json, emit, facts, message
from streamgmm.runtime.peak_memory import machine_memory

NEEDED = ("numpy", "scipy", "numba", "llvmlite", "scikit-learn", "zarr", "dask", "distributed")
EXTRAS = {
    "pyarrow": ("parquet", "CSV, Parquet and Arrow files"),
    "h5py": ("hdf5", "HDF5 files"),
    "xarray": ("xarray", "xarray and NetCDF"),
    "matplotlib": ("plot", "pictures"),
    "confluent-kafka": ("kafka", "streams of Kafka"),
    "redis": ("redis", "streams of Redis"),
}
"""Packages that read or draw something, and the extra that installs each."""
LEAST_FREE = 200e6
"""Bytes of disk that compiled kernels and a checkpoint want."""


def doctor(json: Json = False) -> None:
    """Show versions, processor, kernels, card, threads and cache, and what to do about what is missing.

    Exit code 1 where something is wrong.
    """
    found = examined()
    if json:
        emit(found)
    else:
        print(facts(_lines(found)))
    for problem in found["problems"]:
        message(f"problem: {problem}")
    for text in found["notes"]:
        message(f"note: {text}")
    if found["problems"]:
        raise typer.Exit(1)


def examined() -> dict[str, Any]:
    """The state of the installation: plain values, problems, and notes about what is optional."""
    problems: list[str] = []
    notes: list[str] = []
    found = {
        "versions": _versions(notes),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "kernels": _kernels(problems, notes),
        "threads": _threads(notes),
        "memory": machine_memory(),
        "card": _card(notes),
        "cache": _cache(problems, notes),
    }
    return {**found, "problems": problems, "notes": notes}


def _versions(notes: list[str]) -> dict[str, str | None]:
    import streamgmm

    found: dict[str, str | None] = {"streamgmm": streamgmm.__version__, "python": platform.python_version()}
    for name in (*NEEDED, *EXTRAS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
            if name in EXTRAS:
                extra, what = EXTRAS[name]
                notes.append(f"{what} need {name}, which is not installed: pip install 'streamgmm[{extra}]'")
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _kernels(problems: list[str], notes: list[str]) -> dict[str, Any]:
    """Width of the vectors that kernels use, and whether one compiles and gives the right numbers."""
    import numpy as np

    from streamgmm.kernels.dispatch import vectors
    from streamgmm.mixture.mixture import Mixture

    width, fused = vectors()
    found = {"doubles_per_vector": width, "fused_multiply_add": fused}
    if width < 8:
        notes.append(f"vectors of {width} doubles: this processor or NUMBA_CPU_NAME has no wider ones")
    one = Mixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    rows = np.sqrt(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [3.0, 3.0]]))
    if not np.allclose(one.log_prob(rows), -np.log(2 * np.pi) - np.arange(4.0), rtol=0, atol=1e-12):
        problems.append("a kernel gave a wrong log-density: reinstall numba and llvmlite, and report this")
    return found


def _threads(notes: list[str]) -> dict[str, Any]:
    from streamgmm.runtime.thread_limits import resolve_n_jobs

    usable, cores = resolve_n_jobs(None), os.cpu_count() or 1
    if usable < cores:
        notes.append(f"{usable} of {cores} cores may be used by this process (affinity or a limit of the container)")
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"used": usable, "cores": cores, **{name: os.environ[name] for name in names if name in os.environ}}


def _card(notes: list[str]) -> str | None:
    from streamgmm.errors import DeviceError
    from streamgmm.kernels.cuda.backend import get

    try:
        backend = get("cuda")
    except DeviceError as error:
        notes.append(f"no graphics card is used: {error}")
        return None
    return str(getattr(backend, "name", backend))


def _cache(problems: list[str], notes: list[str]) -> dict[str, Any]:
    """Where compiled kernels are kept, whether that can be written, and what is there."""
    import streamgmm.kernels

    given = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(given) if given else Path(streamgmm.kernels.__file__).parent / "__pycache__"
    root = folder if given else folder.parent
    files = [*root.rglob("*.nbi"), *root.rglob("*.nbc")] if root.is_dir() else []
    writable = os.access(next(p for p in (folder, *folder.parents) if p.exists()), os.W_OK)
    if not writable:
        notes.append(
            f"{folder} cannot be written: Numba keeps compiled kernels in the user's cache folder, or compiles in "
            "every process. Set NUMBA_CACHE_DIR to a folder that can be written."
        )
    elif not files:
        notes.append("no kernel is compiled yet: streamgmm warmup does it now, in about a minute")
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if writable and free < LEAST_FREE:
        problems.append(
            f"{folder}: {free / 1e6:.0f} MB are free on its disk. Free some: compiled kernels are kept there."
        )
    return {
        "folder": str(folder),
        "writable": writable,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }


def _lines(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """`examined` as names and values for people."""
    kernels, threads, cache = found["kernels"], found["threads"], found["cache"]
    rest = ", ".join(f"{name}={value}" for name, value in threads.items() if name not in ("used", "cores"))
    return [
        *((name, value or "not installed") for name, value in found["versions"].items()),
        ("system", f"{found['system']}, {'64' if sys.maxsize > 2**32 else '32'} bits"),
        ("processor", found["processor"]),
        (
            "kernels",
            f"vectors of {kernels['doubles_per_vector']} doubles"
            f"{', fused multiply-add' if kernels['fused_multiply_add'] else ''}",
        ),
        ("threads", f"{threads['used']} of {threads['cores']} cores{f' ({rest})' if rest else ''}"),
        ("memory", None if found["memory"] is None else f"{found['memory'] / 1e9:.1f} GB"),
        ("graphics card", found["card"] or "none"),
        (
            "cache of kernels",
            f"{cache['folder']}: {cache['files']} files, {cache['bytes'] / 1e6:.0f} MB"
            f"{'' if cache['writable'] else ', not writable'}",
        ),
    ]
