"""Checkpoints: the state of a fit, kept in small files that are there whole or not at all.

A `Journal` holds named entries (what a fit has reached) and, since the last entry, the results of finished passes and
the nodes of the unfinished one. A fit that starts again takes the entries from there, gets finished passes back
without reading, and reads only the chunks that are missing. All bits are those of the uninterrupted fit.

Writing takes about 1 % of the time: after a write of t seconds there is none for 99 t, unless the fit ends or is told
to stop.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from streamgmm import __version__
from streamgmm.errors import CheckpointMismatchError, ModelFileError
from streamgmm.runtime.array_file import CHECKPOINT, read_arrays, write_arrays
from streamgmm.runtime.encoding import encode, packed, unpacked
from streamgmm.runtime.executors import Executor, Indexed
from streamgmm.runtime.fold import Fold
from streamgmm.utils.atomic import sweep
from streamgmm.utils.signals import ENDING, new_request, terminate
from streamgmm.utils.types import RandomState

__all__ = ["FileJournal", "Journal", "open_journal", "read_state"]

log = logging.getLogger(__name__)

KEPT = 3
_RETRY = 30.0
"""Seconds until a checkpoint that could not be written is tried again."""
_MOST_RESULTS = 32
"""Finished runs of the executor that are kept between two entries."""

_NAME = re.compile(r"fit-([0-9a-f]{20})-(\d{6,})\.ckpt")


class Journal:
    """The state of a fit in memory; nothing is kept. `FileJournal` keeps it."""

    resumed = False
    """Whether anything was found to go on from."""

    def get(self, name: str) -> Any:
        """The entry called `name`, or None."""
        return None

    def put(self, name: str, value: object, *, last: bool = False) -> None:
        """Set an entry; finished passes before it are forgotten. `last`: the fit is done, write at once."""

    def forget(self, *names: str) -> None:
        """Drop entries that nothing goes on from any more."""

    def generator(self, random_state: RandomState) -> np.random.RandomState:
        """The generator to draw from: scikit-learn's `check_random_state`, or the one of the fit that is resumed."""
        return check_random_state(random_state)

    def executor(self, executor: Executor) -> Executor:
        """An executor whose passes are part of the journal."""
        return executor

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a fit: a first Ctrl-C, SIGTERM or SIGHUP stops it after a chunk, with everything written."""
        yield

    def discard(self) -> int:
        """Delete what is kept of this fit; the number of files."""
        return 0

    def report(self) -> dict[str, Any] | None:
        """The events of the checkpoint, for `report_`."""
        return None


class FileJournal(Journal):
    """A journal in a folder, in files named by the fingerprint of data and settings; the newest few are kept."""

    share = 0.01
    """Time that writing may take, as a share of all."""

    def __init__(self, folder: Path, about: dict[str, Any], *, named: Path | None = None) -> None:
        self.folder = folder
        self.about = about
        self.key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
        self._entries: dict[str, Any] = {}
        self._results: list[Any] = []
        self._nodes: dict[tuple[int, int], Any] = {}
        self._run = 0
        self._serial = 0
        self._due = 0.0
        self._dirty = False
        self._stop = 0
        self._writes = 0
        self._seconds = 0.0
        self._damaged: list[str] = []
        self._failed = 0
        sweep(self.folder)
        if named is not None:
            self._open_named(named)
        else:
            self._open_newest()
        self.resumed = bool(self._entries or self._results or self._nodes)

    # Reading ----------------------------------------------------------------------------------------------------

    def files(self) -> list[Path]:
        """Files of this fit, the newest first."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match and match[1] == self.key:
                found.append((int(match[2]), path))
        return [path for _, path in sorted(found, reverse=True)]

    def _open_newest(self) -> None:
        files = self.files()
        self._serial = 1 + int(_NAME.fullmatch(files[0].name)[2]) if files else 0  # type: ignore[index]
        for path in files:
            try:
                state = read_state(path)
                if state["about"] != self.about:
                    raise ModelFileError(f"{path}: {self._stranger(state)}, whatever its name says")
                self._take(state)
            except FileNotFoundError:  # another process, at the same fit, has tidied up
                continue
            except (ModelFileError, OSError) as error:
                log.warning("%s; going back to the checkpoint before it", error)
                self._damaged.append(path.name)
                continue
            log.info("resuming from %s", path)
            return
        if self._damaged:
            log.warning("no checkpoint in %s can be used: starting from the beginning", self.folder)

    def _open_named(self, path: Path) -> None:
        state = read_state(path)
        if state["about"] != self.about:
            raise CheckpointMismatchError(
                f"{path}: {self._stranger(state)}. Give the same data and settings, or a folder as checkpoint= to "
                "begin anew beside it."
            )
        self._take(state)
        files = self.files()
        self._serial = 1 + int(_NAME.fullmatch(files[0].name)[2]) if files else 0  # type: ignore[index]

    def _stranger(self, state: dict[str, Any]) -> str:
        return f"belongs to another fit; {differences(state['about'], self.about)}"

    def _take(self, state: dict[str, Any]) -> None:
        self._entries = state["entries"]
        self._results = state["results"]
        self._nodes = state["nodes"]

    # Writing ----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what there is. Where that fails the fit goes on, with what was written before; it is tried again."""
        began = time.perf_counter()
        try:
            self._write_file()
        except OSError as error:
            self._failed += 1
            if self._failed == 1:
                warnings.warn(
                    f"The checkpoint cannot be written, and the fit goes on without it: {error} Make room or mend the "
                    f"folder {self.folder} meanwhile: it is tried again.",
                    stacklevel=2,
                )
            self._due = time.perf_counter() + _RETRY
            return
        now = time.perf_counter()
        self._dirty = False
        self._writes += 1
        self._seconds += now - began
        self._due = now + (now - began) * (1.0 / self.share - 1.0)

    def _write_file(self) -> None:
        state = {"about": self.about, "entries": self._entries, "results": self._results, "nodes": self._nodes}
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = packed(state)
        write_arrays(self.folder / f"fit-{self.key}-{self._serial:06d}.ckpt", arrays, {}, CHECKPOINT)
        self._serial += 1
        for old in self.files()[KEPT:]:
            old.unlink(missing_ok=True)

    def _look(self) -> None:
        """Write if it is time to; stop if that was asked for."""
        self._dirty = True
        if self._stop or time.perf_counter() >= self._due:
            self._write()
        if self._stop and self._dirty:
            raise KeyboardInterrupt(f"stopped; what was done since the last checkpoint in {self.folder} is lost.")
        if self._stop:
            raise KeyboardInterrupt(f"stopped; {self.folder} has what is needed to go on. Start again to do so.")

    def get(self, name: str) -> Any:
        return self._entries.get(name)

    def put(self, name: str, value: object, *, last: bool = False) -> None:
        if last and value is self._entries.get(name) and not self._dirty:
            return
        self._entries[name] = value
        self._results, self._nodes, self._run = [], {}, 0
        if last:
            self._write()
        else:
            self._look()

    def forget(self, *names: str) -> None:
        for name in names:
            self._entries.pop(name, None)

    # Passes ---------------------------------------------------------------------------------------------------

    def generator(self, random_state: RandomState) -> np.random.RandomState:
        if "generator" not in self._entries:
            self._entries["generator"] = check_random_state(random_state).get_state(legacy=False)
        generator = np.random.RandomState()
        generator.set_state(self._entries["generator"])
        return generator

    def executor(self, executor: Executor) -> Executor:
        return JournalExecutor(self, executor)

    def run[C: Indexed, T](
        self, executor: Executor, task: Callable[[C], T], chunks: Iterable[C], combine: Callable[[T, T], T]
    ) -> T:
        """A pass of which nothing is lost; one that was finished before is not repeated."""
        number, self._run = self._run, self._run + 1
        if number < len(self._results):
            deque(chunks, 0)  # a block may take its chunks from an iterator that it shares with the next one
            value: T = self._results[number]
            return value
        tree: Fold[T] = Fold(combine)
        known = set(self._nodes) if number == len(self._results) else set()
        for level, index in known:
            tree.add(index, self._nodes[level, index], level)
        top = max((level for level, _ in known), default=-1)

        def missing(chunk: C) -> bool:
            return not any((level, chunk.index >> level) in known for level in range(top + 1))

        # A pass in very many blocks is gone on with from the last of these; the blocks after it are read again.
        kept = number < _MOST_RESULTS

        def after() -> None:
            if kept:
                self._nodes = tree.nodes
            self._look()

        result = executor.run(task, filter(missing, chunks) if known else chunks, combine, tree=tree, after=after)
        if kept:
            self._results.append(result)
            self._nodes = {}
        self._look()
        return result

    # Stopping ---------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            if not new_request():
                return
            self._stop += 1
            if self._stop > 1:
                raise KeyboardInterrupt("stopped at once")
            log.warning("stopping after the chunk at hand (once more: at once)")

        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, *ENDING):
                if signal.getsignal(which) in (signal.SIG_DFL, signal.default_int_handler, terminate):
                    before[which] = signal.signal(which, stop)
        try:
            yield
        finally:
            try:
                if self._dirty and self._stop < 2:
                    self._write()
            finally:
                for which, handler in before.items():
                    signal.signal(which, handler)

    def discard(self) -> int:
        files = self.files()
        for path in files:
            path.unlink(missing_ok=True)
        self._entries, self._results, self._nodes, self.resumed = {}, [], {}, False
        return len(files)

    def report(self) -> dict[str, Any]:
        return {
            "folder": os.fspath(self.folder),
            "fingerprint": self.key,
            "resumed": self.resumed,
            "writes": self._writes,
            "seconds": self._seconds,
            "failed": self._failed,
            "damaged": list(self._damaged),
        }


class JournalExecutor(Executor):
    """Hands every pass to a journal, which hands it on."""

    def __init__(self, journal: FileJournal, executor: Executor) -> None:
        self.journal = journal
        self.inner = executor

    @property
    def threads_per_process(self) -> int:
        return self.inner.threads_per_process

    def run[C: Indexed, T](
        self,
        task: Callable[[C], T],
        chunks: Iterable[C],
        combine: Callable[[T, T], T],
        *,
        tree: Fold[T] | None = None,
        after: Callable[[], None] | None = None,
    ) -> T:
        if tree is not None or after is not None:
            raise TypeError("A pass that is in the journal has no other tree or observer.")
        return self.journal.run(self.inner, task, chunks, combine)

    def map[C: Indexed, T](self, task: Callable[[C], T], chunks: Iterable[C]) -> Iterator[T]:
        return self.inner.map(task, chunks)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state in a checkpoint file.

    Raises
    ------
    ModelFileError
        Where the file is damaged, is something else, or was written by another version.
    """
    arrays, _ = read_arrays(path, CHECKPOINT)
    try:
        state = unpacked(arrays)
        if not isinstance(state, dict) or set(state) != {"about", "entries", "results", "nodes"}:
            raise ValueError("it does not hold the state of a fit")
        if [type(state[name]) for name in ("about", "entries", "results", "nodes")] != [dict, dict, list, dict]:
            raise ValueError("the parts of its state are not those of a fit")
    except ValueError as error:
        raise ModelFileError(f"{os.fspath(path)}: not a checkpoint of this version: {error}") from None
    return state


def open_journal(
    where: str | os.PathLike[str] | None, data: Callable[[], Mapping[str, Any]], settings: Mapping[str, Any]
) -> Journal:
    """The journal of a fit.

    Parameters
    ----------
    where : a folder, made when first needed; or one checkpoint file in it, which then has to fit; None keeps nothing
    data : callable returning JSON-able facts that identify the data (`Source.fingerprint`)
    settings : everything that the result depends on; values of any kind that `encode` takes

    Raises
    ------
    CheckpointMismatchError
        Where a file is named that belongs to other data or settings.
    ModelFileError
        Where a file is named that is damaged or no checkpoint.
    """
    if where is None:
        return Journal()
    about = {
        "version": __version__,
        "data": json.loads(json.dumps(data(), default=str)),
        "settings": {name: _digest(value) for name, value in settings.items()},
    }
    path = Path(where)
    if path.is_file():
        return FileJournal(path.parent, about, named=path)
    return FileJournal(path, about)


def _digest(value: Any) -> Any:
    """Plain values as they are; everything else by the hash of what it is encoded to."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return repr(value)
    tree, arrays = encode(value, first=True)
    digest = hashlib.sha256(json.dumps(tree).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def differences(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """In words, where two descriptions of a fit differ."""
    found = []
    for part in ("data", "settings"):
        a, b = theirs.get(part, {}), mine[part]
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                found.append(f"{part}: {name} was {a.get(name)!r}, is {b.get(name)!r}")
    if theirs.get("version") != mine["version"]:
        found.append(f"it was written by streamgmm {theirs.get('version')}, this is {mine['version']}")
    return "; ".join(found[:5])
