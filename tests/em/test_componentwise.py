"""Components that still move are carried on while the others are held: the same limit in fewer whole steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.em.candidates import new_candidates
from streamgmm.em.componentwise import Local, moves, some
from streamgmm.em.convergence import aitken
from streamgmm.em.initialization import followed_starts, search_settings
from streamgmm.em.passes import Stage, passes
from streamgmm.em.sample_em import in_memory
from streamgmm.em.solvers import FRUITLESS
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.mixture.covariance import family
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.runtime.executors import Threads
from tests.helpers.slow_data import D, K, slow


def followed(X, model, *, local, jobs=1, reg_covar=0.0, tol=1e-9, weight=None):
    source, executor, maximize = in_memory(X, weight), Threads(jobs), Maximize(reg_covar)
    accelerator = Local(source, executor, maximize, tol) if local else None
    candidates = new_candidates((model,))
    slack = 0.1 * tol if reg_covar > 0 else 0.0
    stage = Stage(Exact(), Update(maximize, aitken(tol), 2000, accelerator, slack=slack))
    for step in passes(source, candidates, (stage,), executor):
        candidates = step.candidates
    return candidates[0]


@pytest.mark.parametrize("reg_covar", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_the_same_limit_in_a_third_of_the_whole_steps(kind, reg_covar):
    X, model = slow(kind)
    plain, ours = (followed(X, model, local=local, reg_covar=reg_covar) for local in (False, True))
    assert plain.status == ours.status == "converged"
    assert ours.objective == pytest.approx(plain.objective, abs=2e-8)  # where EM creeps
    assert 3 * ours.n_iter < plain.n_iter
    assert reg_covar > 0 or (np.diff(ours.trace) > -1e-12).all()
    np.testing.assert_allclose(ours.accepted.means, plain.accepted.means, atol=5e-3)


def test_bits_do_not_depend_on_threads():
    X, model = slow(n=30_000)
    one, two = (followed(X, model, local=True, jobs=jobs, tol=1e-7) for jobs in (1, 2))
    assert one.trace == two.trace
    assert (one.accepted.covariances == two.accepted.covariances).all()


def test_weight_two_is_the_row_twice():
    X, model = slow(n=2000)
    twice = followed(np.concatenate([X, X]), model, local=True)
    heavy = followed(X, model, local=True, weight=np.full(len(X), 2.0))
    assert heavy.objective == pytest.approx(twice.objective, abs=1e-9)


def test_only_those_that_moved_most_are_carried_on_and_their_share_is_kept():
    X, model = slow()
    local = Local(in_memory(X), Threads(1), Maximize(), 1e-9)
    image = followed(X, model, local=False, tol=1e-4).accepted
    image, after = image, image.accumulate(X).maximize()
    proposal = local.propose(image, after)
    assert set(np.argsort(moves(image, after))[-2:]) == {K - 2, K - 1}
    assert (proposal.means[: K - 2] == after.means[: K - 2]).all()
    assert (proposal.weights[: K - 2] == after.weights[: K - 2]).all()
    assert (proposal.means[K - 2 :] != after.means[K - 2 :]).all()
    assert proposal.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert proposal.log_prob(X).mean() > after.log_prob(X).mean() + 1e-6


def test_where_all_move_none_is_singled_out():
    X, model = slow()
    local = Local(in_memory(X), Threads(1), Maximize(), 1e-9)
    moved = Mixture(model.weights, model.means + 1.0, model.covariances, "full")
    assert local.propose(model, moved) is None
    assert local.propose(model, model) is None


def test_it_stands_back_where_components_hang_together():
    _, model = slow()
    tied = slow("tied")[1]
    prior = NormalInverseWishart().resolve(family("full"), K, D, np.zeros(D), np.eye(D))
    assert Local.suits(model, Maximize())
    assert not Local.suits(tied, Maximize())
    assert not Local.suits(model, Maximize(prior=prior))
    part, share = some(model, np.array([3, 5]))
    assert part.weights.tolist() == [0.5, 0.5] and share == pytest.approx(np.log(2 / K))


def test_a_dear_fit_ends_where_plain_em_stays(monkeypatch):
    """Rows that are all in the sample, on which steps count: few passes, and a fixed point of EM on all of them."""
    X, _ = slow()
    monkeypatch.setattr("streamgmm.em.sample_em.CHEAP", 1e3)
    quick = replace(search_settings.SEARCH, sample_stages=((1, 3, 3), (5, 3, 1)))
    monkeypatch.setattr(search_settings, "SEARCH", quick)  # so few rows are done before anything else
    seen = []
    real = Local.propose
    monkeypatch.setattr(Local, "propose", lambda *a: seen.append(real(*a)) or seen[-1])
    fits = [sg.GaussianMixture(K, n_init=4, n_jobs=jobs, random_state=0).fit(X) for jobs in (1, 2)]
    assert any(found is not None for found in seen)
    assert fits[0].converged_ and fits[0].n_passes_ <= 15
    assert fits[0].lower_bounds_ == fits[1].lower_bounds_
    assert (fits[0].means_ == fits[1].means_).all()
    mixture = fits[0].mixture_
    for _ in range(20):
        mixture = mixture.accumulate(X).maximize(reg_covar=1e-6)
    assert mixture.log_prob(X).mean() == pytest.approx(fits[0].score(X), abs=2e-6)


def test_a_dear_fit_gives_up_where_readings_raise_nothing_and_says_what_to_do(monkeypatch):
    X, _ = slow()
    monkeypatch.setattr("streamgmm.em.sample_em.CHEAP", 1e3)
    gm = sg.GaussianMixture(K, n_init=2, tol=0.0, reg_covar=0.1, random_state=0)
    with pytest.warns(ConvergenceWarning, match="gained nothing: accept it, go on with solver='exact'"):
        gm.fit(X)
    assert not gm.converged_ and gm.n_iter_ < gm.max_iter
    seen = gm.lower_bounds_
    assert max(seen[-FRUITLESS:]) <= max(seen[:-FRUITLESS])
    assert gm.set_params(warm_start=True, solver="exact", tol=1e-4).fit(X).converged_


def test_a_dear_start_ends_where_its_rows_show_no_gain(monkeypatch):
    """With regularisation the likelihood may fall for as long as anybody looks; cheap starts are seen through."""
    X, model = slow()
    split = followed_starts.SampleSplit(X, np.ones(len(X)), X, np.ones(len(X)), True)
    settings = replace(search_settings.SEARCH, tol=0.0)
    monkeypatch.setattr(search_settings, "SEARCH", settings)
    monkeypatch.setattr(followed_starts, "mean_log_likelihoods", lambda models, *_: np.zeros(len(models)))
    context = followed_starts.SearchContext(Maximize(0.1), Threads(1))
    walks = [followed_starts.SampleEM((model,), split, context, local=local) for local in (False, True)]
    for walk in walks:
        walk.go(6 * settings.steps_per_check)
    assert [walk.taken[0] for walk in walks] == [
        6 * settings.steps_per_check,
        (1 + settings.patience) * settings.steps_per_check,
    ]
