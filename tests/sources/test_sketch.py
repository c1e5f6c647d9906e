"""The quantile sketch: error, order, merging, state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.stream.sketch import QuantileSketch

values = st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=200)


def sketch_of(x):
    made = QuantileSketch()
    made.update(x)
    return made


@settings(max_examples=60, deadline=None)
@given(values, st.floats(0, 1))
def test_quantiles_are_those_of_the_values(x, q):
    got = sketch_of(x).quantile(q)
    exact = np.quantile(x, q, method="inverted_cdf")
    assert abs(got - exact) <= 0.0051 * np.hypot(1.0, exact)


@settings(max_examples=30, deadline=None)
@given(values, values)
def test_merging_is_seeing_both(x, y):
    merged = sketch_of(x)
    merged.merge(sketch_of(y))
    both = sketch_of(x + y)
    assert np.array_equal(merged.counts + merged.fresh, both.counts + both.fresh)
    assert merged.count == len(x) + len(y)


def test_neither_order_nor_batches_matter_to_the_bit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    whole, cut = QuantileSketch(), QuantileSketch()
    for _ in range(3):
        whole.update(x)
        whole.fade(0.7)
        for part in np.array_split(x[::-1], 17):
            cut.update(part)
        cut.fade(0.7)
    assert np.array_equal(whole.counts, cut.counts)


def test_fading_follows_the_present():
    sketch = QuantileSketch()
    sketch.update(np.zeros(10_000))
    for _ in range(20):
        sketch.fade(0.5)
        sketch.update(np.full(100, 50.0))
    assert sketch.quantile(0.5) == pytest.approx(50.0, rel=0.006)
    assert sketch.count == pytest.approx(200, rel=0.01)


def test_extremes_and_refusals():
    sketch = sketch_of([-np.inf, 0.0, np.inf])
    assert sketch.quantile(0.0) < -1e17 and sketch.quantile(1.0) > 1e17
    assert np.isnan(QuantileSketch().quantile(0.5))
    with pytest.raises(ValueError, match="cannot rank NaN"):
        sketch.update([np.nan])
    with pytest.raises(ValueError, match="between 0 and 1"):
        sketch.quantile(1.5)


def test_state_goes_round():
    a = sketch_of([1.0, 2.0])
    a.fade(0.3)
    a.update([5.0])
    b = QuantileSketch()
    b.restore(a.state())
    assert b.quantile(0.9) == a.quantile(0.9) and b.count == a.count
