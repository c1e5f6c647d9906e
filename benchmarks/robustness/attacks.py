"""Damaged files, forged sizes and signals, by the hundred: what survives.

    python -m benchmarks attacks --tries 300 [--write docs/failures.md]

An attack survives where the answer is right, or an error of a documented kind names the file. It fails with another
error, a crash, something left behind, or, where there are checksums, with a wrong value and no word. Formats without
checksums cannot tell all damage from data; those cases are counted by themselves.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import streamgmm as sg
from benchmarks.readme import write_section
from streamgmm.utils.isolated import CrashedError, isolated

X = np.random.default_rng(0).normal(size=(600, 3))
KNOWN = (sg.StreamGMMError, ValueError, OSError, MemoryError)
Rng = np.random.Generator
Bytes = bytearray


# Files ---------------------------------------------------------------------------------------------------------------


def zarr(folder: Path, **options: Any) -> Path:
    import zarr as library

    library.create_array(folder / "x.zarr", data=X, chunks=(100, 3), overwrite=True, **options)
    return folder / "x.zarr"


def zarr_checked(folder: Path) -> Path:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return zarr(folder, compressors=[ZstdCodec(), Crc32cCodec()])


def zarr_shards(folder: Path) -> Path:
    from zarr.codecs import Crc32cCodec

    return zarr(folder, shards=(300, 3), compressors=[Crc32cCodec()])


def hdf5(folder: Path, **options: Any) -> Path:
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(100, 3), **options)
    return folder / "x.h5"


def parquet(folder: Path, **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: X[:, j] for j, name in enumerate("abc")})
    pq.write_table(table, folder / "x.parquet", row_group_size=200, **options)
    return folder / "x.parquet"


def arrow(folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import feather

    feather.write_feather(pa.table({name: X[:, j] for j, name in enumerate("abc")}), folder / "x.arrow")
    return folder / "x.arrow"


def npy(folder: Path) -> Path:
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def csv(folder: Path) -> Path:
    lines = [",".join(map(repr, row)) for row in X.tolist()]
    (folder / "x.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n")
    return folder / "x.csv"


def model(folder: Path) -> Path:
    fitted().save(folder / "m.safetensors")
    return folder / "m.safetensors"


def checkpoint(folder: Path) -> Path:
    sg.GaussianMixture(2, random_state=0, checkpoint=folder / "kept").fit(X)
    return max((folder / "kept").glob("*.ckpt"))


def snapshot(folder: Path) -> Path:
    session = sg.StreamSession(sg.GaussianMixture(2, random_state=0), snapshot=folder / "s")
    for _ in session.run([(X[:300], 300), (X[300:], 600)]):
        pass
    return folder / "s"


# What is done with them ----------------------------------------------------------------------------------------------


def rows_of(path: Path) -> Any:
    return np.concatenate([chunk.load()[0].copy() for chunk in sg.open_source(path).chunks()])


def right_rows(path: Path) -> bool:
    return np.array_equal(rows_of(path), X)


@cache
def fitted() -> sg.GaussianMixture:
    return sg.GaussianMixture(2, random_state=0).fit(X)


@cache
def learnt() -> sg.StreamSession:
    session = sg.StreamSession(sg.GaussianMixture(2, random_state=0))
    for _ in session.run([(X, 600)]):
        pass
    return session


def right_model(path: Path) -> bool:
    found = sg.load(path)
    same = [np.array_equal(getattr(found, name), getattr(fitted(), name)) for name in ("means_", "covariances_")]
    return all(same) and found.lower_bounds_ == fitted().lower_bounds_ and found.get_params() == fitted().get_params()


def right_fit(path: Path) -> bool:
    found = sg.GaussianMixture(2, random_state=0, checkpoint=path.parent).fit(X)
    return np.array_equal(found.means_, fitted().means_) and found.lower_bounds_ == fitted().lower_bounds_


def right_stream(path: Path) -> bool:
    session = sg.StreamSession(sg.GaussianMixture(2, random_state=0), snapshot=path)
    for _ in session.run([(X[:300], 300), (X[300:], 600)]):
        pass
    counted = replace(session.counts, repeated=0)
    same = np.array_equal(session.mixture.means, learnt().mixture.means)  # type: ignore[union-attr]
    return same and counted == learnt().counts


# Damage --------------------------------------------------------------------------------------------------------------


def flip(content: Bytes, rng: Rng) -> Bytes:
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return content


def anything(content: Bytes, rng: Rng) -> Bytes:
    kind = rng.integers(4)
    if kind == 0:
        return flip(content, rng)
    if kind == 1:
        return content[: rng.integers(len(content))]
    at = int(rng.integers(len(content)))
    if kind == 2:
        content[at : at + 8] = rng.bytes(8)
        return content
    return content[:at] + content[at + int(rng.integers(1, 64)) :]


def stored_part(path: Path, rng: Rng) -> tuple[Path, int, int]:
    """The file and range of bytes that checksums cover: one stored chunk, or the pages of a column."""
    if path.is_dir():
        chunks = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")
        chosen = chunks[rng.integers(len(chunks))]
        return chosen, 0, chosen.stat().st_size
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            place = file["x"].id.get_chunk_info(int(rng.integers(6)))
        return path, place.byte_offset, place.byte_offset + place.size
    import pyarrow.parquet as pq

    column = pq.ParquetFile(path).metadata.row_group(int(rng.integers(3))).column(int(rng.integers(3)))
    first = column.dictionary_page_offset or column.data_page_offset
    return path, first, first + column.total_compressed_size


Case = tuple[Callable[[Path], Path], Callable[[Path], bool], bool]
CASES: dict[str, Case] = {
    "Zarr, zstd and crc32c": (zarr_checked, right_rows, True),
    "Zarr, shards with crc32c": (zarr_shards, right_rows, True),
    "Parquet with page checksums": (lambda f: parquet(f, write_page_checksum=True), right_rows, True),
    "HDF5, fletcher32": (lambda f: hdf5(f, fletcher32=True), right_rows, True),
    "HDF5, gzip": (lambda f: hdf5(f, compression="gzip"), right_rows, True),
    "model file": (model, right_model, True),
    "checkpoint": (checkpoint, right_fit, True),
    "snapshot of a stream": (snapshot, right_stream, True),
    "Zarr, no codec": (lambda f: zarr(f, compressors=None), right_rows, False),
    "Parquet": (parquet, right_rows, False),
    "Arrow": (arrow, right_rows, False),
    "HDF5": (hdf5, right_rows, False),
    "npy": (npy, right_rows, False),
    "CSV": (csv, right_rows, False),
}
"""How the file is made, what is done with it, and whether what is damaged is under checksums."""


def attack(name: str, first: int, stop: int, progress: Callable[..., None]) -> Counter[str]:
    """Attacks number `first` to `stop` of one kind: how they ended."""
    logging.getLogger("streamgmm").setLevel(logging.ERROR)
    make, right, checked = CASES[name]
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as where:
        for number in range(first, stop):
            progress(number)
            rng = np.random.default_rng([number, len(name)])
            path = make(Path(where))
            if checked and right is right_rows:
                file, begin, end = stored_part(path, rng)
            else:
                files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
                file = files[rng.integers(len(files))]
                begin, end = 0, file.stat().st_size
            content = bytearray(file.read_bytes())
            damage = flip if checked and right is right_rows else anything
            file.write_bytes(content[:begin] + damage(content[begin:end], rng) + content[end:])
            found[_outcome(right, path, checked)] += 1
            for left in (Path(where) / "kept").glob("*"):
                left.unlink()
            for left in Path(where).glob("s*"):
                left.unlink()
    return found


def _outcome(right: Callable[[Path], bool], path: Path, checked: bool) -> str:
    try:
        same = right(path)
    except KNOWN:
        return "survived"
    except Exception as error:
        print(f"  {path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "failed"
    return "survived" if same else "failed" if checked else "not told"


def campaign(name: str, tries: int) -> Counter[str]:
    """`tries` attacks in a process of their own; after a crash in another one, from the next number on."""
    found: Counter[str] = Counter()
    at = 0
    while at < tries:
        seen = [at]
        try:
            found += isolated(attack, name, at, tries, progress=seen.append)
            at = tries
        except CrashedError as error:
            print(f"  {name}, attack {seen[-1]}: {error.how}", file=sys.stderr)
            found["failed"] += 1
            # What ended well before is not known any more: it is done again, up to the crash.
            if seen[-1] > at:
                found += isolated(attack, name, at, seen[-1])
            at = seen[-1] + 1
    return found


# Signals -------------------------------------------------------------------------------------------------------------


def interrupted(tries: int) -> Counter[str]:
    """Signals while a store is converted: whole or not there, and nothing left after the next run."""
    found: Counter[str] = Counter()
    rows = np.random.default_rng(0).normal(size=(60_000, 3))
    rng = np.random.default_rng(0)
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
    for number in range(tries):
        with tempfile.TemporaryDirectory() as where:
            source, target = Path(where) / "x.npy", Path(where) / "out" / "x.zarr"
            target.parent.mkdir()
            np.save(source, rows)
            words = ["data", "convert", str(source), str(target), "--chunk-rows", "500", "--overwrite"]
            command = [sys.executable, "-W", "ignore", "-m", "streamgmm", *words]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            with subprocess.Popen(command, **quiet) as process:
                end = time.monotonic() + 30
                while not os.listdir(target.parent) and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.001)
                time.sleep(float(rng.uniform(0, 0.2)))
                which = kinds[number % 4]
                process.send_signal(which)
                process.wait()
            left = [name for name in os.listdir(target.parent) if name.startswith(".")]
            good = which == signal.SIGKILL or not left
            good &= not target.exists() or np.array_equal(rows_of(target), rows)
            good &= subprocess.run(command, check=False, **quiet).returncode == 0
            good &= os.listdir(target.parent) == ["x.zarr"] and np.array_equal(rows_of(target), rows)
            found["survived" if good else "failed"] += 1
    return found


def table(found: dict[str, Counter[str]]) -> str:
    head = f"{'kind':34s}{'tried':>8s}{'survived':>10s}{'failed':>8s}   not told from data (no checksums)"
    lines = [
        f"{name:34s}{counts.total():8d}{counts['survived']:10d}{counts['failed']:8d}"
        + (f"{counts['not told']:6d}" if counts["not told"] else "")
        for name, counts in found.items()
    ]
    every = sum(found.values(), Counter())
    total = f"{'all':34s}{every.total():8d}{every['survived']:10d}{every['failed']:8d}{every['not told']:6d}"
    return "\n".join([head, *lines, total])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=300, help="attacks of each kind on files")
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--write", type=Path, help="put the table between the markers of this page")
    given = parser.parse_args(arguments)
    found = {}
    for name in CASES:
        found[name] = campaign(name, given.tries)
        print(name, dict(found[name]), file=sys.stderr, flush=True)
    found["signals to data convert"] = interrupted(given.signals)
    text = table(found)
    print(text)
    if given.write is not None:
        write_section(given.write, "attacks", f"```text\n{text}\n```")
    return int(any(counts["failed"] for counts in found.values()))
