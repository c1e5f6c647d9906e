"""A fit as a sequence of full readings: its stages, where it stands, and the loop over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamgmm.em.candidates import Memory, running
from streamgmm.em.loop import Step, em
from streamgmm.em.update import Update
from streamgmm.em.variants import Exact, Rule
from streamgmm.errors import StreamGMMError


@dataclass(frozen=True, slots=True)
class Stage:
    """A rule and the update that goes with it, for at most `laps` readings."""

    rule: Rule
    update: Update
    laps: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a fit a reading ended: the stage, its readings so far and all, and what its rule remembers."""

    stage: int = 0
    lap: int = 0
    readings: int = 0
    state: Any = None


def readings(
    source: Any,
    memory: Memory,
    stages: Sequence[Stage],
    executor: Any,
    *,
    position: Position | None = None,
    task_of: Callable[[Memory], Any] | None = None,
) -> Iterator[Step]:
    """Yield one `Step` per full reading of the data, its state a `Position`; end when no candidate is running.

    Parameters
    ----------
    position : Position, optional
        Where to go on, from the state of an earlier `Step` and with its memory.
    task_of : callable (memory) -> task, optional
        The task of the next reading (see `em.loop.em`), where models do not all see the same rows: in this process.
    """
    here = position or Position()
    if task_of is None:
        source = source.for_em()
    while running(memory) and here.stage < len(stages):
        stage = stages[here.stage]
        if stage.laps is not None and here.lap >= stage.laps:
            here = Position(here.stage + 1, 0, here.readings)
            continue
        rows = 0
        for step in em(
            source,
            running(memory),
            rule=stage.rule,
            executor=executor,
            update=stage.update,
            state=here.state,
            memory=memory,
            task=None if task_of is None else task_of(memory),
        ):
            rows += step.stats[0].rows
            if not step.block.last:
                continue
            present = [c.index for c in memory if c.status == "running"]
            memory = stage.update.lap(step)
            left = {c.index for c in memory if c.status == "running"}
            state = stage.rule.keep(step.state, [i for i, index in enumerate(present) if index in left])
            here = Position(here.stage, here.lap + 1, here.readings + 1, state)
            yield Step(
                running(memory),
                here,
                memory,
                replace(step.block, lap=here.readings - 1),
                (replace(step.stats[0], rows=rows), *step.stats[1:]),
            )
            rows = 0
            if not isinstance(stage.rule, Exact) or here.lap == stage.laps or task_of is not None:
                break  # what the end of the lap changed has to reach the loop


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows of positive weight seen by the first reading (None before there was one), and so far in this one."""

    expected: int | None = None
    seen: int = 0

    def after(self, step: Any, source: Any) -> RowCount:
        """The count after one `Step` of EM on `source`.

        Raises
        ------
        StreamGMMError
            Where a lap ends with another count than the first reading.
        """
        stats = step.stats[0]
        count = replace(self, seen=self.seen + stats.rows)
        return count.finished(source, f"reading {step.block.lap + 1} of EM") if step.block.last else count

    def finished(self, source: Any, reading: str) -> RowCount:
        """The count after a whole reading."""
        if self.expected is not None and self.seen != self.expected:
            raise StreamGMMError(
                f"{source.name}: {reading} saw {self.seen} rows of positive weight, an earlier one {self.expected}. "
                "The data changed during the fit, so there is no result. Leave the data alone and fit again."
            )
        return RowCount(self.seen)
