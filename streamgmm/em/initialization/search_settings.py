"""Settings of the search for first models: one value, and the sizes of samples that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from streamgmm.em.sample_em import cheap_rows
from streamgmm.mixture.covariance import Covariance
from streamgmm.sources.summaries.sample import sample_size

__all__ = ["SEARCH", "SearchSettings", "few_rows", "sample_rows"]

Rounds = tuple[tuple[int, float], ...]
"""EM steps, and the share of the starts that goes on after them."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Numbers that decide how many first models are made, and how long each is followed on the sample.

    All were chosen by measurement; what was measured is said where it is not plain.

    Attributes
    ----------
    rounds : tuple of (steps, share)
        EM on the sample: so many steps, then this share of the starts goes on, and as many as survive at least. EM that
        has converged on a sample sits in an optimum of the sample; so it ends for a start as soon as rows that it did
        not see say that it gets worse, and full passes begin while there is something to gain.
    oversampling : int
        First models drawn for each start that was asked for: on the sample they are cheap.
    wide : float
        Components x features^2 above which it is one: each of them costs much.
    grown_share : int
        One of so many starts is grown (see `split_merge`), where there is more than one.
    held_out : int
        One of so many rows of a sample is held out.
    expensive_grown : int
        Of a sample on which steps are not cheap (see `em.sample_em.CHEAP`) only as many first models are made as were
        asked for, and so many of them grown; they take `sample_stages` to it, and one is left there, for
        `expensive_rounds` of component-wise steps: full passes, which show their progress, do the rest.
    sample_stages : tuple of (times, steps, survivors)
        Steps on parts of an expensive sample: so many times `few_rows`, so many steps, and so many models that are left
        then.
    expensive_rounds : tuple of (steps, share)
    steps_per_check : int
        Steps after which starts are judged on rows that they did not see.
    patience : int
        Pieces of `steps_per_check` steps without a gain on such rows after which a start has ended on the sample.
    followed_work : float
        Rows x components x features^2 of all the data up to which every start is followed to its end, and none dropped.
    tol : float
        Nats per row: when EM on the sample has converged.
    rival_steps : int
        Steps that a rival of the first start takes at a time.
    rival_share, quick_steps : float, int
        Steps of all rivals of the first start on all of the data, in steps of the first beyond so many. Of 188 random
        mixtures the first start came to the best end of six in 97 % of those where it took fewer than 18 steps, in 60 %
        with 18 to 40, and in 28 % with more.
    least_passes : int
        Passes over all of the data that the fit takes at least, or nearly.
    few_rows : float
        Rows of a component, in units of those that span a covariance, below which all steps of the first start count.
    making_steps : int
        Steps that cost as much as to make a first model.
    rival_optimism : float
        Gains like its last ones that a rival is trusted to have before it.
    same : float
        Nats per row within which two starts have come to the same.
    alike_deviations, alike_ratio : float
        Deviations of means, and ratios of variances and of weights, within which two starts are on the way to the same:
        of 100 random mixtures those that ended apart never came so near.
    doubt, solid_rows : float, int
        Mean of -log of a row's largest responsibility, in nats, below which a model is certain, and rows for each
        feature that each of its components then has. Of 100 random mixtures 154 of 600 starts ended so, each in the
        best optimum.
    max_validation_rows : int
        Rows that models on a part of a sample are judged on, about.
    multistart_rows : int
        Rows of a sample that many starts are followed on: its curvature has to stand for that of all rows.
    rows_per_parameter, max_sample_bytes : int
        Rows for each parameter from which a sample is as good as the data, and what they may take. In n rows the
        optimum of a model of P parameters lies P / (2 n) nats per row above what it is worth on others: with 8, a
        sixteenth.
    """

    rounds: Rounds = ((15, 0.5), (25, 0.7), (60, 0.0), (200, 0.0))
    oversampling: int = 2
    wide: float = 1e5
    grown_share: int = 3
    held_out: int = 5
    expensive_grown: int = 1
    sample_stages: tuple[tuple[int, int, int], ...] = ((1, 15, 3), (5, 20, 1))
    expensive_rounds: Rounds = ((60, 0.0),)
    steps_per_check: int = 10
    patience: int = 2
    followed_work: float = 1e6
    tol: float = 1e-6
    rival_steps: int = 5
    rival_share: float = 1.0
    quick_steps: int = 15
    least_passes: int = 8
    few_rows: float = 2.0
    making_steps: int = 3
    rival_optimism: float = 4.0
    same: float = 1e-4
    alike_deviations: float = 0.25
    alike_ratio: float = 2.0
    doubt: float = 1e-3
    solid_rows: int = 10
    max_validation_rows: int = 50_000
    multistart_rows: int = 100_000
    rows_per_parameter: int = 8
    max_sample_bytes: int = 2**29

    @property
    def most_steps(self) -> int:
        """Steps of a start that survives all rounds."""
        return sum(steps for steps, _ in self.rounds)


SEARCH = SearchSettings()
"""The settings in use; read where they are needed, so that they can be set for all."""


def sample_rows(K: int, D: int, family: Covariance | None = None, *, rich: bool) -> int:
    """Rows of the sample: `multistart_rows` where steps on so many are cheap, `rows_per_parameter` for each parameter
    where that is more.

    Parameters
    ----------
    family : of the one mixture that is sought; None where there are several
    """
    if family is not None and family.n_factors:
        return sample_size(K, min(D, family.n_factors + 2))  # of which each row tells D parameters
    if not rich:
        return sample_size(K, D)
    many = min(SEARCH.multistart_rows, cheap_rows(K, D))
    parameters = 0 if family is None else family.n_parameters(K, D)
    known = min(SEARCH.rows_per_parameter * parameters, SEARCH.max_sample_bytes // (8 * D))
    return sample_size(K, D, least=max(10_000, many, known))


def few_rows(K: int, D: int) -> int:
    """Rows of the part of a sample on which mixtures grow and first steps are taken."""
    return max(10_000, 4 * K * D)
