"""Kafka whose broker goes away: for a moment, and for good."""

from __future__ import annotations

import json

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import FAILED, run
from streamgmm.stream.connectors import connect
from tests.helpers.kafka_cluster import kafka_cluster

pytest.importorskip("confluent_kafka")

SMALL = {
    "queued.min.messages": 1,
    "fetch.queue.backoff.ms": 20,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "session.timeout.ms": 1000,
    "heartbeat.interval.ms": 300,
}
"""Little is fetched ahead, so that most is still in the broker when it goes."""


@pytest.fixture
def cluster():
    with kafka_cluster() as cluster:
        cluster.create("rows")
        yield cluster


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("streamgmm.stream.connectors.kafka._PATIENCE", 1.0)
    monkeypatch.setattr("streamgmm.stream.connectors.kafka._AT_A_TIME", 0.5)


def lines_of(X):
    return [json.dumps(row).encode() for row in X.tolist()]


def rows_of(n):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 2)) + 5.0 * rng.integers(2, size=(n, 1))


def session(path=None, **options):
    return sg.StreamSession(sg.GaussianMixture(2, random_state=0), snapshot=path, **options)


def reading(cluster, **options):
    return connect("kafka", servers=cluster.address, topic="rows", batch_rows=100, options=SMALL, **options)


def whole(X):
    one = session()
    list(one.run([(X, len(X))]))
    return one.mixture.means


def test_a_broker_that_comes_back_is_gone_on_with(cluster, caplog):
    X = rows_of(3000)
    cluster.produce("rows", lines_of(X[:2000]))
    one = session()
    stream = one.run(reading(cluster), max_rows=3000)
    for _ in range(3):
        next(stream)
    for more in (X[2000:2500], X[2500:]):
        cluster.down()
        for _ in range(2):  # what was fetched before
            next(stream)
        cluster.up()
        cluster.produce("rows", lines_of(more))
    list(stream)
    assert (one.counts.rows, one.counts.repeated, one.position) == (3000, 0, {"rows:0": 3000})
    np.testing.assert_array_equal(one.mixture.means, whole(X))
    assert caplog.text.count("waiting for it to come back") <= 2


def test_a_broker_that_stays_away_is_an_error_not_the_end(cluster, impatient, tmp_path):
    """Nothing comes from a dead broker either: silence must not be taken for the end of the stream."""
    X = rows_of(2500)
    cluster.produce("rows", lines_of(X[:2000]))
    one = session(tmp_path / "state", every_rows=300)
    stream = one.run(reading(cluster, idle=0.4))
    for _ in range(5):
        next(stream)
    cluster.down()
    with pytest.raises(sg.StreamGMMError, match=r"no broker answered in 1 s .*goes on from where it was"):
        list(stream)
    cluster.up()
    cluster.produce("rows", lines_of(X[2000:]))
    again = session(tmp_path / "state")
    assert 0 < again.counts.rows < 2000
    list(again.run(reading(cluster, idle=0.4)))
    assert (again.counts.rows, again.counts.repeated) == (2500, 0)
    np.testing.assert_array_equal(again.mixture.means, whole(X))


def test_silence_is_not_the_end_while_the_broker_holds_more(cluster):
    """Here the client itself pauses for a second between what it fetches."""
    X = rows_of(2000)
    cluster.produce("rows", lines_of(X))
    one = session()
    slow = SMALL | {"fetch.queue.backoff.ms": 1000}
    list(one.run(connect("kafka", servers=cluster.address, topic="rows", idle=0.2, batch_rows=100, options=slow)))
    assert one.counts.rows == 2000


def test_nobody_at_the_address_is_one_line(cluster, impatient, capsys):
    cluster.down()
    words = ["stream", "-", "-k", "2", "--set", "stream.source=kafka", "--set", f"stream.servers={cluster.address}"]
    assert run([*words, "--set", "stream.topic=rows", "--set", "stream.idle=0.4"]) == FAILED
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: Kafka at {cluster.address}, topic 'rows': no broker answered in 1 s")
