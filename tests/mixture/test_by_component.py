"""Components are worked on in several threads: the same bits, the same errors."""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.mixture import repair
from streamgmm.mixture.mixture import Mixture
from streamgmm.utils import by_component as threads


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(threads, "LEAST", 1)
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(19, 6, 6))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.01 * np.eye(6)
    return Mixture(rng.dirichlet(np.ones(19)), rng.normal(size=(19, 6)), covariances)


def step(model):
    rows = np.random.default_rng(1).normal(size=(500, 6))
    stats = model.accumulate(rows)
    plan = model._prepare().plan
    new = repair.repairing_m_step(stats, reg_covar=1e-6, reseeds=(0,) * 19, previous=model).model
    arrays = plan.coef, plan.factor, plan.narrow, stats.scatter, new.covariances, new.factors
    return [array.tobytes() for array in arrays]


def test_threads_leave_the_bits_as_they_are(model):
    alone = step(Mixture(model.weights, model.means, model.covariances))
    with threads.component_threads(4), threads.component_threads(2):
        assert step(model) == alone
    assert threads._crew()._pool is None


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(threads, "LEAST", 1)

    def fails(part):
        if part.start > 5:
            raise FloatingPointError("here")

    with threads.component_threads(3), pytest.raises(FloatingPointError, match="here"):
        threads.by_component(fails, 40, 9)


def test_warnings_that_are_off_stay_off_in_threads(monkeypatch):
    monkeypatch.setattr(threads, "LEAST", 1)
    out = np.empty(40)

    def overflows(part):
        out[part] = np.full(part.stop - part.start, 1e300) * 1e300

    with threads.component_threads(3), np.errstate(over="ignore"):
        threads.by_component(overflows, 40, 9)
    assert np.isinf(out).all()
