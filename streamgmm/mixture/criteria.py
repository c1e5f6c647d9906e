"""Information criteria: BIC, AIC, ICL; smaller is better."""

from __future__ import annotations

import numpy as np

__all__ = ["criteria"]


def criteria(loglik: float, log_max: float, weight: float, n_parameters: int) -> dict[str, float]:
    """BIC (Schwarz 1978), AIC (Akaike 1974) and ICL = BIC - 2 sum log max_k r (Biernacki et al. 2000), in nats times 2.

    Parameters
    ----------
    loglik : sum of w log p(x), in nats
    log_max : sum of w log max_k r, in nats
    weight : sum of the sample weights, in rows
    n_parameters : degrees of freedom
    """
    bic = float(-2.0 * loglik + n_parameters * np.log(weight))
    return {"bic": bic, "aic": float(-2.0 * loglik + 2.0 * n_parameters), "icl": float(bic - 2.0 * log_max)}
