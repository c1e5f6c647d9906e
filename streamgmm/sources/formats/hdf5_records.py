"""HDF5 datasets of records (compound types), as PyTables, pandas and converters write: each field is a column."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Rows, RunSource, Source, Weights
from streamgmm.sources.chunking import cut_runs, default_chunk_rows, unit_runs, wanted_rows
from streamgmm.sources.columns import Chosen, WeightChoice, check_weights, digest, weight_array
from streamgmm.sources.formats.hdf5_members import fields_of
from streamgmm.sources.formats.hdf5_storage import opened, stored_rows
from streamgmm.sources.formats.tables import Columns, choose_columns
from streamgmm.sources.integrity import Stamp, check_shape, check_stamp
from streamgmm.sources.labels import row_labels
from streamgmm.sources.retry import retried

if TYPE_CHECKING:
    import h5py

__all__ = ["RecordsSource"]


@dataclass(frozen=True, slots=True)
class RecordsChunk(Chunk):
    """Records `start` to `stop` of a dataset; `steps` lead from a record to each column."""

    index: int
    start: int
    stop: int
    path: str
    dataset: str
    stamp: Stamp
    steps: dict[str, tuple[Any, ...]] = field(repr=False, hash=False)
    columns: Columns
    name: str
    weight: Weights = field(repr=False)

    def check(self) -> None:
        check_stamp(self.path, self.stamp, self.name, self.index)

    def load(self) -> tuple[Rows, Weights]:
        self.check()
        rows, weights = retried(self._read, self.name, self.index)
        check_shape(rows.shape, (self.stop - self.start, len(self.columns.names)), self.name, self.index)
        if weights is not None:
            return rows, check_weights(weights, self.name, self.start, self.index)
        return rows, self.weight

    def _read(self) -> tuple[Rows, NDArray[np.float64] | None]:
        wanted = list(dict.fromkeys(self.steps[name][0] for name in self.columns.all))
        with opened(self.path, self.name) as file:
            records = file[self.dataset].fields(wanted)[self.start : self.stop]

        def get(name: str) -> Any:
            values = records
            for step in self.steps[name]:
                values = values[step] if isinstance(step, str) else values[(slice(None), *step)]
            return values

        return self.columns.rows(get, len(records))


class RecordsSource(RunSource):
    """A dataset of records."""

    kind = "hdf5"

    def __init__(
        self, data: h5py.Dataset, path: str, dataset: str, mark: Stamp,
        *, columns: Chosen, weight: WeightChoice, chunk_rows: int | None,
        missing_chunks: str,
    ) -> None:  # fmt: skip
        self.path, self.dataset, self.stamp = path, dataset, mark
        self.name = f"{path}::{dataset}"
        fields, what, marked = fields_of(data)
        schema = [(name, what[name], dtype == np.float32) for name, _, dtype in fields]
        names = [name for name, _, _ in fields]
        self.columns = choose_columns(self.name, schema, columns, weight, row_labels(names, marked))
        self.steps = {name: steps for name, steps, _ in fields if name in self.columns.all}
        self.left_out = self.columns.left_out
        self.feature_names = self.columns.names
        self.n_features = len(self.columns.names)
        self.dtype = self.columns.dtype
        self.record_bytes = data.dtype.itemsize
        self.decodes = True
        self.has_checksums = bool(data.fletcher32)
        n_rows = data.shape[0]
        self.weight = weight_array(weight, self.name, n_rows)
        self.has_weights = weight is not None
        stored = stored_rows(data, 0, self.name, missing_chunks, wanted_rows(chunk_rows, self.n_features))
        self.unit, self.n_missing = stored.unit or 1, stored.n_missing
        self.set_runs(unit_runs(stored.units, chunk_rows, default_chunk_rows(self.n_features)))

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        weight = self.weights_of(start, stop)
        return RecordsChunk(
            index, start, stop, self.path, self.dataset, self.stamp, self.steps, self.columns, self.name, weight
        )

    @property
    def chunk_bytes(self) -> int | None:
        rows = self.max_chunk_rows or 0
        # The wanted fields as they are stored, at most whole records, and a stored chunk that is decoded beside them.
        return rows * (self.row_bytes + self.record_bytes) + self.unit * self.record_bytes

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        cut = copy(self)
        cut.set_runs(cut_runs(self.runs, max(self.unit, max_rows // self.unit * self.unit)))
        return cut

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "hdf5",
            "path": str(Path(self.path).resolve()),
            "dataset": self.dataset,
            "stamp": list(self.stamp),
            "columns": list(self.columns.all),
            "weight": self.columns.weight if self.weight is None else digest(self.weight),
            "runs": digest(np.array(self.runs, np.int64)),
        }
