"""Rows far away from all others: they must not decide what a fit takes for typical, nor stop one.

A few rows, say of a fill value, decide means, variances and distances of a whole sample. Here the moments are those of
the bulk where that is so, rows that no covariance can hold beside the others are put to one place or set aside, and
k-means is shown them nearer than they are. `streamgmm.em.wild_rows` judges the rows of a stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.covariance import DIAG, SPHERICAL, Covariance
from streamgmm.sources.base import Source
from streamgmm.sources.gathered import Gathering, gathered
from streamgmm.sources.summaries.moments import weighted_moments
from streamgmm.sources.summaries.sample import SampleSummary

__all__ = ["FARTHEST", "counted", "drawn_in", "few_apart", "gathering_of", "sound", "tell_of", "without_extremes"]

log = logging.getLogger("streamgmm.em")

Array = NDArray[np.float64]

FARTHEST = 1e4
"""Distance of a row from the median, in median distances, from which it has no say in centre and scale."""
_SPREAD = 0.5
"""Mean distance of the sample from the overall mean, in overall deviations, below which it is looked into."""
_LIGHT = 10.0
"""Mean distance of the rows of the sample, in overall deviations, above which rows of small weight are far away."""
_INFLATED = 100.0
"""Overall variance, in variances of the bulk, up to which rows far away have not decided it."""


def sound(survey: SampleSummary, *, light: bool = False) -> SampleSummary:
    """The survey with the moments of the bulk of its sample, where a few rows far away have decided the overall ones.

    One fill value of 1e20 would make one point of everything else, wherever a start is sought, a prior is taken from
    the data or a covariance is floored.

    Parameters
    ----------
    light : bool
        Also where such rows weigh so little that they have decided no moment.
    """
    rows = np.asarray(survey.rows, np.float64)
    diagonal = survey.covariance.ndim == 1
    variance = survey.covariance if diagonal else np.diag(survey.covariance)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        apart, deviation = np.abs(rows - survey.mean), np.sqrt(variance)
        usual = np.average(apart, axis=0, weights=survey.weight) >= _SPREAD * deviation
        usual &= np.mean(apart, axis=0) <= _LIGHT * deviation
        if np.isfinite(survey.covariance).all() and usual.all():
            return survey  # 0.8 of a deviation for a Gaussian, next to nothing where one row makes the deviation
        bulk = _near_the_median(rows)
        mean, scatter = weighted_moments(rows[bulk], survey.weight[bulk], diagonal=diagonal)
        covariance = scatter / survey.weight[bulk].sum()
        inflated = (variance > _INFLATED * (covariance if diagonal else np.diag(covariance))).any()
        if not inflated and (bulk.all() or not light):
            return survey
    return replace(survey, mean=mean, covariance=covariance, wild=True)


def _near_the_median(rows: Array) -> NDArray[np.bool_]:
    """(m,) mask of rows within `FARTHEST` of every feature's median; all, where that leaves none."""
    bulk = np.ones(len(rows), bool)
    for column in rows.T:
        apart = np.abs(column - np.median(column))
        if apart.any():
            bulk &= apart <= FARTHEST * np.median(apart[apart > 0])
    return bulk if bulk.any() else ~bulk


_NOTHING = 1e-6
"""Weight, in mean weights of a row, up to which rows far away are set aside: a component of them would collapse."""
_FEW = 0.05
"""Share of the weight up to which rows far away are taken for one group, whatever they hold."""
LARGEST = 1e100
"""Size of a number beyond which a fit takes it for this: sums of squares of others beside it could not be kept."""


def gathering_of(survey: SampleSummary, families: Collection[Covariance], *, pulled: bool = False) -> Gathering | None:
    """Treatment of rows far away in a fit of several components; None, as for nearly all data, where they stay.

    A few rows far away have a component of their own. Where they are far from each other too they would make a
    covariance that all components share, and one with cross products cannot hold sizes that differ by more than
    `FARTHEST`: then these rows are put to one place beside the others. So are those of which a sample has none, as the
    `box` of all rows tells, where it reaches `FARTHEST` squared.

    Parameters
    ----------
    pulled : bool
        Whether a prior pulls means towards the other rows: the distance then enters the covariance of the component far
        away, or of all where they share one. With cross products it cannot hold that, however near those rows are to
        each other: they are set aside. So are, in any fit, rows that weigh next to nothing together.
    """
    if survey.wild:
        diagonal = survey.covariance if survey.covariance.ndim == 1 else np.diag(survey.covariance)
        scale = np.where(diagonal > 0, np.sqrt(diagonal), np.maximum(np.abs(survey.mean), 1.0))
        gathering = Gathering(survey.mean, FARTHEST * scale)
        far = gathering.far(survey.rows)
        share = float(survey.weight[far].sum() / survey.weight.sum())
        with np.errstate(over="ignore"):
            # Of the sample's rows, or of others; nearer ones may be the end of a long tail.
            beyond = np.abs(survey.box - survey.mean) > FARTHEST * gathering.reach
        nothing = far.any() and survey.weight[far].sum() <= _NOTHING * survey.weight.mean()
        alone = set(families) <= {DIAG, SPHERICAL}  # each number stands for itself
        if share <= _FEW and (nothing or (not alone and (far.any() or beyond.any()))):
            if pulled or nothing:
                return replace(gathering, place=survey.mean, aside=True)
            if not far.any():  # so few that a sample has none: they are no component
                return replace(gathering, place=survey.mean + 10.0 * scale)
            rows = np.asarray(survey.rows[far], np.float64)
            rows = np.concatenate([rows, np.where(beyond, survey.box, rows[0])])
            with np.errstate(over="ignore"):
                size = np.abs((rows - survey.mean) / scale).max(axis=1)
                apart = (np.ptp(rows, axis=0) > gathering.reach).any()
            if (apart and any(one.shared for one in families)) or size.max() > FARTHEST * size.min():
                return replace(gathering, place=survey.mean + 10.0 * scale / np.sqrt(max(share, 1e-4)))
    if np.nanmax(np.abs(survey.box)) > LARGEST:
        return Gathering(np.zeros(survey.rows.shape[1]), np.full(survey.rows.shape[1], LARGEST))
    return None


def without_extremes(
    source: Source, survey: SampleSummary, families: Collection[Covariance], *, pulled: bool = False
) -> tuple[Source, SampleSummary, Gathering | None]:
    """Source and sample as a fit takes them, and what was done to rows far away; see `gathering_of`.

    Nearly always the source and the sample that were given, and None; anything else is told once.
    """
    if pulled:  # k-means, whatever the weights, would see one point of the others
        survey = sound(survey, light=True)
    gathering = gathering_of(survey, families, pulled=pulled)
    if gathering is None:
        return source, survey, None
    tell_of(gathering, source)
    taken = (
        _without_far(survey, gathering)
        if gathering.aside
        else replace(survey, rows=gathering(survey.rows), place=gathering.place)
    )
    return gathered(source, gathering), taken, gathering


def tell_of(gathering: Gathering, source: Source) -> None:
    """Say what is done to rows far away, and what holds nevertheless."""
    log.warning(
        "%s: %s Means and covariances of the other rows hold; `lower_bound_` and the criteria are those of the rows as "
        "they were taken.%s",
        source.name,
        gathering.words,
        "" if gathering.aside else " To leave such rows out, drop them or give them weight 0.",
    )


def counted(survey: SampleSummary, gathering: Gathering | None) -> int | None:
    """Rows that each pass will see; None where nobody knows how many are set aside."""
    return None if gathering is not None and gathering.aside and not survey.complete else survey.n_rows


def _without_far(survey: SampleSummary, gathering: Gathering) -> SampleSummary:
    """The sample without the rows that are set aside."""
    near = ~gathering.far(survey.rows)
    return replace(
        survey,
        rows=survey.rows[near],
        weight=survey.weight[near],
        keys=None if survey.keys is None else survey.keys[near],
        n_rows=survey.n_rows - int((~near).sum() if survey.complete else 0),
        count=survey.count * float(survey.weight[near].sum() / survey.weight.sum()),
    )


def drawn_in(z: Array, weight: Array) -> Callable[[Array], Array]:
    """A map of whitened rows that brings what is far away near: k-means is to see clusters, not one distance.

    Few rows far away become one point outside the others; of many the order of distances is kept.
    """
    bulk = (np.abs(z) <= FARTHEST).all(axis=1)
    share = weight[~bulk].sum() / weight.sum()
    if share <= _FEW:
        # So far that k-means++ meets it first, and no farther: its tolerance is a part of the overall variance.
        place = 10.0 * np.sqrt(np.mean(z[bulk] ** 2) / max(share, 1e-4))
        return lambda z: np.where((np.abs(z) <= FARTHEST).all(axis=1, keepdims=True), z, place)

    def nearer(z: Array) -> Array:
        size = np.abs(z) / FARTHEST
        return np.where(size <= 1.0, z, np.sign(z) * FARTHEST * (1.0 + np.log(np.maximum(size, 1.0))))

    return nearer


def few_apart(survey: SampleSummary, z: Array) -> NDArray[np.bool_] | None:
    """(m,) mask of a few rows far from all others, which begin as one component; None where there are none."""
    if not survey.wild:
        return None
    if survey.place is not None:
        apart = (survey.rows == survey.place.astype(survey.rows.dtype)).all(axis=1)
    else:
        apart = (np.abs(z) > FARTHEST).any(axis=1)
    return apart if 0.0 < survey.weight[apart].sum() <= _FEW * survey.weight.sum() else None
