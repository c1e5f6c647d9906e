"""What a cluster costs and gains: scheduler time, passes on 1 and 2 workers, what the death of a worker costs, and a
model of a pass for many workers.

    python -m benchmarks cluster [--rows 20_000_000] [--components 16] [--workers 1 2] [--deaths 3]

The model: T(w) = driver + tasks(w) x scheduler + chunks x chunk / w, with everything on the right measured here; the
driver's part is what a pass over chunks that do nothing takes, the chunk's what one thread takes in this process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.readme import processor, write_section

FEATURES = 8


def write_rows(path: Path, rows: int) -> None:
    """A .npy file of rows around 16 centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=4.0, size=(16, FEATURES))
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(rows, FEATURES))
    for first in range(0, rows, 2**18):
        n = min(2**18, rows - first)
        out[first : first + n] = rng.standard_normal((n, FEATURES)) + centres[rng.integers(0, 16, n)]
    out.flush()


class Nothing:
    """A chunk without work: what is left is the executor's own time."""

    start = None
    shipped_bytes = 0

    def __init__(self, index: int) -> None:
        self.index = index


def nothing(chunk: Any) -> np.ndarray:
    return np.ones(1)


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after one that warms up."""
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def local_workers(number: int) -> Iterator[Any]:
    """A client of so many processes with one thread each.

    A local cluster looks again at a worker's place some seconds after it fell empty, and gives it up for good where it
    is empty just then: of two deaths at that distance the second would leave nobody to start the next worker.
    """
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=number, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster,
        Client(cluster) as client,
    ):
        yield client


def measure(path: str, components: int, workers: list[int], repeats: int, threads: int, empty: int) -> dict[str, Any]:
    from functools import partial

    from streamgmm.em.loop import e_step, merge_all
    from streamgmm.mixture.mixture import Mixture
    from streamgmm.runtime.dask import Dask
    from streamgmm.runtime.executors import Threads
    from streamgmm.sources import open_source

    source = open_source(path)
    rng = np.random.default_rng(1)
    means = rng.normal(scale=4.0, size=(components, FEATURES))
    model = Mixture(np.full(components, 1 / components), means, np.stack([2.0 * np.eye(FEATURES)] * components))
    task = partial(e_step, (model,))

    def reading(executor: Any) -> Callable[[], Any]:
        return lambda: executor.run(task, source.chunks(), merge_all)

    idle = [Nothing(i) for i in range(empty)]
    # Single-thread time of a chunk with and without company: memory bandwidth is shared.
    found: dict[str, Any] = {"chunks": source.n_chunks, "rows": source.n_rows, "dask": {}, "idle": empty}
    found |= {"empty": {}, "tasks": {}}
    found["one"] = timed(reading(Threads(1)), repeats)
    found["threads"] = timed(reading(Threads(threads)), repeats)
    for n in workers:
        with local_workers(n) as client:
            executor = Dask(client)
            # Threads before and after: whatever else the machine does then weighs on both.
            before = timed(reading(Threads(threads)), repeats)
            found["dask"][n] = timed(reading(executor), repeats)
            found["threads"] = min(found["threads"], before, timed(reading(Threads(threads)), repeats))
            found["tasks"][n] = tasks_of(executor, source.n_chunks, n)
            fresh = Dask(client)
            found["empty"][n] = timed(lambda fresh=fresh: fresh.run(nothing, idle, np.add), 2 * repeats)
            many = timed(lambda client=client: one_task_a_chunk(client).run(nothing, idle, np.add), 2)
            found["per_task"] = max(0.0, many - found["empty"][n]) / (empty - tasks_of(fresh, empty, n))
    return found


def measure_deaths(path: str, components: int, workers: int, deaths: int) -> dict[str, Any]:
    """Seconds of a fit of four passes and a start, and what each of so many SIGKILLs adds."""
    import streamgmm as sg
    from benchmarks.robustness.deaths import lost
    from streamgmm.runtime.dask import Dask
    from streamgmm.sources import open_source

    with local_workers(workers) as client:
        executor = Dask(client)

        def make() -> Any:
            return sg.GaussianMixture(
                components, max_iter=4, tol=0, solver="exact", init_params="random_from_data", random_state=0,
                executor=executor,
            )  # fmt: skip

        usual, found = lost(make, open_source(path), client, deaths=deaths, rng=np.random.default_rng())
    return {"workers": workers, "usual": usual, "deaths": found}


def one_task_a_chunk(client: Any) -> Any:
    """An executor that takes every chunk for a long one."""
    from streamgmm.runtime.dask import Dask

    executor = Dask(client)
    executor._chunk_seconds = 10.0
    return executor


def tasks_of(executor: Any, chunks: int, workers: int) -> int:
    return -(-chunks // executor._run_length(chunks, workers))


def predicted(found: dict[str, Any], workers: int, tasks: int | None = None) -> float:
    """Seconds of a pass on so many workers."""
    if tasks is None:
        tasks = min(found["chunks"], 4 * workers)
    driver = max(found["empty"].values())
    return driver + tasks * found["per_task"] + found["one"] / min(workers, found["chunks"])


def report(found: dict[str, Any], threads: int) -> str:
    lines = [
        f"{processor()}; {found['rows']:,} x {FEATURES} float64 in {found['chunks']} chunks; seconds a pass, medians",
        f"threads: 1: {found['one']:.2f}, {threads}: {found['threads']:.2f}",
    ]
    for n, seconds in found["dask"].items():
        lines.append(
            f"dask, {n} worker(s): {seconds:.2f} (model {predicted(found, n, found['tasks'][n]):.2f}), "
            f"{found['tasks'][n]} tasks; {found['idle']} chunks without work: {1000 * found['empty'][n]:.0f} ms"
        )
        if n == threads:
            lines.append(f"dask on {n} workers runs at {100 * found['threads'] / seconds:.0f} % of {threads} threads")
    if (died := found.get("died")) is not None:
        each = ", ".join(f"+{extra:.1f} s (at {100 * share:.0f} %)" for share, extra, _ in died["deaths"])
        bits = "the same bits" if all(same for _, _, same in died["deaths"]) else "OTHER BITS"
        lines.append(
            f"a fit of {died['usual']:.1f} s on {died['workers']} workers, one of them killed at a random moment:"
        )
        lines.append(f"    {each}, repeated work and the new worker's start included; {bits}")
    lines.append(f"scheduler: {1000 * found['per_task']:.2f} ms a task")
    large = {**found, "chunks": 100 * found["chunks"], "one": 100 * found["one"]}
    lines.append(
        "model, 100 times the rows, seconds on 1, 2, 10, 100, 1000 workers: "
        + ", ".join(f"{predicted(large, w):.2f}" for w in (1, 2, 10, 100, 1000))
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--deaths", type=int, default=3, help="fits of which a worker is killed")
    parser.add_argument("--empty", type=int, default=1000, help="chunks without work")
    parser.add_argument("--dir", default=None)
    parser.add_argument("--write", type=Path, help="write the figures into this file")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="streamgmm-", dir=given.dir))
    try:
        write_rows(folder / "rows.npy", given.rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = measure(
                str(folder / "rows.npy"), given.components, given.workers, given.repeats, given.threads, given.empty
            )
            if given.deaths:
                workers = max(given.workers)
                found["died"] = measure_deaths(str(folder / "rows.npy"), given.components, workers, given.deaths)
    finally:
        shutil.rmtree(folder)
    text = report(found, given.threads)
    print(text)
    if given.write:
        write_section(given.write, "cluster", f"```text\n{text}\n```")
