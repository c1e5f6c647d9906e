"""Names of the covariance families here and in mclust."""

from __future__ import annotations

MODELS = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}
