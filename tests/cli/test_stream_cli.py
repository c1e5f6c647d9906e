"""`streamgmm stream` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import DONE, FAILED, USAGE, run

CONFIG = str(Path(__file__).parents[2] / "configs" / "stream.toml")


def settings(folder, **more):
    pairs = {"output.dir": folder, **{k: folder / k for k in ("metrics", "anomalies", "dead_letters")}, **more}
    return [word for key, value in pairs.items() for word in ("--set", f"{key}={value}")]


def last_metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics").read_text().splitlines()]
    return [line for line in lines if line["event"] == "metrics"][-1]


def test_the_shipped_config_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["stream", CONFIG, "--json", *settings(tmp_path, max_rows=30_000)]) == DONE
    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["rows"] == 30_000
    assert sum(document["weights"]) == pytest.approx(1.0)
    assert document["ended_by"] == "end of stream"
    assert run(["stream", CONFIG, "--json", *settings(tmp_path, max_rows=50_000)]) == DONE
    captured = capsys.readouterr()
    assert json.loads(captured.out)["counts"]["rows"] == 50_000
    assert "30,000 rows on" in captured.err
    figures = last_metrics(tmp_path)
    assert figures["effective_sample_size"] > 1000 and figures["loglik"] < 0
    assert len((tmp_path / "anomalies").read_text().splitlines()) == figures["counts"]["anomalies"]
    assert (tmp_path / "model.safetensors").exists()
    assert run(["stream", CONFIG, "--json", "--fresh", *settings(tmp_path, max_rows=5000)]) == DONE
    assert json.loads(capsys.readouterr().out)["counts"]["rows"] == 5000


def test_lines_with_bad_ones_among_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(2000, 2)).round(4).tolist()
    lines = [json.dumps(row) for row in rows]
    lines[77:77] = ["oops", "[1, null]", "[1, 2, 3]"]
    data = tmp_path / "rows.ndjson"
    data.write_text("\n".join(lines))
    choice = settings(tmp_path, source="lines", width=2, max_rows="none", **{"data.path": data})
    assert run(["stream", CONFIG, *choice]) == DONE
    out = capsys.readouterr().out
    assert "2,000" in out and "3 unreadable" in out and "dead_letters" in out
    letters = [json.loads(line) for line in (tmp_path / "dead_letters").read_text().splitlines()]
    assert [letter["line"] for letter in letters] == ["oops", "[1, null]", "[1, 2, 3]"]


def test_a_table_as_people_have_it(tmp_path, monkeypatch, capsys):
    """Text columns, a header, no config: the kind of stream is seen, the folder holds everything, and it goes on."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal([20.0, 5.0], 1.0, (600, 2)).round(3).tolist()
    lines = ["time,temperature,place,wind", *(f"t{i},{a},Köln,{b}" for i, (a, b) in enumerate(rows))]
    Path("rows.csv").write_text("\n".join([*lines[:400], "oops", *lines[400:500], ""]), encoding="utf-8")
    command = ["stream", "rows.csv", "-k", "1", "--half-life", "200", "--out", "kept", "--set", "anomaly_rate=0.05"]
    assert run(command) == DONE
    out, err = capsys.readouterr()
    assert "mean temperature" in out and "1 unreadable" in out and "next: streamgmm inspect kept" in err
    written = {path.name for path in Path("kept").iterdir()}
    assert written >= {"anomalies.jsonl", "dead_letters.jsonl", "metrics.jsonl", "model.safetensors", "stream.snapshot"}
    assert json.loads(Path("kept/dead_letters.jsonl").read_text())["line"] == "oops"
    for more in (lines[500:], []):  # the second time there is nothing new
        with Path("rows.csv").open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in more))
        assert run([*command, "--json"]) == DONE
        assert json.loads(capsys.readouterr().out)["counts"]["rows"] == 600
    assert run(["inspect", "kept"]) == DONE
    assert "temperature" in capsys.readouterr().out
    means = sg.load("kept/model.safetensors").means_
    np.testing.assert_allclose(means, [[20.0, 5.0]], atol=0.3)


def test_a_stream_without_one_usable_row_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("rows.ndjson").write_text('{"a": "x"}\n{"a": "y"}\n')
    assert run(["stream", "rows.ndjson", "-k", "1"]) == FAILED
    assert (
        "2 record(s)" in (err := capsys.readouterr().err) and "expected numbers, found 0" in err and "--columns" in err
    )
    assert run(["stream", "rows.npy", "-k", "1"]) == USAGE
    assert "streamgmm data convert rows.npy" in capsys.readouterr().err
    Path("rows.csv").write_text("a,b\n1,2\n")
    assert run(["stream", "rows.csv", "-k", "1"]) == DONE
    assert "more row(s)" in capsys.readouterr().out


def test_metrics_without_room_do_not_end_the_stream_and_results_do(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(3000, 2)).tolist()
    (tmp_path / "x.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows) + "rubbish\n")
    words = ["stream", str(tmp_path / "x.ndjson"), "-k", "1", "--json", "--set", "metrics_seconds=0.001"]
    assert run([*words, "--set", "metrics=/dev/full"]) == DONE
    captured = capsys.readouterr()
    assert json.loads(captured.out)["counts"]["rows"] == 3000
    assert captured.err.count("note: /dev/full: metrics cannot be written") == 1
    for key in ("dead_letters=/dev/full", "anomalies=/dev/full"):
        assert run([*words, "--set", "anomaly_rate=0.01", "--set", key]) == FAILED
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: /dev/full: no space is left on its device")


def test_kafka_needs_to_know_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["stream", CONFIG, *settings(tmp_path, source="kafka")]) == USAGE
    assert "needs servers and topic" in capsys.readouterr().err


def test_sigterm_writes_a_snapshot_and_exits_0(tmp_path):
    """Also while it waits for rows that do not come."""
    data = tmp_path / "rows.ndjson"
    rows = np.random.default_rng(0).normal(size=(5000, 4)).round(4).tolist()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = settings(tmp_path, source="lines", follow="true", max_rows="none", **{"data.path": data})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "streamgmm", "stream", CONFIG, "--json", *choice]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=tmp_path) as process:
        for _ in range(600):
            time.sleep(0.1)
            if (tmp_path / "metrics").exists() and '"rows": 5000' in (tmp_path / "metrics").read_text():
                break
            # The figures are written with the next update: one more row is one more update.
            with data.open("a") as file:
                file.write("broken\n")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    document = json.loads(out)
    assert document["ended_by"] == "SIGTERM" and document["counts"]["rows"] == 5000
    from streamgmm import GaussianMixture, StreamSession

    again = GaussianMixture(4, half_life=50_000.0, random_state=0)
    session = StreamSession(again, snapshot=tmp_path / "stream.snapshot", anomaly_rate=0.002, false_alarms=1e-4)
    assert session.counts.rows == 5000
