"""A fold whose shape depends on the positions of its leaves only, never on the order in which they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Fold[T]:
    """Fold leaves 0, 1, 2, ... into one value as a binary counter would, with ``combine(left, right)``.

    The node (level, i) covers leaves i 2^level to (i + 1) 2^level - 1 and is made when both halves are there, so at
    most one node per level and gap waits. Whole nodes may be added too: whoever folds an aligned run of 2^level leaves
    elsewhere gets the same bits.
    """

    def __init__(self, combine: Callable[[T, T], T]) -> None:
        self._combine = combine
        self._nodes: dict[tuple[int, int], T] = {}

    def add(self, index: int, value: T, level: int = 0) -> None:
        """Add leaf `index`, or node `index` of `level`."""
        while (level, index ^ 1) in self._nodes:
            sibling = self._nodes.pop((level, index ^ 1))
            value = self._combine(sibling, value) if index & 1 else self._combine(value, sibling)
            level, index = level + 1, index >> 1
        self._nodes[level, index] = value

    @property
    def nodes(self) -> dict[tuple[int, int], T]:
        """Nodes that wait to be combined, by (level, index): all there is to know about the leaves so far."""
        return dict(self._nodes)

    def result(self) -> T | None:
        """The value of all leaves added, or None without any. Leaves from 0 on must all be there."""
        total: T | None = None
        for (_, _), value in sorted(self._nodes.items(), key=lambda item: -(item[0][1] << item[0][0])):
            total = value if total is None else self._combine(value, total)
        return total


def fold[T](values: Iterable[T], combine: Callable[[T, T], T]) -> T | None:
    """Fold `values` in the same fixed shape."""
    tree = Fold(combine)
    for index, value in enumerate(values):
        tree.add(index, value)
    return tree.result()
