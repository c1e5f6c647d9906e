"""What is written comes back with the same bits, and nothing unknown gets in or out."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamgmm.kernels.plan import Plan
from streamgmm.runtime.encoding import decode, encode
from tests.helpers.mixtures import FAMILIES, random_mixture


def round_trip(value):
    tree, arrays = encode(value)
    return decode(json.loads(json.dumps(tree, allow_nan=False)), {k: np.array(v) for k, v in arrays.items()})


def alike(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        assert a.flags.f_contiguous == b.flags.f_contiguous
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            alike(x, y)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        alike(list(a.values()), list(b.values()))
    else:
        assert repr(a) == repr(b)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.floats().map(np.float64)
    | st.integers(0, 99).map(np.int64)
    | hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.int32, np.uint32, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
    ).map(np.asfortranarray)
)
keys = st.text() | st.integers() | st.tuples(st.integers(), st.integers())
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner), max_leaves=10
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_any_value_comes_back(value):
    alike(value, round_trip(value))


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_mixture_and_statistics(covariance_type):
    mixture = random_mixture(covariance_type, 3, 2)
    stats = mixture.accumulate(np.random.default_rng(0).normal(size=(50, 2)))
    again, stats_again, shared = round_trip((mixture, stats, mixture))
    assert shared is again and again.family is mixture.family
    assert not again.means.flags.writeable
    for name in ("weights", "means", "covariances", "factors"):
        alike(getattr(mixture, name), getattr(again, name))
    for name in ("weight", "mean", "scatter", "loglik", "entropy", "log_max", "count", "rows"):
        alike(getattr(stats, name), getattr(stats_again, name))


def test_generators_go_on_where_they_were():
    old, new = np.random.RandomState(3), np.random.default_rng(3)
    old.normal(size=3), new.normal(size=3)
    old2, new2 = round_trip((old, new))
    assert np.array_equal(old.normal(size=5), old2.normal(size=5))
    assert np.array_equal(new.normal(size=5), new2.normal(size=5))


@dataclass
class Foreign:
    x: int


@pytest.mark.parametrize("value", [Foreign(1), {1, 2}, object(), print, np.array(["text"]), np.array([object()]), 1j])
def test_unknown_kinds_are_refused_with_their_place(value):
    with pytest.raises(TypeError, match=r"state\['a'\]\[0\]: cannot keep a"):
        encode({"a": [value]})


@pytest.mark.parametrize(
    "where",
    [
        "os:system",
        "streamgmm.errors:os",
        "builtins:eval",
        "streamgmm.x:Y",
        "streamgmm.em.loop:em",
        "streamgmm.__main__:main",
        "streamgmm.mixture.stats:Scale",
        "main",
        "",
        "Mixture ",
        3,
        None,
        ["Mixture"],
    ],
)
def test_only_own_dataclasses_are_made(where):
    node = {"$": "object", "class": where, "fields": {}, "number": 0}
    with pytest.raises(ValueError, match=r"not a class of streamgmm|not in this version"):
        decode(node, {})
    with pytest.raises(ValueError, match=r"not a class of streamgmm|not in this version"):
        decode({"$": "named", "class": where, "items": [], "number": 0}, {})


def test_changed_fields_and_unknown_kinds_are_refused():
    tree, arrays = encode(random_mixture("full", 2, 2))
    del tree["fields"]["means"]
    with pytest.raises(ValueError, match="has other fields in this version"):
        decode(tree, arrays)
    with pytest.raises(ValueError, match="unknown kind"):
        decode({"$": "lambda", "number": 0}, {})
    named = Plan(*range(len(Plan._fields)))
    assert round_trip(named) == named and type(round_trip(named)) is Plan
