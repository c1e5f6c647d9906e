"""streamgmm: exact Gaussian mixtures for data larger than memory, and for data that never stop."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
