"""Dask: the same `run`, on a cluster or on Dask's local schedulers.

A pass is a few fat tasks, each over an aligned run of chunks, that return nodes of the one tree every executor
builds; neighbouring nodes are combined on the workers until few are left, and the driver adds those to its tree. So the
bits do not depend on how many workers there are, nor on which of them die.

Tasks are pure. The model travels once a pass, inside one task: whoever holds its result may die, and the scheduler
makes it again. Nothing is scattered, pinned to a worker, or kept there.
"""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import batched, repeat
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cloudpickle
import dask
import numpy as np
from dask import delayed
from numpy.typing import NDArray

from streamgmm.errors import ClusterError
from streamgmm.runtime import versions
from streamgmm.runtime.executors import Executor, Indexed, result_of
from streamgmm.runtime.fold import Fold
from streamgmm.runtime.thread_limits import single_threaded_blas
from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.formats.dask import DaskChunk
from streamgmm.utils.phases import chunk_done

if TYPE_CHECKING:
    from dask.array import Array as LazyArray
    from dask.delayed import Delayed
    from distributed import Client, Future

Nodes = list[tuple[tuple[int, int], Any]]

TASKS_PER_THREAD = 4
"""Tasks for each thread of the cluster and pass, at least, so that the last ones end at about the same time."""
TASK_SECONDS = 2.0
"""Length of a task to aim at: long against the scheduler's 2 ms, short against what the death of a worker costs."""
FAN_IN = 8
"""Nodes that one task combines."""
TO_DRIVER = 16
"""Results of a pass that the driver fetches itself, about."""
SHIP_LIMIT = 64 * 2**20
"""Bytes of rows that may travel with the tasks of one pass."""


class Dask(Executor):
    """Runs on the active `distributed.Client`, or else on one of Dask's local schedulers.

    Parameters
    ----------
    client : distributed.Client, optional
        The active one by default.
    scheduler : {"threads", "synchronous", "processes"}, optional
        A local scheduler, whether a client is active or not.
    stall_timeout : float
        Seconds without any finished task after which the fit ends with an error instead of waiting forever: so many
        where no worker has anything in work, and twelve times as many where one says it has.
    """

    def __init__(
        self, client: Client | None = None, *, scheduler: str | None = None, stall_timeout: float = 300.0
    ) -> None:
        if client is not None and scheduler is not None:
            raise ValueError("Expected a client or a local scheduler; got both.")
        self.client = client
        self.scheduler = scheduler
        self.stall_timeout = stall_timeout
        self._chunk_seconds = 0.02

    def run[C: Indexed, T](
        self,
        task: Callable[[C], T],
        chunks: Iterable[C],
        combine: Callable[[T, T], T],
        *,
        tree: Fold[T] | None = None,
        after: Callable[[], None] | None = None,
    ) -> T:
        tree = Fold(combine) if tree is None else tree
        client = self._used()
        listed = list(chunks)
        if client is not None:
            _check_shipped(listed)
        threads = _threads(client)
        runs = _runs(listed, self._run_length(len(listed), threads))
        by_index = {chunk.index: chunk for chunk in listed}
        token = uuid4().hex[:12]
        packed = cloudpickle.dumps(_Head((task, combine)))
        head = delayed(_Head.unpack, pure=False)(versions.here(), packed, dask_key_name=_key(token))
        groups = _groups([_leaf(head, run, token) for run in runs], runs, head, token)
        finished = self._distributed(client, groups) if client is not None else self._local(groups, threads)
        count, seconds = 0, 0.0
        for part in finished:
            for (level, index), value in part.nodes:
                tree.add(index, value, level)
            count, seconds = count + len(part.read), seconds + part.seconds
            for index in part.read:
                chunk_done(by_index[index])
                if self.on_chunk is not None:
                    self.on_chunk(by_index[index])
            if after is not None:
                after()
        if count:
            self._chunk_seconds = max(1e-6, seconds / count)
        return result_of(tree)

    @property
    def threads_per_process(self) -> int:
        """Tasks that run at a time in one process of the cluster, or in this one."""
        client = self._used()
        if client is None:
            return 1 if self.scheduler in ("synchronous", "processes") else _threads(None)
        with _reaching(client):
            return max(client.nthreads().values(), default=1)

    def _used(self) -> Client | None:
        """The client that is used, or None on a local scheduler."""
        return None if self.scheduler is not None else self.client or active_client()

    def _run_length(self, n_chunks: int, threads: int) -> int:
        """Chunks in a task, a power of two: of the length aimed at, with enough tasks for everybody."""
        wanted = min(TASK_SECONDS / self._chunk_seconds, n_chunks / (TASKS_PER_THREAD * threads))
        return 1 << max(0, int(wanted).bit_length() - 1)

    def _local(self, groups: list[Delayed], threads: int) -> Iterator[_Part]:
        options = {} if self.scheduler is None else {"scheduler": self.scheduler}
        for some in batched(groups, 2 * threads):
            yield from dask.compute(*some, optimize_graph=False, **options)

    def _distributed(self, client: Client, groups: list[Delayed]) -> Iterator[_Part]:
        done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        with _reaching(client):
            waiting = {future.key: future for future in client.compute(groups, optimize_graph=False)}
        for future in waiting.values():
            client.loop.add_callback(_fetch, client, future, done)
        try:
            while waiting:
                future, result, error = self._next(done, client, len(waiting))
                if error is not None:
                    raise _explained(client, future, error)
                # What is here is let go there: the death of a worker then costs what it had in work, not what it
                # has done in this pass.
                del waiting[future.key]
                future.release()
                assert result is not None
                yield result
        finally:
            if waiting and client.status == "running":
                with suppress(ClusterError), _reaching(client):
                    client.cancel(list(waiting.values()), force=True)

    def _next(self, done: queue.SimpleQueue[_Done], client: Client, waiting: int) -> _Done:
        began = time.monotonic()
        patience = self.stall_timeout
        while (left := began + patience - time.monotonic()) > 0:
            try:
                return done.get(timeout=min(left, 1.0))  # wakes up for Ctrl-C
            except queue.Empty:
                if client.status != "running":
                    break
                with _reaching(client):
                    if left <= 1.0 and patience == self.stall_timeout and any(client.processing().values()):
                        patience *= 12
        if client.status != "running":
            raise _unreachable(client, f"the client is {client.status}")
        with _reaching(client):
            workers = len(client.scheduler_info(n_workers=-1)["workers"])
        raise ClusterError(
            f"No task finished for {time.monotonic() - began:.0f} s: {waiting} are left, {workers} workers are "
            f"connected, the client is {client.status}. Start workers or look at the dashboard; a fit with checkpoint= "
            "goes on from where it was. Raise stall_timeout where single chunks take longer than that."
        )


# Tasks ----------------------------------------------------------------------------------------------------------------


class _Head:
    """The job that every task of a pass needs, and which program made it."""

    __slots__ = ("value", "versions")

    def __init__(self, value: object) -> None:
        self.value: Any = value
        self.versions = versions.here()

    def __getstate__(self) -> tuple[dict[str, str], object]:
        return self.versions, self.value

    def __setstate__(self, state: tuple[dict[str, str], object]) -> None:
        self.versions, self.value = state
        versions.check(self.versions)

    @staticmethod
    def unpack(driver: dict[str, str], payload: bytes) -> _Head:
        """Compare versions before anything of the driver's is unpickled."""
        versions.check(driver)
        head: _Head = pickle.loads(payload)
        return head


@dataclass(frozen=True, slots=True)
class _Part:
    """The result of a task: nodes of the tree, the chunks they are of, and the seconds that took."""

    nodes: Nodes
    read: list[int]
    seconds: float


_Done = tuple[Any, _Part | None, BaseException | None]
"""A future, and its result or what went wrong."""


class _Run:
    """Chunks of one task, opaque to Dask, which would otherwise look inside for collections."""

    __slots__ = ("chunks",)

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks


def _fold_chunks(head: _Head, run: _Run, *values: Any) -> _Part:
    """Nodes of a run of chunks; `values` are the partitions of a Dask collection."""
    task, combine = head.value
    tree: Fold[Any] = Fold(combine)
    began = time.perf_counter()
    with single_threaded_blas():
        for chunk in run.chunks:
            tree.add(chunk.index, task(_join(chunk, values) if values else chunk))
    return _Part(list(tree.nodes.items()), [chunk.index for chunk in run.chunks], time.perf_counter() - began)


def _combine_parts(head: _Head, parts: list[_Part]) -> _Part:
    """Nodes of several runs."""
    tree: Fold[Any] = Fold(head.value[1])
    for part in parts:
        for (level, index), value in part.nodes:
            tree.add(index, value, level)
    return _Part(list(tree.nodes.items()), [i for part in parts for i in part.read], sum(p.seconds for p in parts))


def _runs(chunks: list[Any], length: int) -> list[list[Any]]:
    """Chunks whose indices agree but for the low bits. A partition of a collection is a run of its own."""
    runs: list[list[Any]] = []
    place = None
    for chunk in chunks:
        here = chunk.index // length
        if here != place or _split(chunk)[1]:
            runs.append([])
        runs[-1].append(chunk)
        place = here
    return runs


def _leaf(head: Delayed, run: list[Any], token: str) -> Delayed:
    parts: tuple[Any, ...] = ()
    if len(run) == 1:
        bare, parts = _split(run[0])
        run = [bare]
    name = _key(token, run[0].index, run[-1].index)
    return delayed(_fold_chunks, pure=False)(head, _Run(run), *parts, dask_key_name=name)


def _groups(leaves: list[Delayed], runs: list[list[Any]], head: Delayed, token: str) -> list[Delayed]:
    """Nodes combined on the workers, `FAN_IN` at a time, until the driver has few to fetch."""
    spans = [(run[0].index, run[-1].index) for run in runs]
    level = 0
    while len(leaves) > TO_DRIVER * FAN_IN // 2:
        level += 1
        names = [f"{_key(token, s[0][0], s[-1][1])}-{level}" for s in batched(spans, FAN_IN)]
        leaves = [
            delayed(_combine_parts, pure=False)(head, list(part), dask_key_name=name)
            for part, name in zip(batched(leaves, FAN_IN), names, strict=True)
        ]
        spans = [(s[0][0], s[-1][1]) for s in batched(spans, FAN_IN)]
    return leaves


def _key(token: str, first: int | None = None, last: int | None = None) -> str:
    if first is None:
        return f"streamgmm-task-{token}"
    return f"streamgmm-chunks {first} to {last}-{token}"


def _split(chunk: Any) -> tuple[Any, tuple[Any, ...]]:
    """A chunk without the delayed partition inside it, and that partition."""
    if isinstance(chunk, DaskChunk):
        return chunk.bare(), chunk.parts
    inner = getattr(chunk, "chunk", None)
    if inner is None:
        return chunk, ()
    bare, parts = _split(inner)
    return (replace(chunk, chunk=bare), parts) if parts else (chunk, ())


def _join(chunk: Any, values: tuple[Any, ...]) -> Any:
    """The chunk with its computed partition."""
    if isinstance(chunk, DaskChunk):
        return replace(chunk, values=values)
    return replace(chunk, chunk=_join(chunk.chunk, values))


# Predictions ----------------------------------------------------------------------------------------------------------


def lazily(source: Source, model: object, question: str, answer: Callable[[Any, str, Chunk], Any]) -> LazyArray:
    """A lazy dask array of ``answer(model, question, chunk)``, one block for each partition of a collection."""
    import dask.array as da  # with all that it imports a second, which a worker that replaces a dead one need not wait

    probe = np.asarray(getattr(model, question)(np.zeros((1, source.n_features), source.dtype)))
    head = delayed(_Head.unpack, pure=True)(versions.here(), cloudpickle.dumps(_Head(model)))
    blocks = []
    for chunk, rows in zip(source.chunks(), getattr(source, "lengths", None) or repeat(np.nan), strict=False):
        bare, parts = _split(chunk)
        block = delayed(_answer, pure=False)(answer, head, question, _Run([bare]), *parts)
        blocks.append(da.from_delayed(block, (rows, *probe.shape[1:]), probe.dtype))
    return da.concatenate(blocks, allow_unknown_chunksizes=True)


def _answer(
    answer: Callable[[Any, str, Chunk], NDArray[Any]], head: _Head, question: str, run: _Run, *values: Any
) -> NDArray[Any]:
    return answer(head.value, question, _join(run.chunks[0], values))


# The cluster ----------------------------------------------------------------------------------------------------------


@contextmanager
def connected(address: str, *, timeout: float = 15.0) -> Iterator[Dask]:
    """An executor on the scheduler at `address`, connected while inside.

    Raises
    ------
    ClusterError
        Where nothing answers in `timeout` seconds.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Dask scheduler answers ({error}). Start one with `dask scheduler`, and give the address "
            "that it prints."
        ) from error
    with client:
        yield Dask(client)


def active_client() -> Client | None:
    """The current `distributed.Client`, or None."""
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


@contextmanager
def _reaching(client: Client) -> Iterator[None]:
    """Around questions to the scheduler.

    Raises
    ------
    ClusterError
        Where it does not answer.
    """
    from distributed.client import ClosedClientError

    try:
        yield
    except (OSError, CancelledError, ClosedClientError) as error:
        raise _unreachable(client, str(error) or type(error).__name__) from error


def _unreachable(client: Client, why: str) -> ClusterError:
    address = getattr(getattr(client, "scheduler", None), "address", None) or "The Dask cluster"
    return ClusterError(
        f"{address}: the scheduler cannot be reached ({why}). Start scheduler and workers again, connect a new client "
        "and run the same fit: with checkpoint= it goes on from where it was."
    )


def _threads(client: Client | None) -> int:
    if client is None:
        from streamgmm.runtime.thread_limits import available_cores

        return available_cores()
    with _reaching(client):
        return max(1, sum(client.nthreads().values()))


def _check_shipped(chunks: Sequence[Indexed]) -> None:
    total = sum(chunk.shipped_bytes for chunk in chunks if isinstance(chunk, Chunk))
    if total > SHIP_LIMIT:
        raise ValueError(
            f"The rows are in this process: {total / 1e6:.0f} MB would travel to the workers in every pass. Write "
            "them to a file that all workers see (streamgmm data convert, or numpy.save) and fit that, or use "
            "executor='threads'."
        )


async def _fetch(client: Client, future: Future, done: queue.SimpleQueue[_Done]) -> None:
    """Put the future with its result or error into `done`, from the client's event loop.

    Where a worker dies between the end of a task and this, the client has the task made again, and goes on waiting.
    """
    try:
        result = await client.gather(future, asynchronous=True)
    except BaseException as error:
        done.put((future, None, error))
    else:
        done.put((future, result, None))


def _explained(client: Client, future: Future, error: BaseException) -> BaseException:
    """The exception of a failed task; for a task that took its workers with it, which partition that was."""
    from distributed.scheduler import KilledWorker

    if future.status == "cancelled":
        return _unreachable(client, "the tasks were cancelled: it was lost or restarted")
    if isinstance(error, KilledWorker):
        where = error.task.removeprefix("streamgmm-").rpartition("-")[0] or error.task
        return ClusterError(
            f"{where}: {error.allowed_failures + 1} workers died while they read or reduced these chunks; the last was "
            f"{error.last_worker.address}. Most likely memory ran out or a file made a library crash: look at the "
            "worker's log, give workers more memory, or write the data in smaller chunks."
        )
    if isinstance(error, (ImportError, AttributeError, TypeError, RuntimeError)):
        return _of_other_version(client, error) or error
    return error


def _of_other_version(client: Client, error: BaseException) -> ClusterError | None:
    """The difference that keeps a process from taking tasks of this version; None where all have the same."""
    names = [name for name in versions.here() if name != "code"]

    def found() -> dict[str, str]:  # nested, so that it travels by value: nothing of ours is asked there
        import importlib
        import platform

        result = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in names:
            try:
                module = {"scikit-learn": "sklearn"}.get(name, name)
                result[name] = str(importlib.import_module(module).__version__)
            except (ImportError, AttributeError):
                continue
        return result

    with suppress(ClusterError), _reaching(client):
        there = {"The scheduler": client.run_on_scheduler(found)}
        there |= {f"Worker {address}": value for address, value in client.run(found, on_error="ignore").items()}
        mine = found()
        for where, theirs in there.items():
            if theirs != mine:
                return ClusterError(f"{where}: {versions.differing(theirs, mine)} ({error})")
    return None
