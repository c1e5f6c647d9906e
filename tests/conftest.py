"""Shared pieces: where the larger reference sets are, and random mixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    given = os.environ.get("STREAMGMM_SHARED_DATA")
    return Path(given) if given else Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger reference sets, which the project does not ship."""
    folder = shared_data()
    if not folder.is_dir():
        pytest.skip(f"the larger reference sets are absent: looked for {folder}; set STREAMGMM_SHARED_DATA")
    return folder
