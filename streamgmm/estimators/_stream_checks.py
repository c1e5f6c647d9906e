"""Checks of `partial_fit` before it looks at a row."""

from __future__ import annotations

from collections.abc import Mapping

from streamgmm.em.online import Learner
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture

__all__ = ["check_settings", "check_unchanged"]


def check_settings(settings: Mapping[str, object], projected: bool) -> None:
    """Refuse `settings` that a stream cannot follow, and a model of principal components."""
    if projected:
        raise ValueError(
            "partial_fit: this model was fitted to principal components, which a stream cannot go on from. "
            "Use fit, or a new GaussianMixture on gm.projection_.apply(X)."
        )
    for name, plain in (("prior", None), ("noise", None), ("missing", "error")):
        asked = settings.get(name, plain)
        if asked != plain:
            raise ValueError(
                f"partial_fit learns by maximum likelihood from complete rows: {name}={asked!r} is for fit. "
                f"Set {name}={plain!r}, or use fit."
            )


def check_unchanged(last: Learner | Mixture, n_components: int, family: Covariance) -> None:
    """Refuse another kind of mixture than that of the stream, or the fit, so far."""
    if last.n_components != n_components or last.family is not family:
        raise ValueError(
            f"partial_fit: the model so far has n_components={last.n_components} and covariance_type "
            f"{last.family.name!r}; expected the same, got {n_components} and {family.name!r}. Set them back, or begin "
            "with a new estimator: sklearn.base.clone(gm)."
        )
    if isinstance(last, Mixture) and last.noise_weight > 0:
        raise ValueError(
            "partial_fit: the last fit has a background (noise), which a stream cannot go on from. Use fit, or "
            "begin with a new estimator: sklearn.base.clone(gm)."
        )
