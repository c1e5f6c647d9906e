"""Measurements as JSON lines, added to a file one by one, so that a long run can be cut and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def kept(path: Path) -> list[dict[str, Any]]:
    """The measurements so far; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def keep(path: Path, record: dict[str, Any]) -> None:
    """Add a measurement."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
