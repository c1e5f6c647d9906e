"""A Kafka cluster that can be taken down and comes back: librdkafka's own, real TCP and the real protocol.

The Python client offers no more than to start one; what ends and revives its brokers is public in the C library.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from pathlib import Path

_PRODUCER = 0


def _library():
    import confluent_kafka

    (path,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("conf_new", "new", "mock_cluster_new"):
        getattr(library, f"rd_kafka_{name}").restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class Cluster:
    """One broker, `address`, whose log outlives its deaths."""

    def __init__(self, library, cluster):
        self._library, self._cluster = library, cluster
        self.address = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()

    def create(self, topic, partitions=1):
        assert self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1) == 0

    def down(self):
        """Connections are cut, and new ones refused."""
        assert self._library.rd_kafka_mock_broker_set_down(self._cluster, ctypes.c_int32(1)) == 0

    def up(self):
        assert self._library.rd_kafka_mock_broker_set_up(self._cluster, ctypes.c_int32(1)) == 0

    def produce(self, topic, values):
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address, "log_level": 0})
        for i, value in enumerate(values):
            producer.produce(topic, value, partition=0)
            if i % 1000 == 999:
                assert producer.flush(30) == 0
        assert producer.flush(30) == 0


@contextmanager
def kafka_cluster():
    library = _library()
    said = ctypes.create_string_buffer(500)
    configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(configuration, b"log_level", b"0", said, ctypes.c_size_t(len(said)))
    handle = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, configuration, said, ctypes.c_size_t(len(said))))
    assert handle.value, said.value
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(handle, 1))
    try:
        yield Cluster(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(handle)
