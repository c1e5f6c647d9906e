"""How a block's statistics enter the total. Exact, incremental and stepwise EM differ in nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(frozen=True, slots=True)
class Block:
    """The chunks between two updates.

    Attributes
    ----------
    lap : int
        Which reading of the data this is, from 0.
    index : int
        Position of the block in its lap.
    chunks : iterable of Chunk
    last : bool
        True for the block that ends its lap.
    """

    lap: int
    index: int
    chunks: Iterable[Any]
    last: bool = True


class Rule(ABC):
    """A pair of pure functions over a small state."""

    @abstractmethod
    def blocks(self, source: Any) -> Iterator[Block]:
        """Blocks without end; whoever iterates decides when to stop."""

    @abstractmethod
    def init(self, models: tuple[Any, ...], source: Any) -> Any:
        """The state before the first block."""

    @abstractmethod
    def absorb(self, state: Any, block: Block, stats: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The state after a block, and the totals that the M-step sees."""


class Exact(Rule):
    """Full-batch EM: one block, which is everything; the total is its statistics."""

    def blocks(self, source: Any) -> Iterator[Block]:
        return (Block(lap, 0, source.chunks()) for lap in count())

    def init(self, models: tuple[Any, ...], source: Any) -> None:
        return None

    def absorb(self, state: None, block: Block, stats: tuple[Any, ...]) -> tuple[None, tuple[Any, ...]]:
        return None, stats
