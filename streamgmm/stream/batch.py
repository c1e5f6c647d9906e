"""Batches of a stream: rows, and where the stream stands after them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import ArrayLike

from streamgmm.errors import StreamGMMError

__all__ = ["Batch", "Connector", "Position", "StreamPositionError", "batches_of", "compare"]

Position = Any
"""Where to go on reading: a whole number, a dict of them (one per partition), or a list; JSON keeps it."""


class StreamPositionError(StreamGMMError):
    """A stream went back, or jumped, in a way that would lose or repeat rows.

    Examples
    --------
    >>> import streamgmm as sg
    >>> try:
    ...     for update in sg.StreamSession(sg.GaussianMixture()).run([([[0.0]], 1), ([[5.0]], 6)]):
    ...         pass
    ... except sg.StreamPositionError as error:
    ...     print(str(error).split(":")[0])
    The stream stands at 1; a batch from None to 6 with 1 row(s) came. Expected it to go on from there; 4 are missing
    """


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a stream.

    Attributes
    ----------
    rows : (n, D) array-like; n may be 0
    end : Position
        Where the stream stands after these rows: what to go on from.
    start : Position, optional
        Where it stood before. For a whole-number `end` that counts rows it need not be given.
    weight : (n,) array-like, optional
    rejected : int
        Records that the connector could not turn into rows, and has set aside.
    names : tuple of str, optional
        What the columns of `rows` are called, where it is no frame that says so itself. Columns are matched by name.

    Examples
    --------
    >>> import streamgmm as sg
    >>> from streamgmm.stream import Batch
    >>> session = sg.StreamSession(sg.GaussianMixture())
    >>> [update.rows for update in session.run([Batch([[0.0], [1.0]], end={"partition 0": 17}, weight=[1, 2])])]
    [2]
    """

    rows: object
    end: Position
    start: Position = None
    weight: ArrayLike | None = None
    rejected: int = 0
    names: tuple[str, ...] | None = None


@runtime_checkable
class Connector(Protocol):
    """A stream that can be opened where it was left."""

    def open(self, position: Position) -> Iterator[Batch]:
        """Batches from `position` on; None is the beginning."""

    def commit(self, position: Position) -> None:
        """Told after `position` is safe on disk."""

    def close(self) -> None:
        """Let go of files and connections."""


@runtime_checkable
class Identified(Connector, Protocol):
    """A connector that can tell whether it is the stream that was read before."""

    tail: bytes

    def identity(self) -> dict[str, Any]:
        """Identity and place of the batch: "kind", and what else tells it from others."""

    def before(self, position: Position, n: int) -> bytes | None:
        """The last `n` bytes before `position`; None where they cannot be had."""

    def going_on(self, position: Position) -> None:
        """Told that what precedes `position` is what was read."""


def batches_of(stream: Any, position: Position) -> Iterator[Batch]:
    """Batches of a connector, or of any iterable of `Batch`, of (rows, position) pairs, or of arrays.

    Arrays alone are numbered by their rows. A plain iterable is read from where it stands: after a restart it may begin
    again at its start, the rows that were counted are left out.
    """
    if isinstance(stream, Connector):
        yield from stream.open(position)
        return
    row = 0
    items: Iterable[Any] = stream
    for item in items:
        if isinstance(item, Batch):
            yield item
        elif isinstance(item, tuple) and len(item) == 2:
            yield Batch(*item)
        else:
            row += len(item)
            yield Batch(item, row)


def compare(batch: Batch, position: Position, n_rows: int) -> tuple[str, int]:
    """Place of a batch of `n_rows` relative to `position`: ("new" | "repeated" | "overlaps" | "jumps" | "torn", units).

    "overlaps" can be cut (one unit is one row), "torn" cannot. Without a start only a whole-number position that counts
    rows, and a dict that must not fall, can be judged.
    """
    if position is None:
        return "new", 0
    start, end = batch.start, batch.end
    if isinstance(position, int) and isinstance(end, int):
        counted = start is None
        start = end - n_rows - batch.rejected if counted else start
        if start == position:
            return "new", 0
        if end <= position:
            return "repeated", n_rows
        if start > position:
            return "jumps", start - position
        return ("overlaps" if end - start == n_rows else "torn"), position - start
    if isinstance(position, dict) and isinstance(end, dict):
        # Numbers of a partition may have gaps (compacted topics), so only going back can be told.
        begin = start if isinstance(start, dict) else {}
        back = {key for key, at in end.items() if at <= position.get(key, -1)}
        if back and back == end.keys():
            return "repeated", n_rows
        torn = back or {key for key, at in begin.items() if at < position.get(key, -1)}
        return ("torn", len(torn)) if torn else ("new", 0)
    if start is None or start == position:
        return "new", 0
    return "torn", 0
