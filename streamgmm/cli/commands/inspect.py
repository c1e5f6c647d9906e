"""`streamgmm inspect`: what is in a model file."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from streamgmm.cli.commands.fit import level
from streamgmm.cli.output_folder import feature_names, load
from streamgmm.cli.terminal import Json, Model, emit, facts, table


def inspect(
    model: Model,
    features: Annotated[int, typer.Option("--features", help="How many features to show.")] = 4,
    json: Json = False,
) -> None:
    """Show a model: components, how it was fitted, repairs."""
    gm = load(model)
    mixture = gm.mixture_
    report = getattr(gm, "report_", {})
    means = mixture.means if gm.projection_ is None else gm.projection_.back(mixture.means)
    K, D = means.shape
    names = feature_names(gm)
    head = {
        "components": K,
        "features": D,
        "principal_components": None if gm.projection_ is None else mixture.n_features,
        "covariance_type": mixture.family.name,
        "parameters": mixture.n_parameters,
        "converged": getattr(gm, "converged_", None),
        "iterations": getattr(gm, "n_iter_", None),
        "passes": getattr(gm, "n_passes_", None),
        **level(gm),
        "rows": report.get("rows"),
        "bic": report.get("bic"),
        "repairs": len(report.get("repairs", [])),
    }
    if json:
        emit({
            **head,
            "feature_names": names,
            "weights": mixture.weights,
            "means": means,
            "covariances": mixture.covariances,
            "settings": gm.get_params(),
            "report": report,
        })  # fmt: skip
        return
    shown = names[:features]
    order = mixture.weights.argsort()[::-1]
    if hasattr(gm, "components_in_use_"):
        order = order[np.isin(order, gm.components_in_use_)]
    rows = [[int(k), float(mixture.weights[k]), *map(float, means[k, : len(shown)])] for k in order]
    print(facts((key.replace("_", " "), value) for key, value in head.items()))
    print()
    print(table(["component", "weight", *(f"mean {name}" for name in shown)], rows))
    if len(shown) < D:
        print(f"... and {D - len(shown)} more features: --features {D}, or --json for everything")
