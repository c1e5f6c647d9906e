"""A process to be killed: learns a stream, says how far it is, and at the end leaves a digest of all that it keeps."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import streamgmm as sg
from streamgmm.stream.connectors import connect
from tests.helpers.learners import known


def session_at(snapshot):
    model = sg.GaussianMixture(3, half_life=50_000.0, random_state=0)
    return sg.StreamSession(
        model, snapshot=snapshot, every_rows=20_000, anomaly_rate=0.01, on_drift="reset", false_alarms=1e-4
    )


def digest(session):
    """Of every number that is kept, positions aside."""
    total = hashlib.sha256(repr(known(session.learner)).encode())
    total.update(session.judge.sketch.counts + session.judge.sketch.fresh)
    total.update(repr((session.detector.state(), session.threshold, session.counts.rows)).encode())
    return total.hexdigest()


def main(kind, where, snapshot, result, rows):
    session = session_at(snapshot)
    if kind == "kafka":
        stream = connect("kafka", servers=where, topic="rows", format="float64", width=2, batch_rows=5000)
    else:
        stream = connect("lines", path="-" if kind == "stdin" else where)
    print("rows", session.counts.rows, flush=True)
    for _ in session.run(stream, max_rows=int(rows)):
        print("rows", session.counts.rows, flush=True)
    part = Path(result + ".part")
    part.write_text(f"{session.counts.rows} {digest(session)}")
    part.replace(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
