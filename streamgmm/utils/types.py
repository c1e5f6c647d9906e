"""Types that many signatures name."""

from __future__ import annotations

import numpy as np

__all__ = ["Feature", "RandomState"]

Feature = str | int
"""A feature, by name or number."""

RandomState = int | np.random.RandomState | np.random.Generator | None
"""A seed or a generator, as scikit-learn's `check_random_state` takes it."""
