"""From the sample to the models that set out on full readings: many starts, short EM, ranking, few survivors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from streamgmm.accelerate import Squarem
from streamgmm.candidates import Memory, Start, candidates
from streamgmm.covariance import Covariance
from streamgmm.em import Models
from streamgmm.executors import Executor
from streamgmm.fitting import Stage, readings
from streamgmm.mixture import Mixture
from streamgmm.rules import Exact
from streamgmm.seeding import DIVERSE, Survey, made, prepared
from streamgmm.sources import Source, array_source
from streamgmm.stopping import aitken
from streamgmm.updates import Maximize, Update

ROUNDS = ((15, 0.5), (25, 0.7), (60, 0.0), (200, 0.0))
"""EM on the sample: so many steps, then this share of the starts goes on, and as many as survive at least.

EM that has converged on a sample sits in an optimum of the sample; so it ends for a start as soon as rows that it did
not see say that it gets worse, and full readings begin while there is something to gain.
"""
OVERSAMPLING = 2
"""First models drawn for each start that was asked for: on the sample they are cheap."""
CHEAP = 2e9
"""Rows x components x features^2 of a sample up to which a step on it counts for nothing. Above it only as many first
models are drawn as were asked for, and the last round is left to the full readings."""
PIECE = 10
TOLERANCE = 1e-6
PATIENCE = 2
"""Pieces of `PIECE` steps without a gain on rows not seen after which a start has ended on the sample."""
RICH = 50_000
"""Rows of a sample that many starts are followed on: its curvature has to stand for that of all rows."""


class Watcher(Protocol):
    """Who wants to see the way of the starts on the sample: `streamgmm.report.history.History`, for pictures."""

    def sampled(self, at: int, memory: Memory) -> None:
        """After a step on the sample; `at` is the number that the best of these starts will have as a candidate."""

    def begun(self, at: int, chosen: Sequence[tuple[int, int]]) -> None:
        """At the end, best first: which starts go on to full readings, and after how many of their steps."""


def draw(
    survey: Survey,
    K: int,
    family: Covariance,
    *,
    init: str,
    n_init: int,
    rng: np.random.RandomState,
    reg_covar: float,
    oversampling: int | None = None,
    threads: int = 1,
) -> list[tuple[str, Mixture]]:
    """First models, `oversampling` for each start; the kinds alternate, since no way of starting is best everywhere.

    A single start is drawn in every kind: on the sample that costs no reading.
    """
    kinds = DIVERSE.get(init, (init,))
    if oversampling is None:
        oversampling = OVERSAMPLING if cheap(survey, K) else 1
    if n_init == 1:
        oversampling *= len(kinds)
    chosen = [kinds[i % len(kinds)] for i in range(oversampling * n_init)]
    starts = [prepared(survey, K, family, init=kind, rng=rng, reg_covar=reg_covar) for kind in chosen]
    return list(zip(chosen, made(starts, threads=threads), strict=True))


def cheap(survey: Survey, K: int) -> bool:
    """Whether steps on this sample are cheap; see `CHEAP`."""
    m, D = survey.rows.shape
    return m * K * D**2 <= CHEAP


def explore(
    first: Sequence[tuple[str, Mixture]],
    survey: Survey,
    *,
    maximize: Maximize,
    executor: Executor,
    survivors: int,
    rounds: Sequence[tuple[int, float]] | None = None,
    watcher: Watcher | None = None,
    at: int = 0,
) -> list[Start]:
    """Short EM on the sample for every first model, worse ones dropped between rounds; the best come first.

    Models are ranked on rows that their EM did not see, or by the likelihood itself where the sample is all there is.
    """
    if rounds is None:
        rounds = ROUNDS if cheap(survey, first[0][1].n_components) else ROUNDS[:-1]
    maximize = replace(maximize, repair=True)  # of a start on the sample nobody needs to hear that it collapsed
    train, held = split(survey)
    alive = list(range(len(first)))
    memory: Memory = candidates(tuple(model for _, model in first))
    score = np.full(len(first), -np.inf)
    stale = np.zeros(len(first), int)
    kept = [model for _, model in first]
    taken = [0] * len(first)
    settled: set[int] = set()
    update = Update(maximize, aitken(TOLERANCE), 10**9, Squarem(TOLERANCE))
    for steps, share in rounds:
        for piece in range(0, steps, PIECE):
            part = min(PIECE, steps - piece)
            for step in readings(train, memory, (Stage(Exact(), update, part),), executor):
                memory = step.memory
                if watcher is not None:
                    watcher.sampled(at, memory)
            moving = [i for i in alive if i not in settled]
            models = tuple(memory[i].accepted for i in moving)
            scores = mean_log_likelihoods(models, held, executor) if moving else np.empty(0)
            for i, model, value in zip(moving, models, scores, strict=True):
                stale[i] = 0 if value > score[i] else stale[i] + 1
                if value > score[i] or survey.complete:
                    score[i], kept[i], taken[i] = value, model, len(memory[i].trace)
                if memory[i].status != "running" or (stale[i] >= PATIENCE and not survey.complete):
                    settled.add(i)
            memory = _only(memory, [i for i in alive if i not in settled])
        alive.sort(key=lambda i: (-score[i], i))
        alive = alive[: max(survivors, round(share * len(alive)))]
        memory = _only(memory, [i for i in alive if i not in settled])
    chosen = alive[:survivors]
    if watcher is not None:
        watcher.begun(at, [(i, taken[i]) for i in chosen])
    return [Start(kept[i], first[i][0], float(score[i])) for i in chosen]


def _only(memory: Memory, running: list[int]) -> Memory:
    """Let those candidates run, and no others."""
    return tuple(replace(c, status="running" if c.index in running else "dropped") for c in memory)


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
