"""Every implementation on every row of the table, alternately, each run in a process of its own.

    python -m benchmarks iteration [--instructions all|avx2] [--runs 5] [--only TEXT] [--tiny] [--write README.md]

Equal threads, equal data, equal start; time per EM iteration actually run. The parameters that come back must give the
same log-likelihood as ours after as many iterations. Runs are added to those in `results.json` in the cache that the
same machine made with the same kernels (what the slow peers needed does not depend on ours, so it is kept when our
kernels change); with --write all of them go between the markers in that file. Peers are installed on first use (see
`environments`).

With `--instructions avx2` the kernels, oneDAL and NumPy's matrix product (OpenBLAS's Haswell kernels) use no wider
vectors than AVX2 has, as on a processor without AVX-512; both halves of the table are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.cache import cache
from benchmarks.data.cases import CASES, TINY, Case, folder
from benchmarks.peers.environments import python_of
from benchmarks.readme import model_name, write_section
from streamgmm.kernels._jit import sources_hash

AGREE = 1e-6
"""Allowed difference of mean log-likelihoods, in nats per row."""

_RARE = ("pomegranate", "Spark")
"""Peers that run on one row only, and have no column of their own."""
_SLOW = ("scikit-learn", *_RARE)


INSTRUCTIONS = {
    "all": {},
    "avx2": {
        # Numba passes the host's features unless these are set, be it to nothing.
        "NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "Haswell",
        "STREAMGMM_BENCH_ONEDAL_CPU": "4",
    },
}  # fmt: skip
"""What limits processes to the instructions, in their environment; for oneDAL see `worker`."""


def vectors(instructions: str) -> str:
    """What vectors the kernels use, in words."""
    code = "from streamgmm.kernels._target import registers; print(registers().width)"
    environment = {**os.environ, **INSTRUCTIONS[instructions], "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    limited = ", limited to AVX2," if instructions == "avx2" else ""
    return f"{limited} {64 * int(done.stdout)}-bit vectors"


def matrix_rate(threads: int, instructions: str = "all") -> float:
    """GFLOP/s of NumPy's matrix product of two 2048 x 2048 arrays: best of five."""
    code = (
        "import numpy as np, time; a = np.random.rand(2048, 2048); a @ a; t = []\n"
        "for _ in range(5):\n b = time.perf_counter(); a @ a; t.append(time.perf_counter() - b)\n"
        "print(2 * 2048**3 / min(t) / 1e9)"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    environment |= INSTRUCTIONS[instructions]
    return float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


def run_once(
    peer: str,
    case: Case,
    iterations: int,
    threads: int,
    save: str = "-",
    here: bool = False,
    instructions: str = "all",
) -> dict[str, Any] | None:
    """One run in a fresh process; None where the peer is not there, or failed (the reason is printed)."""
    python = sys.executable if here or peer == "streamgmm" else python_of(peer)
    if python is None:
        return None
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if peer == "streamgmm":
        environment["PYTHONPATH"] = str(root)
    environment |= {"PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python} | INSTRUCTIONS[instructions]
    command = [
        python, str(Path(__file__).with_name("worker.py")), peer, str(folder(case)), case.kind, str(iterations),
        str(threads), save,
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{peer} failed on {case.name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def mean_loglik(case: Case, parameters: str) -> float:
    """Mean log-likelihood of saved parameters on the first 50,000 rows."""
    import streamgmm as sg

    X = np.load(folder(case) / "X.npy", mmap_mode="r")[:50_000]
    with np.load(parameters) as p:
        weights = p["weights"] / p["weights"].sum()
        covariances = p["covariances"]
        if case.kind in ("full", "tied"):
            covariances = 0.5 * (covariances + np.swapaxes(covariances, -1, -2))
        return float(sg.Mixture(weights, p["means"], covariances, case.kind).log_prob(X).mean())


def measure(
    case: Case,
    runs: int,
    threads: int,
    slow_runs: int | None = None,
    here: bool = False,
    known: dict[str, list[dict[str, Any]]] | None = None,
    instructions: str = "all",
) -> dict[str, list[dict[str, Any]]]:
    """All implementations on one case, `runs` alternations added to the `known` ones: what each run reports, by name.

    Where a peer has no run with it yet, the first one tells how far its log-likelihood lies from ours, as "gap".
    """
    samples = {name: list((known or {}).get(name, [])) for name in {"streamgmm": 0, **(known or {})}}
    with tempfile.TemporaryDirectory() as scratch:
        failed = set()
        for turn in range(runs):
            for peer in ("streamgmm", *case.peers):
                slow = peer in _SLOW
                if peer in failed or (slow and slow_runs is not None and turn >= slow_runs):
                    continue
                saved = str(Path(scratch) / f"{peer}.npz")
                found = run_once(peer, case, case.slow if slow else case.iterations, threads, saved, here, instructions)
                if found is None:
                    failed.add(peer)
                    continue
                before = samples.setdefault(peer, [])
                if peer != "streamgmm" and Path(saved).exists() and not any("gap" in r for r in before):
                    ours = str(Path(scratch) / "ours.npz")
                    run_once("streamgmm", case, found["iterations"], threads, ours, instructions=instructions)
                    found["gap"] = abs(mean_loglik(case, saved) - mean_loglik(case, ours))
                before.append(found)
    return samples


def summary(case: Case, samples: dict[str, list[dict[str, Any]]], threads: int) -> dict[str, Any]:
    """Medians of all runs on one case, and how far log-likelihoods lie apart."""
    result: dict[str, Any] = {"case": case.name, "flop": case.flop, "implementations": {}}
    for peer, found in samples.items():
        if not found:
            continue
        each = [1e9 * r["seconds"] / r["iterations"] / case.n for r in found]
        cpu = [1e9 * r["cpu"] / r["iterations"] / case.n / threads for r in found if "cpu" in r]
        result["implementations"][peer] = {
            "ns": statistics.median(each), "cpu_ns": statistics.median(cpu) if cpu else None, "runs": len(found),
            "iterations": found[0]["iterations"], "gap": max((r["gap"] for r in found if "gap" in r), default=None),
            "extra_mb": statistics.median(r["peak"] - r["before"] for r in found),
        }  # fmt: skip
    return result


def _counted(results: list[dict[str, Any]]) -> str:
    """How many runs each column rests on, in words."""
    said = []
    for peer in ("streamgmm", "oneDAL", "scikit-learn"):
        runs = [r["implementations"][peer]["runs"] for r in results if peer in r["implementations"]]
        if runs:
            most = f" to {max(runs)}" if max(runs) > min(runs) else ""
            said.append(f"{peer}: {min(runs)}{most}")
    return ", ".join(said)


def table(results: list[dict[str, Any]], rate: float, machine: str) -> str:
    """The results as a Markdown table."""
    lines = [
        f"Time of one EM iteration in ns per row on {machine}, median of alternating fresh processes "
        f"({_counted(results)}). NumPy's own matrix product reaches {rate:.0f} GFLOP/s in the same run.",
        "",
        "| rows, features, components | streamgmm | share of matrix rate | oneDAL | times | scikit-learn | times "
        "| extra memory: streamgmm, oneDAL, scikit-learn (MB) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        found = result["implementations"]
        ours = found["streamgmm"]
        cells = [result["case"], f"{ours['ns']:.1f}", f"{result['flop'] / ours['ns'] / rate:.0%}"]
        for peer in ("oneDAL", "scikit-learn"):
            there = found.get(peer)
            cells += [f"{there['ns']:.0f}", f"{there['ns'] / ours['ns']:.1f}"] if there else ["", ""]
        memory = [f"{found[p]['extra_mb']:.0f}" if p in found else "-" for p in ("streamgmm", "oneDAL", "scikit-learn")]
        lines.append("| " + " | ".join([*cells, ", ".join(memory)]) + " |")
    for result in results:
        ours = result["implementations"]["streamgmm"]["ns"]
        others = {peer: found["ns"] for peer, found in result["implementations"].items() if peer in _RARE}
        if others:
            said = ", ".join(f"{peer} {ns:.0f} ns ({ns / ours:.0f} times)" for peer, ns in others.items())
            lines += ["", f"On {result['case']}, {said}."]
    gaps = [i["gap"] for r in results for i in r["implementations"].values() if i.get("gap") is not None]
    if gaps:
        lines += ["", f"Log-likelihoods after the same iterations lie at most {max(gaps):.0e} nats per row apart."]
    return "\n".join(lines)


def halves(stored: dict[str, Any], processors: str) -> list[str]:
    """The table of each set of instructions that was measured on these processors."""
    found: dict[str, list[dict[str, Any]]] = {}
    for prefix in ("", "avx2: "):
        for case in (*TINY, *CASES):
            result = stored.get(prefix + case.name, {})
            if str(result.get("machine", "")).startswith(processors):
                found.setdefault(result["machine"], []).append(result)
    return [table(results, results[-1]["rate"], machine) for machine, results in found.items()]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 where log-likelihoods do not agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="alternations (default 5)")
    parser.add_argument("--slow-runs", type=int, default=None, help="alternations of the slow peers, if fewer")
    parser.add_argument("--instructions", choices=tuple(INSTRUCTIONS), default="all", help="which half of the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--peers", default="", help="only these, separated by commas")
    parser.add_argument("--tiny", action="store_true", help="one small case, in this environment, as the tests run it")
    parser.add_argument("--write", type=Path, help="write the table into this file")
    parser.add_argument("--results", type=Path, default=None)
    options = parser.parse_args(arguments)
    rate = matrix_rate(options.threads, options.instructions)
    processors = f"{options.threads} threads of {model_name()}"
    machine = f"{processors}, {vectors(options.instructions).lstrip(', ')}"
    path = options.results or cache() / "results.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    wrong = 0
    cases = [case for case in (TINY if options.tiny else CASES) if options.only in case.name]
    for case in cases:
        if options.peers:
            case = replace(case, peers=tuple(options.peers.split(",")))
        begin = time.perf_counter()
        mine = {"machine": machine, "kernels": sources_hash()}
        key = case.name if options.instructions == "all" else f"{options.instructions}: {case.name}"
        known = stored.get(key, {})
        samples = known.get("samples", {}) if known.get("machine") == machine else {}
        if known.get("kernels") != mine["kernels"]:
            samples = {peer: runs for peer, runs in samples.items() if peer in _SLOW}
        samples = measure(
            case, options.runs, options.threads, options.slow_runs, options.tiny, samples, options.instructions
        )
        result = summary(case, samples, options.threads)
        stored[key] = {**result, **mine, "rate": rate, "samples": samples}
        path.write_text(json.dumps(stored, indent=1))
        for peer, found in result["implementations"].items():
            ours = result["implementations"]["streamgmm"]
            ratio = found["ns"] / ours["ns"]
            busy = ""
            if found["cpu_ns"]:
                busy = f"; processor time {found['cpu_ns']:.1f} ns, {found['cpu_ns'] / ours['cpu_ns']:.1f} times"
            gap = "" if found["gap"] is None else f", log-likelihood {found['gap']:.1e} apart"
            print(
                f"{case.name}: {peer} {found['ns']:.1f} ns ({ratio:.1f} times{busy}){gap}, {found['extra_mb']:.0f} MB"
            )
            wrong += found["gap"] is not None and not found["gap"] < AGREE
        print(f"  {time.perf_counter() - begin:.0f} s", flush=True)
    if options.write and stored:
        write_section(options.write, "kernels", "\n\n".join(halves(stored, processors)))
    return 1 if wrong else 0
