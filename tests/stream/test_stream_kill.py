"""kill -9 at random moments: every row is counted once, and the bits are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.stream_worker import digest, session_at

HERE = Path(__file__).parents[1]
AHEAD = 100_000
"""Messages that the mock cluster may hold unread: it forgets what is beyond 5 MB."""


def rows_of(n):
    rng = np.random.default_rng(7)
    means = np.array([[-6.0, 0.0], [0.0, 6.0], [6.0, -2.0]])
    X = means[rng.integers(3, size=n)] + rng.normal(size=(n, 2))
    X[n // 2 :] += 4.0  # a drift on the way, so that the detector and a reset are part of it
    return X


class Feeder:
    """Keeps a mock broker a little ahead of whoever reads it."""

    def __init__(self, X):
        from confluent_kafka import Producer

        self.producer = Producer(
            {
                "bootstrap.servers": "unused:1",
                "test.mock.num.brokers": 1,
                "log_level": 0,
                "enable.idempotence": True,
                "queue.buffering.max.messages": 200_000,
            }
        )
        self.where = ",".join(f"{b.host}:{b.port}" for b in self.producer.list_topics(timeout=10).brokers.values())
        self.producer.list_topics("rows", timeout=10)
        self.X, self.sent = X.astype("<f8"), 0

    def feed(self, read):
        """Send up to `AHEAD` messages beyond row `read`."""
        upto = min(len(self.X), read + AHEAD)
        while self.sent < upto:
            self.producer.produce("rows", self.X[self.sent].tobytes(), partition=0)
            self.sent += 1
            if self.sent % 5000 == 0:
                assert self.producer.flush(30) == 0
        assert self.producer.flush(30) == 0


def live(kind, where, folder, n, until, feeder):
    """One life: started, read along with, and killed once it has learnt `until` rows; how far it said it was."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "helpers" / "stream_worker.py"), kind, where]
    with ExitStack() as stack:
        stdin = stack.enter_context(open(folder / "rows.ndjson", "rb")) if kind == "stdin" else subprocess.DEVNULL
        process = stack.enter_context(
            subprocess.Popen(
                [*command, str(folder / f"{kind}.state"), str(folder / f"{kind}.result"), str(n)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                env=environment,
            )
        )
        at = 0
        for line in process.stdout:
            at = int(line.split()[1])
            if feeder is not None:
                feeder.feed(at)
            if at >= until:
                process.kill()
                break
        process.stdout.close()
        code = process.wait(timeout=60)
    assert code == (-9 if until < n + 1 and at >= until else 0)
    return at


def chaos(kind, folder, n, kills):
    X = rows_of(n)
    whole = session_at(None)
    for _ in whole.run((X[i : i + 7777], min(n, i + 7777)) for i in range(0, n, 7777)):
        pass
    if kind != "kafka" and not (folder / "rows.ndjson").exists():
        with open(folder / "rows.ndjson", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in X.tolist())
    feeder = Feeder(X) if kind == "kafka" else None
    where = feeder.where if feeder else str(folder / "rows.ndjson")
    moments = np.sort(np.random.default_rng(len(kind)).integers(1, n, kills))
    for moment in moments:
        live(kind, where, folder, n, int(moment), feeder)
    live(kind, where, folder, n, n + 1, feeder)
    rows, bits = (folder / f"{kind}.result").read_text().split()
    assert int(rows) == n
    assert bits == digest(whole)
    assert whole.counts.alarms >= 1


def test_killed_a_few_times(tmp_path):
    chaos("file", tmp_path, 60_000, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "stdin", "kafka"])
def test_killed_thirty_times(tmp_path, kind):
    if kind == "kafka":
        pytest.importorskip("confluent_kafka")
    chaos(kind, tmp_path, 1_000_000, 30)
