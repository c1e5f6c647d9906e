"""`streamgmm predict`, `score` and `sample`: what a fitted model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from streamgmm.cli.output_folder import feature_names, load
from streamgmm.cli.preprocessing import open_rows
from streamgmm.cli.terminal import (
    Data,
    Device,
    Header,
    Json,
    Model,
    Out,
    emit,
    facts,
    message,
    names_of,
    one_or_more,
)  # fmt: skip
from streamgmm.cli.writers import check_out, write_rows
from streamgmm.mixture.criteria import criteria
from streamgmm.sources.arranged import names_differ

Columns = Annotated[
    str | None, typer.Option("--columns", metavar="A,B,...", help="Columns to use; by default those of the fit.")
]


def fitted(model: str, device: str | None = None) -> tuple[Any, Callable[..., Any]]:
    """The estimator in `model`, and what opens data for it (path or paths, columns or None, header).

    The model answers on `device`, wherever it was fitted.
    """
    gm = load(model).set_params(device=device)
    known = getattr(gm, "feature_names_in_", None)
    names = None if known is None else [str(name) for name in known]

    def opened(data: str | list[str], columns: str | None, header: bool | None = None) -> Any:
        source = _open(names, data, columns, header)
        if source.n_features != gm.n_features_in_:
            raise ValueError(
                f"{source.name} has {source.n_features} feature(s), the model was fitted to {gm.n_features_in_}"
                f"{'' if names is None else f' ({", ".join(names[:10])})'}. Give it rows of the same columns; "
                "--columns A,B,... chooses them by name or number."
            )
        return source

    return gm, opened


def _open(names: list[str] | None, data: str | list[str], columns: str | None, header: bool | None) -> Any:
    """The source; without --columns the ones that the model was fitted on, where both have names."""
    from streamgmm.sources import open_source

    if columns is not None:
        return open_source(data, columns=names_of(columns), header=header)
    if names is None:
        return open_rows(data, header=header)
    try:
        return open_source(data, columns=names, header=header)
    except (ValueError, TypeError, KeyError):
        source = open_rows(data, header=header)  # a format without names: position counts
        if source.feature_names is None:
            return source
        if not set(names) <= set(source.feature_names):
            raise names_differ(source.feature_names, names, source.name) from None
        raise


def predict(
    model: Model,
    data: Data,
    out: Out = None,
    proba: Annotated[bool, typer.Option("--proba", help="Responsibilities, one column a component.")] = False,
    columns: Columns = None,
    header: Header = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Label rows by their most responsible component.

    One line a row on stdout, or a file with --out. --json gives the number of rows of each label instead.
    """
    gm, opened = fitted(model, device)
    check_out(out)
    source = opened(one_or_more(data), columns, header)
    counts: NDArray[np.int64] = np.zeros(len(gm.weights_) + 1, np.int64)  # the last one: background

    def parts() -> Iterator[NDArray[Any]]:
        for part in gm.predict_proba(source) if proba else gm.predict(source):
            labels = part.argmax(axis=1) if proba else part
            counts[:] += np.bincount(labels % len(counts), minlength=len(counts))
            yield part

    width = len(gm.weights_) + bool(getattr(gm, "noise_weight_", 0.0))
    names = [f"p{k}" for k in range(width)] if proba else ["label"]
    if json and out is None:
        rows = sum(len(part) for part in parts())
    else:
        rows = write_rows(out, names, parts())
    background = {"background": int(counts[-1])} if counts[-1] else {}
    if json:
        emit({"rows": rows, "counts": counts[:-1].tolist(), **background, "out": out})
    elif out is not None:
        message(f"{rows:,} rows written: {out}")


def score(
    model: Model,
    data: Data,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Log-density of each row.")] = None,
    columns: Columns = None,
    header: Header = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Log-likelihood, BIC, AIC and ICL of data under a model.

    In nats, the mean per row. Rows of low log-density are anomalies: --out writes that of every row.
    """
    from streamgmm.estimators.fitted import totals_of

    gm, opened = fitted(model, device)
    check_out(out)
    source = opened(one_or_more(data), columns, header)
    loglik, _, log_max, count, rows = (float(v) for v in totals_of(gm, source))
    result = {
        "rows": int(rows),
        "log_likelihood_per_row": loglik / count,
        **(criteria(loglik, log_max, count, gm.mixture_.n_parameters) if hasattr(gm, "bic") else {}),
    }
    if out is not None:
        write_rows(out, ["log_density"], iter(gm.score_samples(source)))
        message(f"{int(rows):,} rows written: {out}")
    emit(result) if json else print(facts(result.items()))


def sample(
    model: Model,
    n: Annotated[int, typer.Option("-n", "--rows", help="Rows to draw.")] = 1,
    out: Out = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same rows.")] = 0,
    json: Json = False,
) -> None:
    """Draw rows from a model.

    CSV on stdout, or a file of any size with --out.
    """
    gm, _ = fitted(model)
    check_out(out)
    if n < 1:
        raise ValueError(f"-n must be at least 1; got {n}.")
    rng = np.random.default_rng(seed)
    names = feature_names(gm)

    def parts() -> Iterator[NDArray[Any]]:
        left = n
        while left:
            size = min(left, 2**16)
            values, _ = gm.mixture_.sample(size, rng)
            rows = rng.permutation(values)
            yield rows if gm.projection_ is None else gm.projection_.back(rows)
            left -= size

    if json:
        emit({"columns": names, "rows": [row for part in parts() for row in part.tolist()]})
        return
    write_rows(out, names, parts())
    if out is not None:
        message(f"{n:,} rows written: {out}")
