"""The benchmark of missing values runs, tiny; that it prints a row for every case is all it can promise here."""

from __future__ import annotations

from benchmarks.costs import missing


def test_benchmark_runs(capsys, monkeypatch):
    monkeypatch.setattr(missing, "CASES", ((2000, 4, 2),))
    missing.main(["--divide", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[3:]] == list(missing.FAMILIES)
    assert all(float(line.split(" | ")[-1].rstrip(" |")) > 0 for line in lines[3:])
