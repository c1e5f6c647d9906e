"""A variational posterior as the arrays of a model file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.variational import GaussWishart, VariationalMixture

__all__ = ["posterior_arrays", "posterior_of"]

Array = NDArray[np.float64]

_POSTERIOR = "posterior."
_PRIOR = "prior."


def posterior_arrays(model: VariationalMixture) -> dict[str, Array]:
    """Entries of a posterior and its prior beside the arrays of a `Mixture`."""
    prior = model.prior
    numbers = [prior.limit, prior.process, prior.concentration, prior.mean_precision, prior.dof]
    return {
        _POSTERIOR + "concentration": model.concentration,
        _POSTERIOR + "mean_precision": model.mean_precision,
        _POSTERIOR + "dof": np.atleast_1d(model.dof),
        _PRIOR + "numbers": np.array(numbers, np.float64),
        _PRIOR + "mean": prior.mean,
        _PRIOR + "scale": np.atleast_1d(prior.scale),
    }


def posterior_of(
    arrays: Mapping[str, NDArray[Any]], chosen: Covariance, means: Array, covariances: Array
) -> VariationalMixture:
    """The posterior that `BayesianGaussianMixture.save` wrote.

    Raises
    ------
    ValueError
        Where an array is absent or of another shape.
    """
    K, D = means.shape
    shared = chosen.shared
    limit, process, concentration, mean_precision, dof = arrays[_PRIOR + "numbers"].tolist()
    shapes = {
        _POSTERIOR + "concentration": (2, K) if process else (K,),
        _POSTERIOR + "mean_precision": (K,),
        _POSTERIOR + "dof": (1,) if shared else (K,),
        _PRIOR + "mean": (D,),
        _PRIOR + "scale": chosen.scatter_shape(1, D) if not shared else (D, D),
    }
    scale_shape = chosen.scatter_shape(1, D)[0 if shared else 1 :]
    shapes[_PRIOR + "scale"] = scale_shape or (1,)
    for name, shape in shapes.items():
        found = arrays[name]
        if found.dtype != np.float64 or found.shape != shape or not np.isfinite(found).all():
            raise ValueError(f"{name} must be finite float64 of shape {shape}; got {found.dtype}, {found.shape}")
    prior = GaussWishart(
        chosen, int(limit), bool(process), concentration, mean_precision, arrays[_PRIOR + "mean"], dof,
        arrays[_PRIOR + "scale"].reshape(scale_shape),
    )  # fmt: skip
    own = arrays[_POSTERIOR + "dof"]
    return VariationalMixture.posterior(
        prior, arrays[_POSTERIOR + "concentration"], arrays[_POSTERIOR + "mean_precision"], means,
        own[0] if shared else own, covariances,
    )  # fmt: skip
