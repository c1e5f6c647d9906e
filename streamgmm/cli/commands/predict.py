"""`streamgmm predict`, `score` and `sample`: what a fitted model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from streamgmm.cli.output_folder import feature_names, load
from streamgmm.cli.preprocessing import open_rows
from streamgmm.cli.terminal import (
    Data,
    Device,
    Header,
    Id,
    Json,
    Model,
    Out,
    emit,
    facts,
    message,
    names_of,
    one_or_more,
)  # fmt: skip
from streamgmm.cli.writers import check_out, write_columns, write_rows

if TYPE_CHECKING:
    from streamgmm.estimators.mixture_estimator import MixtureEstimator
    from streamgmm.sources.base import Source

Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B,...", help="By default those of the fit.")]


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
    from streamgmm.sources.arranged import names_differ

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
    proba: Annotated[bool, typer.Option("--proba", help="Responsibilities instead.")] = False,
    anomalies: Annotated[
        float | None,
        typer.Option("--anomalies", metavar="P", help="Mark tail probabilities below P."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", metavar="NATS", help="Mark log-densities below NATS.")
    ] = None,
    id: Id = None,
    row_numbers: Annotated[bool, typer.Option("--row", help="Row number, from 0.")] = False,
    columns: Columns = None,
    header: Header = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Label rows by their most responsible component, and mark anomalies.

    One line a row on stdout, or a file with --out; --json counts the labels instead. Rows that are marked come with
    log-density, tail probability, and 1 where they are anomalies.
    """
    gm, opened = fitted(model, device)
    check_out(out, *data)
    if anomalies is not None and not 0 < anomalies <= 1:
        raise typer.BadParameter(f"--anomalies must be a probability above 0 and at most 1; got {anomalies}.")
    if anomalies is not None and threshold is not None:
        raise typer.BadParameter("--anomalies P and --threshold NATS both say what an anomaly is; give one.")
    source = opened(one_or_more(data), columns, header)
    marking = anomalies is not None or threshold is not None
    ask = _Answering(gm, proba=proba, share=anomalies, threshold=threshold)
    width = len(gm.weights_) + bool(getattr(gm, "noise_weight_", 0.0))
    found = ask(source)
    parts = with_places(found, source, id_column=id, row_numbers=row_numbers)
    names = [
        *([id] if id is not None else []), *(["row"] if row_numbers else []),
        *([f"p{k}" for k in range(width)] if proba else ["label"]),
        *(["log_density", "tail_probability", "anomaly"] if marking else []),
    ]  # fmt: skip
    if json and out is None:
        rows = sum(len(part[-1]) for part in parts)
    else:
        rows = write_columns(out, names, parts)
    counts = {"counts": ask.counts[:-1].tolist()} | ({"background": int(ask.counts[-1])} if ask.counts[-1] else {})
    if json:
        emit({"rows": rows, **counts, **({"anomalies": ask.anomalies} if marking else {}), "out": out})
        return
    if out is not None:
        message(f"{rows:,} rows written: {out}")
    if marking:
        message(f"anomalies: {ask.anomalies:,} of {rows:,} rows")


class _Answering:
    """A model's answers for rows, chunk by chunk, as columns; counts as it goes.

    Attributes
    ----------
    counts : (K + 1,) rows of each label, the background last
    anomalies : rows that were marked
    """

    def __init__(self, gm: MixtureEstimator, *, proba: bool, share: float | None, threshold: float | None) -> None:
        self.gm, self.proba, self.share, self.threshold = gm, proba, share, threshold
        self.counts: NDArray[np.int64] = np.zeros(len(gm.weights_) + 1, np.int64)
        self.anomalies = 0

    def __call__(self, source: Source) -> Iterator[list[NDArray[Any]]]:
        gm = self.gm
        marking = self.share is not None or self.threshold is not None
        if marking:
            from streamgmm.estimators.reader import ask

            answers = ask(gm, source, _Marked(gm, proba=self.proba), "answers")
        else:
            answers = gm.predict_proba(source) if self.proba else gm.predict(source)
        for part in answers:
            part = part if part.ndim == 2 else part[:, None]
            first = part[:, :-2] if marking else part
            labels = first.argmax(axis=1) if self.proba else first[:, 0].astype(np.int64)
            self.counts += np.bincount(labels % len(self.counts), minlength=len(self.counts))
            found = list(first.T) if self.proba else [labels]
            if marking:
                logp, tail = part[:, -2:].T
                mark = tail < self.share if self.share is not None else logp < self.threshold
                self.anomalies += int(mark.sum())
                found += [logp, tail, mark.astype(np.int64)]
            yield found


class _Marked:
    """Labels or responsibilities, log-densities and tail probabilities of rows, side by side."""

    def __init__(self, gm: MixtureEstimator, *, proba: bool) -> None:
        from streamgmm.mixture.tails import Tails
        from streamgmm.utils.affine import Checked

        self.model, self.proba, self.tails = gm.mixture_, proba, Tails(gm.mixture_)
        self.map = None if gm.projection_ is None else Checked(gm.projection_.map)

    def answers(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        rows = rows if self.map is None else self.map.apply(rows)
        logp = self.model.log_prob(rows)
        first = self.model.responsibilities(rows) if self.proba else self.model.labels(rows)[:, None]
        return np.column_stack([first, logp, np.exp(self.tails.log_tail(rows, logp))])


def with_places(
    parts: Iterator[list[NDArray[Any]]], source: Source, *, id_column: str | None, row_numbers: bool
) -> Iterator[list[Any]]:
    """Columns of answers behind an id and the number of the row, where they are wanted."""
    ids = None if id_column is None else source.texts(id_column)
    start = 0
    for part in parts:
        n = len(part[0])
        places: list[Any] = [] if ids is None else [next(ids)]
        if row_numbers:
            places.append(np.arange(start, start + n))
        start += n
        yield [*places, *part]


def score(
    model: Model,
    data: Data,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Log-density of each row.")] = None,
    id: Id = None,
    columns: Columns = None,
    header: Header = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Log-likelihood, BIC, AIC and ICL of data under a model.

    In nats, the mean per row. Rows of low log-density are anomalies: --out writes that of every row.
    """
    from streamgmm.estimators.fitted import totals_of
    from streamgmm.mixture.criteria import criteria

    gm, opened = fitted(model, device)
    check_out(out, *data)
    source = opened(one_or_more(data), columns, header)
    loglik, _, log_max, count, rows = (float(v) for v in totals_of(gm, source))
    result = {
        "rows": int(rows),
        "log_likelihood_per_row": loglik / count,
        **(criteria(loglik, log_max, count, gm.mixture_.n_parameters) if hasattr(gm, "bic") else {}),
    }
    if out is not None:
        names = ["log_density"] if id is None else [id, "log_density"]
        parts = with_places(([part] for part in gm.score_samples(source)), source, id_column=id, row_numbers=False)
        message(f"{write_columns(out, names, parts):,} rows written: {out}")
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
