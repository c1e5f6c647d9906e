"""A mixture that learns forever: rows are gathered into steps, each step moves running statistics.

The model after n rows depends on those rows and their order only, never on how they were cut into batches.
"""

from streamgmm.em.online.learner import Learner, StepReport
from streamgmm.em.online.step_sizes import RowDecay

__all__ = ["Learner", "RowDecay", "StepReport"]
