"""What a session knows, as named arrays and a header for its snapshot; and back."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from streamgmm.errors import CheckpointMismatchError
from streamgmm.stream.update import Counts

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
    return chosen | {
        "step_rows": session.options["step_rows"],
        "score": session.score,
        "anomaly_rate": session.anomaly_rate,
    }
