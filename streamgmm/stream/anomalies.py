"""Scores of the rows of a stream, and the threshold below which one is an anomaly."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online import Learner, StepReport
from streamgmm.kernels.dispatch import in_all
from streamgmm.stream.sketch import QuantileSketch

__all__ = ["Judge"]

Array = NDArray[np.float64]


class Judge:
    """Scores rows before they are learnt, and remembers how scores are distributed.

    Parameters
    ----------
    anomaly_rate : float or None
        Share of rows to call anomalies; None calls none.

    Attributes
    ----------
    sketch : QuantileSketch
        Of all scores, or of the recent ones with a half-life.
    threshold : float
        NaN while there is none.
    """

    def __init__(self, anomaly_rate: float | None) -> None:
        self.anomaly_rate = anomaly_rate
        self.sketch = QuantileSketch()
        self.threshold = math.nan

    def score(self, learner: Learner, rows: Array, out: Array) -> NDArray[np.int64]:
        """Score rows under the model of now; which are below the threshold."""
        model = learner.model
        if model is None:
            return np.empty(0, np.int64)
        out[:] = in_all(learner.rows, model.log_prob, rows)  # as the last step was computed, however rows come
        self.sketch.update(out)
        return np.flatnonzero(out < self.threshold)

    def renew(self, learner: Learner, reports: Iterable[StepReport]) -> None:
        """After steps: let old scores fade, and set the threshold anew."""
        for report in reports:
            half_life = learner.half_life
            self.sketch.fade(1.0 if half_life is None else 2.0 ** (-report.step_rows / half_life))
            if report.alarm and learner.on_drift == "reset":
                self.sketch.fade(0.0)
            if self.anomaly_rate is not None:
                enough = self.sketch.count >= 1.0 / self.anomaly_rate
                self.threshold = self.sketch.quantile(self.anomaly_rate) if enough else math.nan
