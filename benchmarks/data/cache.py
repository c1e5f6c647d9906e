"""A folder of the user's for what benchmarks keep between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """Where environments and data are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "streamgmm-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
