"""Rows in memory, dealt out to chunks that are alike."""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.em.sample_em import HAND, WIDE, in_memory


def hands(rows, weight=None):
    return [chunk.load() for chunk in in_memory(rows, weight).chunks()]


@pytest.mark.parametrize("m", [1, 100, HAND // 2, 12_600, 2 * HAND, 2 * HAND + 1, 40_001])
def test_every_row_is_dealt_once_with_its_weight(m):
    rows = np.repeat(np.arange(m, dtype=float)[:, None], WIDE, axis=1)
    found = hands(rows, np.arange(m) + 0.5)
    assert sorted(np.concatenate([part[:, 0] for part, _ in found])) == list(range(m))
    assert all((weight == part[:, 0] + 0.5).all() for part, weight in found)
    sizes = [len(part) for part, _ in found]
    assert max(sizes) <= HAND
    assert len(sizes) == 1 if 2 * m < HAND else len(sizes) % 2 == 0
    assert max(sizes) - min(sizes) <= len(sizes)


def test_neighbours_part_where_there_are_many_features_and_stay_where_there_are_few():
    m = 4 * HAND
    wide = np.repeat(np.arange(m, dtype=float)[:, None], WIDE, axis=1)
    first, second = hands(wide)[:2]
    assert first[0][0, 0] == 0 and second[0][0, 0] == 1
    assert first[0][:, 0].max() > 0.99 * m
    few = hands(wide[:, : WIDE - 1])
    assert (np.concatenate([part for part, _ in few]) == wide[:, : WIDE - 1]).all()
    assert few[0][1] is None
