"""Where an iteration's time goes, part by part, on one thread; and what the processor could do.

    python -m benchmarks parts [--write docs/performance.md] [--tiny]

Each part of the hand-tiled kernels runs alone on 32 rows that stay in the first-level cache, so the sum of the parts is
what the kernel would need if nothing had to be brought nearer. Full covariances.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.readme import processor, write_section
from streamgmm.kernels import dispatch
from streamgmm.kernels._jit import jit
from streamgmm.kernels._target import registers
from streamgmm.kernels.simd import dense, few_features, panels, products
from streamgmm.kernels.simd.intrinsics import LANES, add, broadcast, fma, store, total
from streamgmm.kernels.simd.scratch import rounded, zeros
from streamgmm.mixture.mixture import Mixture

SHAPES = ((2, 8), (8, 16), (16, 64), (32, 32), (63, 200))
PANEL = products.PANEL


@jit
def _peak_of_ten(n, a):
    """160 flop a turn: ten sums fill the pipes of AVX-512, and fit its registers."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = broadcast(a)
    x, y = broadcast(0.999999), broadcast(1e-9)
    for _ in range(n):
        s0, s1, s2, s3, s4 = fma(s0, x, y), fma(s1, x, y), fma(s2, x, y), fma(s3, x, y), fma(s4, x, y)
        s5, s6, s7, s8, s9 = fma(s5, x, y), fma(s6, x, y), fma(s7, x, y), fma(s8, x, y), fma(s9, x, y)
    return total(add(add(add(s0, s1), add(s2, s3)), add(add(add(s4, s5), add(s6, s7)), add(s8, s9))))


@jit
def _peak_of_five(n, a):
    """80 flop a turn: where a sum takes two registers or more, ten of them would spill."""
    s0 = s1 = s2 = s3 = s4 = broadcast(a)
    x, y = broadcast(0.999999), broadcast(1e-9)
    for _ in range(n):
        s0, s1, s2, s3, s4 = fma(s0, x, y), fma(s1, x, y), fma(s2, x, y), fma(s3, x, y), fma(s4, x, y)
    return total(add(add(add(s0, s1), add(s2, s3)), s4))


@jit
def _frame(n, rows, shift, whiten, until, x, z, norm):
    for _ in range(n):
        panels.frame(rows, 0, PANEL - 1, shift, whiten, until, x, z, 0, norm, 0)


@jit
def _logits(n, cyclic, coefs, z, D, phi, R):
    for _ in range(n):
        if cyclic:
            products.logits_of_products(coefs, z, 0, D, phi[0], R)
        else:
            panels.columns(0, z, 0, D, phi[0])
            products.logits(coefs, phi[0], R)


@jit
def _responsibilities(n, few, R, K, common, out, w, norm, masses, squares, scales):
    for _ in range(n):
        for u in range(R.shape[0]):
            panels.softmax(R, u * K * PANEL, K, -np.inf, common, out[u])
            if few:
                value, entropy, log_max = few_features._scale(out[u])
                store(add(value, add(entropy, log_max)), scales, 0)
        if few:
            continue
        panels.finish(R.shape[0], common, out)
        for u in range(R.shape[0]):
            panels.weigh(R, u * K * PANEL, K, out[u], w, norm, 0, masses, squares)


@jit
def _statistics(n, cyclic, few, R, z, D, K, phi, twice, psi, part, by_lane):
    B = R.shape[0] * PANEL
    for _ in range(n):
        if few:
            products.accumulate_by_lane(R, K, phi, R.shape[0], by_lane)
            continue
        for u in range(R.shape[0]):
            if cyclic:
                products.double_rows(z, 0, D, twice, u * PANEL)
                products.pair_up(R, u * K * PANEL, K)
            else:
                dense._turn(0, z, 0, D, phi, psi, u * PANEL * psi.shape[1], psi.shape[1])
        if cyclic:
            products.accumulate_products(R, twice, B, D, K, K * PANEL, psi, part)
        else:
            products.accumulate(R, psi, B, K, K * PANEL, part)


def seconds(task: Any, n: int, *arguments: Any) -> float:
    """Least time of one repetition, of five runs of `n`."""
    task(1, *arguments)
    best = np.inf
    for _ in range(5):
        begin = time.perf_counter()
        task(n, *arguments)
        best = min(best, time.perf_counter() - begin)
    return best / n


def parts(D: int, K: int, work: float) -> dict[str, float]:
    """Seconds a row of each part, and of the kernel; `work` is about the flop of one measurement."""
    q = D * (D + 1) // 2 + D
    cyclic, few = dense.cyclic_form(0, D), few_features.suits(0, D, K)
    q8, D8 = rounded(q, LANES), rounded(D, LANES)
    u = few_features.batch_panels(K, q + 1) if few else dense.BATCH
    x, z, norm, common, out, w, masses, squares, phi, R, twice, psi, part, coefs, by_lane, scales, *frame = zeros(
        (D8, PANEL), (D8, PANEL), (PANEL,), (u * PANEL,), (u, 5, PANEL), (PANEL,), (K, LANES), (0, LANES),
        (u if few else 1, products.STRIP + D8 if cyclic else q + 1, PANEL), (u, K, PANEL),
        (u * PANEL, products.twice_width(D)), (u * PANEL + 1, products.SPILL if cyclic else q8),
        products.sums_shape(K, q8, cyclic), (K + 1, q + 1, 1), (K, q + 1, few_features.PARTIAL), (LANES,), (D,), (D, D),
    )  # fmt: skip
    frame[1][:] = np.eye(D)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(PANEL, D))
    n = max(1, int(work / (4 * K * q * PANEL * u)))
    R[:] = -30 * rng.random(R.shape)
    per_row = {
        "rows into the frame": seconds(_frame, n * u, rows, *frame, np.arange(1, D + 1), x, z, norm) / PANEL,
        "logits": seconds(_logits, n * u, cyclic, coefs, z, D, phi, R[0]) / PANEL,
        "responsibilities": seconds(_responsibilities, n, few, R, K, common, out, w, norm, masses, squares, scales)
        / (u * PANEL),
        "statistics": seconds(_statistics, n, cyclic, few, R, z, D, K, phi, twice, psi, part, by_lane) / (u * PANEL),
    }
    many = max(2048, min(65_536, int(work / (4 * K * q)) // 4))
    half = rng.normal(size=(K, D, 2 * D))
    model = Mixture(np.full(K, 1 / K), rng.normal(size=(K, D)), half @ half.transpose(0, 2, 1) / D, "full")
    plan, data = model._prepare().plan, rng.normal(size=(many, D))

    def whole(n: int) -> None:
        for _ in range(n):
            dispatch.run(plan, data, None, statistics=True, max_share=0.0)

    return {**per_row, "the whole kernel": seconds(whole, 1) / many}


def table(shapes: tuple[tuple[int, int], ...], work: float) -> list[str]:
    """What the parts need, as Markdown."""
    peak_of, flop = (_peak_of_ten, 160) if registers().width == LANES else (_peak_of_five, 80)
    peak = flop / seconds(peak_of, int(work / flop), 1.0) / 1e9
    names = ["rows into the frame", "logits", "responsibilities", "statistics", "the whole kernel"]
    lines = [
        f"ns a row on one thread, in brackets GFLOP/s. Multiply-adds on registers alone: {peak:.0f} GFLOP/s a core.",
        "",
        "| features, components | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for D, K in shapes:
        flop = 2.0 * K * (D * (D + 1) // 2 + D + 1)
        flops = {"logits": flop, "statistics": flop, "the whole kernel": 2 * flop}
        found = parts(D, K, work)
        cells = [
            f"{1e9 * found[name]:,.1f}" + (f" ({flops[name] / found[name] / 1e9:.0f})" if name in flops else "")
            for name in names
        ]
        lines.append(f"| {D}, {K} | " + " | ".join(cells) + " |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 where the hand-tiled kernels do not run here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="write the table between the markers of this file")
    parser.add_argument("--tiny", action="store_true", help="small, as the tests run it")
    options = parser.parse_args(arguments)
    if dispatch.form() == "reference":
        print("The hand-tiled kernels do not run on this processor: they do not compile for it.", file=sys.stderr)
        return 1
    lines = table(SHAPES[1:3] if options.tiny else SHAPES, 1e7 if options.tiny else 4e8)
    lines += ["", f"Measured on one of {os.cpu_count()} cores of {processor()}."]
    print("\n".join(lines))
    if options.write:
        write_section(options.write, "parts", "\n".join(lines))
    return 0
