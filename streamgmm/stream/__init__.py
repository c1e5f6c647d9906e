"""Streams: a session that learns, scores, watches and survives; its parts; and what it reads from."""

from streamgmm.stream.batch import Batch, StreamPositionError
from streamgmm.stream.drift import Cusum
from streamgmm.stream.session import StreamSession
from streamgmm.stream.sketch import QuantileSketch
from streamgmm.stream.update import Counts, StopStream, Update

__all__ = ["Batch", "Counts", "Cusum", "QuantileSketch", "StopStream", "StreamPositionError", "StreamSession", "Update"]
