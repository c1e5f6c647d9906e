"""NDJSON or CSV, from a file or from standard input. The position is a number of bytes."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import IO

from streamgmm.sources.formats.delimited import quoting_fault
from streamgmm.stream.batch import Batch, Position, StreamPositionError
from streamgmm.stream.connectors import Source
from streamgmm.stream.connectors.parse import Parser

__all__ = ["DeadLetters", "Lines"]

_BLOCK = 1 << 20
TAIL = 4096
"""Bytes before the position that a snapshot remembers a hash of."""
MAX_LINE = 1 << 20
"""Bytes after which something without a line's end is no line."""


def _line_end(text: bytes) -> int:
    """Where the last line ends; a last carriage return may be half of a line end."""
    return max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1


def _split(text: bytes) -> list[bytes]:
    """The lines of a text, without their ends."""
    return re.split(rb"\r\n?|\n", text) if b"\r" in text else text.split(b"\n")


@cache
def _record(delimiter: bytes) -> re.Pattern[bytes]:
    """A record of CSV with its line end; each byte is looked at once, whatever quotes there are."""
    mark = re.escape(delimiter)
    rest = rb"[^%b\r\n]*+" % mark
    field = rb'(?: *+"(?:[^"]++|"")*+"%b|(?! *+")%b)' % (rest, rest)
    return re.compile(rb"%b(?:%b%b)*+(?:\r\n?|\n)" % (field, mark, field))


def _strays(record: bytes, delimiter: str) -> bool:
    """True if a stray quote makes one record of several lines."""
    record = record.strip()
    several = b"\n" in record or b"\r" in record
    return several and quoting_fault(record.decode("latin-1"), delimiter) is not None


class DeadLetters:
    """Where bad lines go: a file of JSON lines {"at", "reason", "line"}, appended to; without a path the first is kept.

    After a crash the lines since the snapshot are read again, and so written again; `Counts.rejected` counts them once.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = path
        self.first: tuple[bytes, str] | None = None

    def put(self, bad: Sequence[tuple[bytes, str]], at: Position) -> None:
        if bad and self.first is None:
            self.first = bad[0]
        if self.path is None or not bad:
            return
        import json

        letters = [
            json.dumps({"at": at, "reason": reason, "line": line[:10_000].decode("utf-8", "backslashreplace")}) + "\n"
            for line, reason in bad
        ]
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(letters)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self.path)) from error


class Lines(Source):
    """Rows as lines of text.

    Parameters
    ----------
    path : path, or "-" for standard input
        Standard input is expected to be replayed from its beginning after a restart; what was counted is passed over.
    format, columns, width :
        See `Parser`.
    header : bool, optional
        CSV: whether the first line names the columns; by default that is so where none of its fields is a number.
    follow : bool
        Wait at the end of a file for more, as ``tail -f``.
    poll : float
        Seconds between looks.
    dead_letters : path, optional
        File that bad lines are appended to, with the reason.
    """

    unit = "bytes"
    parser: Parser

    def __init__(
        self,
        path: str | os.PathLike[str] = "-",
        *,
        format: str = "auto",
        columns: Sequence[str] | None = None,
        width: int | None = None,
        header: bool | None = None,
        follow: bool = False,
        poll: float = 0.2,
        dead_letters: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = path
        self.parser = Parser(format, columns, width, header)
        self.follow, self.poll = follow, poll
        self.dead = DeadLetters(dead_letters)
        self._file: IO[bytes] | None = None

    def open(self, position: Position) -> Iterator[Batch]:
        at = int(position or 0)
        self._file = sys.stdin.buffer if self.path == "-" else open(self.path, "rb")  # noqa: SIM115
        self._pass_over(self._file, at)
        rest = b""
        while True:
            block = os.read(self._file.fileno(), _BLOCK)
            if not block and self.follow:
                self._look_after(self._file, at + len(rest))
                time.sleep(self.poll)
                continue
            rest += block
            cut = self._whole(rest) if block else len(rest)
            if not cut and len(rest) > MAX_LINE:  # a line without end, or a quote without another
                cut = _line_end(rest) or len(rest)
            if cut:
                self.tail = rest[max(0, cut - TAIL) : cut]
                yield self._batch(rest[:cut], at)
                at += cut
                rest = rest[cut:]
            if not block:
                return

    def _look_after(self, file: IO[bytes], read: int) -> None:
        """See that the file is the one that was opened, and not shorter than what was read of it."""
        if not os.path.isfile(self.path):  # moved away: who writes it may have it open still
            return
        found = os.fstat(file.fileno())
        if found.st_size < read or not os.path.samestat(found, os.stat(self.path)):
            what = "cut" if found.st_size < read else "replaced"
            raise StreamPositionError(
                f"{self.path} was {what} while it was followed, {read} bytes into it. All of these were read; what was "
                "written since the last look may be missing. Go on with the new file under a new snapshot, or let logs "
                "be rotated between runs."
            )

    def before(self, position: Position, n: int) -> bytes | None:
        return self._at(int(position) - n, n)

    def going_on(self, position: Position) -> None:
        around = self._at(int(position) - 1, 2)
        if around and around[:1] not in (b"\n", b"\r") and around[1:] not in (b"", b"\n", b"\r"):
            raise StreamPositionError(
                f"{self.path}: its last line had no end when it was read, up to byte {position}, and has grown since: "
                "half of it was learnt. Begin with a new snapshot, and read files that grow with follow=True, which "
                "leaves an unended line for later."
            )

    def _at(self, first: int, n: int) -> bytes | None:
        """Up to n bytes of the file; None of what is no file."""
        if not os.path.isfile(self.path):
            return None
        with open(self.path, "rb") as file:
            file.seek(max(0, first))
            return file.read(n)

    def _whole(self, text: bytes) -> int:
        """Bytes of the records that have ended."""
        cut = _line_end(text)
        return self._ends(text[:cut])[-1] if cut and self.parser.is_quoted(text) else cut

    def _ends(self, text: bytes) -> list[int]:
        """Where each record of a CSV with quotes ends, 0 first: a line end between quotes is none of a record."""
        record, ends = _record(self.parser.delimiter(text).encode()), [0]
        while (found := record.match(text, ends[-1])) is not None and found.end() > ends[-1]:
            ends.append(found.end())
        return ends

    def _lines(self, text: bytes) -> list[bytes]:
        if self.parser.is_quoted(text):
            delimiter = self.parser.delimiter(text)
            found = [text[low:high] for low, high in pairwise([*self._ends(text), len(text)])]
            # A stray quote must cost its own line, not all lines up to the next quote.
            return [line for record in found for line in (_split(record) if _strays(record, delimiter) else [record])]
        return _split(text)

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdin.buffer:
            self._file.close()
        self._file = None

    def _pass_over(self, file: IO[bytes], n: int) -> None:
        """Go to byte n, also where nothing but reading leads there."""
        if n and os.path.isfile(self.path):
            size = os.fstat(file.fileno()).st_size
            if size < n:
                raise StreamPositionError(
                    f"{self.path} has {size} bytes, the snapshot stands at {n}: it was cut or replaced. Give the file "
                    "that was being read, or begin with a new snapshot."
                )
            os.lseek(file.fileno(), n, os.SEEK_SET)
            return
        left = n
        while left:
            block = os.read(file.fileno(), min(left, _BLOCK))
            if not block:
                raise StreamPositionError(
                    f"Standard input ended {left} bytes before the snapshot's position {n}. Replay it from its start."
                )
            left -= len(block)

    def _batch(self, text: bytes, at: int) -> Batch:
        lines = self._lines(text)
        long = [line for line in lines if len(line) > MAX_LINE]
        if long:
            lines = [line for line in lines if len(line) <= MAX_LINE]
        rows, bad = self.parser.parse(lines)
        bad += [(line, f"a line of {len(line)} bytes; at most {MAX_LINE} are read") for line in long]
        self.dead.put(bad, at)
        return Batch(rows, at + len(text), at, rejected=len(bad))
