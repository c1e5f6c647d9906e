"""xarray: a two-dimensional DataArray, or the one-dimensional variables of a Dataset side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.chunking import even_runs, wanted_rows
from streamgmm.sources.columns import Chosen, Exclude, Pick, WeightChoice, digest, row_dtype
from streamgmm.sources.formats.array import ArraySource
from streamgmm.sources.formats.dask import open_dask
from streamgmm.sources.formats.members import check_rows_first, what_of
from streamgmm.sources.formats.npy import check_two_dimensional
from streamgmm.sources.formats.stored import StoredChunk, StoredSource
from streamgmm.sources.formats.tables import check_stored, choose_columns
from streamgmm.sources.labels import row_labels

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, slots=True)
class XarrayChunk(StoredChunk):
    """Rows `start` to `stop` of one table, or of columns side by side; lazy ones pickle as the file behind them."""

    data: tuple[Any, ...] = field(repr=False)

    def _read(self) -> NDArray[Any]:
        # Slices are new objects: what they load is not kept in `data`.
        parts = [v.isel({v.dims[0]: slice(self.start, self.stop)}).values for v in self.data]
        return np.asarray(parts[0]) if parts[0].ndim == 2 else np.column_stack(parts)


class XarraySource(StoredSource):
    """DataArrays that xarray reads from a file when asked: one table, or columns of the same length."""

    kind = "xarray"
    decodes = True

    def __init__(
        self,
        data: tuple[Any, ...],
        names: tuple[str, ...] | None,
        *,
        columns: Chosen = None,
        weight: WeightChoice = None,
        chunk_rows: int | None = None,
    ) -> None:
        first = data[0]
        what = f"xarray DataArray {first.name or ''}".strip() if len(data) == 1 else "xarray Dataset"
        name = str(first.encoding.get("source") or what)
        shape = first.shape if first.ndim == 2 else (len(first), len(data))
        self.data = data
        dtype = np.result_type(*(row_dtype(part.dtype, name) for part in data))
        self._describe(name, shape, dtype, columns, weight, names)
        stored = first.encoding.get("preferred_chunks", {}).get(first.dims[0])
        wanted = wanted_rows(chunk_rows, self.n_features)
        if isinstance(stored, int) and 0 < stored <= wanted:
            wanted = wanted // stored * stored  # part of a stored chunk costs as much as the whole
        self.set_runs(even_runs(shape[0], wanted))

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        return XarrayChunk(*self._run(index, start, stop), self.data)

    @property
    def chunk_bytes(self) -> int | None:
        return int(2.4 * (self.max_chunk_rows or 0) * self.row_bytes)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "xarray",
            "name": self.name,
            "shape": [self.n_rows, self.n_features],
            "dtype": [str(part.dtype) for part in self.data],
            "weight": None if self.weight is None else digest(self.weight),
            "runs": digest(np.array(self.runs, np.int64)),
            "head": digest(next(self.chunks()).load()[0]) if self.runs else None,
        }


def open_xarray(
    obj: xarray.DataArray | xarray.Dataset,
    *,
    columns: Chosen = None,
    weight: WeightChoice = None,
    chunk_rows: int | None = None,
) -> Source:
    """A source over a DataArray with two dimensions, rows first, or a Dataset of variables over one dimension.

    Raises
    ------
    ValueError
        For other dimensions, with the remedy.
    """
    if not hasattr(obj, "data_vars") and not hasattr(obj, "ndim"):
        raise TypeError(f"Expected an xarray DataArray or Dataset; got a {type(obj).__name__}.")
    if hasattr(weight, "coords") and hasattr(weight, "data"):
        weight = weight.data
    if not hasattr(obj, "data_vars"):
        return _table(obj, columns, weight, chunk_rows)
    shapes = {str(name): variable.dims for name, variable in obj.data_vars.items()}
    tables = [name for name, dims in shapes.items() if len(dims) == 2]
    if len(tables) == 1 and (
        columns is None or isinstance(columns, Exclude) or not set(map(str, columns)) <= set(shapes)
    ):
        if isinstance(weight, str):
            check_stored(weight, list(shapes), "xarray Dataset")
            weight = obj[weight].data
        return _table(obj[tables[0]], columns, weight, chunk_rows)
    return _columns(obj, columns, weight, chunk_rows)


def _columns(obj: xarray.Dataset, columns: Chosen, weight: WeightChoice, chunk_rows: int | None) -> Source:
    """A source over variables of one common dimension; single numbers are no columns, unless they are asked for."""
    whole = columns is None or isinstance(columns, Exclude)
    held = {str(name): variable for name, variable in obj.data_vars.items() if variable.ndim or not whole}
    stored = [(name, what_of(variable.dtype), variable.dtype == np.float32) for name, variable in held.items()]
    chosen = choose_columns("xarray Dataset", stored, columns, weight, row_labels(list(held)))
    shapes = {name: held[name].dims for name in chosen.all}
    if len(set(shapes.values())) > 1 or any(len(dims) != 1 for dims in shapes.values()):
        raise _not_rows({name: tuple(map(str, dims)) for name, dims in shapes.items()})
    given = weight if chosen.weight is None else held[chosen.weight].data
    parts = tuple(held[name] for name in chosen.names)
    if all(type(part.variable._data).__module__.startswith("dask") for part in parts):
        import dask.array as da

        table = da.stack([part.data for part in parts], axis=1).rechunk({1: -1})
        source: Source = open_dask(table, weight=given, chunk_rows=chunk_rows).named(chosen.names)
    else:
        source = XarraySource(parts, chosen.names, weight=given, chunk_rows=chunk_rows)
    source.left_out = chosen.left_out
    return source


def _not_rows(found: dict[str, tuple[str, ...]]) -> ValueError:
    """The error for a Dataset whose variables are no columns over one dimension; a grid is told how to stack."""
    grids = [dims for dims in found.values() if len(dims) > 1]
    if grids:
        dims = max(grids, key=lambda grid: (grids.count(grid), len(grid)))
        alike = [name for name, other in found.items() if set(other) == set(dims)]
        chosen = "X" if len(alike) == len(found) else f"X[{alike!r}]"
        remedy = f"For a row at each point of the grid, pass {chosen}.stack(row={dims!r})."
    else:
        remedy = "Choose with columns=[...] or pass a DataArray."
    return ValueError(
        "xarray Dataset: expected one variable with two dimensions, or variables over one common dimension; got "
        f"{found}. {remedy}"
    )


def _table(obj: xarray.Dataset, columns: Chosen, weight: WeightChoice, chunk_rows: int | None) -> Source:
    """A source over a two-dimensional DataArray; text labels of its second dimension are feature names."""
    if obj.ndim > 2:
        dims = tuple(map(str, obj.dims))
        raise ValueError(
            f"xarray DataArray: expected two dimensions, rows and features; got {dims}. For a row at each point of the "
            f"grid: X.stack(row={dims[:-1]!r}).transpose('row', {dims[-1]!r}) where {dims[-1]!r} are the features; "
            f"X.to_dataset(name='x').stack(row={dims!r}) where there is one feature."
        )
    check_two_dimensional(obj.shape, f"xarray {type(obj).__name__}")
    check_rows_first(tuple(map(str, obj.dims)), f"xarray {type(obj).__name__}")
    labels = obj.coords.get(obj.dims[1])
    names = None if labels is None or labels.dtype.kind not in "UOT" else tuple(map(str, labels.values))
    inner = obj.variable._data
    if type(inner).__module__.startswith("dask"):
        pick = Pick.from_choice("xarray DataArray", obj.shape[1], columns, weight, names)
        source = open_dask(
            obj.data, columns=pick.columns, weight=weight if pick.weight is None else pick.weight, chunk_rows=chunk_rows
        )
        return source if names is None else source.named(tuple(names[i] for i in pick.columns or range(len(names))))
    if isinstance(inner, np.ndarray):
        return ArraySource(
            inner, weight, columns=columns, chunk_rows=chunk_rows, name="xarray DataArray", feature_names=names
        )
    return XarraySource((obj,), names, columns=columns, weight=weight, chunk_rows=chunk_rows)
