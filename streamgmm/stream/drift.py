"""A drift alarm with a stated rate of false alarms. Its whole state is five numbers."""

from __future__ import annotations

import math
from typing import Any

from scipy.optimize import brentq
from scipy.special import ndtri, stdtr

__all__ = ["Cusum", "average_run_length"]


def average_run_length(threshold: float, slack: float) -> float:
    """Updates between false alarms of a one-sided CUSUM on independent N(0, 1) values.

    Siegmund (1985), Sequential Analysis, eq. 2.56, with his correction 1.166 for the overshoot; good to a few percent.
    """
    reach = 2.0 * slack * (threshold + 1.166)
    return (math.expm1(reach) - reach) / (2.0 * slack * slack)


class Cusum:
    """Self-starting lower CUSUM (Hawkins 1987) on the mean log-likelihood of each step.

    Each mean is judged by the mean and spread of those before it, weighted by rows, so neither need be known: under no
    change the standardised values are exactly independent N(0, 1) when the means are independent and normal with
    variance proportional to 1 / rows, which is nearly so for steps of hundreds of rows. Sums of how far they fall below
    expectation raise the alarm. Where successive steps are correlated (days, shifts) alarms are more frequent than
    stated.

    Parameters
    ----------
    false_alarms : float
        Per step: 1e-3 is one in 1000 steps while nothing changes.
    shift : float
        Fall, in standard deviations of a step's mean, that is to be found soonest.
    warmup : int
        Steps that only set the reference.
    memory : int
        Steps that the reference covers, about; older ones fade, so that a model which slowly gets better is followed.

    Examples
    --------
    >>> from streamgmm.stream import Cusum
    >>> cusum = Cusum()
    >>> means = [-1.0, -1.1, -0.9] * 10 + [-2.0] * 5
    >>> [cusum.update(mean, rows=200) for mean in means].index(True)
    30
    """

    def __init__(self, false_alarms: float = 1e-3, *, shift: float = 1.0, warmup: int = 8, memory: int = 1000) -> None:
        if not 0.0 < false_alarms <= 0.25:
            raise ValueError(f"false_alarms must lie between 0 and 0.25 per step; got {false_alarms}.")
        self.false_alarms = false_alarms
        self.slack = shift / 2
        self.warmup, self.memory = max(3, warmup), memory
        wanted = 1.0 / false_alarms
        self.threshold = float(brentq(lambda h: average_run_length(h, self.slack) - wanted, 0.0, 30.0 / self.slack))
        self.clear()

    def clear(self) -> None:
        """Forget the reference; the next steps set a new one.

        Examples
        --------
        >>> from streamgmm.stream import Cusum
        >>> cusum = Cusum()
        >>> cusum.update(-1.0, rows=200)
        False
        >>> cusum.clear()
        >>> cusum.steps
        0
        """
        self.steps = 0
        self.rows = 0.0
        self.mean = 0.0
        self.scatter = 0.0
        self.level = 0.0

    def update(self, mean: float, rows: int) -> bool:
        """Take one step's mean over `rows` rows; True where it calls a drift, and the detector clears.

        Examples
        --------
        >>> from streamgmm.stream import Cusum
        >>> Cusum().update(-1.0, rows=200)  # the first steps only set the reference
        False
        """
        if not math.isfinite(mean):
            mean = -1e300 if self.steps else 0.0
        total = self.rows + rows
        delta = mean - self.mean if self.steps else 0.0
        leverage = self.rows * rows / total
        if self.steps >= self.warmup and self.scatter > 0.0:
            freedom = self.steps - 1
            student = delta * math.sqrt(leverage / (self.scatter / freedom))
            # Through the t distribution to a normal value; clipped, as a tail of 1e-300 says no more than "an alarm".
            normal = float(ndtri(min(max(float(stdtr(freedom, student)), 1e-300), 1.0 - 1e-15)))
            self.level = max(0.0, self.level - normal - self.slack)
            if self.level > self.threshold:
                self.clear()
                return True
        if self.steps == 0:
            self.mean = mean
        if self.steps >= self.memory:
            fade = self.memory / (self.memory + 1.0)
            self.rows, self.scatter = self.rows * fade, self.scatter * fade
            total = self.rows + rows
        else:
            self.steps += 1
        self.mean += delta * rows / total
        self.scatter += delta * delta * leverage
        self.rows = total
        return False

    def state(self) -> dict[str, Any]:
        """The numbers that `restore` takes.

        Examples
        --------
        >>> from streamgmm.stream import Cusum
        >>> Cusum().state()["steps"]
        0
        """
        return {name: getattr(self, name) for name in ("steps", "rows", "mean", "scatter", "level")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Examples
        --------
        >>> from streamgmm.stream import Cusum
        >>> first, second = Cusum(), Cusum()
        >>> first.update(-1.0, rows=200)
        False
        >>> second.restore(first.state())
        >>> second.mean
        -1.0
        """
        for name in ("steps", "rows", "mean", "scatter", "level"):
            setattr(self, name, state[name])
