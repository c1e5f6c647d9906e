"""Passes of variational inference with moves: proposals share each pass with the posterior that they would replace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

from streamgmm.em.acceleration import AcceleratorState
from streamgmm.em.candidates import Candidate, Candidates, running
from streamgmm.em.loop import Models
from streamgmm.em.update import Update
from streamgmm.em.variational_moves import OPTIMISM, PATIENCE, At, Bench, Change, born, merged
from streamgmm.mixture.stats import Stats
from streamgmm.mixture.variational import VariationalMixture
from streamgmm.mixture.variational_sums import GAIN

TRIES = 3
"""Proposals of one kind that may fail in a row, each of which costs arithmetic of some passes."""


@dataclass(frozen=True, slots=True)
class Proposal(Candidate):
    """A posterior with more or fewer components, which replaces the first candidate once its evidence is higher."""

    kind: str = ""


@dataclass(frozen=True, slots=True)
class MovingUpdate(Update):
    """Updates of one candidate, and of proposals to replace it.

    Attributes
    ----------
    bench : Bench or None
        Rows that births are drawn from; None where all moves were made on all rows already.
    """

    bench: Bench | None = None

    def __call__(self, models: Models, totals: tuple[Stats, ...], candidates: Candidates) -> tuple[Models, Candidates]:
        parts = iter(totals)
        first, *others = candidates
        stats = next(parts)
        leader = self._advance(first, stats)
        proposals = [self._carried(p, leader, parts) if p.status == "running" else p for p in others]
        if self.bench is not None:
            before = leader
            leader, proposals = self._judged(leader, proposals, stats.count)
            same = leader is before and leader.rejected == first.rejected  # else `stats` are not of this leader
            if same and leader.model.n_components == len(stats.weight):
                fresh = self._proposed(leader, first, stats, proposals)
                proposals += fresh
        busy = any(p.status == "running" for p in proposals)
        if leader.status == "stopped":
            proposals = []
        elif leader.status == "converged" and busy:
            leader = replace(leader, status="running")
        candidates = (leader, *proposals)
        return running(candidates), candidates

    def _carried(self, proposal: Candidate, leader: Candidate, parts: Iterator[Stats]) -> Candidate:
        """A proposal after its pass; dropped where it will not come up to the leader."""
        stats = next(parts)
        model, _, _ = self.maximize(proposal, stats)
        trace = (*proposal.trace, self.maximize.value(proposal.model, stats))
        gain = trace[-1] - trace[-2] if len(trace) > 1 else 0.0
        behind = len(trace) > 1 and trace[-1] + OPTIMISM * gain < leader.objective
        status = "dropped" if behind or len(trace) >= PATIENCE else "running"
        return replace(proposal, model=model, trace=trace, n_iter=proposal.n_iter + 1, status=status)

    def _judged(self, leader: Candidate, proposals: list[Candidate], count: float) -> tuple[Candidate, list[Candidate]]:
        """The leader, or the proposal that has overtaken it in this pass."""
        tried = [p for p in proposals if p.trace and p.objective > leader.objective + GAIN / count]
        if not tried:
            return leader, proposals
        best = max(tried, key=lambda p: p.objective)
        trace = (*leader.trace[:-1], best.objective)
        event = {"iteration": leader.n_iter, "action": cast(Proposal, best).kind}
        over = self._over(leader.n_iter, trace)
        return (
            replace(
                leader,
                model=best.model,
                trace=trace,
                status="stopped" if over else "running",
                repairs=(*leader.repairs, event),
                plain_from=len(trace),
                pace=AcceleratorState(),
            ),
            [],
        )

    def _proposed(
        self, leader: Candidate, before: Candidate, stats: Stats, proposals: list[Candidate]
    ) -> list[Candidate]:
        """The next proposals, once all others have been judged."""
        if leader.status == "stopped" or any(p.status == "running" for p in proposals):
            return []
        assert self.bench is not None
        failed = [cast(Proposal, p).kind for p in proposals]
        here = At(cast(VariationalMixture, before.model), stats, 0.0)
        changes = [_nth(merged(here), failed.count("merged")), _nth(born(self.bench, here), failed.count("born"))]
        index = 1 + max((p.index for p in proposals), default=leader.index)
        return [
            Proposal(index + n, self.maximize.step(change.stats, leader.model), kind=change.kind)
            for n, change in enumerate(change for change in changes if change is not None)
        ]


def _nth(changes: Iterator[Change], number: int) -> Change | None:
    return next(islice(changes, number, None), None) if number < TRIES else None
