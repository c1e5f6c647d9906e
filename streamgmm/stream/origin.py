"""Origin of a snapshot: its stream, and what precedes its position there."""

from __future__ import annotations

import hashlib
from typing import Any

from streamgmm.errors import CheckpointMismatchError
from streamgmm.stream.batch import Identified, Position, StreamPositionError

__all__ = ["check", "origin_of"]


def origin_of(stream: object, position: Position) -> dict[str, Any] | None:
    """Identity of `stream` for a snapshot; None for a plain iterable, of which nothing is known."""
    if not isinstance(stream, Identified):
        return None
    tail = stream.tail
    return {"identity": stream.identity(), "at": position, "bytes": len(tail), "sha256": _hash(tail)}


def check(stream: object, known: dict[str, Any] | None, position: Position, snapshot: str) -> None:
    """See that `stream` is the one that the snapshot is of.

    One of another path with the same contents before the position was moved, and is the same.

    Raises
    ------
    CheckpointMismatchError
        Where it is another one.
    StreamPositionError
        Where other contents precede the position than when it was read.
    """
    if known is None or position is None or not isinstance(stream, Identified):
        return
    here, there = stream.identity(), known["identity"]
    comparable = here["kind"] == there["kind"] and known["bytes"] and known["at"] == position
    found = stream.before(position, known["bytes"]) if comparable else None
    if found is not None and _hash(found) == known["sha256"]:
        stream.going_on(position)
        return
    if here != there:
        raise CheckpointMismatchError(
            f"{snapshot} was learnt from {_words(there)}; here is {_words(here)}. Give the former, or another snapshot."
        )
    if found is not None:
        raise StreamPositionError(
            f"{_words(here)}: what precedes position {position!r} is not what was read before: it was rotated, cut or "
            "replaced. Give what was being read, or begin with a new snapshot."
        )


def _words(identity: dict[str, Any]) -> str:
    return " ".join(f"{value}" if name == "kind" else f"{name} {value}" for name, value in identity.items())


def _hash(tail: bytes) -> str:
    return hashlib.sha256(tail).hexdigest()
