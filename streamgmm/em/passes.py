"""A fit as a sequence of full passes: its stages, where it stands, and the loop over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamgmm.em.candidates import Candidates, running
from streamgmm.em.loop import BlockStep, Models, em
from streamgmm.em.update import Update
from streamgmm.em.variants import Exact, FoldTree, Online, Rule
from streamgmm.errors import StreamGMMError
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.runtime.executors import Executor
from streamgmm.sources.base import Chunk, Source


@dataclass(frozen=True, slots=True)
class Stage:
    """A rule and the update that goes with it, for at most `max_passes` passes."""

    rule: Rule[Any]
    update: Update
    max_passes: int | None = None


@dataclass(frozen=True, slots=True)
class PassCursor:
    """Where in a fit a pass ended: the stage, its passes so far and all, and what its rule remembers."""

    stage: int = 0
    pass_number: int = 0
    passes: int = 0
    state: FoldTree | Online | None = None


Step = BlockStep[Mixture, Stats, Candidates, PassCursor]
"""One full pass of a fit, and where it ended."""


def passes(
    source: Source,
    candidates: Candidates,
    stages: Sequence[Stage],
    executor: Executor,
    *,
    position: PassCursor | None = None,
    task_of: Callable[[Candidates], Callable[[Models, Chunk], tuple[Stats, ...]]] | None = None,
) -> Iterator[Step]:
    """Yield one `Step` per full pass over the data, its state a `PassCursor`; end when no candidate is running.

    Parameters
    ----------
    position : PassCursor, optional
        Where to go on, from the state of an earlier `Step` and with its candidates.
    task_of : callable (candidates) -> task, optional
        The task of the next pass (see `em.loop.em`), where models do not all see the same rows: in this process.
    """
    here = position or PassCursor()
    if task_of is None:
        source = source.for_em()
    while running(candidates) and here.stage < len(stages):
        stage = stages[here.stage]
        if stage.max_passes is not None and here.pass_number >= stage.max_passes:
            here = PassCursor(here.stage + 1, 0, here.passes)
            continue
        rows = 0
        for step in em(
            source,
            running(candidates),
            rule=stage.rule,
            executor=executor,
            update=stage.update,
            state=here.state,
            candidates=candidates,
            task=None if task_of is None else task_of(candidates),
        ):
            rows += step.stats[0].rows
            if not step.block.last:
                continue
            present = [c.index for c in candidates if c.status == "running"]
            candidates = stage.update.end_pass(step)
            left = {c.index for c in candidates if c.status == "running"}
            state = stage.rule.keep(step.state, [i for i, index in enumerate(present) if index in left])
            here = PassCursor(here.stage, here.pass_number + 1, here.passes + 1, state)
            yield Step(
                running(candidates),
                here,
                candidates,
                replace(step.block, pass_number=here.passes - 1),
                (replace(step.stats[0], rows=rows), *step.stats[1:]),
            )
            rows = 0
            if not isinstance(stage.rule, Exact) or here.pass_number == stage.max_passes or task_of is not None:
                break  # what the end of the pass changed has to reach the loop


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows of positive weight seen by the first pass (None before there was one), and so far in this one."""

    expected: int | None = None
    seen: int = 0

    def after(self, step: Step, source: Source) -> RowCount:
        """The count after one `Step` of EM on `source`.

        Raises
        ------
        StreamGMMError
            Where a pass ends with another count than the first pass.
        """
        stats = step.stats[0]
        count = replace(self, seen=self.seen + stats.rows)
        return count.finished(source, f"pass {step.block.pass_number + 1} of EM") if step.block.last else count

    def finished(self, source: Source, reading: str) -> RowCount:
        """The count after a whole pass."""
        if self.expected is not None and self.seen != self.expected:
            raise StreamGMMError(
                f"{source.name}: {reading} saw {self.seen} rows of positive weight, an earlier one {self.expected}. "
                "The data changed during the fit, so there is no result. Leave the data alone and fit again."
            )
        return RowCount(self.seen)
