"""Rows are counted in every reading: one that saw other rows than the first is an error, not a result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from streamgmm.errors import StreamGMMError


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows of positive weight seen by the first reading (None before there was one), and so far in this one."""

    expected: int | None = None
    seen: int = 0

    def after(self, step: Any, source: Any) -> RowCount:
        """The count after one `Step` of EM on `source`.

        Raises
        ------
        StreamGMMError
            Where a lap ends with another count than the first reading.
        """
        stats = step.stats[0]
        count = replace(self, seen=self.seen + stats.rows)
        return count.finished(source, f"reading {step.block.lap + 1} of EM") if step.block.last else count

    def finished(self, source: Any, reading: str) -> RowCount:
        """The count after a whole reading."""
        if self.expected is not None and self.seen != self.expected:
            raise StreamGMMError(
                f"{source.name}: {reading} saw {self.seen} rows of positive weight, an earlier one {self.expected}. "
                "The data changed during the fit, so there is no result. Leave the data alone and fit again."
            )
        return RowCount(self.seen)
