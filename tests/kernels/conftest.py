"""Fixtures of the tests of the kernels."""

from __future__ import annotations

import pytest

from streamgmm.errors import DeviceError
from streamgmm.kernels.cuda import backend as backends


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.gpu)])
def card(request):
    """An emulated card, and a real one."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    try:
        return backends.get("cuda")
    except DeviceError as error:
        pytest.skip(str(error))
