"""Kafka: offsets live in the snapshot, and go to the broker only after it. Position: {"topic:partition": next}."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamgmm.errors import StreamGMMError
from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors import Source
from streamgmm.stream.connectors.lines import DeadLetters
from streamgmm.stream.connectors.parse import Parser

__all__ = ["Kafka"]


class Kafka(Source):
    """Messages of one topic, one row each.

    Every partition is assigned to this process (no group balancing), from the snapshot's offsets, or from the earliest.
    Within a partition the order is kept; between partitions it is the broker's, so the same bits after a restart are
    promised for one partition, the same counts for any number.

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
        Seconds without a message after which the stream has ended; None waits forever.
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
        self.topic, self.batch_rows, self.idle = topic, batch_rows, idle
        self.parser = None if format == "float64" else Parser(format, columns, width)
        self.width = width
        self.dead = DeadLetters(dead_letters)
        self.settings = {
            **(options or {}),
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",  # an offset that is gone must be told, not skipped
        }
        self._consumer: Any = None

    def open(self, position: Position) -> Iterator[Batch]:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        self._consumer = consumer = Consumer(self.settings)
        found = consumer.list_topics(self.topic, timeout=30).topics[self.topic]
        if found.error is not None:
            raise StreamGMMError(f"Kafka topic {self.topic!r}: {found.error.str()}. Create it, or correct its name.")
        at = {key: int(offset) for key, offset in (position or {}).items()}
        consumer.assign(
            [
                TopicPartition(self.topic, p, at.get(f"{self.topic}:{p}", OFFSET_BEGINNING))
                for p in sorted(found.partitions)
            ]
        )
        quiet = 0.0
        while self.idle is None or quiet < self.idle:
            messages = consumer.consume(self.batch_rows, timeout=0.2)
            if not messages:
                quiet += 0.2
                continue
            quiet = 0.0
            yield self._batch(messages)

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
