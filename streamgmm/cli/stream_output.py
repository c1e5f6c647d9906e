"""Output of `streamgmm stream`: its display, its files, and its summary."""

from __future__ import annotations

import json
import math
import time
from typing import IO, TYPE_CHECKING, Any

from streamgmm.cli.terminal import components, facts, message, stderr_console
from streamgmm.utils.jsonable import jsonable

if TYPE_CHECKING:
    from streamgmm.stream.session import StreamSession
    from streamgmm.stream.update import Update


def jsonable_line(document: dict[str, Any]) -> str:
    return json.dumps(jsonable(document), allow_nan=False) + "\n"


def measured(session: StreamSession) -> dict[str, Any]:
    """Figures of the session as they are."""
    from dataclasses import asdict

    from streamgmm.estimators.streams import learner_of

    learner = learner_of(session.model)
    mixture = session.mixture
    return {
        "position": session.position,
        "counts": asdict(session.counts),
        "steps": 0 if learner is None else learner.steps,
        "effective_sample_size": 0.0 if learner is None else learner.effective_sample_size,
        "threshold": session.threshold,
        "weights": None if mixture is None else mixture.weights,
    }


class Watch:
    """Shows and writes how the stream is doing, at most once an interval; alarms at once."""

    def __init__(self, session: StreamSession, metrics: IO[str] | None, seconds: float) -> None:
        self.session, self.metrics, self.seconds = session, metrics, seconds
        self.console = stderr_console()
        self.at, self.rows = time.monotonic(), session.counts.rows
        self.loglik = math.nan
        self.alarms: list[str] = []
        self.refused: list[str] = []
        self.live: Any = None
        self.told = False

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            from rich.live import Live

            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(time.monotonic())
        if self.live is not None:
            self.live.stop()

    def see(self, update: Update) -> None:
        """Take note of an update."""
        if math.isfinite(update.loglik):
            self.loglik = update.loglik
        if update.refused and not self.refused:
            self.refused.append(update.refused[0])
        events = [event for step in update.steps for event in step.events]
        if update.alarm or events:
            what = ", ".join(str(event["action"]) for event in events) or "reported"
            self.alarms.append(f"{'drift' if update.alarm else 'model'} at {update.position}: {what}")
            if self.metrics is not None:
                line = {"event": "alarm" if update.alarm else "model", "position": update.position, "events": events}
                self._note(line)
        now = time.monotonic()
        if now - self.at >= self.seconds:
            self._tell(now)

    def _tell(self, now: float) -> None:
        figures = measured(self.session)
        rows = self.session.counts.rows
        rate = (rows - self.rows) / max(now - self.at, 1e-9)
        self.at, self.rows = now, rows
        if self.metrics is not None:
            line = {"event": "metrics", "rows_per_second": rate, "loglik": self.loglik, **figures}
            self._note(line)
        if self.live is not None:
            self.live.update(self._picture(rate, figures), refresh=True)

    def _note(self, line: dict[str, Any]) -> None:
        """Append to the metrics. Where that fails the stream goes on, as it does without a snapshot."""
        assert self.metrics is not None
        try:
            self.metrics.write(jsonable_line({"time": time.time(), **line}))
            self.told = False
        except OSError as error:
            if not self.told:
                message(f"note: {self.metrics.name}: metrics cannot be written ({error.strerror}); it is tried again.")
            self.told = True

    def _picture(self, rate: float, figures: dict[str, Any]) -> str:
        counts = figures["counts"]
        set_aside = counts["refused_rows"] + counts["refused_batches"] + counts["rejected"]
        weights = figures["weights"]
        shown = "" if weights is None else " ".join(f"{w:.3f}" for w in weights)
        lines = [
            ("rows", counts["rows"]),
            ("rows/s", f"{rate:,.0f}"),
            ("predictive log-likelihood", f"{self.loglik:.4f} nats per row"),
            ("effective sample size", f"{figures['effective_sample_size']:,.0f}"),
            ("weights", shown),
            ("anomalies", counts["anomalies"]),
            ("set aside", set_aside),
            ("alarms", counts["alarms"]),
        ]
        return "\n".join([facts(lines), *self.alarms[-5:]])


def summary(document: dict[str, Any]) -> str:
    """The summary that the command prints at the end."""
    counts, position = document["counts"], document["position"]
    place = f"{position:,} {document['unit']}" if isinstance(position, int) else position
    aside = {"rejected": "unreadable", "refused_rows": "not finite or too far", "refused_batches": "batches refused"}
    left = ", ".join(f"{counts[name]:,} {words}" for name, words in aside.items() if counts[name])
    head = [
        ("ended by", document["ended_by"]),
        ("position", place),
        ("rows", counts["rows"]),
        ("set aside", left or None),
        ("see", document["dead_letters"]),
        ("repeated, left out", counts["repeated"] or None),
        ("skipped", counts["skipped"] or None),
        ("anomalies", counts["anomalies"]),
        ("alarms", counts["alarms"]),
        ("effective sample size", f"{document['effective_sample_size']:,.0f}"),
        ("snapshot", document["snapshot"]),
    ]
    if document["means"] is None:
        return f"{facts(head)}\n\nno model yet: it needs {document['missing_rows']:,} more row(s)"
    return facts(head) + "\n\n" + components(document["weights"], document["means"], document["feature_names"])
