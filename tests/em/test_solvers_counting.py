"""A source that counts how often each chunk is read."""

from __future__ import annotations

from tests.helpers.counting import Counting


def test_it_counts():
    import numpy as np

    from streamgmm.sources import array_source

    source = Counting(array_source(np.zeros((10, 1)), chunk_rows=5))
    for chunk in source.chunks():
        chunk.load()
    assert source.reads == {0: 1, 1: 1}
