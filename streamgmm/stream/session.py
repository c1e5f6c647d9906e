"""A stream, a model, and one file that holds both so that kill -9 loses no row and counts none twice."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online import Learner, StepReport
from streamgmm.errors import CheckpointMismatchError
from streamgmm.estimators.bayesian_mixture import BayesianGaussianMixture
from streamgmm.estimators.mixture_estimator import MixtureEstimator
from streamgmm.estimators.streams import begin_stream, give_model, learner_of
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.thread_limits import single_threaded_blas
from streamgmm.sources.arranged import order_of
from streamgmm.stream import origin
from streamgmm.stream import snapshot as snapshots
from streamgmm.stream.anomalies import Judge
from streamgmm.stream.batch import Batch, Position, batches_of
from streamgmm.stream.drift import Cusum
from streamgmm.stream.update import Counts, StopStream, Update
from streamgmm.stream.validation import Intake, Taken
from streamgmm.utils.atomic import sweep
from streamgmm.utils.jsonable import jsonable
from streamgmm.utils.locks import FileLock

__all__ = ["StreamSession"]

Array = NDArray[np.float64]
log = logging.getLogger("streamgmm.stream")


class StreamSession:
    """Learn from a stream, score it, watch it for drift, and survive.

    Parameters
    ----------
    model : GaussianMixture
        Its settings are used, and it is kept up to date. If it was fitted, the stream goes on from there.
    snapshot : path, optional
        One file, replaced atomically: model, statistics, rows that wait, sketch, detector, position, counts and
        generator state. Where it exists the session begins from it. While `run` or `save` is at work it is locked
        (``<snapshot>.lock``). It remembers which stream it is of, and what precedes its position.
    every_rows, every_seconds : float
        A snapshot is due after either.
    anomaly_rate : float, optional
        Share of rows to call anomalies: those whose log p(x) is below that quantile of the scores so far (of the recent
        ones with a half-life). Judged before the row is learnt, by a threshold that is renewed at every step.
    score : bool
        Give a score for every row; implied by `anomaly_rate`. Costs about a second evaluation of each row.
    on_drift : {"report", "boost", "reset"}
        See `Learner`.
    false_alarms : float or None
        Drift alarms per step while nothing changes (see `Cusum`); None for no detector.
    on_bad : {"set aside", "raise"}
        Rows with NaN or infinity, batches of another width, of other columns, or not of numbers.
    on_jump : {"raise", "count"}
        A position further on than expected: rows are missing.
    restructure : bool
        See `Learner`.
    step_rows : int, optional
        Rows per update; see `Learner`.

    Attributes
    ----------
    position : Position
    counts : Counts
    layout : dict or None
        What the connector learnt about its records: format, columns.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> rows = np.random.default_rng(0).normal(size=(1000, 2))
    >>> session = sg.StreamSession(sg.GaussianMixture(2, random_state=0))
    >>> for update in session.run((rows[i : i + 100], i + 100) for i in range(0, 1000, 100)):
    ...     pass
    >>> session.counts.rows
    1000
    """

    def __init__(
        self,
        model: MixtureEstimator,
        *,
        snapshot: str | os.PathLike[str] | None = None,
        every_rows: float = 1_000_000,
        every_seconds: float = 10.0,
        anomaly_rate: float | None = None,
        score: bool = False,
        on_drift: str = "report",
        false_alarms: float | None = 1e-3,
        on_bad: str = "set aside",
        on_jump: str = "raise",
        restructure: bool = False,
        step_rows: int | None = None,
    ) -> None:
        _one_of("on_drift", on_drift, ("report", "boost", "reset"))
        _one_of("on_bad", on_bad, ("set aside", "raise"))
        _one_of("on_jump", on_jump, ("raise", "count"))
        if anomaly_rate is not None and not 0.0 < anomaly_rate < 1.0:
            raise ValueError(f"anomaly_rate must lie between 0 and 1; got {anomaly_rate}.")
        self.model = model
        self.snapshot = None if snapshot is None else snapshots.place(snapshot)
        self.every_rows, self.every_seconds = every_rows, every_seconds
        self.anomaly_rate, self.score = anomaly_rate, score or anomaly_rate is not None
        self.judge = Judge(anomaly_rate) if self.score else None
        self.on_bad, self.on_jump = on_bad, on_jump
        self.detector = None if false_alarms is None else Cusum(false_alarms)
        self.position: Position = None
        self.layout: dict[str, Any] | None = None
        self.counts = Counts()
        self.waiting = False
        self._stopping = False
        self._saved_rows, self._saved_at = 0, time.monotonic()
        self.options: dict[str, Any] = {
            "detector": self.detector,
            "on_drift": on_drift,
            "restructure": restructure,
            "step_rows": step_rows,
        }
        self.source: dict[str, Any] | None = None
        self._learner = learner_of(model)
        self._stream: object = None
        self._lock = None if self.snapshot is None else FileLock(self.snapshot)
        self._stamp: snapshots.Stamp = None
        if self.snapshot is not None:
            sweep(self.snapshot.parent)
            if snapshots.exists(self.snapshot):
                self.load()

    # Running ----------------------------------------------------------------------------------------------------

    @property
    def learner(self) -> Learner:
        """The learner of the model; it is made by the first batch.

        Examples
        --------
        >>> import streamgmm as sg
        >>> batches = [([[float(i % 7)] for i in range(j, j + 100)], j + 100) for j in range(0, 500, 100)]
        >>> session = sg.StreamSession(sg.GaussianMixture())
        >>> for update in session.run(batches):
        ...     pass
        >>> session.learner.rows_seen
        500
        """
        if self._learner is None:
            raise ValueError("The session has seen no rows yet.")
        return self._learner

    @property
    def mixture(self) -> Mixture | None:
        """The model to use now, or None during the hold.

        Examples
        --------
        >>> import streamgmm as sg
        >>> session = sg.StreamSession(sg.GaussianMixture())
        >>> session.mixture is None
        True
        """
        return None if self._learner is None else self._learner.model

    @property
    def threshold(self) -> float:
        """Rows with a lower log p(x), in nats, are anomalies; NaN while there is no threshold.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.StreamSession(sg.GaussianMixture(), anomaly_rate=0.01).threshold
        nan
        """
        return math.nan if self.judge is None else self.judge.threshold

    def stop(self) -> None:
        """End `run` after the batch at hand, or before the first one.

        Examples
        --------
        >>> import streamgmm as sg
        >>> batches = [([[float(i % 7)] for i in range(j, j + 100)], j + 100) for j in range(0, 500, 100)]
        >>> session = sg.StreamSession(sg.GaussianMixture())
        >>> for update in session.run(batches):
        ...     session.stop()
        >>> session.position
        100
        """
        self._stopping = True

    def run(self, stream: object, *, max_rows: int | None = None) -> Iterator[Update]:
        """Take in a stream, and yield an `Update` for every batch. A last snapshot is written when it ends.

        A snapshot is taken when the next update is asked for, so what was done with an update is done before its rows
        count as safe: after a crash updates may be repeated, never left out.

        Parameters
        ----------
        stream : Connector, or iterable of (rows, position), `Batch`, or arrays
            `position` is where the stream stands after the rows: a whole number of rows, or what else the source can go
            on from.
        max_rows : int, optional
            End once so many rows were learnt in all.

        Raises
        ------
        StreamPositionError
            Where the stream jumps, or goes back in a way that cannot be cut off, or is not what it was before the
            snapshot's position.
        CheckpointMismatchError
            Where the snapshot is of another stream, or was written by another session meanwhile.
        StreamGMMError
            Where another session has the snapshot in use.

        Examples
        --------
        >>> import streamgmm as sg
        >>> batches = [([[float(i % 7)] for i in range(j, j + 100)], j + 100) for j in range(0, 500, 100)]
        >>> session = sg.StreamSession(sg.GaussianMixture())
        >>> [update.position for update in session.run(batches, max_rows=300)]
        [100, 200, 300]
        """
        with self._locked():
            yield from self._run(stream, max_rows)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else writes the snapshot meanwhile, and nobody has since this session read or wrote it."""
        if self._lock is None or self._lock.held:
            yield
            return
        assert self.snapshot is not None
        self._lock.acquire()
        try:
            snapshots.expect(self.snapshot, self._stamp)
            yield
        finally:
            self._lock.release()

    def _run(self, stream: object, max_rows: int | None) -> Iterator[Update]:
        origin.check(stream, self.source, self.position, str(self.snapshot))
        if self.layout is not None and hasattr(stream, "go_by"):
            stream.go_by(self.layout)
        batches = batches_of(stream, self.position)
        self._stream = stream
        try:
            while max_rows is None or self.counts.rows < max_rows:
                self.waiting = True
                try:
                    if self._stopping:  # asked after `waiting` is set: a signal between the two raises StopStream
                        break
                    batch = next(batches)
                except (StopIteration, StopStream):
                    break
                finally:
                    self.waiting = False
                if self.layout is None:
                    self._learn_layout(getattr(stream, "layout", None))
                if self.layout is not None and batch.names is None and self.layout["columns"]:
                    batch = replace(batch, names=tuple(self.layout["columns"]))
                update = self.take(batch)
                if update is not None:
                    yield update
                self._save_if_due(stream)
            self._save(stream)
        finally:
            self.waiting = self._stopping = False
            self._note_source()
            self._stream = None
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _learn_layout(self, layout: dict[str, Any] | None) -> None:
        """Keep what the connector found out about its records, for a restart to read them alike."""
        self.layout = layout
        names = None if layout is None else layout["columns"]
        model = self.model
        known = hasattr(model, "feature_names_in_")
        if names and known:
            order_of(names, list(model.feature_names_in_), "The stream")
        elif names and getattr(model, "n_features_in_", len(names)) == len(names):
            model.feature_names_in_ = np.array(names, dtype=object)

    def take(self, batch: Batch) -> Update | None:
        """Score and learn one batch; None where all of it was counted before.

        Examples
        --------
        >>> import streamgmm as sg
        >>> from streamgmm.stream import Batch
        >>> session = sg.StreamSession(sg.GaussianMixture())
        >>> session.take(Batch([[0.0], [1.0]], 2)).rows, session.take(Batch([[0.0], [1.0]], 2))
        (2, None)
        """
        width = getattr(self.model, "n_features_in_", None)
        names = tuple(getattr(self.model, "feature_names_in_", ()))
        taken = Intake(self.counts, self.position, width, names, self.on_bad, self.on_jump).take(batch)
        if taken is None:
            return None
        update = self._learn(taken, batch.end)
        # A batch may tell of some partitions only.
        both = isinstance(self.position, dict) and isinstance(batch.end, dict)
        self.position = {**self.position, **batch.end} if both else batch.end
        return update

    def _learn(self, taken: Taken, end: Position) -> Update:
        rows, weight, judge = taken.rows, taken.weight, self.judge
        reports: list[StepReport] = []
        scores = None if judge is None else np.full(len(rows), math.nan)
        low: list[NDArray[np.int64]] = []
        near = np.ones(len(rows), bool)
        refused = list(taken.refused)
        before = 0
        if len(rows):
            self._ensure(rows.shape[1], taken.names)
            before = self.learner.set_aside
            far = self.learner.beyond(rows)
            if far is not None and self.on_bad == "raise":
                raise ValueError(
                    f"The stream brought {int(far.sum())} row(s) more than 1e8 deviations from all others, after "
                    f"{self.position!r}. Set on_bad='set aside' to go on."
                )
            with single_threaded_blas():
                first = 0
                while first < len(rows):
                    # Judged up to the next step only: it renews the threshold.
                    part = slice(first, min(len(rows), first + max(1, self.learner.room)))
                    first = part.stop
                    far = self.learner.beyond(rows[part])
                    if far is not None:
                        near[part] = ~far
                    here = part.start + np.flatnonzero(near[part]) if far is not None else part
                    if judge is not None and scores is not None:
                        found = np.full(int(near[part].sum()), math.nan)
                        low.append(judge.score(self.learner, rows[here], found) + int(near[: part.start].sum()))
                        scores[here] = found
                    made = self.learner.push(rows[here], None if weight is None else weight[here])
                    self.learner.set_aside += 0 if far is None else int(far.sum())
                    if judge is not None:
                        judge.renew(self.learner, made)
                    reports += made
            if reports:
                give_model(self.model, self.learner, reports)
            aside = self.learner.set_aside - before
            if aside:
                why = f"{aside} row(s) more than 1e8 deviations from all others"
                refused.append(why)
                self.counts.refused_rows += aside
                log.warning("set aside after %r: %s", self.position, why)
                self.counts.rows -= aside
        alarm = any(report.alarm for report in reports)
        self.counts.rows += len(rows)
        self.counts.alarms += sum(report.alarm for report in reports)
        anomalies = np.concatenate(low) if low else np.empty(0, np.int64)
        self.counts.anomalies += len(anomalies)
        kept = taken.kept[near]
        scores = None if scores is None else scores[near]
        return Update(end, len(kept), kept, scores, anomalies, self.threshold, alarm, reports, tuple(refused))

    def _ensure(self, n_features: int, names: Sequence[str] | None) -> None:
        """The learner, with the options of this session."""
        if self._learner is None:
            self._learner = begin_stream(self.model, n_features, names, **self.options)
        learner = self._learner
        for name, value in self.options.items():
            if name != "step_rows":
                setattr(learner, name, value)

    # Keeping ----------------------------------------------------------------------------------------------------

    def _save_if_due(self, stream: object) -> None:
        due = self.counts.rows - self._saved_rows >= self.every_rows
        if due or time.monotonic() - self._saved_at >= self.every_seconds:
            try:
                self._save(stream)
            except OSError as error:
                # The stream goes on, and with it what would be read again after a crash; it is tried again when due.
                warnings.warn(f"The snapshot cannot be written, the one before stays: {error}", stacklevel=2)
                self._saved_rows, self._saved_at = self.counts.rows, time.monotonic()

    def _save(self, stream: object) -> None:
        if self.snapshot is not None and self._learner is not None:
            self.save()
            commit = getattr(stream, "commit", None)
            if commit is not None:
                commit(self.position)

    def save(self) -> None:
        """Write the snapshot; the one before stays beside it as ``<name>.previous``.

        Raises
        ------
        ValueError
            Without a path, or before the first row.
        CheckpointMismatchError, StreamGMMError
            Where another session wrote it meanwhile, or has it in use.

        Examples
        --------
        >>> import streamgmm as sg
        >>> batches = [([[float(i % 7)] for i in range(j, j + 100)], j + 100) for j in range(0, 500, 100)]
        >>> session = sg.StreamSession(sg.GaussianMixture(), snapshot="s.snapshot")
        >>> update = next(session.run(batches))
        >>> session.save()
        >>> sg.StreamSession(sg.GaussianMixture(), snapshot="s.snapshot").position
        100
        """
        if self.snapshot is None:
            raise ValueError("This session was given no snapshot path.")
        self._note_source()
        with self._locked():
            snapshots.write(self.snapshot, self._state())
            self._stamp = snapshots.stamp(self.snapshot)
        self._saved_rows, self._saved_at = self.counts.rows, time.monotonic()

    def _note_source(self) -> None:
        """Identity of the stream, and the records that precede the position."""
        found = origin.origin_of(self._stream, self.position)
        if found is not None:
            self.source = found

    def load(self) -> None:
        """Take everything back from the snapshot, or from the one before where the newest is damaged.

        Raises
        ------
        CheckpointMismatchError
            Where it was written with other settings.
        ModelFileError
            Where both are damaged.

        Examples
        --------
        >>> import streamgmm as sg
        >>> batches = [([[float(i % 7)] for i in range(j, j + 100)], j + 100) for j in range(0, 500, 100)]
        >>> session = sg.StreamSession(sg.GaussianMixture(), snapshot="t.snapshot")
        >>> for update in session.run(batches):
        ...     session.save()  # as run does by itself, now and then
        >>> session.load()
        >>> session.position
        500
        """
        assert self.snapshot is not None
        self._stamp = snapshots.stamp(self.snapshot)
        snapshots.read(self.snapshot, self._restore)
        self._saved_rows = self.counts.rows

    def _state(self) -> snapshots.State:
        """Model, statistics, rows that wait, sketch, detector, position and counts."""
        return {
            "settings": jsonable(self._settings()),
            "n_features": self.learner.n_features,
            "feature_names": jsonable(getattr(self.model, "feature_names_in_", ())) or None,
            "learner": self.learner.state(),
            "sketch": None if self.judge is None else self.judge.sketch.state(),
            "detector": None if self.detector is None else self.detector.state(),
            "threshold": self.threshold,
            "position": jsonable(self.position),
            "layout": jsonable(self.layout),
            "source": jsonable(self.source),
            "counts": asdict(self.counts),
        }

    def _restore(self, state: snapshots.State) -> None:
        """The inverse of `_state`."""
        found, wanted = state["settings"], self._settings()
        other = [
            f"{name} = {found.get(name)!r}, here {value!r}"
            for name, value in wanted.items()
            if found.get(name) != jsonable(value) and (name in found or not _is_of_inference(name))
        ]
        if other:
            raise CheckpointMismatchError(
                f"{self.snapshot} was written with other settings: {'; '.join(other)}. Use those, or another file."
            )
        n_features, names = int(state["n_features"]), state.get("feature_names")
        learner = begin_stream(self.model, n_features, names, anew=True, **self.options)
        learner.restore(state["learner"])
        give_model(self.model, learner, [])
        self._learner = learner
        if self.judge is not None:
            if state["sketch"] is not None:
                self.judge.sketch.restore(state["sketch"])
            self.judge.threshold = float(state["threshold"])
        if self.detector is not None and state["detector"] is not None:
            self.detector.restore(state["detector"])
        self.position = state["position"]
        source = state.get("source")
        if source is not None:
            self.source = {
                "identity": {str(name): str(value) for name, value in source["identity"].items()},
                "at": source["at"],
                "bytes": int(source["bytes"]),
                "sha256": str(source["sha256"]),
            }
        if state.get("layout") is not None:
            self._learn_layout(state["layout"])
        self.counts = Counts(**state["counts"])

    def _settings(self) -> dict[str, Any]:
        """Settings that must be as they were for the state to mean the same."""
        model = self.model
        chosen = {
            name: getattr(model, name) for name in ("n_components", "reg_covar", "half_life", "init_params", "n_init")
        }
        chosen["covariance_type"] = str(getattr(model.covariance_type, "name", model.covariance_type))
        if model.n_factors is not None:
            chosen["n_factors"] = model.n_factors
        chosen |= {name: value for name, value in model.get_params(deep=False).items() if _is_of_inference(name)}
        return chosen | {
            "bayesian": isinstance(model, BayesianGaussianMixture),
            "step_rows": self.options["step_rows"],
            "score": self.score,
            "anomaly_rate": self.anomaly_rate,
        }


def _is_of_inference(name: str) -> bool:
    """True for what tells a posterior from another, or from a likelihood. Snapshots of before do not have it."""
    return name == "bayesian" or name.endswith(("_prior", "_prior_type"))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}; got {value!r}.")
