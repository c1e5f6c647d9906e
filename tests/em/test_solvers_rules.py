"""How blocks enter the total: stepwise with the exact weights is the fold, incremental never falls."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.em.loop import em
from streamgmm.em.step_sizes import Accumulate, Decay, HalfLife
from streamgmm.em.variants import Exact, FoldTree, Incremental, Stepwise
from streamgmm.errors import MemoryLimitError
from streamgmm.mixture.m_step import bound, m_step
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source
from tests.helpers.mixtures import FAMILIES, random_mixture


def frozen(models, totals, memory):
    return models, memory


def plain(models, totals, memory):
    return tuple(m_step(t) for t in totals), memory


def data(family="full", n=3000, K=3, D=2, seed=0):
    return random_mixture(family, K, D, seed).sample(n, seed)[0][np.random.default_rng(seed).permutation(n)]


def one_lap(source, models, rule, update):
    for step in em(source, models, rule=rule, executor=Threads(1), update=update):
        if step.block.last:
            return step


def close(a, b, rtol):
    for name in ("weight", "mean", "scatter", "loglik", "entropy", "log_max", "count"):
        x, y = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max(), err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("schedule", [Accumulate(), HalfLife(math.inf)])
@pytest.mark.parametrize("weighted", [False, True])
def test_stepwise_that_counts_every_row_the_same_is_the_exact_fold(family, schedule, weighted):
    X = data(family, 5000)
    weight = np.random.default_rng(1).integers(0, 4, len(X)).astype(float) if weighted else None
    model = random_mixture(family, 3, 2, seed=9)
    source = array_source(X, weight, chunk_rows=700)
    exact = one_lap(source, (model,), Exact(), frozen).stats[0]
    for batch in (None, 64, 1000, 10_000):
        step = one_lap(source, (model,), Stepwise(schedule, batch), frozen)
        close(step.state.totals[0], exact, 1e-13)


@given(n=st.integers(1, 400), batch=st.integers(1, 500), chunk=st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_stepwise_reads_every_row_once_however_chunks_are_cut(n, batch, chunk):
    source = array_source(np.arange(n, dtype=float)[:, None], chunk_rows=chunk)
    blocks = []
    for block in Stepwise(batch_rows=batch).blocks(source):
        blocks.append(np.concatenate([c.load()[0][:, 0] for c in block.chunks]))
        if block.last:
            break
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(n))
    assert all(len(b) >= min(0.75 * batch, n) for b in blocks[:-1])
    assert all(len(b) < 2.5 * batch for b in blocks)


def test_half_life_halves_a_row_after_that_many_rows():
    schedule, h = HalfLife(100.0), 100
    share, seen, shares = [], 0, None
    for t in range(50):
        seen += 10
        rho = schedule.rate(t, 10, seen)
        share = [s * (1 - rho) for s in share] + [rho / 10]
    shares = np.array(share)
    assert shares.sum() * 10 == pytest.approx(1.0)
    np.testing.assert_allclose(shares[h // 10 :] / shares[: -h // 10], 2.0)
    assert HalfLife(100.0).rate(3, 100, 1e9) == pytest.approx(0.5)


def test_stepwise_holds_the_models_until_enough_rows_were_seen():
    X = data(n=1000)
    model = random_mixture("full", 3, 2, seed=9)
    calls = []

    def update(models, totals, memory):
        calls.append(totals)
        return models, memory

    rule = Stepwise(Decay(), 100, hold_rows=450)
    steps = list(islice(em(array_source(X), (model,), rule=rule, executor=Threads(1), update=update), 10))
    assert len(calls) == 6
    assert [s.state.step for s in steps] == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    # What was held is still an exact fold.
    close(steps[3].state.totals[0], one_lap(array_source(X[:400]), (model,), Exact(), frozen).stats[0], 1e-12)


def test_stepwise_averages_late_statistics():
    X = data(n=2000)
    model = random_mixture("full", 3, 2, seed=9)
    rule = Stepwise(Decay(), 100, average_from=1000)
    means = []
    for step in em(array_source(X), (model,), rule=rule, executor=Threads(1), update=frozen):
        if step.state.seen >= 1000:
            means.append(step.state.mean[0].weight)
        if step.block.last:
            break
    assert step.state.n_late == 11
    late = step.state.averaged[0]
    np.testing.assert_allclose(late.weight / late.count, np.mean(means, axis=0), rtol=1e-12)


def test_stepwise_takes_chunks_in_the_order_it_is_given():
    source = array_source(np.arange(40.0)[:, None], chunk_rows=10)
    blocks = islice(Stepwise(batch_rows=10, order=(2, 0, 3, 1)).blocks(source), 4)
    assert [b.chunks[0].load()[0][0, 0] for b in blocks] == [20.0, 0.0, 30.0, 10.0]


@pytest.mark.parametrize("bad", [0.5, 1.1])
def test_decay_is_refused_where_it_would_not_converge(bad):
    with pytest.raises(ValueError, match=r"0\.5 < power"):
        Decay(power=bad)
    with pytest.raises(ValueError, match="half_life"):
        HalfLife(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_of_fresh_statistics_is_the_log_likelihood(family):
    model = random_mixture(family, 4, 3, seed=2)
    stats = model.accumulate(data(family, 500, 4, 3))
    assert bound(model, stats) == pytest.approx(stats.loglik, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk_rows", [None, 90])
def test_the_incremental_bound_never_falls_after_the_first_lap(family, chunk_rows):
    X = data(family, 1500)
    model = random_mixture(family, 3, 2, seed=9, spread=1.0)
    source = array_source(X, chunk_rows=chunk_rows)
    rule = Incremental(8)
    models, values = (model,), []
    for step in islice(em(source, models, rule=rule, executor=Threads(1), update=plain), 10 * 8):
        if step.block.pass_number == 0 and not step.block.last:
            assert step.models == (model,)
        else:
            # Under the model that made the newest block, before and after its M-step.
            values += [bound(models[0], step.state.total[0]), bound(step.models[0], step.state.total[0])]
        models = step.models
    values = np.array(values) / len(X)
    assert (np.diff(values) > -1e-12).all()
    assert values[-1] <= models[0].log_prob(X).mean() + 1e-12


@given(n=st.integers(1, 20), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_replacing_a_leaf_leaves_no_trace_of_what_was_there(n, seed):
    rng = np.random.default_rng(seed)
    model = random_mixture("full", 2, 2)
    fresh = [model.accumulate(rng.normal(size=(5, 2))) for _ in range(n)]
    tree = FoldTree.empty(n)
    for b in range(n):
        tree = tree.replace(b, (model.accumulate(1e6 * rng.normal(size=(5, 2))),))
    for b in rng.permutation(n):
        tree = tree.replace(int(b), (fresh[b],))
    again = FoldTree.empty(n)
    for b in range(n):
        again = again.replace(b, (fresh[b],))
    assert np.array_equal(tree.total[0].scatter, again.total[0].scatter)
    assert tree.total[0].rows == 5 * n


def test_incremental_keeps_the_statistics_of_the_models_that_stay():
    models = tuple(random_mixture("full", 2, 2, seed=s) for s in range(3))
    X = data(n=200)
    step = one_lap(array_source(X), models, Incremental(4), frozen)
    kept = Incremental(4).keep(step.state, (0, 2))
    assert len(kept.total) == 2
    assert kept.total[1] is step.state.total[2]


def test_incremental_refuses_with_numbers_what_does_not_fit():
    models = (random_mixture("full", 8, 20),)
    with pytest.raises(MemoryLimitError, match=r"\d+ kB are needed, 500 kB may be used"):
        Incremental(16, max_bytes=500_000).init(models, array_source(np.zeros((100, 20))))


def test_incremental_never_reads_a_stored_chunk_twice_in_a_lap():
    source = array_source(np.zeros((100, 1)), chunk_rows=25)
    source.in_memory = False
    assert Incremental(16).count(source) == 4
    assert Incremental(3).count(source) == 3
    blocks = list(islice(Incremental(3).blocks(source), 3))
    assert [b.last for b in blocks] == [False, False, True]
    assert [c.index for b in islice(Incremental(3).blocks(source), 3) for c in b.chunks] == [0, 1, 2, 3]
