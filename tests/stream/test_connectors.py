"""What streams are read from: order, positions, bad records, growth."""

from __future__ import annotations

import json
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamgmm as sg
from streamgmm.errors import ChunkReadError
from streamgmm.stream import StreamPositionError
from streamgmm.stream.connectors import connect
from streamgmm.stream.connectors.arrow import ArrowStream
from streamgmm.stream.connectors.lines import Lines
from streamgmm.stream.connectors.parquet import ParquetFolder
from streamgmm.stream.connectors.parse import Parser
from streamgmm.stream.connectors.zarr import GrowingZarr


def rows_of(n, seed=0, D=3):
    return np.random.default_rng(seed).normal(size=(n, D)).round(6)


def ndjson(X):
    return "".join(json.dumps(row) + "\n" for row in X.tolist()).encode()


def read(connector, position=None):
    try:
        return list(connector.open(position))
    finally:
        connector.close()


def stack(batches):
    return np.concatenate([np.asarray(b.rows, float) for b in batches if len(b.rows)])


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="must be one of"):
        connect("pigeon")


# Lines ------------------------------------------------------------------------------------------------------------

number = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(number, min_size=2, max_size=2), min_size=1, max_size=20))
def test_numbers_come_through_to_the_bit(values):
    X = np.array(values)
    for format, lines in (
        ("ndjson", [json.dumps(row).encode() for row in values]),
        ("csv", [",".join(map(repr, row)).encode() for row in values]),
    ):
        for width in (None, 2):
            rows, bad = Parser(format, width=width).parse(lines)
            assert not bad and np.array_equal(rows, X)


BAD_JSON = [
    (b"[1, 2", "Expecting"),
    (b"[1, NaN]", "not a finite"),
    (b"[1, 1e999]", "not a finite"),
    (b"[1, 2, 3]", "expected 2 numbers, found 3"),
    (b'["1", 2]', "'1' is not a number"),
    (b"[true, 2]", "'True' is not a number"),
    (b"[null, 2]", "'None' is not a number"),
    (b"[[1], 2]", "is not a number"),
    (b"7", "expected an array"),
    (b"\xff\xfe", "not UTF-8"),
    (b"[" * 100_000, ""),
    (b"[1" + b"0" * 400 + b", 2]", "too large|not a finite"),
    (b'{"a": 1, "b": 2}', "expected an array of 2"),
    (b"[]", "found 0"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_JSON)
def test_a_bad_line_is_set_aside_and_the_others_are_not(line, reason):
    parser = Parser("ndjson", width=2)
    rows, bad = parser.parse([b"[1, 2]", line, b"", b"[3, 4]"])
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4]])
    assert [text for text, _ in bad] == [line.strip()]
    import re

    assert re.search(reason, bad[0][1])


@pytest.mark.parametrize("line", [b"1,x", b"1", b"1,2,3", b"nan,1", b"1,inf", b"1_0,2", b","])
def test_bad_csv(line):
    rows, bad = Parser("csv", width=2).parse([b"1,2", line, b"3,4"])
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4]])
    assert len(bad) == 1


def test_objects_by_key():
    lines = [b'{"b": 2, "a": 1, "c": "text"}', b'{"a": 3, "b": 4}', b'{"a": 5}']
    rows, bad = Parser("ndjson", columns=["a", "b"]).parse(lines)
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4]])
    assert bad == [(b'{"a": 5}', "no value for b")]
    rows, _ = Parser("ndjson").parse([b'{"b": 2, "a": 1}', b'{"a": 3, "b": 4}'])
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_file_is_taken_up_where_it_was_left(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("lines") / "x.ndjson"
    X = rows_of(50)
    path.write_bytes(ndjson(X) + b"broken\n" + ndjson(X)[:-1])  # the last line has no end
    whole = read(Lines(path))
    np.testing.assert_array_equal(stack(whole), np.concatenate([X, X]))
    assert sum(b.rejected for b in whole) == 1
    text = path.read_bytes()
    cut = text.rfind(b"\n", 0, cut) + 1
    rest = read(Lines(path, width=3), cut)
    assert len(np.concatenate([b.rows for b in rest])) == len([x for x in text[cut:].split(b"\n") if b"[" in x])
    assert rest[-1].end == len(text)


def test_csv_with_a_header(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    batch = read(Lines(path, format="csv", header=True))[0]
    np.testing.assert_array_equal(batch.rows, [[1, 2], [3, 4]])
    assert batch.rejected == 0


def test_columns_of_text_are_left_out_and_told(tmp_path, caplog):
    """By the first record that holds a number: a number that is missing in it keeps its column."""
    rows, bad = Parser().parse(
        [b'{"oops": "x"}', b'{"b": 2, "a": 1, "note": "hi", "c": null}', b'{"a": 3, "b": 4, "c": 5}']
    )
    np.testing.assert_array_equal(rows, [[3, 4, 5]])
    assert [reason for _, reason in bad] == ["no value for a, b, c", "'None' is not a number"]
    assert "hold no numbers: note" in caplog.text
    path = tmp_path / "x.csv"
    path.write_text(
        '\ufeffOrt;"Preis; netto";Menge;leer\nKöln;1.5;2;\n"Bonn";2.5;3;4\nBonn;1;2\nBonn;3.5;4;5\n', encoding="utf-8"
    )
    (batch,) = read(lines := Lines(path))
    np.testing.assert_array_equal(batch.rows, [[2.5, 3, 4], [3.5, 4, 5]])
    assert lines.layout["columns"] == ("Preis; netto", "Menge", "leer") and batch.rejected == 2
    assert lines.dead.first[0].startswith("Köln".encode())
    (batch,) = read(Lines(path, columns=["leer", "Menge"]))
    np.testing.assert_array_equal(batch.rows, [[4, 3], [5, 4]])
    with pytest.raises(ValueError, match="no column Stadt; it has Ort, Preis; netto, Menge, leer"):
        read(Lines(path, columns=["Stadt"]))


def test_a_header_may_come_before_its_rows():
    parser = Parser("csv", header=None)
    assert parser.parse([b"a,b"])[1] == [] and parser.layout is None
    rows, bad = parser.parse([b"x,1", b"y,2"])
    np.testing.assert_array_equal(rows, [[1], [2]])
    assert parser.layout.columns == ("b",) and not bad


@pytest.mark.parametrize("first", [b'{"b": 1, "a": 2}', b"a,b\n2,1"])
def test_after_a_restart_the_same_columns_are_read(tmp_path, first):
    """Whatever the first record after the snapshot holds."""
    json_like = first.startswith(b"{")
    path = tmp_path / "x"
    X = rows_of(3000, D=2)
    later = [json.dumps({"a": a, "z": 0, "b": b}) if json_like else f"{a!r},{b!r}" for a, b in X.tolist()]
    path.write_bytes(first + b"\n" + "\n".join(later).encode())
    cut = path.read_bytes().index(later[1000].encode())
    whole = sg.StreamSession(sg.GaussianMixture(1, random_state=0), snapshot=tmp_path / "whole")
    list(whole.run(Lines(path)))
    part = sg.StreamSession(sg.GaussianMixture(1, random_state=0), snapshot=tmp_path / "part")
    (tmp_path / "begin").write_bytes(path.read_bytes()[:cut])
    list(part.run(Lines(tmp_path / "begin")))
    part = sg.StreamSession(sg.GaussianMixture(1, random_state=0), snapshot=tmp_path / "part")
    list(part.run(Lines(path)))
    assert part.counts.rows == whole.counts.rows == 3001 and part.counts.rejected == 0
    assert list(part.model.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(part.model.means_, whole.model.means_)
    part = sg.StreamSession(sg.GaussianMixture(1, random_state=0), snapshot=tmp_path / "part")
    with pytest.raises(ValueError, match="learnt from the columns a, b; asked for are b, a"):
        list(part.run(Lines(path, columns=["b", "a"])))


def test_dead_letters_say_where_and_why(tmp_path):
    path, dead = tmp_path / "x", tmp_path / "dead"
    path.write_bytes(b"[1, 2]\nrubbish\n[3, 4]\n")
    batch = read(Lines(path, dead_letters=dead))[0]
    assert batch.rejected == 1 and len(batch.rows) == 2
    letter = json.loads(dead.read_text())
    assert letter["line"] == "rubbish" and "Expecting value" in letter["reason"]


def test_a_line_without_end_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"[1, 2]\n" + b"9" * 3_000_000 + b"\n[3, 4]\n")
    batches = read(Lines(path))
    np.testing.assert_array_equal(stack(batches), [[1, 2], [3, 4]])
    assert sum(b.rejected for b in batches) >= 1


def test_a_shortened_file_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"[1, 2]\n")
    with pytest.raises(StreamPositionError, match="cut or replaced"):
        read(Lines(path), 100)


def test_following_a_file_waits_for_whole_lines(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"[1, 2]\n[3,")

    def write():
        time.sleep(0.1)
        with path.open("ab") as file:
            file.write(b" 4]\n")

    thread = threading.Thread(target=write)
    thread.start()
    lines = Lines(path, follow=True, poll=0.02)
    stream = lines.open(None)
    got = [next(stream), next(stream)]
    thread.join()
    lines.close()
    np.testing.assert_array_equal(stack(got), [[1, 2], [3, 4]])


@pytest.mark.parametrize("how", ["cut", "replaced"])
def test_a_file_that_is_cut_or_replaced_while_it_is_followed_is_named(tmp_path, how):
    path = tmp_path / "x"
    path.write_bytes(b"[1, 2]\n" * 10)
    lines = Lines(path, follow=True, poll=0.01)
    stream = lines.open(None)
    assert len(next(stream).rows) == 10
    if how == "cut":
        path.write_bytes(b"[3, 4]\n")
    else:
        path.rename(tmp_path / "x.1")
        threading.Timer(0.05, path.write_bytes, [b"[3, 4]\n" * 20]).start()
        with (tmp_path / "x.1").open("ab") as old:  # a writer may have it open for a while
            old.write(b"[5, 6]\n")
        np.testing.assert_array_equal(next(stream).rows, [[5, 6]])
    with pytest.raises(StreamPositionError, match=f"was {how} while it was followed"):
        next(stream)
    lines.close()


def test_standard_input_is_replayed(tmp_path, monkeypatch):
    text = ndjson(rows_of(1000))
    half = text.rfind(b"\n", 0, len(text) // 2) + 1
    for start, expected in ((0, 1000), (half, text[half:].count(b"\n"))):
        out, into = os.pipe()
        writer = threading.Thread(target=lambda into=into: (os.write(into, text), os.close(into)))
        writer.start()
        with open(out) as pipe:
            monkeypatch.setattr("sys.stdin", pipe)
            assert sum(len(b.rows) for b in read(Lines("-"), start)) == expected
            writer.join()
    out, into = os.pipe()
    os.close(into)
    with open(out) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        with pytest.raises(StreamPositionError, match=r"ended 7 bytes before.*Replay it"):
            read(Lines("-"), 7)


# Arrow, Zarr, Parquet -----------------------------------------------------------------------------------------------


def test_arrow_stream(tmp_path):
    pa = pytest.importorskip("pyarrow")
    X = rows_of(100)
    table = pa.table({name: X[:, i] for i, name in enumerate("abc")})
    path = tmp_path / "x.arrows"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for part in table.to_batches(max_chunksize=30):
            writer.write_batch(part)
    whole = read(ArrowStream(path))
    np.testing.assert_array_equal(stack(whole), X)
    assert [b.end for b in whole] == [30, 60, 90, 100]
    np.testing.assert_array_equal(stack(read(ArrowStream(path, columns=["c", "a"]))), X[:, [2, 0]])
    session = sg.StreamSession(sg.GaussianMixture(2, random_state=0))
    session.position = 45  # within a batch: its first rows were counted
    list(session.run(ArrowStream(path)))
    assert (session.counts.rows, session.counts.repeated) == (55, 15)


def test_arrow_nulls_and_text_are_set_aside(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "x.arrows"
    table = pa.table({"a": [1.0, None, 3.0], "b": [4.0, 5.0, 6.0]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    session = sg.StreamSession(sg.GaussianMixture(1, random_state=0))
    list(session.run(ArrowStream(path)))
    assert (session.counts.rows, session.counts.refused_rows) == (2, 1)


def test_growing_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    X = rows_of(95)
    array = zarr.create_array(tmp_path / "x.zarr", shape=(40, 3), chunks=(20, 3), dtype="f8")
    array[:] = X[:40]
    connector = GrowingZarr(tmp_path / "x.zarr", follow=True, poll=0.01)
    stream = connector.open(None)
    got = [next(stream), next(stream)]

    def grow():
        array.resize((95, 3))  # longer first, filled after: unwritten chunks must not be read as zeros
        time.sleep(0.1)
        array[40:95] = X[40:95]

    thread = threading.Thread(target=grow)
    thread.start()
    got += [next(stream), next(stream)]
    thread.join()
    np.testing.assert_array_equal(stack(got), X[:80])
    rest = read(GrowingZarr(tmp_path / "x.zarr"), 80)
    np.testing.assert_array_equal(stack(rest), X[80:])
    with pytest.raises(StreamPositionError, match="cut or replaced"):
        read(GrowingZarr(tmp_path / "x.zarr"), 500)


@pytest.mark.parametrize("columns", [2, 1])
def test_a_hole_inside_a_shard_is_refused(columns, tmp_path):
    zarr = pytest.importorskip("zarr")
    X = 1 + np.arange(160.0).reshape(80, 2)
    path = tmp_path / "s.zarr"
    array = zarr.create_array(path, shape=X.shape, chunks=(10, columns), shards=(40, 2), dtype="f8")
    array[:50], array[60:] = X[:50], X[60:]
    stream = GrowingZarr(path).open(None)
    np.testing.assert_array_equal(next(stream).rows, X[:40])
    with pytest.raises(ChunkReadError, match="rows from 50 on are not stored inside their shard"):
        next(stream)
    array[50:60] = X[50:60]
    np.testing.assert_array_equal(stack(read(GrowingZarr(path))), X)


def test_a_stream_unpacks_as_a_fit_does(tmp_path):
    zarr = pytest.importorskip("zarr")
    attributes = {"scale_factor": 0.5, "_FillValue": -1}
    zarr.create_array(tmp_path / "p.zarr", data=np.array([[1, -1], [2, 4]], "i2"), attributes=attributes)
    np.testing.assert_array_equal(stack(read(GrowingZarr(tmp_path / "p.zarr"))), [[0.5, np.nan], [1, 2]])


def test_parquet_folder(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(name, X):
        pq.write_table(pa.table({c: X[:, i] for i, c in enumerate("abc")}), tmp_path / name, row_group_size=10)

    X = rows_of(70)
    write("2026-01.parquet", X[:25])
    write("2026-02.parquet", X[25:40])
    (tmp_path / ".2026-03.parquet").write_bytes(b"hidden")
    batches = read(ParquetFolder(tmp_path))
    np.testing.assert_array_equal(stack(batches), X[:40])
    assert batches[-1].end == ["2026-02.parquet", 2]
    np.testing.assert_array_equal(stack(read(ParquetFolder(tmp_path), batches[0].end)), X[10:40])
    stream = ParquetFolder(tmp_path, follow=True, poll=0.01).open(batches[-1].end)
    (tmp_path / "2026-03.parquet").write_bytes(b"PAR1 half")
    threading.Timer(0.1, write, ("2026-03.parquet", X[40:])).start()
    np.testing.assert_array_equal(np.asarray(next(stream).rows), X[40:50])
    write("2025-12.parquet", X[:5])
    with pytest.raises(StreamPositionError, match="sorts before it"):
        list(stream)


# Kafka --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker():
    """librdkafka's own mock cluster: real TCP, one broker, living as long as this producer."""
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1, "log_level": 0})
    found = producer.list_topics(timeout=10).brokers
    address = ",".join(f"{b.host}:{b.port}" for b in found.values())
    return producer, address


def produce(producer, topic, values, partitions=1):
    producer.list_topics(topic, timeout=10)
    for i, value in enumerate(values):
        while True:
            try:
                producer.produce(topic, value, partition=i % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(30) == 0


def test_kafka_goes_on_from_the_snapshot(broker, tmp_path):
    from streamgmm.stream.connectors.kafka import Kafka

    producer, address = broker
    X = rows_of(4000)
    lines = ndjson(X).splitlines()
    lines[100:100] = [b"rubbish"]
    produce(producer, "rows", lines)
    options = {"batch_rows": 300, "idle": 2.0, "dead_letters": tmp_path / "dead"}
    path = tmp_path / "state"

    def session():
        return sg.StreamSession(sg.GaussianMixture(2, random_state=0), snapshot=path, every_rows=700)

    first = session()
    connector = Kafka(address, "rows", **options)
    stream = first.run(connector)
    for _ in range(6):
        next(stream)
    del stream  # no farewell
    connector.close()
    second = session()
    assert 0 < second.counts.rows < 4000
    list(second.run(Kafka(address, "rows", **options)))
    assert (second.counts.rows, second.counts.rejected) == (4000, 1)
    assert second.position == {"rows:0": 4001}
    whole = sg.StreamSession(sg.GaussianMixture(2, random_state=0))
    list(whole.run([(X, 4000)]))
    np.testing.assert_array_equal(second.mixture.means, whole.mixture.means)


def test_kafka_commits_after_the_snapshot_and_never_by_itself(broker, tmp_path):
    from confluent_kafka import Consumer, TopicPartition

    from streamgmm.stream.connectors.kafka import Kafka

    producer, address = broker
    produce(producer, "doubles", [row.astype("<f8").tobytes() for row in rows_of(900)] + [b"short"])

    def committed():
        reader = Consumer({"bootstrap.servers": address, "group.id": "watch", "log_level": 0})
        offset = reader.committed([TopicPartition("doubles", 0)], timeout=10)[0].offset
        reader.close()
        return offset

    connector = Kafka(address, "doubles", group="watch", format="float64", width=3, batch_rows=200, idle=1.5)
    session = sg.StreamSession(
        sg.GaussianMixture(1, random_state=0), snapshot=tmp_path / "s", every_rows=1e9, every_seconds=1e9
    )
    stream = session.run(connector)
    for _ in range(3):
        next(stream)
    assert committed() < 0
    for _ in stream:
        pass
    assert (session.counts.rows, session.counts.rejected) == (900, 1)
    assert committed() == 901


def test_kafka_partitions_are_all_read(broker, tmp_path):
    from streamgmm.stream.connectors.kafka import Kafka

    producer, address = broker
    X = rows_of(1200)
    produce(producer, "many", ndjson(X).splitlines(), partitions=3)
    session = sg.StreamSession(sg.GaussianMixture(1, random_state=0))
    list(session.run(Kafka(address, "many", batch_rows=100, idle=1.5)))
    assert session.counts.rows == 1200
    assert sorted(session.position.values())[-3:] == [400, 400, 400]
    np.testing.assert_allclose(session.mixture.means[0], X.mean(axis=0), atol=0.2)


def test_kafka_without_the_topic_says_so(broker):
    from streamgmm.stream.connectors.kafka import Kafka

    with pytest.raises(sg.StreamGMMError, match="Kafka topic"):
        next(Kafka(broker[1], "bad topic name!", idle=0.5).open(None))


TEXTS = {
    "bars": "a|b\n1|2.5\n3|-4\n",
    "blanks": "a b\n1 2.5\n3   -4\n",
    "no header": "1\t2.5\n3\t-4\n",
    "comments": "# made by x\na,b\n1,2.5\n# more\n3,-4\n",
    "names in a comment": "# a b\n1 2.5\n3 -4\n",
    "carriage returns": "a,b\r1,2.5\r3,-4\r",
    "both": "a,b\r\n1,2.5\r\n\r\n3,-4\r\n",
    "at the end": "a,b,\n1,2.5,\n3,-4,\n",
    "decimal commas": "a;b\n1,0;2,5\n3,0;-4\n",
    "thousands": 'a,b\n"1",2.5\n"3",-4\n',
    "numbers as names": "0,1\n1.0,2.5\n3.0,-4.0\n",
    "line ends in quotes": 'a,note,b\n1,"x\ny",2.5\n3,"1,2\r\n3",-4\n',
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("block", [1 << 20, 5])
def test_text_is_read_as_fits_read_it(tmp_path, monkeypatch, kind, block):
    if kind not in ("names in a comment", "numbers as names"):  # they are known by what follows
        monkeypatch.setattr("streamgmm.stream.connectors.lines._BLOCK", max(block, len(TEXTS[kind]) // 2 + 1))
    path = tmp_path / "x.csv"
    path.write_bytes(TEXTS[kind].encode())
    batches = read(Lines(path))
    np.testing.assert_array_equal(stack(batches), [[1, 2.5], [3, -4]])
    assert sum(batch.rejected for batch in batches) == 0 and batches[-1].end == len(TEXTS[kind])


def test_what_fields_mean_in_a_stream():
    parser = Parser("csv", header=None)
    rows, bad = parser.parse([b"a,b", b'"1,234.5",True', b'"12",False'])
    np.testing.assert_array_equal(rows, [[1234.5, 1], [12, 0]])
    rows, bad = parser.parse([b'"3",maybe', b'"1,000,000",false', b'"1,2",True'])
    np.testing.assert_array_equal(rows, [[1e6, 0]])
    assert [line for line, _ in bad] == [b'"3",maybe', b'"1,2",True']


def test_quoted_line_ends_wherever_a_block_ends(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    text = "a,note,b\n" + "".join(f'{i},"two\nlines, and ""more""",{i}.5\n' for i in range(50))
    path.write_text(text)
    for block in range(200, 240):
        monkeypatch.setattr("streamgmm.stream.connectors.lines._BLOCK", block)
        rows = stack(read(Lines(path)))
        np.testing.assert_array_equal(rows, [[i, i + 0.5] for i in range(50)])


def test_quotes_that_are_no_fault(tmp_path):
    """Inch marks in a column of text, and blanks after a quote that closes a field, also where it spans lines."""
    path = tmp_path / "x.csv"
    path.write_text('a,note,b\n1,5" pipe,2\n"3" ,x,"4" \n5,"two\nlines" ,6\n')
    (batch,) = read(Lines(path))
    np.testing.assert_array_equal(batch.rows, [[1, 2], [3, 4], [5, 6]])
    path.write_text('a,b\n1,2\n"5"6,3\n')
    (batch,) = read(Lines(path))
    np.testing.assert_array_equal(batch.rows, [[1, 2]])
    assert batch.rejected == 1, "56 is not what stands there"


def test_many_quotes_in_an_open_field_cost_no_more_than_their_bytes(tmp_path):
    """More than a record may hold, and longer than a field may be; looked at from each quote it would take hours."""
    path = tmp_path / "x.csv"
    many = ',"' + 100 * '""' + '"\n'
    path.write_text('a,b\n1,2\n3,"4\n' + 6000 * many + "5,6\n")
    batches = read(Lines(path))
    rows = np.concatenate([batch.rows for batch in batches if len(batch.rows)])
    np.testing.assert_array_equal(rows, [[1, 2], [5, 6]])
    assert sum(batch.rejected for batch in batches) == 6001


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("strays", [[100], [100, 300], [100, 101, 480]])
@pytest.mark.parametrize("most", [1 << 20, 1000])
def test_a_stray_quote_costs_its_own_line(tmp_path, monkeypatch, end, strays, most):
    """Without another quote, with one far below it, and where more than a record may hold follows."""
    monkeypatch.setattr("streamgmm.stream.connectors.lines.MAX_LINE", most)
    monkeypatch.setattr("streamgmm.stream.connectors.lines._BLOCK", 700)
    lines = [f'{i},"{i}' if i in strays else f"{i},{2 * i}" for i in range(500)]
    path = tmp_path / "x.csv"
    path.write_bytes((end.join(lines) + end).encode())
    batches = read(Lines(path, dead_letters=tmp_path / "dead"))
    rows = np.concatenate([batch.rows for batch in batches if len(batch.rows)])
    np.testing.assert_array_equal(rows, [[i, 2 * i] for i in range(500) if i not in strays])
    assert sum(batch.rejected for batch in batches) == len(strays)
    letters = [json.loads(line)["line"] for line in (tmp_path / "dead").read_text().splitlines()]
    assert letters == [lines[i] for i in strays]
