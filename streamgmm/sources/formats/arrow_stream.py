"""Arrow IPC streams: where each message lies, found from the message headers, so that any run of batches can be read.

A stream has no footer. One scan reads the headers (a flatbuffer each) and seeks over the bodies; the rows of a batch
stand in its header. A run of record batches is then read as a stream of its own: the schema, the dictionaries that hold
at that place, and the batches. (Arrow columnar format, "IPC Streaming Format" and "Encapsulated message format".)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["Run", "is_stream", "runs", "splice"]

CONTINUATION = b"\xff\xff\xff\xff"
"""First bytes of each message, since format version 0.15."""

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_MOST_METADATA = 2**28

Segments = tuple[tuple[int, int], ...]
"""(first byte, length) of parts of a file, in the order in which they are read."""


@dataclass(frozen=True, slots=True)
class Run:
    """One record batch: its rows, what must be read before it, and where it lies."""

    rows: int
    before: Segments
    place: tuple[int, int]

    @property
    def segments(self) -> Segments:
        return _joined((*self.before, self.place))


@dataclass(frozen=True, slots=True)
class _Message:
    kind: int
    offset: int
    length: int
    rows: int = 0
    dictionary: int = 0
    is_delta: bool = False


def is_stream(file: BinaryIO) -> bool:
    """True where a file does not begin as an Arrow file does: it can only be a stream."""
    file.seek(0)
    return bytes(file.read(6)) != b"ARROW1"


def runs(file: BinaryIO, size: int) -> list[Run]:
    """The record batches of a stream.

    Raises
    ------
    ValueError
        Where this is no stream, it is cut short, or something follows its end.
    """
    try:
        return list(_runs(_messages(file, size)))
    except (struct.error, IndexError) as error:
        raise ValueError("a message header is damaged") from error


def _runs(messages: Iterator[_Message]) -> Iterator[Run]:
    schema = next(messages, None)
    if schema is None or schema.kind != _SCHEMA:
        raise ValueError("it does not begin with a schema, as a stream does")
    dictionaries: dict[int, Segments] = {}
    for message in messages:
        place = (message.offset, message.length)
        if message.kind == _DICTIONARY:
            earlier = dictionaries.get(message.dictionary, ()) if message.is_delta else ()
            dictionaries[message.dictionary] = (*earlier, place)
        elif message.kind == _BATCH:
            held = sorted(part for parts in dictionaries.values() for part in parts)
            yield Run(message.rows, _joined(((schema.offset, schema.length), *held)), place)


def _joined(segments: Segments) -> Segments:
    """Neighbours as one."""
    found: list[tuple[int, int]] = []
    for offset, length in segments:
        if found and sum(found[-1]) == offset:
            found[-1] = found[-1][0], found[-1][1] + length
        else:
            found.append((offset, length))
    return tuple(found)


def _messages(file: BinaryIO, size: int) -> Iterator[_Message]:
    at = 0
    while at < size:
        file.seek(at)
        head = bytes(file.read(8))
        modern = head[:4] == CONTINUATION
        (length,) = struct.unpack_from("<i", head, 4 if modern else 0)
        begin = at + (8 if modern else 4)
        if length == 0:
            if begin < size:
                raise ValueError(
                    f"{size - begin} bytes follow the end of the stream, as where streams were put together; write "
                    "each to a file of its own"
                )
            return
        if not 0 < length <= min(size, _MOST_METADATA):
            raise ValueError("it is no Arrow stream")
        file.seek(begin)
        message, body = _parsed(bytes(file.read(length)), at)
        end = begin + length + body
        if body < 0 or end > size:
            raise ValueError(f"it is cut short: a message ends at byte {end}, the file at {size}")
        yield _Message(message.kind, at, end - at, message.rows, message.dictionary, message.is_delta)
        at = end


def _parsed(metadata: bytes, at: int) -> tuple[_Message, int]:
    """The flatbuffer of a message, and the bytes of its body."""
    (root,) = struct.unpack_from("<I", metadata)
    kind = _scalar(metadata, root, 1, "B")
    body = _scalar(metadata, root, 3, "q")
    header = _field(metadata, root, 2)
    if header is None or kind not in (_DICTIONARY, _BATCH):
        return _Message(kind, at, 0), body
    table = header + struct.unpack_from("<I", metadata, header)[0]
    if kind == _BATCH:
        return _Message(kind, at, 0, rows=_scalar(metadata, table, 0, "q")), body
    number, is_delta = _scalar(metadata, table, 0, "q"), bool(_scalar(metadata, table, 2, "B"))
    return _Message(kind, at, 0, dictionary=number, is_delta=is_delta), body


def _field(buffer: bytes, table: int, slot: int) -> int | None:
    """Where a field of a flatbuffer table lies; None where it has its default."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    (size,) = struct.unpack_from("<H", buffer, vtable)
    if vtable < 0 or 4 + 2 * slot >= size:
        return None
    (offset,) = struct.unpack_from("<H", buffer, vtable + 4 + 2 * slot)
    return table + offset if offset else None


def _scalar(buffer: bytes, table: int, slot: int, code: str) -> int:
    place = _field(buffer, table, slot)
    return 0 if place is None else int(struct.unpack_from(f"<{code}", buffer, place)[0])


class _Spliced:
    """Parts of a file, read one after the other; pyarrow reads from it."""

    closed = False

    def __init__(self, file: BinaryIO, segments: Segments) -> None:
        self.file, self.segments = file, list(segments)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        while self.segments and size != 0:
            offset, length = self.segments[0]
            wanted = length if size < 0 else min(size, length)
            self.file.seek(offset)
            parts.append(self.file.read(wanted))
            if wanted < length:
                self.segments[0] = offset + wanted, length - wanted
            else:
                self.segments.pop(0)
            size -= 0 if size < 0 else wanted
            if len(parts[-1]) < wanted:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)


def splice(file: BinaryIO, segments: Segments, columns: list[str] | None = None) -> Any:
    """A pyarrow reader of the stream that these parts of a file are together; it decodes the named columns only."""
    import pyarrow as pa

    def opened(options: Any) -> Any:
        return pa.ipc.open_stream(pa.PythonFile(_Spliced(file, segments), mode="r"), options=options)

    options = pa.ipc.IpcReadOptions(use_threads=False)
    if columns is None:
        return opened(options)
    names = opened(options).schema.names
    return opened(pa.ipc.IpcReadOptions(included_fields=[names.index(c) for c in columns], use_threads=False))
