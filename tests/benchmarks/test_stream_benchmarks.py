"""What the stream benchmarks claim, in small here and in full when marked slow."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.costs import stream

shared = pytest.mark.skipif(not stream.DATA.exists(), reason=f"the larger data sets are absent: {stream.DATA}")


def test_the_gap_to_the_batch_optimum_falls_as_the_stream_grows(capsys):
    found = stream.gap(lengths=(1_000, 10_000, 100_000), K=3, D=2, seeds=2, picture=False)
    assert found[0] > found[1] > found[2]
    assert found[2] < 2e-3


def test_a_session_stays_as_it_is_while_rows_pass(capsys):
    seen = stream.long(rows=400_000)
    memory = np.array([m for m, _ in seen[3:]])
    assert memory.max() < 1.05 * memory.min()


@pytest.mark.slow
@shared
def test_magic_one_pass_is_worth_four(capsys):
    stepwise, exact = stream.one_pass()
    assert np.median(stepwise) >= np.median(exact)


@pytest.mark.slow
@shared
def test_electricity_forgetting_pays(capsys):
    figures = stream.elec()
    *others, (mean, median) = figures.values()
    assert all(mean > m and median > md for m, md in others)


@pytest.mark.slow
def test_partial_fit_keeps_up_with_the_kernel(capsys):
    assert stream.speed() >= 0.5


@pytest.mark.slow
def test_shifts_are_forgotten(capsys):
    worst = stream.shift()
    assert worst["report"][0][7] < 0.05
    assert worst["reset"][0][2] < 0.05


@pytest.mark.slow
def test_fifty_million_rows(capsys):
    seen = stream.long()
    memory, rate = np.array(seen).T
    assert memory.max() < 1.05 * memory.min()
    assert rate[-3:].mean() > 0.7 * rate[:3].mean()
