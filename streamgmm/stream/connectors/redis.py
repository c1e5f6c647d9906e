"""Redis streams. Position: [id of the last entry read, entries of the stream up to it]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamgmm.stream.batch import Batch, Position, StreamPositionError
from streamgmm.stream.connectors import Source
from streamgmm.stream.connectors.layout import Layout
from streamgmm.stream.connectors.lines import DeadLetters
from streamgmm.stream.connectors.parse import Parser

__all__ = ["Redis"]

_WAIT = 0.2
"""Seconds to wait for an entry in one call."""


class Redis(Source):
    """Entries of one Redis stream, one row each: the fields of an entry are the columns.

    Read with XREAD, without a consumer group: the position is in the snapshot alone, and nothing is told to the server.
    Entries that were trimmed away before they were read are an error (servers from 7.0 on count them).

    Parameters
    ----------
    servers : str
        "redis://host:port/0", "rediss://..." or "unix:///path/to/socket".
    topic : str
        The key of the stream.
    columns : sequence of str, optional
        Fields, in order. None takes those that are numbers in the first entry that has any, sorted.
    batch_rows : int
        Entries per batch at most.
    idle : float or None
        Seconds without an entry after which the stream has ended; None waits forever.
    dead_letters : path, optional
    """

    parser: Parser

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 10_000,
        idle: float | None = None,
        dead_letters: Any = None,
    ) -> None:
        self.servers, self.topic, self.batch_rows, self.idle = servers, topic, batch_rows, idle
        self.parser = Parser("csv", columns)
        if columns is not None:
            self.parser.layout = _layout(columns)
        self.dead = DeadLetters(dead_letters)
        self._client: Any = None

    def open(self, position: Position) -> Iterator[Batch]:
        import redis

        self._client = client = redis.Redis.from_url(self.servers)
        last, read = ("0-0", None) if position is None else (str(position[0]), int(position[1]))
        start: Position = position
        quiet = 0.0
        while self.idle is None or quiet < self.idle:
            entries, gone = self._next(last)
            if read is None:
                read = gone  # what was trimmed before the first pass was never meant to be read
            if gone > read:
                raise StreamPositionError(
                    f"Redis stream {self.topic!r}: {gone - read} entries after {last} were trimmed before they were "
                    "read. Keep more of the stream (MAXLEN, MINID), and begin with a new snapshot."
                )
            if not entries:
                client.xread({self.topic: last}, count=1, block=int(1000 * _WAIT))
                quiet += _WAIT
                continue
            quiet = 0.0
            last, read = entries[-1][0].decode(), read + len(entries)
            rows, bad = self._rows([fields for _, fields in entries])
            self.dead.put(bad, start)
            end = [last, read]
            yield Batch(rows, end, start, rejected=len(bad))
            start = end

    def _next(self, last: str) -> tuple[list[tuple[bytes, dict[bytes, bytes]]], int]:
        """Entries after `last`, and how many of the stream's are gone, at one and the same moment."""
        with self._client.pipeline(transaction=True) as both:
            both.exists(self.topic).xinfo_stream(self.topic).xread({self.topic: last}, count=self.batch_rows)
            there, info, found = both.execute(raise_on_error=False)
        if not there:
            if last != "0-0":
                raise StreamPositionError(
                    f"Redis stream {self.topic!r} is gone; it was read up to {last}. Begin with a new snapshot."
                )
            return [], 0
        for answer in (info, found):
            if isinstance(answer, Exception):
                raise answer
        newest = info["last-generated-id"].decode()
        if _number(newest) < _number(last):
            raise StreamPositionError(
                f"Redis stream {self.topic!r} ends at {newest}, but it was read up to {last}: it was made anew. Begin "
                "with a new snapshot."
            )
        # One stream was asked for: [[key, entries]], or {key: [entries]} in the newer protocol.
        if isinstance(found, dict):
            entries = [entry for run in found.values() for part in run for entry in part]
        else:
            entries = found[0][1] if found else []
        return entries, info.get("entries-added", info["length"]) - info["length"]

    def _rows(self, entries: list[dict[bytes, bytes]]) -> tuple[Any, list[tuple[bytes, str]]]:
        if self.parser.layout is None:
            numbers = ([name for name, value in entry.items() if _is_number(value)] for entry in entries)
            first = next((names for names in numbers if names), None)
            if first is None:
                return np.empty((0, 0)), [(repr(entry).encode(), "no field is a number") for entry in entries]
            self.parser.layout = _layout(sorted(name.decode("utf-8", "replace") for name in first))
        none = b"(none)"
        fields = [name.encode() for name in self.parser.layout.columns or ()]
        return self.parser.parse([b",".join(entry.get(name, none) or none for name in fields) for entry in entries])

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _number(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


def _layout(columns: Sequence[str]) -> Layout:
    return Layout("csv", len(columns), tuple(columns))


def _is_number(value: bytes) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
