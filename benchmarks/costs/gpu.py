"""Fits on a graphics card.

    python -m benchmarks gpu [--tiny] [--only PART ...] [--results FILE] [--write docs/gpu.md]

Parts run one after the other, each prints what it finds, and one that fails leaves the others alone:

  iterations  whole EM iterations through `GaussianMixture.fit`, rows on the card, and the rate of a product of matrices
  accuracy    five iterations of every family against the CPU, with weights, float64 and float32; the bits of three runs
  hard        a narrow component, rows that are NaN or far away, one component, few rows: the CPU's answer, or its error
  billion     1e9 x 8 rows of float32
  streaming   rows that do not stay: from pinned memory, and from an ordinary array
  few         iterations over few rows, beside the CPU
  peers       JAX (einsum, float64), gmmx, scikit-learn on torch, pomegranate and torchgmm on the same card; this
              package on all cores
  select      K = 1 to 15 on 10 million rows, beside the CPU

Figures are medians of five. Peers and the CPU run in processes of their own; the one for the CPU compiles its kernels
while the card is measured, and waits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

from benchmarks.data.mixtures import draw, mixture, start
from benchmarks.peers.cards import PEERS

ROOT = Path(__file__).parents[2]
CASES = [  # rows, features, components, family, nanoseconds per row and iteration that are asked for
    (20_000_000, 2, 8, "full", 0.08),
    (20_000_000, 8, 16, "full", 0.15),
    (20_000_000, 8, 64, "full", 0.45),
    (5_000_000, 16, 64, "full", 1.4),
    (5_000_000, 32, 32, "full", 2.5),
    (1_000_000, 63, 200, "full", 55.0),
    (20_000_000, 8, 16, "diag", 0.11),
]
WANTED = {"jax": 8, "gmmx": 10}
"""Times as long as ours that an iteration of theirs should take at least."""
FEW = (1_000, 10_000, 100_000, 1_000_000)
REPEATS = 5
SECONDS = 290.0
BEGIN, END = "<!-- measured by benchmarks/costs/gpu.py -->", "<!-- end of what was measured -->"


def fitted(X, parameters, family, iterations=10, **settings):
    import streamgmm as sg

    weight = settings.pop("sample_weight", None)
    settings = {"solver": "exact", "tol": 0.0, "max_iter": iterations, **start(parameters, family), **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sg.GaussianMixture(len(parameters[0]), covariance_type=family, **settings).fit(X, sample_weight=weight)


def paced(X, parameters, family, iterations, **settings):
    """A fit, and the seconds of each of its iterations but for the first."""
    import streamgmm as sg

    settings = {"solver": "exact", "tol": 0.0, "max_iter": iterations, **start(parameters, family), **settings}
    gm, times = sg.GaussianMixture(len(parameters[0]), covariance_type=family, **settings), [time.perf_counter()]
    from streamgmm.runtime.thread_limits import single_threaded_blas

    with warnings.catch_warnings(), single_threaded_blas():  # as `fit` does
        warnings.simplefilter("ignore")
        for _ in gm.fit_steps(X):
            times.append(time.perf_counter())
    return gm, np.diff(times)[1:]


def timed(X, parameters, family, iterations=10, repeats=REPEATS, **settings):
    """Median seconds of an iteration; of the same with all that the fit did before and after; and of the E-step."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        gm = fitted(X, parameters, family, iterations, **settings)
        total, seconds = time.perf_counter() - began, gm.report_["seconds"]
        found.append([seconds["em"], total, seconds.get("compute", np.nan)])
    return np.median(found, axis=0) / iterations


class Bench:
    """The card, how large everything is, and what was found so far."""

    def __init__(self, tiny, results):
        self.tiny, self.results = tiny, results
        self.found = {}
        self.began = time.perf_counter()
        self.cpu = None

    def left(self):
        return SECONDS - (time.perf_counter() - self.began)

    def size(self, n):
        return max(2_000, n // 20_000) if self.tiny else n

    def say(self, part, /, **line):
        line = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
        print(part, json.dumps(line, default=str), flush=True)
        self.found.setdefault(part, []).append(line)
        if self.results:
            Path(self.results).write_text(json.dumps(self.found, indent=1, default=str))

    def made(self, n, parameters, dtype="float64"):
        """Rows on the card."""
        return draw(n, parameters, cupy(), dtype)

    def release(self):
        pool = getattr(cupy(), "get_default_memory_pool", None)
        if pool is not None:
            pool().free_all_blocks()


def cupy():
    import cupy as found

    return found


def backend():
    from streamgmm.kernels.cuda import backend as cuda

    return cuda.get("cuda")


# Parts on the card ----------------------------------------------------------------------------------------------------


def iterations(bench):
    rate = matrix_rate(bench)
    for n, D, K, family, wanted in CASES:
        n, parameters = bench.size(n), mixture(D, K, family)
        X = bench.made(n, parameters)
        began = time.perf_counter()
        fitted(X, parameters, family, 2)
        first = time.perf_counter() - began
        em, whole, e_step = timed(X, parameters, family) * 1e9 / n
        later = np.median(paced(X, parameters, family, 11)[1]) * 1e9 / n
        p = 2 * D + 1 if family == "diag" else D * (D + 1) // 2 + D + 1
        bench.say(
            "iterations",
            rows=n,
            D=D,
            K=K,
            family=family,
            ns_row=em,
            asked=wanted,
            met=bool(em <= wanted),
            fit_ns_row=whole,
            later_ns_row=float(later),
            e_step_ns_row=e_step,
            ms=em * n / 1e6,
            host_ms=(em - e_step) * n / 1e6,
            before_and_after_ms=(whole - em) * n / 1e5,
            share=None if rate is None else 4 * K * p / e_step / 1e3 / rate,
            first_use_s=first,
        )
        del X
        bench.release()


def matrix_rate(bench):
    """TFLOP/s of a product of matrices."""
    xp = cupy()
    if not hasattr(xp, "cuda"):
        return None
    size = 1024 if bench.tiny else 8192
    a, b = xp.random.standard_normal((size, size)), xp.random.standard_normal((size, size))
    xp.matmul(a, b)
    times = []
    for _ in range(3):
        begin, end = xp.cuda.Event(), xp.cuda.Event()
        begin.record()
        xp.matmul(a, b)
        end.record()
        end.synchronize()
        times.append(xp.cuda.get_elapsed_time(begin, end))
    rate = 2 * size**3 / np.median(times) / 1e9
    bench.say("matrices", size=size, tflops=rate)
    return rate


def on_the_cpu(X, parameters, family, iterations=5, **settings):
    """The CPU's fit; by NumPy, as compiled kernels would have to be compiled first."""
    os.environ["STREAMGMM_KERNELS"] = "reference"
    try:
        return fitted(X, parameters, family, iterations, device="cpu", **settings)
    finally:
        del os.environ["STREAMGMM_KERNELS"]


def difference(a, b):
    """Largest relative difference of parameters and of the trace."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("weights_", "means_", "covariances_", "lower_bounds_")]
    return max(float(np.abs(np.subtract(x, y)).max() / np.abs(y).max()) for x, y in pairs)


def bits(gm):
    return b"".join(np.asarray(v).tobytes() for v in (gm.weights_, gm.means_, gm.covariances_, gm.lower_bounds_))


def accuracy(bench):
    n = 2_003 if bench.tiny else 100_003
    weight = np.random.default_rng(5).integers(0, 3, n).astype(float)
    for family in ("full", "tied", "diag", "spherical"):
        parameters = mixture(8, 16, "diag" if family in ("diag", "spherical") else "full")
        for dtype in ("float64", "float32"):
            X = draw(n, parameters, np, dtype)
            runs = [fitted(X, parameters, family, 5, device="cuda", sample_weight=weight) for _ in range(3)]
            far = difference(runs[0], on_the_cpu(X, parameters, family, sample_weight=weight))
            same = len({bits(run) for run in runs}) == 1
            bench.say(
                "accuracy",
                family=family,
                dtype=dtype,
                rows=n,
                difference=far,
                met=far <= 1e-11 and same,
                same_bits=same,
            )


def hard(bench):
    n = 1_000 if bench.tiny else 50_000
    weights, means, covariances = mixture(3, 4, "full")
    narrow = covariances.copy()
    narrow[0] *= 1e-12
    for name, parameters, change in (
        ("one component 1e6 times narrower", (weights, means, narrow), None),
        ("a row of NaN", (weights, means, covariances), np.nan),
        ("a row at 1e150", (weights, means, covariances), 1e150),
        ("K = 1", (np.ones(1), means[:1], covariances[:1]), None),
        ("17 rows", (weights, means, covariances), None),
    ):
        X = draw(17 if name == "17 rows" else n, parameters, np)
        if change is not None:
            X[len(X) // 2] = change
        told = []
        for where in ("cuda", "cpu"):
            try:
                run = fitted if where == "cuda" else on_the_cpu
                chosen = {"device": "cuda"} if where == "cuda" else {}
                told.append(run(X, parameters, "full", 5, reg_covar=1e-15, **chosen))
            except ValueError as error:
                told.append(str(error))
        if isinstance(told[0], str) or isinstance(told[1], str):
            bench.say("hard", what=name, met=told[0] == told[1], error=str(told[0])[:80])
        else:
            far = difference(*told)
            bench.say("hard", what=name, difference=far, met=far <= 1e-9)


def billion(bench):
    n = 100_000 if bench.tiny else 1_000_000_000
    if backend().free_bytes() < 36.5e9 and not bench.tiny:
        bench.say("billion", skipped=f"{backend().free_bytes() / 1e9:.0f} GB are free; 36.5 GB are needed")
        return
    parameters = mixture(8, 16, "full")
    X = bench.made(n, parameters, "float32")
    bench.release()
    gm, seconds = paced(X, parameters, "full", 2 if bench.tiny else 6)
    used = gm.report_["memory"]["device"]
    s = float(np.median(seconds))
    bench.say(
        "billion",
        rows=n,
        D=8,
        K=16,
        seconds=s,
        ns_row=s * 1e9 / n,
        peak_gb=used["peak"] / 1e9,
        blocks=used["resident_blocks"],
        met=bool(s <= 0.2 and used["peak"] <= 36e9),
    )
    del X
    bench.release()


def streaming(bench):
    from streamgmm.runtime import device

    n, parameters = bench.size(20_000_000), mixture(8, 16, "full")
    xp = cupy()
    card = backend()
    plain = bench.made(n, parameters)
    plain = card.download(plain)
    bench.release()
    pinned = card.pinned(plain.nbytes).view(np.float64).reshape(plain.shape)
    pinned[:] = plain
    there = card.empty(plain.shape, np.float64)
    rates = {}
    for name, host in (("pinned", pinned), ("pageable", plain)):
        times = []
        for _ in range(4):
            began = time.perf_counter()
            card.upload(host, there)
            card.synchronize()
            times.append(time.perf_counter() - began)
        rates[name] = plain.nbytes / np.median(times[1:]) / 1e9
    del there
    bench.release()
    share, device.SHARE = device.SHARE, 0.0
    try:
        for name, host, least in (
            ("pinned", pinned, 0.9 * rates["pinned"]),
            ("ordinary array", plain, min(3 * rates["pageable"], 21.0)),
        ):
            for dtype in ("float64",) if name == "pinned" or bench.tiny else ("float64", "float32"):
                X = host if dtype == "float64" else host.astype(dtype)
                gm, seconds = paced(X, parameters, "full", 3 if bench.tiny else 7, device="cuda")
                assert gm.report_["memory"]["device"]["resident"] == 0
                rate = X.nbytes / np.median(seconds) / 1e9
                bench.say(
                    "streaming",
                    source=name,
                    dtype=dtype,
                    gb_s=rate,
                    link_gb_s=rates["pinned"],
                    pageable_gb_s=rates["pageable"],
                    ns_row=float(np.median(seconds)) * 1e9 / n,
                    met=bool(rate >= least) if dtype == "float64" else None,
                )
    finally:
        device.SHARE = share
    gm, seconds = paced(plain, parameters, "full", 4, device="cuda")
    bench.say(
        "streaming", source="ordinary array, kept", ns_row=float(np.median(seconds)) * 1e9 / n, **gm.report_["seconds"]
    )
    del xp


def few(bench):
    parameters = mixture(8, 16, "full")
    other = bench.ask("few")
    for n in FEW[: 2 if bench.tiny else None]:
        X = bench.made(n, parameters)
        fitted(X, parameters, "full", 2)
        em, whole, _ = timed(X, parameters, "full") * 1e3
        bench.say("few", rows=n, ms=em, with_start_ms=whole, cpu_ms=(other or {}).get(str(n)))


# Beside it ------------------------------------------------------------------------------------------------------------


def peers(bench):
    n = 20_000 if bench.tiny else 2_000_000
    case = (8, 16, "full")
    mine = [x["ns_row"] for x in bench.found.get("iterations", ()) if (x["D"], x["K"], x["family"]) == case]
    own = mine[0] if mine else None

    def beside(name, asked, found):
        ratio = None if own is None else found["ns_row"] / own
        met = None if ratio is None or asked is None else bool(ratio >= asked)
        bench.say("peers", peer=name, **found, times=ratio, asked=asked, met=met)

    env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    for name in PEERS:
        command = [sys.executable, "-m", "benchmarks", "gpu", "--peer", name, "--rows", str(n)]
        most = max(20.0, min(60.0, bench.left()))
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=most, cwd=ROOT)
            beside(name, WANTED.get(name), json.loads(done.stdout.strip().splitlines()[-1]))
        except (subprocess.SubprocessError, ValueError, IndexError) as error:  # it is not installed, say
            told = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1:]
            bench.say("peers", peer=name, failed=told)
    found = bench.ask("engine")
    if found is not None:
        beside("this package, CPU", 40, found)


def select(bench):
    import streamgmm as sg

    n = 20_000 if bench.tiny else 10_000_000
    largest = 3 if bench.tiny else 15
    weights, means, covariances = mixture(8, 6, "full")
    X = draw(n, (weights, 3.0 * means, covariances), np)
    X = X[np.random.default_rng(0).permutation(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, X)
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sg.select(path, range(1, largest + 1), n_init=1, random_state=0, max_iter=8, device="cuda")
        seconds = time.perf_counter() - began
        print("select", f"{seconds:.1f} s on the card", flush=True)
        other = bench.ask(f"select {path}") if bench.left() > 3 * seconds else None
    told = {"rows": n, "winner": found.best.n_components, "seconds": seconds, **found.report["seconds"]}
    if other is not None:
        told |= {
            "cpu_winner": other["winner"],
            "cpu_seconds": other["seconds"],
            "met": told["winner"] == other["winner"],
        }
    bench.say("select", passes=found.n_passes, **told)


class OnCPU:
    """The CPU's own process: it compiles, waits for questions, and answers in JSON."""

    def __init__(self, tiny):
        env = {k: v for k, v in os.environ.items() if k != "STREAMGMM_KERNELS"} | {"CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "gpu", "--cpu", *(["--tiny"] if tiny else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=env,
        )

    def ask(self, question):
        try:
            self.process.stdin.write(question + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            return None
        return json.loads(line) if line else None

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def answer(tiny):
    """What the process for the CPU does."""
    import streamgmm as sg

    parameters = mixture(8, 16, "full")
    n = 200_000 if tiny else 8_000_000
    X = draw(n, parameters, np)
    fitted(X, parameters, "full", 2)
    for line in sys.stdin:
        question, _, path = line.strip().partition(" ")
        if question == "engine":
            em = timed(X, parameters, "full", 5)[0]
            told = {"ns_row": em * 1e9 / n, "rows": n, "cores": len(os.sched_getaffinity(0))}
        elif question == "few":
            told = {str(m): timed(X[:m], parameters, "full", 5)[0] * 1e3 for m in FEW if m <= n}
        else:
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = sg.select(path, range(1, 4 if tiny else 16), n_init=1, random_state=0, max_iter=8)
            told = {"winner": found.best.n_components, "seconds": time.perf_counter() - began}
        print(json.dumps(told), flush=True)


# What is written ------------------------------------------------------------------------------------------------------


def tables(found):
    """The figures as tables of the guide."""
    lines = [BEGIN, f"Measured on {found['machine'][0]['card']} beside {found['machine'][0]['cores']} CPU cores."]
    if "iterations" in found:
        lines += [
            "",
            "| rows | features | K | covariance | ns per row and iteration | of it E-step | share of the DGEMM rate |",
            "|---|---|---|---|---|---|---|",
        ]
        for x in found["iterations"]:
            share = "" if x["share"] is None else f"{x['share']:.0%}"
            case = f"{x['rows']:,} | {x['D']} | {x['K']} | {x['family']}"
            lines.append(f"| {case} | {x['ns_row']:.3g} | {x['e_step_ns_row']:.3g} | {share} |")
    for x in found.get("billion", ()):
        if "seconds" in x:
            lines += [
                "",
                f"{x['rows']:,} x 8 rows of float32, K = 16: {x['seconds']:.3g} s per iteration, "
                f"{x['peak_gb']:.3g} GB of device memory at the peak.",
            ]
    if "streaming" in found:
        lines += ["", "| rows come from | type | GB/s | ns per row and iteration |", "|---|---|---|---|"]
        for x in found["streaming"]:
            lines.append(f"| {x['source']} | {x.get('dtype', 'float64')} | {x.get('gb_s', '')} | {x['ns_row']:.3g} |")
    if "few" in found:
        lines += ["", "| rows (8 features, K = 16) | ms per iteration, card | CPU, all cores |", "|---|---|---|"]
        for x in found["few"]:
            cpu = "" if x["cpu_ms"] is None else f"{x['cpu_ms']:.3g}"
            lines.append(f"| {x['rows']:,} | {x['ms']:.3g} | {cpu} |")
    if any("ns_row" in x for x in found.get("peers", ())):
        lines += ["", "| 8 features, K = 16, full | ns per row and iteration | times ours |", "|---|---|---|"]
        for x in found["peers"]:
            if "ns_row" in x:
                times = "" if x["times"] is None else f"{x['times']:.3g}"
                kind = f", {x['dtype']}" if "dtype" in x else ""
            lines.append(f"| {x['peer']}{kind} | {x['ns_row']:.3g} | {times} |")
    for x in found.get("select", ()):
        beside = f", {x['cpu_seconds']:.3g} s on the CPU" if "cpu_seconds" in x else ""
        lines += ["", f"`select` for K = 1 to 15 on {x['rows']:,} x 8 rows: {x['seconds']:.3g} s on the card{beside}."]
    return "\n".join([*lines, END])


def write(path, found):
    """Put the tables between their marks in a page."""
    page = Path(path)
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    if not begin or END not in rest:
        raise SystemExit(f"{path}: expected the marks {BEGIN} and {END}.")
    page.write_text(before + tables(found) + rest.partition(END)[2], encoding="utf-8")


PARTS = {
    "iterations": iterations,
    "accuracy": accuracy,
    "hard": hard,
    "billion": billion,
    "streaming": streaming,
    "few": few,
    "peers": peers,
    "select": select,
}


def main(arguments=None):
    options = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__.partition("\n")[0])
    options.add_argument("--tiny", action="store_true", help="few rows: to see that everything runs")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    options.add_argument("--results", metavar="FILE", help="JSON with everything that was found")
    options.add_argument("--write", metavar="PAGE", help="page whose tables are written")
    options.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    options.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    options.add_argument("--cpu", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    if given.cpu:
        return answer(given.tiny)
    if given.peer:
        times, more = PEERS[given.peer](given.rows)
        return print(json.dumps({"ns_row": float(np.median(times)) * 1e9 / given.rows, "rows": given.rows, **more}))
    bench = Bench(given.tiny, given.results)
    bench.cpu = OnCPU(given.tiny) if {"few", "peers", "select"} & set(given.only) else None
    bench.ask = bench.cpu.ask if bench.cpu else lambda question: None
    try:
        bench.say("machine", card=backend().name, cores=len(os.sched_getaffinity(0)), python=sys.version.split()[0])
        for name in given.only:
            if bench.left() < 15:
                bench.say(name, skipped="no time is left")
                continue
            began = time.perf_counter()
            try:
                PARTS[name](bench)
            except Exception as error:  # the others are worth having
                traceback.print_exc()
                bench.say("failed", part=name, error=repr(error)[:300])
            bench.say("seconds", part=name, seconds=time.perf_counter() - began)
    finally:
        if bench.cpu:
            bench.cpu.end()
    if given.write:
        write(given.write, bench.found)
    missed = [(p, x) for p, lines in bench.found.items() for x in lines if x.get("met") is False]
    print(f"{len(missed)} of the figures asked for were missed", *(f"{p}: {x}" for p, x in missed), sep="\n  ")
