"""A stream that is killed again and again at full speed: every line is learnt or set aside, once."""

from __future__ import annotations

import sys

import pytest

from benchmarks.robustness.soak import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")


def check(balance, kills):
    print(balance)
    assert balance.exit_code == 0 and balance.kills >= kills and balance.metrics > balance.lives
    assert balance.balanced


def test_a_soak_of_some_seconds(tmp_path):
    check(soak(tmp_path, seconds=8.0, kill_every=1.0), 1)


@pytest.mark.slow
def test_a_soak_of_ten_minutes(tmp_path):
    balance = soak(tmp_path, seconds=600.0, kill_every=30.0)
    check(balance, 8)
    assert balance.counts["alarms"] > 0
    assert len(balance.memory) >= 6 and abs(balance.growth) < 0.05
