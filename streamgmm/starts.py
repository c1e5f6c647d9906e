"""From the sample to the models that set out on full readings: many starts, short EM, ranking, few survivors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from streamgmm.covariance import Covariance
from streamgmm.em import Models
from streamgmm.executors import Executor
from streamgmm.fitting import Maximize, Memory, Stage, Start, Update, candidates, readings
from streamgmm.mixture import Mixture
from streamgmm.rules import Exact
from streamgmm.seeding import DIVERSE, Survey, start
from streamgmm.sources import Source, array_source

ROUNDS = ((5, 0.5), (5, 0.6), (10, 1.0))
"""Short EM: so many steps on the sample, then this share of the starts goes on.

Not to convergence: EM that has converged on a sample sits in an optimum of the sample.
"""


def draw(
    survey: Survey, K: int, family: Covariance, *, init: str, n_init: int, rng: np.random.RandomState, reg_covar: float
) -> list[tuple[str, Mixture]]:
    """`n_init` first models; the kinds alternate, since no way of starting is best everywhere."""
    kinds = DIVERSE.get(init, (init,))
    return [
        (kind, start(survey, K, family, init=kind, rng=rng, reg_covar=reg_covar))
        for kind in (kinds[i % len(kinds)] for i in range(n_init))
    ]


def explore(
    first: Sequence[tuple[str, Mixture]],
    survey: Survey,
    *,
    maximize: Maximize,
    executor: Executor,
    survivors: int,
    rounds: Sequence[tuple[int, float]] = ROUNDS,
) -> list[Start]:
    """Short EM on the sample for every first model, worse ones dropped between rounds; the best come first.

    Models are ranked on rows that their EM did not see, or by the likelihood itself where the sample is all there is.
    """
    train, held = split(survey)
    alive = list(range(len(first)))
    memory: Memory = candidates(tuple(model for _, model in first))
    score = np.full(len(first), -np.inf)
    for steps, share in rounds:
        update = Update(maximize, lambda trace: False, 10**9)
        memory = tuple(replace(c, status="running" if c.index in alive else "dropped") for c in memory)
        for step in readings(train, memory, (Stage(Exact(), update, steps),), executor):
            memory = step.memory
        models = tuple(memory[i].model for i in alive)
        score[alive] = mean_log_likelihoods(models, held, executor)
        alive.sort(key=lambda i: (-score[i], i))
        alive = alive[: max(survivors, round(share * len(alive)))]
    return [Start(memory[i].model, first[i][0], float(score[i])) for i in alive[:survivors]]


def split(survey: Survey) -> tuple[Source, Source]:
    """Sources of the rows to learn from and of those to rank on: every fifth row of a true sample."""
    if survey.complete:
        everything = array_source(survey.rows, survey.weight, chunk_rows=4096)
        return everything, everything
    held = np.arange(len(survey.rows)) % 5 == 4
    return (
        array_source(np.ascontiguousarray(survey.rows[~held]), None, chunk_rows=4096),
        array_source(np.ascontiguousarray(survey.rows[held]), None, chunk_rows=4096),
    )


def mean_log_likelihoods(models: Models, source: Source, executor: Executor) -> Any:
    """(len(models),) nats per row."""
    totals = executor.run(partial(_totals, models), source.chunks(), np.add)
    return totals[:, 0] / totals[:, 3]


def _totals(models: Models, chunk: Any) -> Any:
    rows, weight = chunk.load()
    return np.stack([model.totals(rows, weight) for model in models])
