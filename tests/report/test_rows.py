"""The pass behind a page finds what a loop over all rows finds."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.mixture.tails import Tails
from streamgmm.report.rows import KEPT, SURE, Asked, read_rows
from streamgmm.runtime.executors import Threads
from tests.helpers.mixtures import FAMILIES, random_mixture


def holes(rows, share, seed=0):
    rows = rows.copy()
    rows[np.random.default_rng(seed).random(rows.shape) < share] = np.nan
    return rows


@pytest.mark.parametrize("covariance_type", FAMILIES)
@pytest.mark.parametrize("chunk_rows", [7, 150, 1000])
def test_it_says_what_the_models_say_of_every_row(covariance_type, chunk_rows):
    models = [random_mixture(covariance_type, K, 3, seed=K, spread=1.0) for K in (1, 3)]
    models = [sg.Mixture(m.weights, m.means, m.covariances, covariance_type, missing="marginalize") for m in models]
    rows = holes(models[1].sample(500, 0)[0], 0.2)
    rows[[3, 77]] = np.nan  # nothing was observed
    seen = np.flatnonzero(~np.isnan(rows).all(axis=1))
    found = read_rows(
        sg.open_source(rows, chunk_rows=chunk_rows), [Asked.from_mixture(m) for m in models], Threads(2), size=100
    )
    assert found.stored == 500 and found.n_rows == len(seen) < 500
    assert np.array_equal(found.rows, rows[found.numbers], equal_nan=True)
    assert len(np.unique(found.numbers)) == 100 and set(found.numbers) <= set(seen)
    for model, answer in zip(models, found.answers, strict=True):
        logp, resp = model.log_prob(rows[seen]), model.responsibilities(rows[seen])
        largest = resp.max(axis=1)
        assert answer.loglik / answer.count == pytest.approx(logp.mean(), rel=1e-12)
        assert answer.members.tolist() == np.bincount(resp.argmax(axis=1), minlength=resp.shape[1]).tolist()
        assert answer.unsure.tolist() == [(largest < limit).sum() for limit in SURE]
        assert answer.certainty.sum() == pytest.approx(largest.sum(), rel=1e-12)
        numbers = found.numbers_of(answer.lowest.place)
        rank = Tails(model).log_bound(rows[seen], logp)
        assert numbers.tolist() == seen[np.argsort(rank, kind="stable")][:KEPT].tolist()
        assert np.array_equal(answer.lowest.rows, rows[numbers], equal_nan=True)
        assert answer.lowest.logp == pytest.approx(model.log_prob(rows[numbers]), rel=1e-12)
        assert np.sort(answer.uncertain.resp.max(axis=1)) == pytest.approx(np.sort(largest)[:KEPT], abs=1e-12)


def test_it_does_not_depend_on_the_chunks_or_threads():
    model = random_mixture("full", 3, 2)
    rows = model.sample(2000, 1)[0]
    one, other = (
        read_rows(sg.open_source(rows, chunk_rows=size), [Asked.from_mixture(model)], Threads(jobs), size=50)
        for size, jobs in ((2000, 1), (64, 3))
    )
    assert np.array_equal(one.numbers, other.numbers) and np.array_equal(one.rows, other.rows)
    assert np.array_equal(one.numbers_of(one.answers[0].lowest.place), other.numbers_of(other.answers[0].lowest.place))


def test_rows_without_weight_are_no_rows():
    model = random_mixture("diag", 2, 2)
    rows = model.sample(40, 1)[0]
    weight = np.where(np.arange(40) % 4 == 0, 0.0, 2.0)
    found = read_rows(sg.open_source(rows, weight=weight), [Asked.from_mixture(model)], Threads(1), size=100)
    assert found.n_rows == 30 and found.numbers.tolist() == np.flatnonzero(weight).tolist()
    assert found.answers[0].count == 60
    with pytest.raises(ValueError, match="needs rows"):
        read_rows(sg.open_source(rows, weight=np.zeros(40)), [Asked.from_mixture(model)], Threads(1), size=100)


def test_a_background_is_counted_apart():
    model = sg.Mixture([0.9], [[0.0]], [1.0], "spherical", noise_weight=0.1, box=[[-50.0], [50.0]])
    rows = np.array([[0.0], [0.5], [40.0]])
    answer = read_rows(sg.open_source(rows), [Asked.from_mixture(model)], Threads(1), size=9).answers[0]
    assert answer.members.tolist() == [2, 1]
