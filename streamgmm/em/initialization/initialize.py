"""Start of a fit: at the end of the last one, at given parameters, or at models made of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from streamgmm.em.candidates import Candidate, Initialization, Totals
from streamgmm.em.hooks import NO_CHECKPOINT, CheckpointSlot, FitObserver
from streamgmm.em.initialization.far_rows import counted, without_extremes
from streamgmm.em.initialization.followed_starts import SearchContext
from streamgmm.em.initialization.methods import Wanted, made, prepared
from streamgmm.em.initialization.multistart import search
from streamgmm.em.initialization.sample import survey
from streamgmm.em.kmeans.parallel_init import SPREAD, spread_out
from streamgmm.em.loop import Models
from streamgmm.em.sample_em import cheap
from streamgmm.em.update import Maximize
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.init_parameters import Given, background_box
from streamgmm.mixture.m_step import bound
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.observation import observed
from streamgmm.mixture.prior import Conjugate, NormalInverseWishart
from streamgmm.mixture.stats import Stats
from streamgmm.runtime.executors import Executor
from streamgmm.sources.base import Source
from streamgmm.sources.summaries.sample import SampleSummary

__all__ = ["InitSettings", "begin", "begin_again", "check_same_kind", "solved"]

NOISE_START = 0.5
"""Weight of the background in the first model. Large, so that the components start from the dense parts only: from 0.1,
with 19 % of background, EM was seen to end in a poor optimum; from 0.3 and 0.5 it found the right one."""


@dataclass(frozen=True, slots=True, eq=False)
class InitSettings:
    """The settings of a fit that decide where it begins; see `GaussianMixture` for most of them.

    Attributes
    ----------
    family, n_components, n_features
    given : Given
    init : str
        The way in which first models are drawn.
    n_init, moves, missing : as there
    prior : NormalInverseWishart or None
    noise : bool
        Whether there is a background.
    reg_covar, repair : see `Maximize`
    solves : bool
        Whether the first pass may finish a fit of one component.
    searches : bool
        Whether starts are followed on the sample, and the sample serves the solver too.
    sample_rows, threads : int
        Rows of the sample, and threads that make models of it.
    """

    family: Covariance
    n_components: int
    n_features: int
    given: Given
    init: str
    n_init: int
    moves: int
    missing: str
    prior: NormalInverseWishart | None
    noise: bool
    reg_covar: float
    repair: bool
    solves: bool
    searches: bool
    sample_rows: int
    threads: int


def check_same_kind(last: Mixture, family: Covariance, shape: tuple[int, int]) -> None:
    """Refuse to go on from a model with other components (K, D) or another family."""
    if last.means.shape != shape or last.family is not family:
        raise ValueError(
            f"warm_start: the last fit has shape {last.means.shape} and covariance_type {last.family.name!r}; "
            f"expected {shape} and {family.name!r}. Set warm_start=False."
        )


def begin_again(
    last: Mixture,
    trace: tuple[float, ...],
    prior: Conjugate | None,
    wanted: InitSettings,
    source: Source,
    reader: Executor,
) -> Initialization:
    """From where the last fit ended, if it was of the same kind. `trace` and `prior` are those of the last fit.

    The prior and the background are those of the settings of now. What they have to take from the data, and the last
    fit did not, costs a pass. A trace of another objective is not continued.
    """
    family = wanted.family
    check_same_kind(last, family, (wanted.n_components, wanted.n_features))
    boxless = wanted.noise and last.box is None
    sample = None
    if boxless or (wanted.prior is not None and wanted.prior.needs_data and prior is None):
        gaps, diagonal = wanted.missing == "marginalize", family.n_factors > 0
        sample = survey(source, reader, size=wanted.sample_rows, seed=0, missing=gaps, diagonal=diagonal)
    now = _resolved(wanted, sample) if prior is None or wanted.prior is None else prior.under(wanted.prior)
    box = last.box if sample is None or not boxless else background_box(sample.box)
    observation = observed(box if wanted.noise else None, wanted.missing, wanted.n_features)
    model = last.observing(observation, NOISE_START if boxless else None)
    same = now is prior and wanted.noise == (last.box is not None)
    return Initialization(
        (model,), now, None if sample is None else sample.n_rows, 0 if sample is None else 1,
        traces=(trace,) if same else (),
    )  # fmt: skip


def solved(sample: SampleSummary, family: Covariance, maximize: Maximize) -> Candidate | None:
    """The fit of one component to complete rows, which the moments of the first pass give in closed form.

    None where the moments overflow, or are those of the bulk alone.
    """
    if sample.wild:
        return None
    D, count = len(sample.mean), sample.count
    scatter = sample.covariance * count
    if not np.isfinite(scatter).all():
        return None
    shape = family.scatter_shape(1, D)
    size = int(np.prod(shape))
    own = scatter if size == D * D else np.diag(scatter) if size == D else np.trace(scatter)
    stats = Stats(
        np.array([count]), sample.mean[None].copy(), np.reshape(own, shape), 0.0, 0.0, 0.0, count, sample.n_rows, family
    )  # fmt: skip
    blank = Candidate(0, Mixture.trusted(np.ones(1), stats.mean, stats.scatter, family, stats.scatter), reseeds=(0,))
    model, reseeds, events = maximize(blank, stats)
    # Every row has the responsibility 1 whatever the model, so the log-likelihood of the result is this bound.
    loglik = bound(model, stats)
    prior = maximize.prior_of(model)
    value = (loglik + (0.0 if prior is None else prior.log_density(model))) / count
    repairs = tuple({"iteration": 1, **event} for event in events)
    last = Totals(loglik, 0.0, 0.0, count, sample.n_rows)
    return Candidate(0, model, (value,), 1, "converged", last, reseeds, repairs)


def begin(
    wanted: InitSettings,
    source: Source,
    reader: Executor,
    executor: Executor,
    generator: Callable[[], np.random.RandomState],
    watcher: FitObserver | None,
    slot: CheckpointSlot = NO_CHECKPOINT,
) -> Initialization:
    """First models, and what is known before the first E-step.

    Parameters
    ----------
    reader, executor : what reads the data, and what works on the sample
    generator : called where something is drawn
    slot : holds how far an expensive search has come, its sample included
    """
    family, K, D, given = wanted.family, wanted.n_components, wanted.n_features, wanted.given
    whole = _whole(wanted)
    closed = K == 1 and not family.n_factors and wanted.solves and wanted.missing == "error" and not wanted.noise
    if (
        whole is not None and not closed and not wanted.noise
        and (wanted.prior is None or not wanted.prior.needs_data)
    ):  # fmt: skip
        return Initialization((whole.observing(observed(None, wanted.missing, D)),), _resolved(wanted, None))
    rng = generator()
    seed = int(rng.randint(2**31 - 1))
    gaps = wanted.missing == "marginalize"
    sample: SampleSummary | None = slot.get("sample")
    if sample is None:
        sample = survey(source, reader, size=wanted.sample_rows, seed=seed, missing=gaps, diagonal=family.n_factors > 0)
        if wanted.searches and not cheap(len(sample.rows), K, D):
            slot.put("sample", sample)
    if sample.n_rows < K:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {K}, n_samples = {sample.n_rows} rows "
            "of positive weight. Lower n_components."
        )
    gathering = None
    if K > 1 and wanted.given[1] is None:
        source, sample, gathering = without_extremes(source, sample, (family,), pulled=wanted.prior is not None)
    prior = _resolved(wanted, sample)
    if closed:
        one = solved(sample, family, Maximize(wanted.reg_covar, wanted.repair, prior))
        if one is not None:
            return Initialization((one.model,), prior, sample.n_rows, 1, solved=(one,))
    observe = _observing(wanted, sample)
    begun = partial(
        Initialization, prior=prior, rows=counted(sample, gathering), passes=1,
        sample=sample if wanted.searches else None, gathering=gathering,
    )  # fmt: skip
    if whole is not None:
        return begun((observe(whole),))
    if K > 1 and all(part is None for part in given):
        if wanted.init == SPREAD:
            starts = Wanted(K, family, wanted.init, wanted.n_init)
            found, more = spread_out(source, reader, sample, starts, rng, reg_covar=wanted.reg_covar, missing=gaps)
            return begun(tuple(observe(model) for model in found), passes=1 + more)
        if wanted.searches:
            maximize = Maximize(wanted.reg_covar, wanted.repair, prior)
            context = SearchContext(maximize, executor, observe, wanted.threads, watcher, slot)
            aim = Wanted(K, family, wanted.init, wanted.n_init, in_units=wanted.prior is None)
            explored = search(sample, aim, context, rng, moves=wanted.moves)
            if gaps:  # the sample was filled in: its steps are not those of the data
                explored = [replace(one, known=()) for one in explored]
            return begun(tuple(one.model for one in explored), explored=tuple(explored))
    return begun(tuple(observe(model) for model in _drawn(wanted, sample, rng)))


def _whole(wanted: InitSettings) -> Mixture | None:
    """The given model, where nothing of it is left to be drawn."""
    weights, means, covariances = wanted.given
    if weights is None or means is None or covariances is None:
        return None
    return Mixture(weights / weights.sum() if wanted.noise else weights, means, covariances, wanted.family)


def _resolved(wanted: InitSettings, sample: SampleSummary | None) -> Conjugate | None:
    """The prior with everything filled in that is taken from the data; no sample is needed where nothing is."""
    if wanted.prior is None:
        return None
    family, K, D = wanted.family, wanted.n_components, wanted.n_features
    if sample is None:
        return wanted.prior.resolve(family, K, D, None, None)
    covariance = sample.covariance * (sample.count / max(sample.count - 1.0, 1.0))
    return wanted.prior.resolve(family, K, D, sample.mean, covariance)


def _observing(wanted: InitSettings, sample: SampleSummary) -> Callable[[Mixture], Mixture]:
    """Tells a model of its background, which has what given weights leave to 1, and how it takes missing entries."""
    box = background_box(sample.box) if wanted.noise else None
    observation = observed(box, wanted.missing, wanted.n_features)
    weights = wanted.given.weights
    left = 0.0 if weights is None else 1.0 - float(weights.sum())
    noise = (left if left > 1e-6 else NOISE_START) if wanted.noise else left
    return lambda model: model.observing(observation, noise)


def _drawn(wanted: InitSettings, sample: SampleSummary, rng: np.random.RandomState) -> Models:
    """`n_init` models drawn from the sample, with the parameters that are given."""
    weights, means, covariances = wanted.given
    if weights is not None and wanted.noise:
        weights = weights / weights.sum()
    # k-means|| chooses all means among all rows: where some are given, or there is one only, the sample will do.
    init = "kmeans" if wanted.init == SPREAD else wanted.init
    starts = [
        prepared(
            sample, wanted.n_components, wanted.family, init=init, rng=rng, reg_covar=wanted.reg_covar,
            centres=means, in_units=wanted.prior is None,
        )
        for _ in range(wanted.n_init)
    ]  # fmt: skip
    return tuple(
        Mixture(
            model.weights if weights is None else weights,
            model.means if means is None else means,
            model.covariances if covariances is None else covariances,
            wanted.family,
        )
        for model in made(starts, threads=wanted.threads)
    )
