"""`streamgmm stream`."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from streamgmm.cli.fit import Settings, What, configured, estimator
from streamgmm.cli.terminal import Json, emit, facts, message, stderr_console, table
from streamgmm.config import Config, ConfigError
from streamgmm.persistence import jsonable

INTERRUPTED = 130


def stream(
    what: What,
    settings: Settings = None,
    json: Json = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of going on from the snapshot.")] = False,
) -> None:
    """Learn from a stream for ever; score it, watch it for drift, survive a crash.

    SIGTERM and Ctrl-C write a snapshot and end; started again it goes on from there, no row lost, none counted twice.
    """
    config = configured(what, settings, pathless=("kafka", "redis", "synthetic"))
    document, interrupted = run_stream(config, fresh=fresh)
    if json:
        emit(document)
    else:
        print(summary(document))
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def connector(config: Config) -> Any:
    """What [stream] and [data] say to read from."""
    from streamgmm.stream.connectors import connect

    one, data = config.stream, config.data
    if data.scale or data.pca is not None:
        raise ConfigError(
            "[data] scale and pca belong to fit and select: a stream has no first reading to learn them in."
        )
    text = {"format": one.format, "columns": data.columns, "width": one.width, "dead_letters": one.dead_letters}
    table_like = {"path": data.path, "columns": data.columns, "follow": one.follow}
    if one.source == "lines":
        return connect("lines", path=data.path, header=one.header, follow=one.follow, **text)
    if one.source in ("kafka", "redis") and not (one.servers and one.topic):
        raise ConfigError(f'[stream] source = "{one.source}" needs servers and topic.')
    if one.source == "redis":
        told = {"columns": data.columns, "idle": one.idle, "dead_letters": one.dead_letters}
        return connect("redis", servers=one.servers, topic=one.topic, **told)
    if one.source == "kafka":
        return connect("kafka", servers=one.servers, topic=one.topic, group=one.group, idle=one.idle, **text)
    if one.source == "synthetic":
        width = one.width or 4
        rows, jump = one.max_rows or 10**15, 500_000
        made = {"n_features": width, "n_components": config.model.n_components, "jump_every": jump, "anomalies": 1e-3}
        return connect("synthetic", rows=rows, **made)
    if one.source != "parquet":
        table_like.pop("columns" if one.source == "zarr" else "follow")
    return connect(one.source, **table_like)


def run_stream(config: Config, *, fresh: bool = False) -> tuple[dict[str, Any], bool]:
    """Run until the stream ends or a signal comes: what happened, and whether Ctrl-C ended it."""
    from streamgmm.stream import StreamSession

    one = config.stream
    folder = None if config.output.dir is None else Path(config.output.dir)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    snapshot = one.snapshot or (None if folder is None else str(folder / "stream.snapshot"))
    if snapshot is not None:
        Path(snapshot).parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            for name in (snapshot, snapshot + ".previous"):
                Path(name).unlink(missing_ok=True)
    session = StreamSession(
        estimator(config),
        snapshot=snapshot,
        every_rows=one.snapshot_rows,
        every_seconds=one.snapshot_seconds,
        anomaly_rate=one.anomaly_rate,
        on_drift=one.on_drift,
        false_alarms=one.false_alarms,
        on_bad=one.on_bad,
        on_jump=one.on_jump,
        restructure=one.restructure,
        step_rows=one.step_rows,
    )
    where = f"from {session.position!r} on" if session.position is not None else "from the beginning"
    message(f"stream: {one.source} {config.data.path or one.topic or ''}, {where}")
    began = time.monotonic()
    with ExitStack() as stack:
        signals = stack.enter_context(_stopping(session))
        metrics = stack.enter_context(_lines(one.metrics))
        strangers = stack.enter_context(_lines(one.anomalies))
        watch = stack.enter_context(Watch(session, metrics, one.metrics_seconds))
        for update in session.run(connector(config), max_rows=one.max_rows):
            watch.see(update)
            if strangers is not None and update.scores is not None:
                for i in update.anomalies:
                    line = {"position": update.position, "row": int(update.kept[i]), "score": float(update.scores[i])}
                    strangers.write(jsonable_line(line))
    document = {
        **measured(session),
        "seconds": time.monotonic() - began,
        "snapshot": snapshot,
        "ended_by": signals[0].name if signals else "end of stream",
    }
    if folder is not None and session.mixture is not None:
        session.model.save(folder / "model.safetensors")
    return document, bool(signals) and signals[0] is signal.SIGINT


@contextmanager
def _stopping(session: Any) -> Iterator[list[signal.Signals]]:
    """SIGTERM and SIGINT end the session after the batch at hand, or at once while it waits for rows."""
    from streamgmm.stream import StopStream

    came: list[signal.Signals] = []

    def handle(number: int, _: Any) -> None:
        came.append(signal.Signals(number))
        session.stop()
        if session.waiting:
            raise StopStream

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _lines(path: str | None) -> Iterator[IO[str] | None]:
    """A file of JSON lines to append to."""
    if path is None:
        yield None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        yield file


def jsonable_line(document: dict[str, Any]) -> str:
    return json.dumps(jsonable(document), allow_nan=False) + "\n"


def measured(session: Any) -> dict[str, Any]:
    """Figures of the session as they are."""
    from dataclasses import asdict

    learner = session.model._learner
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

    def __init__(self, session: Any, metrics: IO[str] | None, seconds: float) -> None:
        self.session, self.metrics, self.seconds = session, metrics, seconds
        self.console = stderr_console()
        self.at, self.rows = time.monotonic(), session.counts.rows
        self.loglik = math.nan
        self.alarms: list[str] = []
        self.live: Any = None

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

    def see(self, update: Any) -> None:
        """Take note of an update."""
        if math.isfinite(update.loglik):
            self.loglik = update.loglik
        events = [event for step in update.steps for event in step.events]
        if update.alarm or events:
            what = ", ".join(str(event["action"]) for event in events) or "reported"
            self.alarms.append(f"{'drift' if update.alarm else 'model'} at {update.position}: {what}")
            if self.metrics is not None:
                line = {"event": "alarm" if update.alarm else "model", "position": update.position, "events": events}
                self.metrics.write(jsonable_line({"time": time.time(), **line}))
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
            self.metrics.write(jsonable_line({"time": time.time(), **line}))
        if self.live is not None:
            self.live.update(self._picture(rate, figures), refresh=True)

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
    """What the command prints at the end."""
    counts = document["counts"]
    head = [
        ("ended by", document["ended_by"]),
        ("position", document["position"]),
        ("effective sample size", f"{document['effective_sample_size']:,.0f}"),
        ("snapshot", document["snapshot"]),
    ]
    return facts(head) + "\n\n" + table(("count", "of"), [(n, name.replace("_", " ")) for name, n in counts.items()])
