"""Exceptions that no standard one covers. Each message says what was expected, what came, and the remedy."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CheckpointMismatchError",
    "ChunkReadError",
    "ClusterError",
    "DeviceError",
    "MemoryLimitError",
    "ModelFileError",
    "StreamGMMError",
]


class StreamGMMError(Exception):
    """Base of every error that streamgmm defines.

    Examples
    --------
    >>> import streamgmm as sg
    >>> issubclass(sg.ModelFileError, sg.StreamGMMError)
    True
    """


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

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> np.save("rows.npy", np.zeros((100, 2)))
    >>> source = sg.open_source("rows.npy")
    >>> np.save("rows.npy", np.zeros((50, 2)))
    >>> try:
    ...     sg.GaussianMixture().fit(source)
    ... except sg.ChunkReadError as error:
    ...     print(error.index)
    0
    """

    def __init__(self, path: str, index: int, reason: str) -> None:
        super().__init__(path, index, reason)
        self.path = path
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: chunk {self.index}: {self.reason}"


class LateTextError(ChunkReadError):
    """Text in a column that holds numbers wherever a look was taken.

    Parameters
    ----------
    path, index, reason : see `ChunkReadError`
    found : tuple
        The column; what it holds, and where; size and time of the file; whether somebody asked for this column, so that
        it cannot be left out.
    """

    known: ClassVar[dict[Any, dict[str, str]]] = {}
    """By path, size and time of a file its columns that turned out to hold text, and what they hold."""

    def __init__(self, path: str, index: int, reason: str, found: tuple[str, str, Any, bool]) -> None:
        super().__init__(path, index, reason)
        self.args = (path, index, reason, found)
        self.column, self.what, self._stamp, self.named = found

    def learnt(self) -> bool:
        """Remember what was found; False where that is of no use."""
        columns = self.known.setdefault((self.path, self._stamp), {})
        if self.named or self.column in columns:
            return False
        columns[self.column] = self.what
        return True


class ModelFileError(StreamGMMError):
    """A model file is damaged, forged, or of a version this release cannot read.

    Examples
    --------
    >>> import pathlib, streamgmm as sg
    >>> pathlib.Path("broken.safetensors").write_bytes(bytes(100))
    100
    >>> try:
    ...     sg.load("broken.safetensors")
    ... except sg.ModelFileError as error:
    ...     print(str(error).split(" (")[0])
    broken.safetensors: its header is not valid JSON
    """


class CheckpointMismatchError(StreamGMMError):
    """A checkpoint does not belong to the data and settings at hand.

    Examples
    --------
    >>> import streamgmm as sg
    >>> batches = [([[float(i % 7)] for i in range(100)], 100)]
    >>> for update in sg.StreamSession(sg.GaussianMixture(1), snapshot="one.snapshot").run(batches):
    ...     pass
    >>> try:
    ...     sg.StreamSession(sg.GaussianMixture(2), snapshot="one.snapshot")
    ... except sg.CheckpointMismatchError as error:
    ...     print(error)
    one.snapshot was written with other settings: n_components = 1, here 2. Use those, or another file.
    """


class MemoryLimitError(StreamGMMError):
    """The work cannot be done within ``memory_limit``; the message has the numbers.

    Examples
    --------
    >>> import streamgmm as sg
    >>> try:
    ...     sg.GaussianMixture(20, memory_limit="10kB").fit([[float(i), float(i % 7)] for i in range(100)])
    ... except sg.MemoryLimitError as error:
    ...     print("needed" in str(error) or "needs" in str(error))
    True
    """


class ClusterError(StreamGMMError):
    """The cluster cannot finish the work: workers died or are gone, or nothing moves any more."""


class DeviceError(StreamGMMError):
    """The graphics card that was asked for cannot be used; the message says what is missing and what to install.

    Examples
    --------
    >>> from streamgmm.errors import DeviceError, StreamGMMError
    >>> issubclass(DeviceError, StreamGMMError)
    True
    """


class DiskFullError(OSError):
    """A file does not fit where it should go: which file, what it needs, what there is, and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


class NonFiniteRowError(ValueError):
    """A row holds NaN or infinity; `row` is its position in the rows that were passed."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class ConfigError(StreamGMMError):
    """A config, or a setting given on the command line, that cannot be meant."""


class CollapsedError(ValueError):
    """An M-step met covariances without a Cholesky factor; `collapsed` (K,) or (1,) marks them."""

    def __init__(self, collapsed: NDArray[np.bool_], repairing: bool = False) -> None:
        super().__init__(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
            "instance caused by singleton or collapsed samples): component(s) "
            f"{np.flatnonzero(collapsed).tolist()}. Try to decrease the number of components, increase reg_covar, or "
            "scale the input data." + ("" if repairing else " on_collapse='repair' replaces such components instead.")
        )
        self.collapsed = collapsed


def non_finite(rows: NDArray[Any], row: int, chunk: object) -> ValueError:
    """The error for a row that holds NaN or infinity."""
    infinite = np.isinf(rows[row])
    column = int(np.argmax(infinite if infinite.any() else np.isnan(rows[row])))
    value = rows[row, column]
    start = getattr(chunk, "start", None)
    where = f"row {start + row}" if start is not None else f"row {row} of chunk {getattr(chunk, 'index', 0)}"
    kind = "NaN" if np.isnan(value) else "infinity"
    remedy = (
        "drop or impute such rows, or set missing='marginalize' of a GaussianMixture"
        if kind == "NaN"
        else "drop or clip such rows"
    )
    names = getattr(getattr(chunk, "columns", None), "names", None)
    name = f"column {column}" if names is None else f"column {names[column]!r}"
    return ValueError(f"Input X contains {kind}: {where}, {name}. Expected finite numbers; {remedy}.")
