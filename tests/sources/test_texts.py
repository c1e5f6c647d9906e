"""Any column of a stored table as text, in step with its rows."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.sources.base import Slab

pd = pytest.importorskip("pandas")


@pytest.fixture
def table():
    return pd.DataFrame({"name": [f"n,{i}" if i % 3 else "" for i in range(50)], "size": np.arange(50.0)})


def rows_and_texts(source, column="name"):
    pairs = [(float(row[0]), text) for chunk in source.chunks()
             for row, text in zip(chunk.load()[0], chunk.texts(column), strict=True)]  # fmt: skip
    assert [text for part in source.texts(column) for text in part] == [text for _, text in pairs]
    return pairs


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather", "arrows"])
@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_files(table, tmp_path, suffix, chunk_rows):
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        table.to_csv(path, index=False)
    elif suffix == "arrows":
        import pyarrow as pa

        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.Table.from_pandas(table).schema) as out:
            out.write_table(pa.Table.from_pandas(table), max_chunksize=9)
    else:
        getattr(table, f"to_{suffix}")(path)
    source = sg.open_source(path, columns=["size"], chunk_rows=chunk_rows)
    expected = list(zip(table["size"], table["name"], strict=True))
    assert rows_and_texts(source) == expected
    assert [value for part in source.texts("size") for value in part][7] in ("7.0", "7")
    twice = sg.open_source([path, path], columns=["size"], chunk_rows=chunk_rows)
    assert rows_and_texts(twice) == expected * 2
    with pytest.raises((ValueError, sg.ChunkReadError), match="no column 'other'"):
        list(source.texts("other"))
    chunk = next(iter(source.chunks()))
    assert Slab(chunk, 0, 0, 2, 5).texts("name") == chunk.texts("name")[2:5]


def test_tables_in_memory(table):
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    for frame in (table, pa.Table.from_pandas(table), pl.from_pandas(table)):
        source = sg.open_source(frame, columns=["size"], chunk_rows=8)
        assert [text for part in source.texts("name") for text in part] == table["name"].tolist()
        with pytest.raises(ValueError, match="no column 'other'"):
            source.texts("other")


def test_arrays_have_none():
    with pytest.raises(ValueError, match="no table with named columns"):
        list(sg.open_source(np.zeros((3, 2))).texts("name"))
