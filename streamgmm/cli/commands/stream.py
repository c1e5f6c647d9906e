"""`streamgmm stream`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from streamgmm.cli.commands.fit import Columns, Covariance, Folder, Settings, What, configured, estimator, words_of
from streamgmm.cli.stream_output import Watch, jsonable_line, measured, summary
from streamgmm.cli.terminal import Header, Json, emit, message
from streamgmm.errors import ConfigError, StreamGMMError
from streamgmm.utils.signals import ENDING, new_request

if TYPE_CHECKING:
    from streamgmm.cli.config import Config
    from streamgmm.stream.session import StreamSession

INTERRUPTED = 130
NEXT = "next: streamgmm inspect {0}   streamgmm predict {0} DATA --out labels.csv   the same command again, to go on"


def stream(
    what: What,
    components: Annotated[int | None, typer.Option("-k", "--components", help="Number of Gaussians.")] = None,
    covariance: Covariance = None,
    factors: Annotated[int | None, typer.Option(metavar="Q", help="Of factor, ppca.")] = None,
    half_life: Annotated[float | None, typer.Option(help="Rows after which a row counts half.")] = None,
    columns: Columns = None,
    header: Header = None,
    settings: Settings = None,
    out: Folder = None,
    json: Json = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of going on from the snapshot.")] = False,
) -> None:
    """Learn from a stream forever; score it, watch it for drift, survive a crash.

    SIGTERM and Ctrl-C write a snapshot and end; started again it goes on from there, no row lost, none counted twice.
    """
    config = configured(
        what, settings, pathless=("kafka", "redis", "synthetic"), model__n_components=components,
        model__covariance_type=covariance, model__n_factors=factors,
        fit__half_life=half_life, data__columns=columns, data__header=header,
        output__dir=out,
    )  # fmt: skip
    document, interrupted = run_stream(config, fresh=fresh)
    if json:
        emit(document)
    else:
        print(summary(document))
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def source_of(config: Config) -> str:
    """The kind of connector that [stream] source names, or that [data] path shows."""
    path = config.data.path or ""
    if not isinstance(path, str):
        raise ConfigError(f"{words_of(config)}: a stream is one file or folder. Give one.")
    if config.stream.source != "auto":
        return config.stream.source
    suffix = Path(path).suffix.lower()
    if suffix in (".npy", ".npz", ".h5", ".hdf5", ".hdf", ".nc", ".mat", ".zip"):
        raise ConfigError(
            f"{path}: not a stream. Convert it (streamgmm data convert {path} rows.zarr), or fit it (streamgmm fit)."
        )
    if suffix == ".zarr":
        return "zarr"
    if suffix == ".parquet" or Path(path).is_dir():
        return "parquet"
    return "arrow" if suffix in (".arrow", ".arrows", ".feather", ".ipc") else "lines"


def connector(config: Config) -> Any:
    """Data that [stream] and [data] name."""
    from streamgmm.stream.connectors import connect

    one, data, kind = config.stream, config.data, source_of(config)
    if data.scale or data.pca is not None:
        raise ConfigError("[data] scale and pca belong to fit and select: a stream has no first pass to learn them in.")
    text = {"format": one.format, "columns": data.columns, "width": one.width, "dead_letters": one.dead_letters}
    table_like = {"path": data.path, "columns": data.columns, "follow": one.follow}
    if kind == "lines":
        return connect("lines", path=data.path, header=data.header, follow=one.follow, **text)
    if kind in ("kafka", "redis") and not (one.servers and one.topic):
        raise ConfigError(f'[stream] source = "{kind}" needs servers and topic.')
    if kind == "redis":
        told = {"columns": data.columns, "idle": one.idle, "dead_letters": one.dead_letters}
        return connect("redis", servers=one.servers, topic=one.topic, **told)
    if kind == "kafka":
        return connect("kafka", servers=one.servers, topic=one.topic, group=one.group, idle=one.idle, **text)
    if kind == "synthetic":
        width = one.width or 4
        rows, jump = one.max_rows or 10**15, 500_000
        made = {"n_features": width, "n_components": config.model.n_components, "jump_every": jump, "anomalies": 1e-3}
        return connect("synthetic", rows=rows, **made)
    if kind != "parquet":
        table_like.pop("columns" if kind == "zarr" else "follow")
    return connect(kind, **table_like)


def kept_in(config: Config) -> Config:
    """`config` with the files that [stream] does not name in the folder that [output] names."""
    if config.output.dir is None:
        return config
    folder, one = Path(config.output.dir), config.stream
    names = {"snapshot": "stream.snapshot", "dead_letters": "dead_letters.jsonl", "metrics": "metrics.jsonl"}
    if one.anomaly_rate is not None:
        names["anomalies"] = "anomalies.jsonl"
    files = {key: str(folder / name) for key, name in names.items() if getattr(one, key) is None}
    return config.model_copy(update={"stream": one.model_copy(update=files)})


def run_stream(config: Config, *, fresh: bool = False) -> tuple[dict[str, Any], bool]:
    """Run until the stream ends or a signal comes: what happened, and whether Ctrl-C ended it."""
    from streamgmm.estimators.streams import learner_of
    from streamgmm.stream import StreamSession
    from streamgmm.stream.snapshot import discard

    config = kept_in(config)
    one, kind = config.stream, source_of(config)
    folder = None if config.output.dir is None else Path(config.output.dir)
    for path in (one.snapshot, one.dead_letters, None if folder is None else str(folder / "model.safetensors")):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    if fresh and one.snapshot is not None:
        discard(Path(one.snapshot))
    source = connector(config)
    session = StreamSession(
        estimator(config),
        snapshot=one.snapshot,
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
    where = "from the beginning" if session.position is None else f"from {_place(session.position, source)} on"
    message(f"stream: {kind} {config.data.path or one.topic or ''}, {where}; Ctrl-C ends it")
    if one.snapshot is None:
        message("nothing is kept: add --out DIR for a snapshot, the model, and the records that are set aside")
    began = time.monotonic()
    with ExitStack() as stack:
        signals = stack.enter_context(_stopping(session))
        metrics = stack.enter_context(_lines(one.metrics, needed=False))
        strangers = stack.enter_context(_lines(one.anomalies))
        watch = stack.enter_context(Watch(session, metrics, one.metrics_seconds))
        for update in session.run(source, max_rows=one.max_rows):
            watch.see(update)
            if strangers is not None and update.scores is not None:
                for i in update.anomalies:
                    line = {"position": update.position, "row": int(update.kept[i]), "score": float(update.scores[i])}
                    _put(strangers, jsonable_line(line))
    _some_rows(session, source, watch.refused)
    document = {
        **measured(session),
        "seconds": time.monotonic() - began,
        "snapshot": one.snapshot,
        "ended_by": signals[0].name if signals else "end of stream",
        "unit": getattr(source, "unit", None),
        "dead_letters": one.dead_letters if session.counts.rejected else None,
        "feature_names": [str(name) for name in getattr(session.model, "feature_names_in_", ())] or None,
        "means": None if session.mixture is None else session.mixture.means,
        "missing_rows": 0 if learner_of(session.model) is None else session.learner.room,
    }
    if folder is not None and session.mixture is not None:
        session.model.save(folder / "model.safetensors")
        message(f"written: {folder}/model.safetensors, stream.snapshot, metrics.jsonl")
        message(NEXT.format(folder))
    return document, bool(signals) and signals[0] is signal.SIGINT


def _some_rows(session: StreamSession, source: object, refused: list[str]) -> None:
    """An error where everything that came was set aside."""
    counts = session.counts
    if counts.rows or not (counts.rejected or counts.refused_rows or counts.refused_batches):
        return
    first = getattr(getattr(source, "dead", None), "first", None)
    line = "" if first is None else f" {first[0][:60].decode('utf-8', 'replace')!r}: {first[1]}."
    why = line or f" {refused[0]}." if refused or line else ""
    raise StreamGMMError(
        f"No row could be used: {counts.rejected + counts.refused_rows} record(s) and {counts.refused_batches} "
        f"batch(es) were set aside; the first:{why} Expected numbers; name their columns with --columns A,B."
    )


def _place(position: object, source: object) -> str:
    """A position for people to read."""
    unit = getattr(source, "unit", "")
    return f"{position:,} {unit}" if isinstance(position, int) else str(position)


@contextmanager
def _stopping(session: StreamSession) -> Iterator[list[signal.Signals]]:
    """SIGINT, SIGTERM and SIGHUP end the session after the batch at hand, or at once while it waits for rows."""
    from streamgmm.stream import StopStream

    came: list[signal.Signals] = []

    def handle(number: int, _: object) -> None:
        if new_request() or not came:
            came.append(signal.Signals(number))
        session.stop()
        if session.waiting:
            raise StopStream

    before = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, *ENDING)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _lines(path: str | None, *, needed: bool = True) -> Iterator[IO[str] | None]:
    """A file of JSON lines to append to; `needed`: an error where the last of it cannot be written."""
    if path is None:
        yield None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    try:
        yield file
    finally:
        try:
            file.close()
        except OSError as error:
            if needed:
                raise OSError(error.errno, error.strerror, path) from error


def _put(file: IO[str], line: str) -> None:
    """Write a line; an error names the file."""
    try:
        file.write(line)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error
