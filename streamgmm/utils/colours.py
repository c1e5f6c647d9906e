"""Colours of components, the same in every picture."""

from __future__ import annotations

__all__ = ["PALETTE", "colour"]

PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#0077bb", "#cc3311", "#009988",
    "#997700", "#6699cc", "#994455", "#44aa99", "#882255", "#999933", "#332288", "#117733", "#88ccee", "#cc6677",
)  # fmt: skip
"""Colours of components, told apart by most colour-blind readers too (Paul Tol); repeated beyond twenty."""


def colour(k: int) -> str:
    """The colour of component k.

    Examples
    --------
    >>> colour(0) == colour(20)
    True
    """
    return PALETTE[k % len(PALETTE)]
