"""Stream sessions: counts, positions, scores, snapshots, and what is refused."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.errors import CheckpointMismatchError, ModelFileError
from streamgmm.stream import Batch, StopStream, StreamPositionError
from streamgmm.stream.batch import compare
from streamgmm.utils.atomic import _machine
from tests.helpers.disks import full_disk  # noqa: F401
from tests.helpers.learners import known

K, D = 3, 2
MEANS = np.array([[-6.0, 0.0], [0.0, 6.0], [6.0, -2.0]])


def draw(n, seed=0, means=MEANS):
    rng = np.random.default_rng(seed)
    return means[rng.integers(len(means), size=n)] + rng.normal(size=(n, means.shape[1]))


def model(**options):
    return sg.GaussianMixture(K, random_state=0, **options)


def pairs(X, size, start=0):
    for i in range(start, len(X), size):
        yield X[i : i + size], min(len(X), i + size)


def drain(session, stream, **options):
    return list(session.run(stream, **options))


def same(a, b):
    """Everything that is kept is equal to the bit."""
    assert known(a.learner) == known(b.learner)
    if a.judge is not None:
        one, other = a.judge.sketch, b.judge.sketch
        assert np.array_equal(one.counts + one.fresh, other.counts + other.fresh)
        assert a.threshold == b.threshold or np.isnan([a.threshold, b.threshold]).all()
    if a.detector is not None:
        assert a.detector.state() == b.detector.state()
    return a.counts == b.counts


# Restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_life", [None, 700.0])
def test_a_restart_loses_no_row_counts_none_twice_and_keeps_the_bits(tmp_path, half_life):
    X = draw(9000)
    options = {"anomaly_rate": 0.02, "on_drift": "boost"}
    whole = sg.StreamSession(model(half_life=half_life), **options)
    drain(whole, pairs(X, 170))
    rng = np.random.default_rng(1)
    path = tmp_path / "state"
    while True:
        session = sg.StreamSession(model(half_life=half_life), snapshot=path, every_rows=400, **options)
        if session.counts.rows == len(X):
            break
        stream = session.run(pairs(X, 170))  # from the start each time: what was counted is left out
        for _ in range(rng.integers(1, 25)):
            if next(stream, None) is None:
                break
        del stream  # abandoned without a last snapshot, as kill -9 would
    session.counts.repeated = whole.counts.repeated
    assert same(whole, session)
    assert session.counts.rows == len(X)
    np.testing.assert_array_equal(session.mixture.means, whole.mixture.means)


@pytest.mark.parametrize("half_life", [None, 700.0])
def test_a_bayesian_mixture_goes_on_from_a_snapshot(tmp_path, half_life):
    """Its prior comes from the first rows, which nobody brings again."""
    X = draw(6000)

    def session(**options):
        return sg.StreamSession(sg.BayesianGaussianMixture(5, random_state=0, half_life=half_life), **options)

    whole = session()
    drain(whole, pairs(X, 170))
    drain(session(snapshot=tmp_path / "s"), pairs(X, 170), max_rows=2000)
    rest = session(snapshot=tmp_path / "s")
    assert rest.counts.rows == 2040
    drain(rest, pairs(X, 170))
    assert known(whole.learner) == known(rest.learner)
    np.testing.assert_array_equal(whole.mixture.means, rest.mixture.means)


def test_how_a_stream_is_cut_into_batches_does_not_matter(tmp_path):
    X = draw(5000)
    a = sg.StreamSession(model(half_life=900.0), anomaly_rate=0.01)
    b = sg.StreamSession(model(half_life=900.0), anomaly_rate=0.01)
    first = np.concatenate([u.scores for u in drain(a, pairs(X, 1000))])
    second = np.concatenate([u.scores for u in drain(b, pairs(X, 37))])
    assert same(a, b)
    np.testing.assert_allclose(first, second, rtol=1e-12)


def test_stop_ends_after_the_batch_and_saves(tmp_path):
    session = sg.StreamSession(model(), snapshot=tmp_path / "s")
    for i, _ in enumerate(session.run(pairs(draw(5000), 100))):
        if i == 6:
            session.stop()
    assert session.counts.rows == 700
    assert sg.StreamSession(model(), snapshot=tmp_path / "s").position == 700


def test_stop_before_the_first_batch_is_heard():
    """As where SIGTERM comes while files are opened; the run after that one goes on."""
    session = sg.StreamSession(model())
    session.stop()
    assert list(session.run(pairs(draw(1000), 100))) == []
    for _ in session.run(pairs(draw(1000), 100)):
        pass
    assert session.counts.rows == 1000


def test_a_signal_while_waiting_ends_cleanly(tmp_path):
    def stream():
        yield draw(500), 500
        raise StopStream

    session = sg.StreamSession(model(), snapshot=tmp_path / "s")
    drain(session, stream())
    assert sg.StreamSession(model(), snapshot=tmp_path / "s").counts.rows == 500


def test_max_rows():
    session = sg.StreamSession(model())
    drain(session, pairs(draw(5000), 100), max_rows=300)
    assert session.position == 300


# The snapshot -----------------------------------------------------------------------------------------------------


def test_a_damaged_snapshot_gives_way_to_the_one_before(tmp_path):
    path = tmp_path / "s"
    session = sg.StreamSession(model(), snapshot=path, every_rows=500)
    drain(session, pairs(draw(2000), 500))
    body = bytearray(path.read_bytes())
    body[-3] ^= 1
    path.write_bytes(body)
    again = sg.StreamSession(model(), snapshot=path)
    assert again.position in (1500, 2000)
    drain(again, pairs(draw(2000), 500))
    assert again.counts.rows == 2000
    (tmp_path / "s.previous").write_bytes(b"rubbish, all of it")
    path.write_bytes(body)
    with pytest.raises(ModelFileError):
        sg.StreamSession(model(), snapshot=path)


def test_a_snapshot_of_other_settings_is_refused(tmp_path):
    drain(sg.StreamSession(model(), snapshot=tmp_path / "s"), pairs(draw(500), 500))
    with pytest.raises(CheckpointMismatchError, match=r"half_life = None, here 5\.0"):
        sg.StreamSession(model(half_life=5.0), snapshot=tmp_path / "s")


def test_rubbish_left_by_a_crash_is_swept(tmp_path):
    (tmp_path / f".s.{_machine()}0123456789.part").write_bytes(b"half a snapshot")
    (tmp_path / ".other.part").write_bytes(b"not ours")
    sg.StreamSession(model(), snapshot=tmp_path / "s")
    assert [p.name for p in tmp_path.iterdir()] == [".other.part"]


def test_snapshots_cannot_run_code_and_hold_no_pickle(tmp_path):
    drain(sg.StreamSession(model(), snapshot=tmp_path / "s", anomaly_rate=0.1), pairs(draw(1500), 500))
    from safetensors.numpy import load_file

    arrays = load_file(tmp_path / "s")
    assert {a.dtype.kind for a in arrays.values()} <= {"f", "i", "u"}
    assert {8601, K * D * D, K * D} <= {a.size for a in arrays.values()}, "sketch, scatters and means"


# Positions --------------------------------------------------------------------------------------------------------


def test_repeated_rows_are_left_out_and_overlaps_cut():
    X = draw(3000)
    session = sg.StreamSession(model())
    stream = [(X[:1000], 1000), (X[:1000], 1000), (X[500:1500], 1500), (X[200:900], 900), (X[1500:], 3000)]
    updates = drain(session, stream)
    assert [u.rows for u in updates] == [1000, 500, 1500]
    assert session.counts.repeated == 1000 + 500 + 700
    plain = sg.StreamSession(model())
    drain(plain, [(X, 3000)])
    np.testing.assert_array_equal(session.mixture.means, plain.mixture.means)


def test_a_jump_is_refused_or_counted():
    X = draw(3000)
    stream = [(X[:1000], 1000), (X[1500:], 3000)]
    session = sg.StreamSession(model())
    with pytest.raises(StreamPositionError, match=r"stands at 1000.*500 are missing.*on_jump='count'"):
        drain(session, stream)
    assert session.counts.rows == 1000
    lenient = sg.StreamSession(model(), on_jump="count")
    drain(lenient, stream)
    assert (lenient.counts.rows, lenient.counts.skipped) == (2500, 500)


@pytest.mark.parametrize(
    ("batch", "position", "n", "state"),
    [
        (Batch([], 10), None, 10, "new"),
        (Batch([], 10, 4), 4, 2, "new"),
        (Batch([], 10, 4), 6, 2, "torn"),
        (Batch([], {"a": 5}), {"a": 5}, 2, "repeated"),
        (Batch([], {"a": 7}), {"a": 5}, 2, "new"),
        (Batch([], {"b": 0}), {"a": 5}, 1, "new"),
        (Batch([], {"a": 9}, {"a": 3}), {"a": 5}, 6, "torn"),
        (Batch([], {"a": 3, "b": 9}), {"a": 5}, 6, "torn"),
        (Batch([], ["f2", 1], ["f1", 3]), ["f1", 3], 1, "new"),
        (Batch([], ["f2", 1], ["f1", 2]), ["f1", 3], 1, "torn"),
    ],
)
def test_how_batches_lie(batch, position, n, state):
    assert compare(batch, position, n)[0] == state


# What is refused --------------------------------------------------------------------------------------------------


def test_bad_rows_and_batches_are_set_aside_and_counted():
    X = draw(3000)
    dirty = X.copy()
    dirty[10, 1], dirty[2000, 0], dirty[2001, 0] = np.nan, np.inf, -np.inf
    stream = [
        (dirty[:1000], 1000),
        (np.zeros((5, 7)), 1005),
        ([["a", "b"]], 1006),
        (np.zeros((0, D)), 1006),
        (dirty[1000:], 3006),
    ]
    session = sg.StreamSession(model(), anomaly_rate=0.05)
    updates = drain(session, stream)
    counts = session.counts
    assert (counts.rows, counts.refused_rows, counts.refused_batches, counts.empty) == (2997, 3, 2, 1)
    assert updates[1].refused == ("a batch of shape (5, 7), expected (n, 2)",)
    assert 10 not in updates[0].kept and len(updates[0].scores) == 999
    clean = sg.StreamSession(model(), anomaly_rate=0.05)
    drain(clean, [(np.delete(X, [10, 2000, 2001], axis=0), 2997)])
    np.testing.assert_array_equal(session.mixture.means, clean.mixture.means)


@pytest.mark.parametrize("rows", [np.full((3, D), np.nan), np.zeros((3, 9)), [["x", "y"]]])
def test_bad_rows_raise_on_request_and_leave_the_model_as_it_was(rows):
    X = draw(2000)
    session = sg.StreamSession(model(), on_bad="raise")
    drain(session, [(X[:1000], 1000)])
    with pytest.raises(ValueError, match=r"The stream brought .*, after 1000.*set aside"):
        session.take(Batch(rows, 1000 + len(rows)))
    drain(session, [(X[1000:], 2000)])
    plain = sg.StreamSession(model())
    drain(plain, [(X, 2000)])
    np.testing.assert_array_equal(session.mixture.means, plain.mixture.means)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_drift": "panic"}, "on_drift must be one of"),
        ({"anomaly_rate": 2.0}, "anomaly_rate must lie between"),
        ({"false_alarms": 0.9}, "false_alarms must lie between"),
    ],
)
def test_settings_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        sg.StreamSession(model(), **options)


# Scores -----------------------------------------------------------------------------------------------------------


def test_anomalies_come_at_the_chosen_rate_and_strangers_are_found():
    X = draw(40_000)
    strangers = np.arange(20_000, 40_000, 1000)
    X[strangers] = [30.0, 30.0]
    session = sg.StreamSession(model(), anomaly_rate=0.02)
    found = np.concatenate([u.anomalies + u.position - u.rows for u in drain(session, pairs(X, 500))])
    assert set(strangers) <= set(found)
    assert len(found) / len(X) == pytest.approx(0.02, rel=0.2)
    assert session.counts.anomalies == len(found)


def test_scores_come_before_learning():
    X = draw(4000)
    session = sg.StreamSession(model(), score=True)
    for update, (rows, _) in zip(session.run(pairs(X, 50)), pairs(X, 50), strict=True):
        if update.position > 200 and not update.steps:
            np.testing.assert_array_equal(update.scores, session.mixture.log_prob(rows))


def test_a_session_goes_on_from_a_fit():
    X = draw(4000)
    fitted = model().fit(X)
    session = sg.StreamSession(fitted, score=True)
    update = next(session.run(pairs(draw(30, seed=2), 30)))
    np.testing.assert_array_equal(update.scores, fitted.score_samples(draw(30, seed=2)))


def test_alarms_are_counted_and_told():
    X = np.concatenate([draw(10_000), draw(3000, seed=1) + 40.0])
    session = sg.StreamSession(model(half_life=1000.0), on_drift="reset", false_alarms=1e-4)
    updates = drain(session, pairs(X, 100))
    assert session.counts.alarms == 1
    alarm = next(u for u in updates if u.alarm)
    assert 10_000 < alarm.position <= 10_400
    assert {"action": "reset"} in [event for step in alarm.steps for event in step.events]


def test_a_full_disk_does_not_end_a_stream_before_its_end(full_disk):  # noqa: F811
    ballast = full_disk / "ballast"
    ballast.write_bytes(bytes(256 * 1024 - 4096))
    one = sg.StreamSession(model(), snapshot=full_disk / "s", every_rows=500)
    stream = one.run(pairs(draw(4000), 500))
    with pytest.warns(UserWarning, match="The snapshot cannot be written, the one before stays: .*Free some"):
        list(islice(stream, 6))
    ballast.unlink()
    list(stream)
    assert sg.StreamSession(model(), snapshot=full_disk / "s").counts.rows == 4000
    ballast.write_bytes(bytes(240 * 1024))
    again = sg.StreamSession(model(), snapshot=full_disk / "t", every_rows=1e9)
    with pytest.raises(OSError, match="cannot be written whole"):
        list(again.run(pairs(draw(4000), 500)))
