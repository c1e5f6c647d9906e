"""Tables with named columns: what may be a feature, and how columns become rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.sources.base import Chunk, Rows, RunSource, Source, Weights
from streamgmm.sources.chunking import cut_runs, even_runs, wanted_rows
from streamgmm.sources.columns import Chosen, Exclude, Pick, WeightChoice, check_weights, digest, weight_array
from streamgmm.sources.labels import index_columns, row_labels
from streamgmm.sources.nested import EXTENSION, Leaf, is_nested, leaves, type_of

if TYPE_CHECKING:
    import polars
    import pyarrow as pa


class NotNumbersError(ValueError):
    """A chosen column holds no numbers.

    Attributes
    ----------
    numeric, other : list of str
        Columns that could be features (without the weights), and those that could not.
    labels : list of str
        Row labels, which are neither.
    """

    def __init__(self, message: str, numeric: list[str], other: list[str], labels: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.numeric = numeric
        self.other = other
        self.labels = list(labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return NotNumbersError, (str(self), self.numeric, self.other, self.labels)


@dataclass(frozen=True, slots=True)
class Columns:
    """The chosen columns of a table.

    Attributes
    ----------
    names : features, in order
    weight : name of the column of weights, or None
    dtype : float32 where every feature is, else float64
    left_out : row labels, which nobody asked for
    """

    names: tuple[str, ...]
    weight: str | None
    dtype: np.dtype[Any]
    left_out: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.names if self.weight is None else (*self.names, self.weight)

    def rows(self, get: Callable[[str], ArrayLike], n_rows: int) -> tuple[Rows, NDArray[np.float64] | None]:
        """(n, D) rows and raw weights from ``get(name)``, which gives one column as a numeric array."""
        out = np.empty((n_rows, len(self.names)), self.dtype)
        for j, name in enumerate(self.names):
            out[:, j] = get(name)
        return out, None if self.weight is None else np.asarray(get(self.weight), np.float64)


def check_stored(column: str, stored: Sequence[str], name: str) -> None:
    """Make sure that a table has this column.

    Raises
    ------
    ValueError
        Naming those that it has.
    """
    if column not in stored:
        more = f", ... ({len(stored)} in all)" if len(stored) > 10 else ""
        raise ValueError(f"{name}: there is no column {column!r}. Stored are: {', '.join(stored[:10])}{more}.")


def choose_columns(
    name: str,
    stored: Sequence[tuple[str, str | None, bool]],
    columns: Chosen,
    weight: WeightChoice,
    labels: Sequence[str] = (),
) -> Columns:
    """Resolve `columns` and `weight` against a schema.

    Parameters
    ----------
    stored : for each column its name, what it holds if not numbers (None if numbers), and whether it is float32
    labels : columns that are row labels: no features unless they are named

    Raises
    ------
    ValueError
        For a column that is not there or holds no numbers (`NotNumbersError`), naming it and the remedy.
    """
    names = [column for column, _, _ in stored]
    if len(set(names)) < len(names):
        repeated = next(column for column, times in Counter(names).items() if times > 1)
        raise ValueError(f"{name}: two columns are called {repeated!r}; rename one.")
    pick = Pick.from_choice(name, len(names), columns, weight, names)
    labels = tuple(label for label in labels if pick.weight is None or label != names[pick.weight])
    whole = columns is None or isinstance(columns, Exclude)
    left_out = labels if whole else ()
    chosen = [i for i in (range(len(names)) if pick.columns is None else pick.columns) if names[i] not in left_out]
    if not chosen:
        raise ValueError(
            f"{name}: nothing but the row labels {', '.join(map(repr, labels))} is there; expected at least one column "
            f"of numbers beside them. To use them all the same: open_source(..., columns={list(labels)!r})."
        )
    wanted = set(chosen)
    numeric = [
        column
        for i, (column, what, _) in enumerate(stored)
        if what is None and i != pick.weight and column not in labels and (i in wanted or not whole)
    ]
    for i in (*chosen, *(() if pick.weight is None else (pick.weight,))):
        column, what, _ = stored[i]
        if what is not None:
            others = [
                column
                for i, (column, what, _) in enumerate(stored)
                if what is not None and column not in left_out and (i in wanted or not whole)
            ]
            remedy = (
                f"Leave it out, open_source(..., columns={numeric[:20]!r}{'...' * (len(numeric) > 20)}), or encode it "
                "as numbers."
                if numeric
                else "No other column holds numbers either: encode them as numbers first."
            )
            raise NotNumbersError(
                f"{name}: column {column!r} holds {what}; expected numbers. {remedy}", numeric, others, left_out
            )
    single = all(stored[i][2] for i in chosen)
    return Columns(
        tuple(names[i] for i in chosen),
        None if pick.weight is None else names[pick.weight],
        np.dtype(np.float32 if single else np.float64),
        left_out,
    )


# pyarrow --------------------------------------------------------------------------------------------------------------


def import_pyarrow(name: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            f"{name}: reading this needs pyarrow; install it with: pip install 'streamgmm[parquet]'."
        ) from error
    return pyarrow


def arrow_schema(fields: Iterable[pa.Field]) -> list[tuple[str, str | None, bool]]:
    """A pyarrow schema, or pairs of name and type, in the form `choose_columns` takes."""
    import pyarrow.types as t

    pairs = [field if isinstance(field, tuple) else (field.name, type_of(field)) for field in fields]
    return [(name, _arrow_kind(kind), not isinstance(kind, str) and t.is_float32(kind)) for name, kind in pairs]


def _arrow_kind(kind: pa.DataType | str) -> str | None:
    """Kind of the values of a pyarrow type, or what is said of them, if not numbers; None for numbers."""
    import pyarrow.types as t

    if isinstance(kind, str):
        return kind
    if t.is_run_end_encoded(kind):
        return _arrow_kind(kind.value_type)
    if t.is_dictionary(kind):
        return "categories" if _arrow_kind(kind.value_type) else None
    if t.is_floating(kind) or t.is_integer(kind) or t.is_boolean(kind) or t.is_null(kind) or t.is_decimal(kind):
        return None
    if t.is_string(kind) or t.is_large_string(kind) or str(kind) == "string_view":
        return "text"
    return str(kind)


def arrow_rows(
    table: pa.Table | pa.RecordBatch, columns: Columns, nested: dict[str, Leaf] | None = None
) -> tuple[Rows, NDArray[np.float64] | None]:
    """Rows of a pyarrow table or record batch; nulls become NaN.

    Parameters
    ----------
    nested : columns that lie inside others
    """

    def get(name: str) -> NDArray[Any]:
        leaf = (nested or {}).get(name)
        return arrow_numbers(table.column(name) if leaf is None else leaf.take(table.column(leaf.root)))

    return columns.rows(get, table.num_rows)


def arrow_numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """The numbers of a pyarrow column as float64, or float32 where they are; nulls become NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    wanted = pa.float32() if column.type == pa.float32() else pa.float64()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    # Not "safe": whole numbers beyond 2^53 become the nearest double, as in every other format.
    return np.asarray(column.cast(wanted, safe=False).to_numpy(zero_copy_only=False))


# Tables in memory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableChunk(Chunk):
    """Some rows of a table in memory."""

    index: int
    start: int
    table: Any = field(repr=False)
    columns: Columns
    name: str
    weight: Weights = field(repr=False)

    def load(self) -> tuple[Rows, Weights]:
        rows, weights = frame_rows(self.table, self.columns)
        if weights is not None:
            return rows, check_weights(weights, self.name, self.start, self.index)
        return rows, self.weight

    @property
    def shipped_bytes(self) -> int:
        return len(self.table) * len(self.columns.all) * 8


class TableSource(RunSource):
    """A pandas, polars or pyarrow table; each chunk of rows is converted when it is loaded."""

    kind = "table"
    in_memory = True

    def __init__(
        self, table: Any, *, columns: Chosen = None, weight: WeightChoice = None, chunk_rows: int | None = None
    ) -> None:
        self.name = f"{type(table).__module__.partition('.')[0]} {type(table).__name__}"
        table = unnested(table)
        self.columns = choose_columns(self.name, frame_schema(table), columns, weight, frame_labels(table))
        self.left_out = self.columns.left_out
        self.table, self.stored = select(table, self.columns.all), table
        self.feature_names = self.columns.names
        self.n_features = len(self.columns.names)
        self.dtype = self.columns.dtype
        self.weight = weight_array(weight, self.name, len(table))
        self.has_weights = weight is not None
        self.set_runs(even_runs(len(table), wanted_rows(chunk_rows, self.n_features)))

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        part = self.table.iloc[start:stop] if hasattr(self.table, "iloc") else self.table.slice(start, stop - start)
        return TableChunk(index, start, part, self.columns, self.name, self.weights_of(start, stop))

    def texts(self, column: str) -> Iterator[list[str]]:
        check_stored(column, column_names(self.stored), self.name)
        table = select(self.stored, [column])
        values = (table.iloc[:, 0] if hasattr(table, "iloc") else table[column]).to_numpy()
        return (list(map(str, values[start:stop])) for start, stop in self.runs)

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        return self.in_runs(cut_runs(self.runs, max_rows))

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "table",
            "columns": list(self.columns.all),
            "runs": digest(np.array(self.runs, np.int64)),
            "chunks": [digest(part) for chunk in self.chunks() for part in chunk.load() if part is not None],
        }


def frame_schema(table: Any) -> list[tuple[str, str | None, bool]]:
    """Schema of a pandas, polars or pyarrow table, in the form `choose_columns` takes."""
    module = type(table).__module__.partition(".")[0]
    if module == "pyarrow":
        return arrow_schema(table.schema)
    if module == "polars":
        return [(name, _polars_kind(kind), str(kind) == "Float32") for name, kind in table.schema.items()]
    return [
        (str(name), _pandas_kind(kind), str(kind).lower() == "float32")
        for name, kind in zip(table.columns, table.dtypes, strict=True)
    ]


def frame_labels(table: Any) -> tuple[str, ...]:
    """The row labels among the columns of a pandas, polars or pyarrow table."""
    if type(table).__module__.partition(".")[0] == "pyarrow":
        return index_columns(table.schema)
    kinds = dict(zip(map(str, table.columns), table.dtypes, strict=True))
    return row_labels(list(kinds), (), lambda name: re.match(r"u?int|object|str", str(kinds[name]).lower()) is not None)


def without_labels(table: Any, keep: Collection[str] = ()) -> tuple[Any, tuple[str, ...]]:
    """A frame without its row labels but those to `keep`, and what was left out; what is no frame as it is.

    Raises
    ------
    ValueError
        Where nothing else is there.
    """
    if not is_frame(table):
        return table, ()
    labels = tuple(label for label in frame_labels(table) if label not in keep)
    if not labels:
        return table, ()
    rest = [name for name in column_names(table) if name not in labels]
    if not rest:
        raise ValueError(
            f"X: nothing but the row labels {', '.join(map(repr, labels))} is there; expected at least one column of "
            "numbers beside them."
        )
    return select(table, rest), labels


def column_names(table: Any) -> list[str]:
    """Names of the columns of a pandas, polars or pyarrow table."""
    return [str(name) for name in (table.column_names if hasattr(table, "column_names") else table.columns)]


def with_text_names(table: Any, names: Sequence[str]) -> Any:
    """A pandas frame whose columns are called by numbers as its file had them, as text, where those are the `names`."""
    labels = list(table.columns) if hasattr(table, "iloc") else []
    if all(isinstance(label, str) for label in labels) or set(map(str, labels)) != set(names):
        return table
    return table.set_axis([str(label) for label in labels], axis=1)


def is_frame(obj: object) -> bool:
    """True if this is a table of pandas, polars or pyarrow."""
    return any(
        (kind.__module__.partition(".")[0], kind.__name__)
        in {("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table")}
        for kind in type(obj).__mro__
    )


def without_numbers(table: Any) -> dict[str, str]:
    """Columns of a frame that hold no numbers, and what they hold; nothing for what is no frame."""
    if not is_frame(table):
        return {}
    return {name: what for name, what, _ in frame_schema(table) if what is not None}


def no_number(what: str) -> bool:
    """True if a column holds nothing that is ever taken for a number: times, or text that is no Python object."""
    return re.match(r"text$|times|time differences|date|time|duration", what, re.IGNORECASE) is not None


def unnested(table: Any) -> Any:
    """A table whose structs and lists of equal lengths are columns of their own; itself where there are none.

    Raises
    ------
    UnequalListsError
    """
    if not is_frame(table) or hasattr(table, "iloc"):
        return table
    is_arrow = hasattr(table, "column_names")
    if not any(map(is_nested, table.schema.types) if is_arrow else (kind.is_nested() for kind in table.dtypes)):
        return table
    import pyarrow as pa

    def field(leaf: Leaf, part: pa.ChunkedArray) -> pa.Field:
        told = {EXTENSION: leaf.kind.split()[-1]} if isinstance(leaf.kind, str) else None
        return pa.field(leaf.name, part.type, metadata=told)

    arrow = table if is_arrow else table.to_arrow()
    found = leaves(arrow.schema, lambda name: arrow.column(name).chunks)
    parts = [leaf.take(arrow.column(leaf.root)) for leaf in found]
    fields = [field(leaf, part) for leaf, part in zip(found, parts, strict=True)]
    return pa.Table.from_arrays(parts, schema=pa.schema(fields, arrow.schema.metadata))


def of_plain_numbers(table: Any) -> Any:
    """A table with what NumPy takes for objects (decimals, dictionaries, missing truth values) as float64.

    What is no table, holds columns that are no numbers, or names a column twice, stays as it is.
    """
    if not is_frame(table):
        return table
    kinds = table.schema.types if hasattr(table, "column_names") else list(table.dtypes)
    names = column_names(table)
    if not any(map(_is_object, kinds)) or without_numbers(table) or len(set(names)) < len(names):
        return table
    rows, _ = frame_rows(table, Columns(tuple(names), None, np.dtype(np.float64)))
    if hasattr(table, "iloc"):
        return type(table)(rows, index=table.index, columns=table.columns)
    if hasattr(table, "column_names"):
        return type(table).from_arrays(list(rows.T.copy()), names=names, metadata=table.schema.metadata)
    return type(table)(rows, schema=names)


def _is_object(kind: Any) -> bool:
    """True if numbers of this type in a table become Python objects, or nothing, in NumPy."""
    module = type(kind).__module__.partition(".")[0]
    if module == "pandas":
        return getattr(kind, "kind", "O") not in "iufb" or str(kind).startswith("Sparse")
    return module != "numpy" and str(kind).lower() not in _PLAIN


_PLAIN = {
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float", "double", "float32", "float64"
}  # fmt: skip
"""Types of polars and pyarrow that NumPy has too, in small letters."""


def _polars_kind(kind: polars.DataType) -> str | None:
    if kind.is_numeric() or str(kind) in ("Boolean", "Null"):
        return None
    return "text" if str(kind) == "String" else str(kind)


def _pandas_kind(kind: Any) -> str | None:
    code = getattr(kind, "kind", "O")
    if code in "iufb":
        return None
    if str(kind) == "category":
        return "categories" if _pandas_kind(kind.categories.dtype) else None
    if hasattr(kind, "pyarrow_dtype") and _arrow_kind(kind.pyarrow_dtype) is None:
        return None
    return {"O": "text or objects", "M": "times", "m": "time differences", "c": "complex numbers"}.get(code, str(kind))


def select(table: Any, names: Iterable[str]) -> Any:
    """The named columns, in order, without a copy."""
    if not hasattr(table, "iloc"):
        return table.select(list(names))
    at = {str(label): i for i, label in enumerate(table.columns)}
    return table.iloc[:, [at[name] for name in names]]


def frame_rows(table: Any, columns: Columns) -> tuple[Rows, NDArray[np.float64] | None]:
    """Rows of a pandas, polars or pyarrow table; nulls become NaN."""
    module = type(table).__module__.partition(".")[0]
    if module == "pyarrow":
        return arrow_rows(table, columns)
    if module == "polars":
        import polars as pl

        def get_polars(name: str) -> NDArray[Any]:
            series = table.get_column(name)
            return np.asarray((series if series.dtype == pl.Float32 else series.cast(pl.Float64)).to_numpy())

        return columns.rows(get_polars, len(table))
    at = {str(label): i for i, label in enumerate(table.columns)}

    def get_pandas(name: str) -> NDArray[Any]:
        series = table.iloc[:, at[name]]
        wanted = np.float32 if str(series.dtype).lower() == "float32" else np.float64
        return np.asarray(series.to_numpy(wanted, na_value=np.nan))

    return columns.rows(get_pandas, len(table))
