"""Kafka: offsets live in the snapshot, and go to the broker only after it. Position: {"topic:partition": next}."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.errors import StreamGMMError
from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors import Source
from streamgmm.stream.connectors.lines import DeadLetters
from streamgmm.stream.connectors.parse import Parser

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition

__all__ = ["Kafka"]

log = logging.getLogger("streamgmm.stream")
_WAIT = 0.2
"""Seconds to wait for messages in one call."""
_PATIENCE = 30.0
"""Seconds that a broker may take to answer a question."""
_AT_A_TIME = 2.0
"""Seconds of one call that waits for an answer: signals are heard between calls."""


class Kafka(Source):
    """Messages of one topic, one row each.

    Every partition is assigned to this process (no group balancing), from the snapshot's offsets, or from the earliest.
    Within a partition the order is kept; between partitions it is the broker's, so the same bits after a restart are
    promised for one partition, the same counts for any number.

    While no broker answers the stream waits: librdkafka connects again and goes on where it was. Silence is the end of
    the stream only where the brokers say that nothing is left.

    Parameters
    ----------
    servers : str
        "host:port,...".
    topic : str
    group : str
        Under which offsets are committed, for other tools to see the lag.
    format, columns, width :
        Of a message's value; see `Parser`. "float64" takes little-endian doubles.
    batch_rows : int
        Messages per batch at most.
    idle : float or None
        Seconds without a message after which the stream has ended, or has failed where a broker does not answer; None
        waits forever.
    dead_letters : path, optional
    options : dict, optional
        More settings of librdkafka (security and so on).
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        group: str = "streamgmm",
        format: str = "ndjson",
        columns: Sequence[str] | None = None,
        width: int | None = None,
        batch_rows: int = 10_000,
        idle: float | None = None,
        dead_letters: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.servers, self.topic, self.batch_rows, self.idle = servers, topic, batch_rows, idle
        self.parser = None if format == "float64" else Parser(format, columns, width)
        self.width = width
        self.dead = DeadLetters(dead_letters)
        self.settings = {
            "error_cb": self._told,
            "log_level": 2,  # what fails is told by the callback
            "session.timeout.ms": 6000,  # so long does a last commit wait for a broker that is away
            **(options or {}),
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",  # an offset that is gone must be told, not skipped
        }
        self._consumer: Any = None
        self._broken = ""  # why brokers cannot be reached, until a message comes

    def open(self, position: Position) -> Iterator[Batch]:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        self._consumer = consumer = Consumer(self.settings)
        at = {key: int(offset) for key, offset in (position or {}).items()}
        partitions = [
            TopicPartition(self.topic, p, at.get(f"{self.topic}:{p}", OFFSET_BEGINNING))
            for p in self._partitions(consumer)
        ]
        consumer.assign(partitions)
        quiet = 0.0
        while True:
            messages = consumer.consume(self.batch_rows, timeout=_WAIT)
            if messages:
                batch = self._batch(messages)
                at |= batch.end
                quiet, self._broken = 0.0, ""
                yield batch
                continue
            quiet += _WAIT
            if self.idle is not None and quiet >= self.idle and self._ended(quiet - self.idle, partitions, at):
                return

    def _ended(self, over: float, partitions: list[TopicPartition], at: dict[str, int]) -> bool:
        """True if silence is the end: no broker holds more, or in `over` seconds nothing came of it.

        The latter are marks of transactions, which are no messages.
        """
        return over >= _PATIENCE or not self._more(partitions, at)

    def _partitions(self, consumer: Consumer) -> list[int]:
        found = self._answer(lambda seconds: consumer.list_topics(self.topic, timeout=seconds)).topics[self.topic]
        if found.error is not None:
            raise StreamGMMError(f"Kafka topic {self.topic!r}: {found.error.str()}. Create it, or correct its name.")
        return sorted(found.partitions)

    def _more(self, partitions: list[TopicPartition], at: dict[str, int]) -> bool:
        """True where the leader of some partition holds messages beyond what was read."""

        def extent(one: TopicPartition, seconds: float) -> tuple[int, int] | None:
            found: tuple[int, int] | None = self._consumer.get_watermark_offsets(one, timeout=seconds, cached=False)
            return found

        for one in partitions:
            low, high = self._answer(partial(extent, one))
            if max(low, at.get(f"{one.topic}:{one.partition}", low)) < high:
                return True
        return False

    def _answer(self, ask: Callable[[float], Any]) -> Any:
        """Answers of the brokers.

        Raises
        ------
        StreamGMMError
            Where they do not.
        """
        from confluent_kafka import KafkaException

        end = time.monotonic() + _PATIENCE
        why = "it takes too long"
        while (left := end - time.monotonic()) > 0:
            try:
                answer = ask(min(left, _AT_A_TIME))
                if answer is not None:
                    return answer
            except KafkaException as error:
                why = error.args[0].str()
                time.sleep(min(left, 0.1))
        raise StreamGMMError(
            f"Kafka at {self.servers}, topic {self.topic!r}: no broker answered in {_PATIENCE:.0f} s "
            f"({self._broken or why}). Start the brokers or correct servers. Started again, a stream with a snapshot "
            "goes on from where it was."
        )

    def _told(self, error: KafkaError) -> None:
        """A connection failed: librdkafka goes on trying."""
        if not self._broken:
            log.warning("Kafka at %s: %s; waiting for it to come back", self.servers, error.str())
        self._broken = error.str()

    def _batch(self, messages: list[Any]) -> Batch:
        start: dict[str, int] = {}
        end: dict[str, int] = {}
        values = []
        for message in messages:
            error = message.error()
            if error is not None:
                raise StreamGMMError(
                    f"Kafka topic {self.topic!r}: {error.str()}. If offsets have expired, rows are lost: raise the "
                    "topic's retention, and begin with a new snapshot."
                )
            key = f"{self.topic}:{message.partition()}"
            start.setdefault(key, message.offset())
            end[key] = message.offset() + 1
            values.append(message.value() or b"")
        if self.parser is None:
            rows, bad = self._doubles(values)
        else:
            # A message is one record, whatever line ends it holds.
            whole = [value.replace(b"\n", b" ").strip() or b"(empty)" for value in values]
            rows, bad = self.parser.parse(whole)
        self.dead.put(bad, start)
        return Batch(rows, end, start, rejected=len(bad))

    def _doubles(self, values: list[bytes]) -> tuple[Any, list[tuple[bytes, str]]]:
        width = self.width or len(values[0]) // 8
        self.width = width
        good = [value for value in values if len(value) == 8 * width]
        bad = [(v, f"expected {8 * width} bytes, found {len(v)}") for v in values if len(v) != 8 * width]
        return np.frombuffer(b"".join(good), "<f8").reshape(len(good), width), bad

    def commit(self, position: Position) -> None:
        """Tell the broker, for others to see; reading never starts from there."""
        if self._consumer is None or not position:
            return
        from confluent_kafka import KafkaException, TopicPartition

        offsets = [TopicPartition(self.topic, int(key.rpartition(":")[2]), offset) for key, offset in position.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException:
            return  # the snapshot has them; the broker's copy is for show

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
