"""The Redis connector against a real server: started here, on a socket of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import DONE, USAGE, run
from streamgmm.stream import StreamPositionError
from streamgmm.stream.connectors import connect

redis = pytest.importorskip("redis")


@contextmanager
def serving(command):
    """A server that answers, killed at the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if "ready to accept connections" in line.lower():
                    break
            else:
                pytest.fail("redis-server did not start")
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server():
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # a socket's path must be short
        socket = Path(folder) / "s"
        command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder]
        with serving(command):
            yield f"unix://{socket}"


@pytest.fixture
def client(server):
    with redis.Redis.from_url(server) as client:
        yield client
        client.flushall()


def rows_of(n):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 2)) + 5.0 * rng.integers(2, size=(n, 1))


def add(client, X, key="rows"):
    with client.pipeline(transaction=False) as many:
        for a, b in X.tolist():
            many.xadd(key, {"b": repr(b), "a": repr(a)})
        many.execute()


def session(path=None, **options):
    return sg.StreamSession(sg.GaussianMixture(2, random_state=0), snapshot=path, **options)


def test_goes_on_from_the_snapshot(server, client, tmp_path):
    X = rows_of(4000)
    add(client, X[:100])
    client.xadd("rows", {"a": "rubbish", "b": "1"})
    client.xadd("rows", {"a": "1"})
    add(client, X[100:])
    options = {"servers": server, "topic": "rows", "batch_rows": 300, "idle": 0.2, "dead_letters": tmp_path / "dead"}
    path = tmp_path / "state"
    first = session(path, every_rows=700)
    connector = connect("redis", **options)
    stream = first.run(connector)
    for _ in range(6):
        next(stream)
    del stream  # no farewell
    connector.close()
    second = session(path, every_rows=700)
    assert 0 < second.counts.rows < 4000
    list(second.run(connect("redis", **options)))
    assert (second.counts.rows, second.counts.rejected, second.counts.repeated) == (4000, 2, 0)
    newest = client.xinfo_stream("rows")["last-generated-id"].decode()
    assert second.position == [newest, 4002]
    assert "not a number" in (tmp_path / "dead").read_text()
    whole = session()
    list(whole.run([(X, 4000)]))
    np.testing.assert_array_equal(second.mixture.means, whole.mixture.means)


def test_waits_for_entries_to_come(server, client):
    X = rows_of(200)
    add(client, X[:100])
    one = session()
    stream = one.run(connect("redis", servers=server, topic="rows", columns=["a", "b"], idle=None), max_rows=200)
    assert next(stream).rows == 100
    add(client, X[100:])
    assert next(stream).rows == 100
    assert list(stream) == []


def test_trimming_what_was_read_is_no_loss_and_what_was_not_is(server, client, tmp_path):
    X = rows_of(600)
    add(client, X[:200])
    options = {"servers": server, "topic": "rows", "idle": 0.2}
    one = session(tmp_path / "state")
    list(one.run(connect("redis", **options)))
    client.xtrim("rows", maxlen=0, approximate=False)
    add(client, X[200:400])
    again = session(tmp_path / "state")
    list(again.run(connect("redis", **options)))
    assert again.counts.rows == 400
    add(client, X[400:])
    client.xtrim("rows", maxlen=150, approximate=False)
    with pytest.raises(StreamPositionError, match=r"50 entries after .* were trimmed before they were read"):
        list(session(tmp_path / "state").run(connect("redis", **options)))


def test_what_was_trimmed_before_the_first_reading_does_not_matter(server, client):
    add(client, rows_of(300))
    client.xtrim("rows", maxlen=100, approximate=False)
    one = session()
    list(one.run(connect("redis", servers=server, topic="rows", idle=0.2)))
    assert one.counts.rows == 100
    assert one.position[1] == 300


def test_a_stream_that_was_made_anew_is_told(server, client, tmp_path):
    options = {"servers": server, "topic": "rows", "idle": 0.2}
    add(client, rows_of(100))
    list(session(tmp_path / "state").run(connect("redis", **options)))
    client.delete("rows")
    with pytest.raises(StreamPositionError, match="is gone"):
        list(session(tmp_path / "state").run(connect("redis", **options)))
    client.xadd("rows", {"a": "1", "b": "2"}, id="1-1")
    with pytest.raises(StreamPositionError, match="it was made anew"):
        list(session(tmp_path / "state").run(connect("redis", **options)))


def test_a_key_of_another_type_is_an_error(server, client):
    client.set("rows", "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        list(session().run(connect("redis", servers=server, topic="rows", idle=0.2)))


def test_from_the_command_line(server, client, tmp_path, capsys):
    add(client, rows_of(1000))
    config = tmp_path / "stream.toml"
    config.write_text(
        f'[data]\ncolumns = ["a", "b"]\n[model]\nn_components = 2\n[stream]\nsource = "redis"\nservers = "{server}"\n'
        'topic = "rows"\nidle = 0.2\n'
    )
    assert run(["stream", str(config), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["counts"]["rows"] == 1000
    assert run(["stream", str(config), "--set", "stream.topic=none"]) == USAGE
    assert "needs servers and topic" in capsys.readouterr().err


def test_a_server_that_is_killed_and_comes_back(tmp_path):
    """The stream ends with the server's error; started again it goes on from its snapshot, and loses nothing."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    X = rows_of(3000)
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        socket = f"{folder}/s"
        command = [program, "--port", "0", "--unixsocket", socket, "--dir", folder]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        options = {"servers": f"unix://{socket}", "topic": "rows", "batch_rows": 200, "idle": 0.2}
        with serving(command), redis.Redis.from_url(options["servers"]) as client:
            add(client, X[:2000])
        with serving(command):
            one = session(tmp_path / "state", every_rows=500)
            stream = one.run(connect("redis", **options))
            for _ in range(5):
                next(stream)
        with pytest.raises(redis.ConnectionError):
            list(stream)
        with serving(command), redis.Redis.from_url(options["servers"]) as client:
            add(client, X[2000:])
            again = session(tmp_path / "state")
            assert 0 < again.counts.rows < 2000
            list(again.run(connect("redis", **options)))
    assert (again.counts.rows, again.counts.repeated) == (3000, 0)
    whole = session()
    list(whole.run([(X, 3000)]))
    np.testing.assert_array_equal(again.mixture.means, whole.mixture.means)
