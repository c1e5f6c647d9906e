"""`streamgmm inspect`: what is in a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from streamgmm.cli.commands.fit import level
from streamgmm.cli.output_folder import feature_names, load, peeked
from streamgmm.cli.terminal import Json, Model, emit, facts, message, table
from streamgmm.utils.printable import printable, short_name

if TYPE_CHECKING:
    from streamgmm.diagnostics.explain import Description
    from streamgmm.estimators.mixture_estimator import MixtureEstimator


def inspect(
    model: Model,
    features: Annotated[int, typer.Option("--features", help="How many features to show.")] = 4,
    explain: Annotated[bool, typer.Option("--explain", help="Say what sets each component apart.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="With --explain, --plot: rows.", show_default=False),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="KIND", help="Draw corner, density, profiles, ...", show_default=False),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="With --plot: .png, .svg or .pdf.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Show a model: components, how it was fitted, repairs; with --explain what sets each component apart.

    The explanation follows from the model alone. With --data the rows are read once, for the rows of each component,
    the range of its values and its most typical row. With --plot one of the pictures of `gm.plot` is drawn: ellipses,
    classification, uncertainty, density, corner, marginals, profiles, timeline, weights or convergence.
    """
    if data is not None and not (explain or plot):
        raise ValueError("--data belongs to --explain or --plot: inspect MODEL --explain --data DATA.")
    if (plot is None) != (out is None):
        raise ValueError(
            "--plot KIND and --out FILE.png belong together: inspect MODEL --plot corner --out corner.png."
        )
    gm = peeked(model) if not (explain or json or plot) else load(model)
    if plot is not None and out is not None:
        draw(gm, model, data, plot, out)
    explained = described(gm, model, data) if explain else None
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
            **({} if explained is None else {"explained": documented(explained)}),
        })  # fmt: skip
        return
    columns = names[:features]
    order = mixture.weights.argsort()[::-1]
    if hasattr(gm, "components_in_use_"):
        order = order[np.isin(order, gm.components_in_use_)]
    rows = [[int(k), float(mixture.weights[k]), *map(float, means[k, : len(columns)])] for k in order]
    print(facts((key.replace("_", " "), value) for key, value in head.items()))
    print()
    print(table(["component", "weight", *(f"mean {short_name(name, 24)}" for name in columns)], rows))
    if len(columns) < D:
        print(f"... and {D - len(columns)} more features: --features {D}, or --json for everything")
    if explained is not None:
        print()
        print("\n".join(map(printable, explained.sentences)))


PICTURES = (".png", ".svg", ".pdf")


def draw(gm: MixtureEstimator, model: str, data: str | None, kind: str, out: str) -> None:
    """Draw one picture of a model into a file, whole or not at all."""
    from streamgmm.cli.commands.predict import fitted
    from streamgmm.utils.atomic import atomic_path

    path = Path(out)
    if path.suffix not in PICTURES:
        raise typer.BadParameter(f"{out}: the extension must be one of {', '.join(PICTURES)}.", param_hint="--out")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {path.parent} does not exist. Make it first.")
    try:
        import matplotlib
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'streamgmm[plot]'.") from None
    matplotlib.use("agg")
    axes: Any = gm.plot(kind, None if data is None else fitted(model)[1](data, None))
    with atomic_path(path) as part:
        np.ravel(axes)[0].figure.savefig(part, format=path.suffix[1:], dpi=150)
    message(f"{out}: written")


def described(gm: MixtureEstimator, model: str, data: str | None) -> Description:
    """Features that set the components of a model apart, with the rows of `data` where they are given."""
    from streamgmm.cli.commands.predict import fitted
    from streamgmm.diagnostics.explain import describe

    return describe(gm, None if data is None else fitted(model)[1](data, None), feature_names=feature_names(gm))


def documented(found: Description) -> list[dict[str, Any]]:
    """The explanation of each component for --json: its sentence and its features, the most telling first."""
    common = ("component", "weight", "rows")
    D, lines = len(found.names), found.table
    parts = [lines[at : at + D] for at in range(0, len(found.components) * D, D)]
    return [
        {
            **{name: rows[0][name] for name in common},
            "sentence": sentence,
            "features": [{name: value for name, value in row.items() if name not in common} for row in rows],
        }
        for sentence, rows in zip(found.sentences, parts, strict=True)
    ]
