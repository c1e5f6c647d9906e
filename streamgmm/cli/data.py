"""`streamgmm data`: look at, verify and convert data."""

from __future__ import annotations

from typing import Annotated

import typer

from streamgmm.cli.terminal import Data, Json, emit, facts, message

app = typer.Typer(help="Look at, verify and convert data.", no_args_is_help=True)
Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B,...", help="Columns to use of a table.")]


@app.command(epilog="Example:  streamgmm data describe data.parquet")
def describe(data: Data, columns: Columns = None, json: Json = False) -> None:
    """Say what is there, without reading the rows: shape, type, chunks, columns."""
    from streamgmm.sources import open_source

    source = open_source(data, columns=None if columns is None else columns.split(","))
    size = None if source.n_rows is None else source.n_rows * source.n_features * source.dtype.itemsize
    document = {
        "path": source.name,
        "rows": source.n_rows,
        "features": source.n_features,
        "dtype": str(source.dtype),
        "chunks": source.n_chunks,
        "largest_chunk_rows": source.max_chunk_rows,
        "bytes": size,
        "feature_names": None if source.feature_names is None else list(source.feature_names),
        "weights": source.has_weights,
    }
    if json:
        emit(document)
        return
    names = source.feature_names or ()
    listed = ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
    print(facts({**document, "feature_names": listed or None}.items()))
    message(f"next: streamgmm data check {data}   or   streamgmm fit {data} -k 5 --out out/model")
