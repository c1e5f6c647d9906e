"""Exceptions that no standard one covers. Each message says what was expected, what came, and the remedy."""

from __future__ import annotations

__all__ = [
    "CheckpointMismatchError",
    "ChunkReadError",
    "ClusterError",
    "MemoryLimitError",
    "ModelFileError",
    "StreamGMMError",
]


class StreamGMMError(Exception):
    """Base of every error that streamgmm defines."""


class ChunkReadError(StreamGMMError):
    """A chunk could not be read, or what was read cannot be right.

    Parameters
    ----------
    path : str
        What was being read, as the user named it.
    index : int
        Position of the chunk in its source, from 0.
    reason : str
        What happened and what to do about it.
    """

    def __init__(self, path: str, index: int, reason: str) -> None:
        super().__init__(path, index, reason)
        self.path = path
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: chunk {self.index}: {self.reason}"


class ModelFileError(StreamGMMError):
    """A model file is damaged, forged, or of a version this release cannot read."""


class CheckpointMismatchError(StreamGMMError):
    """A checkpoint does not belong to the data and settings at hand."""


class MemoryLimitError(StreamGMMError):
    """The work cannot be done within ``memory_limit``; the message has the numbers."""


class ClusterError(StreamGMMError):
    """The cluster cannot finish the work: workers died or are gone, or nothing moves any more."""
