"""What a session knows, as named arrays and a header for its snapshot; and back."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from streamgmm.errors import CheckpointMismatchError, ModelFileError
from streamgmm.runtime.array_file import read_arrays, write_arrays
from streamgmm.stream.update import Counts
from streamgmm.utils.locks import FileLock

if TYPE_CHECKING:
    from streamgmm.stream.session import StreamSession

__all__ = ["restore_to", "state_of"]

Arrays = dict[str, NDArray[Any]]


def state_of(session: StreamSession) -> tuple[Arrays, dict[str, Any]]:
    """Model, statistics, rows that wait, sketch, detector, position and counts."""
    arrays, learnt = session.learner.state()
    if session.judge is not None:
        arrays |= {f"sketch.{name}": array for name, array in session.judge.sketch.state().items()}
    return arrays, {
        "settings": _settings(session),
        "n_features": session.learner.n_features,
        "feature_names": list(getattr(session.model, "feature_names_in_", ())) or None,
        "learner": learnt,
        "detector": None if session.detector is None else session.detector.state(),
        "threshold": session.threshold,
        "position": session.position,
        "layout": session.layout,
        "source": session.source,
        "counts": asdict(session.counts),
    }


def restore_to(session: StreamSession, arrays: Arrays, header: dict[str, Any]) -> None:
    """The inverse of `state_of`.

    Raises
    ------
    CheckpointMismatchError
        Where the state is of a session with other settings.
    """
    found, wanted = header["settings"], _settings(session)
    other = [
        f"{name} = {found.get(name)!r}, here {value!r}" for name, value in wanted.items() if found.get(name) != value
    ]
    if other:
        raise CheckpointMismatchError(
            f"{session.snapshot} was written with other settings: {'; '.join(other)}. Use those, or another file."
        )
    model = session.model
    model.n_features_in_ = int(header["n_features"])
    if header.get("feature_names") is not None:
        model._name_features(header["feature_names"])
    model._learner = None
    model.__dict__.pop("mixture_", None)
    model._stream(**session.options)
    session.learner.restore(arrays, header["learner"])
    model._publish([])
    if session.judge is not None:
        if "sketch.counts" in arrays:
            session.judge.sketch.restore({name: arrays[f"sketch.{name}"] for name in ("counts", "fresh")})
        session.judge.threshold = math.nan if header["threshold"] is None else header["threshold"]
    if session.detector is not None and header["detector"] is not None:
        session.detector.restore(header["detector"])
    session.position = header["position"]
    source = header.get("source")
    if source is not None:
        session.source = {
            "identity": {str(name): str(value) for name, value in source["identity"].items()},
            "at": source["at"],
            "bytes": int(source["bytes"]),
            "sha256": str(source["sha256"]),
        }
    if header.get("layout") is not None:
        session._learn_layout(header["layout"])
    session.counts = Counts(**header["counts"])


def _settings(session: StreamSession) -> dict[str, Any]:
    """What must be as it was for the state to mean the same."""
    model = session.model
    chosen = {
        name: getattr(model, name) for name in ("n_components", "reg_covar", "half_life", "init_params", "n_init")
    }
    chosen["covariance_type"] = str(getattr(model.covariance_type, "name", model.covariance_type))
    if model.n_factors is not None:
        chosen["n_factors"] = model.n_factors
    return chosen | {
        "step_rows": session.options["step_rows"],
        "score": session.score,
        "anomaly_rate": session.anomaly_rate,
    }


KIND = "streamgmm-stream"
Stamp = tuple[int, int, int] | None
log = logging.getLogger("streamgmm.stream")


def previous(path: Path) -> Path:
    """Where the snapshot before the newest stands."""
    return path.with_name(path.name + ".previous")


def exists(path: Path) -> bool:
    """Whether there is something to go on from."""
    return path.exists() or previous(path).exists()


def discard(path: Path) -> None:
    """Remove the snapshot and the one before.

    Raises
    ------
    StreamGMMError
        Where a session has them in use.
    """
    if not exists(path):
        return
    lock = FileLock(path)
    lock.acquire()
    try:
        path.unlink(missing_ok=True)
        previous(path).unlink(missing_ok=True)
    finally:
        lock.release()


def stamp(path: Path) -> Stamp:
    """What tells one writing of the file from another; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def expect(path: Path, known: Stamp) -> None:
    """See that nobody wrote the snapshot since it was `known`.

    Raises
    ------
    CheckpointMismatchError
        Where somebody did.
    """
    here = stamp(path)
    if here is not None and here != known:
        raise CheckpointMismatchError(
            f"{path} was written by another session since this one was made. Make a new StreamSession to go on from "
            "it, or give this one a snapshot of its own."
        )


def write(path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Write a snapshot; at any moment the newest whole one, or the one before, can be read."""
    if path.exists():
        keep = path.with_name(f".{path.name}.previous.part")
        keep.unlink(missing_ok=True)
        os.link(path, keep)
        keep.replace(previous(path))
    write_arrays(path, arrays, header, kind=KIND)


def read(path: Path, use: Callable[[dict[str, NDArray[Any]], dict[str, Any]], None]) -> None:
    """Give arrays and header of the newest snapshot to `use`, or of the one before where that is damaged.

    Raises
    ------
    ModelFileError
        Where both are.
    """
    try:
        _read(path, use)
    except (ModelFileError, FileNotFoundError) as error:
        if not previous(path).exists():
            raise
        log.warning("%s; going on from the snapshot before it", error)
        _read(previous(path), use)


def _read(path: Path, use: Callable[[dict[str, NDArray[Any]], dict[str, Any]], None]) -> None:
    arrays, header = read_arrays(path, kind=KIND)
    try:
        use(arrays, header)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: does not hold the state of a stream ({type(error).__name__}: {str(error)[:200]}). Restore it "
            "from a copy, or begin with another file."
        ) from error
