"""Updates of a session: of one batch, and of everything that came."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online import StepReport
from streamgmm.stream.batch import Position

__all__ = ["Counts", "StopStream", "Update"]

Array = NDArray[np.float64]


class StopStream(Exception):
    """Raised by a signal handler, or by a stream, while the session waits for rows: end cleanly.

    Examples
    --------
    >>> import streamgmm as sg
    >>> from streamgmm.stream import StopStream
    >>> def stream():
    ...     yield [[0.0], [1.0]], 2
    ...     raise StopStream
    >>> [update.position for update in sg.StreamSession(sg.GaussianMixture()).run(stream())]
    [2]
    """


@dataclass(slots=True)
class Counts:
    """Counts of everything that came; kept in the snapshot.

    Attributes
    ----------
    rows : learnt, those waiting for their step included
    refused_rows : with NaN or infinity, or far beyond everything learnt so far, set aside
    refused_batches : of another width, or not numbers
    rejected : records that a connector could not read
    repeated : rows that came again and were left out
    skipped : units of position that were jumped over
    empty : batches without a row
    alarms : drifts called
    anomalies : rows below the threshold

    Examples
    --------
    >>> import streamgmm as sg
    >>> session = sg.StreamSession(sg.GaussianMixture())
    >>> for update in session.run([([[0.0], [float("nan")]], 2), ([["a"]], 3)]):
    ...     pass
    >>> session.counts.rows, session.counts.refused_rows, session.counts.refused_batches
    (1, 1, 1)
    """

    rows: int = 0
    refused_rows: int = 0
    refused_batches: int = 0
    rejected: int = 0
    repeated: int = 0
    skipped: int = 0
    empty: int = 0
    alarms: int = 0
    anomalies: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """Result of one batch.

    Attributes
    ----------
    position : Position
        Where the stream stands after it.
    rows : int
        Rows taken from the batch.
    kept : (rows,) int
        Which rows of the batch those were.
    scores : (rows,) or None
        log p(x) in nats of each, before it was learnt; NaN during the hold.
    anomalies : (m,) int
        Which of the taken rows scored below the threshold.
    threshold : float
        NaN while there is none.
    alarm : bool
        Whether drift was called.
    steps : list of StepReport
    refused : tuple of str
        Why rows or the batch were set aside.

    Examples
    --------
    >>> import streamgmm as sg
    >>> update = next(sg.StreamSession(sg.GaussianMixture()).run([([[0.0], [1.0]], 2)]))
    >>> update.position, update.rows, update.kept
    (2, 2, array([0, 1]))
    """

    position: Position
    rows: int
    kept: NDArray[np.int64]
    scores: Array | None
    anomalies: NDArray[np.int64]
    threshold: float
    alarm: bool
    steps: list[StepReport] = field(default_factory=list)
    refused: tuple[str, ...] = ()

    @property
    def loglik(self) -> float:
        """Predictive log-likelihood per row over the steps made, in nats; NaN without one.

        Examples
        --------
        >>> import streamgmm as sg
        >>> next(sg.StreamSession(sg.GaussianMixture()).run([([[0.0], [1.0]], 2)])).loglik
        nan
        """
        known = [s for s in self.steps if math.isfinite(s.loglik)]
        rows = sum(s.step_rows for s in known)
        return sum(s.loglik * s.step_rows for s in known) / rows if rows else math.nan
