"""Hooks of a fit: observers of its steps, and slots for its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from streamgmm.em.candidates import Candidates


class FitObserver(Protocol):
    """Observers of the starts on the sample: `streamgmm.report.history.History`, for pictures."""

    def sampled(self, at: int, candidates: Candidates) -> None:
        """After a step on the sample; `at` is the number that the best of these starts will have as a candidate."""

    def begun(self, at: int, chosen: Sequence[tuple[int, int]]) -> None:
        """At the end, best first: which starts go on to full passes, and after how many of their steps."""


class CheckpointSlot(Protocol):
    """Keeps the state of an expensive search: `streamgmm.runtime.checkpoint.Journal`."""

    def get(self, name: str) -> Any: ...

    def put(self, name: str, value: object) -> None: ...


class NoCheckpoint:
    """Keeps nothing."""

    def get(self, name: str) -> None:
        return None

    def put(self, name: str, value: object) -> None:
        pass


NO_CHECKPOINT = NoCheckpoint()
