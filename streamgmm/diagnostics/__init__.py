"""`diagnose`: what an expert would say about a fitted mixture, each remark with its evidence and a remedy."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from streamgmm.diagnostics import components, data, fit
from streamgmm.diagnostics.case import Finding, Findings, examine
from streamgmm.diagnostics.ranking import ranked
from streamgmm.estimators.mixture_estimator import MixtureEstimator
from streamgmm.sources.base import Readable

__all__ = ["Finding", "diagnose"]


def diagnose(gm: MixtureEstimator, X: Readable, sample_weight: ArrayLike | None = None) -> list[Finding]:
    """Remarks of an expert about `gm` and the data it was fitted to; empty where nothing is wrong.

    At most five findings, the most important first. Each has its evidence and one remedy, and none advises against
    another; see `streamgmm.diagnostics.ranking`.
    One pass of X: overall moments from all rows, everything else from a sample of 20,000 of them.

    Parameters
    ----------
    gm : fitted GaussianMixture
    X : what it was fitted to
    sample_weight : (N,), optional

    Returns
    -------
    list of Finding
        A notebook shows it as a table; `print` writes a line each.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 1000.0]
    >>> gm = sg.GaussianMixture(covariance_type="spherical").fit(X)
    >>> [finding.code for finding in sg.diagnose(gm, X)]
    ['unscaled-features']
    """
    check_is_fitted(gm)
    case = examine(gm, X, sample_weight)
    return Findings(
        ranked(finding for check in (*data.CHECKS, *fit.CHECKS, *components.CHECKS) for finding in check(case))
    )
