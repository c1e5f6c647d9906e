"""Connectors that a session can read from: one small file each, its library imported only when it is opened.

Every connector has ``open(position)``, an iterator of `Batch` from there on, and ``commit(position)``, which is told
after that position is safe in a snapshot.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors.layout import Layout
from streamgmm.stream.connectors.parse import Parser

__all__ = ["CONNECTORS", "Source", "connect"]

CONNECTORS = {
    "lines": "Lines",
    "arrow": "ArrowStream",
    "zarr": "GrowingZarr",
    "parquet": "ParquetFolder",
    "kafka": "Kafka",
    "redis": "Redis",
    "synthetic": "Synthetic",
}
"""Module of this package, and its class."""


class Source(ABC):
    """Base of the connectors: most have nothing to commit and nothing to close.

    Attributes
    ----------
    unit : str
        What a whole-number position counts.
    parser : Parser or None
        Where records are text.
    """

    unit = "rows"
    parser: Parser | None = None
    tail: bytes = b""
    """The last of what was handed over, at most; what a snapshot remembers a hash of."""

    def identity(self) -> dict[str, Any]:
        """Identity of this stream, as JSON keeps it: its kind, and its path, topic or key."""
        names = {name: getattr(self, name, None) for name in ("path", "topic", "key")}
        found = {name: str(value) for name, value in names.items() if isinstance(value, str | Path)}
        if found.get("path", "-") != "-":
            found["path"] = os.path.abspath(found["path"])
        return {"kind": type(self).__name__, **found}

    def before(self, position: Position, n: int) -> bytes | None:
        """The `n` bytes before `position`, as `tail` was; None where only reading all of it would tell."""
        return None

    @property
    def layout(self) -> dict[str, Any] | None:
        """Facts about all records that the first ones gave, as JSON keeps them; None where nothing is known."""
        return None if self.parser is None or self.parser.layout is None else self.parser.layout.document()

    def go_by(self, layout: dict[str, Any]) -> None:
        """Read as before a restart.

        Raises
        ------
        ValueError
            Where other columns are asked for.
        """
        known = Layout.from_document(layout)
        if self.parser is not None:
            if self.parser.columns not in (None, known.columns):
                raise ValueError(
                    f"The snapshot was learnt from the columns {', '.join(known.columns or ())}; asked for are "
                    f"{', '.join(self.parser.columns or ())}. Ask for the former, or begin with a new snapshot."
                )
            self.parser.layout = known

    def going_on(self, position: Position) -> None:  # noqa: B027 (optional)
        """Told before `open` where what precedes `position` is what it was; raises where it cannot go on from there."""

    @abstractmethod
    def open(self, position: Position) -> Iterator[Batch]:
        """The batches after `position`."""

    def commit(self, position: Position) -> None:  # noqa: B027 (optional)
        """Nothing to do: the position in the snapshot is enough."""

    def close(self) -> None:  # noqa: B027 (optional)
        """Nothing is kept open."""


def connect(kind: str, **options: Any) -> Any:
    """The connector called `kind`, for configs.

    Raises
    ------
    ValueError
        For a kind that there is not.
    """
    if kind not in CONNECTORS:
        raise ValueError(f"A stream's kind must be one of {sorted(CONNECTORS)}; got {kind!r}.")
    return getattr(import_module(f"{__name__}.{kind}"), CONNECTORS[kind])(**options)
