"""Every source against itself: rows per second read, and rows per second through one E-step that reads them.

``python -m benchmarks sources [--rows 4000000]``. The same rows are written in every format to a temporary folder and
are in the page cache when they are read: what is measured is opening, decoding and conversion, not the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.readme import processor, write_section
from streamgmm.em.loop import e_step, merge_all
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import Threads
from streamgmm.runtime.thread_limits import available_cores
from streamgmm.sources import open_source
from streamgmm.sources.chunking import default_chunk_rows

Array = NDArray[np.float64]


def formats(x: Array, folder: Path) -> Iterator[tuple[str, Any]]:
    """The same rows in every format: a name, and what `open_source` is given."""
    import dask.array as da
    import h5py
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet
    import zarr

    from streamgmm.sources.convert import convert

    names = [f"x{j}" for j in range(x.shape[1])]
    table = pa.table(list(x.T.copy()), names=names)
    chunk = default_chunk_rows(x.shape[1])
    yield "array", x
    np.save(folder / "x.npy", x)
    yield "npy", folder / "x.npy"
    zarr.create_array(folder / "raw.zarr", data=x, chunks=(chunk, x.shape[1]), compressors=None)
    yield "zarr, raw", folder / "raw.zarr"
    zarr.create_array(folder / "zstd.zarr", data=x, chunks=(chunk, x.shape[1]))
    yield "zarr, zstd", folder / "zstd.zarr"
    convert(open_source(x), folder / "ours.zarr")
    yield "zarr, `data convert`", folder / "ours.zarr"
    shape = (chunk // 8, x.shape[1]), (4 * chunk, x.shape[1])
    zarr.create_array(folder / "shards.zarr", data=x, chunks=shape[0], shards=shape[1])
    yield "zarr, sharded", folder / "shards.zarr"
    with h5py.File(folder / "x.h5", "w") as file:
        block = min(chunk, len(x)), x.shape[1]
        file.create_dataset("x", data=x, chunks=block)
        file.create_dataset("gzip", data=x, chunks=block, compression="gzip", compression_opts=1)
    yield "hdf5, raw", f"{folder}/x.h5::x"
    yield "hdf5, gzip", f"{folder}/x.h5::gzip"
    pyarrow.parquet.write_table(table, folder / "x.parquet", row_group_size=4 * chunk)
    yield "parquet", folder / "x.parquet"
    pyarrow.feather.write_feather(table, str(folder / "x.feather"))
    yield "feather", folder / "x.feather"
    some = max(1, len(x) // 10)  # text is so much slower that a tenth will do
    np.savetxt(folder / "x.csv", x[:some], delimiter=",", header=",".join(names), comments="")
    yield "csv", folder / "x.csv"
    yield "pandas", table.to_pandas()
    yield "pyarrow", table
    yield "dask array", da.from_array(x, chunks=(chunk, -1))


def touch(chunk: Any) -> int:
    """Load a chunk and look at it."""
    rows, _ = chunk.load()
    return len(rows) if not rows.size or rows[-1, -1] == rows[-1, -1] else 0


def add(a: int, b: int) -> int:
    return a + b


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock time."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


def measure(x: Array, n_components: int, n_jobs: int, repeats: int = 3) -> list[dict[str, Any]]:
    """One record for each format: seconds per million rows to read, and to read and take the statistics of."""
    rng = np.random.default_rng(0)
    means = x[rng.choice(len(x), n_components, replace=False)]
    eye = np.tile(np.eye(x.shape[1]), (n_components, 1, 1))
    model = Mixture(np.full(n_components, 1 / n_components), means, eye, "full")
    threads = Threads(n_jobs)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for name, held in formats(x, Path(folder)):
            source = open_source(held)
            rows = threads.run(touch, source.chunks(), add)
            read = seconds(lambda source=source: threads.run(touch, source.chunks(), add), repeats)
            work = partial(e_step, (model,))
            step = seconds(lambda source=source, work=work: threads.run(work, source.chunks(), merge_all), repeats)
            records.append(
                {
                    "source": name,
                    "rows": rows,
                    "features": x.shape[1],
                    "read": read / rows * 1e6,
                    "pass": step / rows * 1e6,
                }
            )
    return records


def table(records: list[dict[str, Any]], setting: str) -> str:
    """Markdown: reading alone, one E-step that reads, and that against the array in memory."""
    arithmetic = records[0]["pass"]
    width = records[0]["features"]
    lines = [
        f"{processor()}, {setting}, full, float64, files in the page cache.",
        "",
        "| source | reading alone, million rows/s | MB/s | E-step, million rows/s | time over the array's |",
        "|---|---|---|---|---|",
    ]
    for r in records:
        speed = 1.0 / r["read"]
        lines.append(
            f"| {r['source']} | {speed:.1f} | {8 * width * speed:.0f} | {1 / r['pass']:.2f} | "
            f"{r['pass'] / arithmetic:.2f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--write", type=Path, help="write the figures into this file")
    options = parser.parse_args(arguments)
    x = np.random.default_rng(0).standard_normal((options.rows, options.features)).round(4)
    records = measure(x, options.components, options.jobs)
    text = table(records, f"{options.jobs} threads; {options.features} features, K = {options.components}")
    print(text)
    if options.write:
        write_section(options.write, "sources", text)
