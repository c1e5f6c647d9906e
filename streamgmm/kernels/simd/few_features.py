"""Feature form, hand-tiled, for small models: a row in each lane from end to end, nothing is ever turned round.

What `dense` does for more features, with three differences: the features or the responsibilities are multiplied by the
scale of the row, whichever are fewer; sums stay in registers for all panels of a batch; and where nothing is asked for
row by row, the logarithm of a product of four rows stands for four logarithms.
"""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import bare_jit, inline, stage
from streamgmm.kernels.family import Family, Flags, Labels, Rows, phi_length
from streamgmm.kernels.plan import FULL, TIED, Array
from streamgmm.kernels.simd.elementary import log_and_inverse
from streamgmm.kernels.simd.intrinsics import LANES, SHAPES, add, broadcast, fma, load, mul, store, sub, total
from streamgmm.kernels.simd.panels import (
    accurate,
    columns,
    finish,
    frame,
    label_rows,
    largest_norm,
    lengths,
    pending,
    row_weights,
    softmax,
    within,
    write_resp,
)
from streamgmm.kernels.simd.products import PANEL, START, accumulate_by_lane, logits
from streamgmm.kernels.simd.scratch import rounded, zeros

_SPACE = 24_576
"""Bytes of sums that may stay in the first-level cache beside a panel."""
PARTIAL = SHAPES.by_lane[0]
"""Partial sums of each component and feature."""
_BATCH = 96
"""Rows of 32 numbers, features and responsibilities, that are to stay in the first-level cache."""


def suits(family: int, D: int, K: int) -> bool:
    """Whether this form is the one for models of `family`, K components in D features."""
    if family == TIED or (family == FULL and D > 8):
        return False
    return D <= 4 or 8 * PARTIAL * K * phi_length(Family(family), D) <= _SPACE


def batch_panels(K: int, q: int) -> int:
    """Panels of a batch."""
    return max(1, min(8, _BATCH // (K + q)))


@inline
def _scale(out):
    """out[0] = 1 / sum of e^d of 32 rows. Returns in lanes, added over four rows each: log p, entropy and log max r."""
    s0 = load(out, 0)
    s1 = load(out, 8)
    s2 = load(out, 16)
    s3 = load(out, 24)
    s01 = mul(s0, s1)
    s23 = mul(s2, s3)
    log_s, inverse = log_and_inverse(mul(s01, s23))
    s01, s23 = mul(inverse, s23), mul(inverse, s01)  # their inverses now, and below those of the four
    s0, s1 = mul(s01, s1), mul(s01, s0)
    s2, s3 = mul(s23, s3), mul(s23, s2)
    store(s0, out, 0)
    store(s1, out, 8)
    store(s2, out, 16)
    store(s3, out, 24)
    top = 2 * PANEL
    value = add(add(load(out, top), load(out, top + 8)), add(load(out, top + 16), load(out, top + 24)))
    apart = 3 * PANEL
    distance = fma(s0, load(out, apart), mul(s1, load(out, apart + 8)))
    distance = fma(s2, load(out, apart + 16), fma(s3, load(out, apart + 24), distance))
    return add(value, log_s), sub(log_s, distance), sub(broadcast(0.0), log_s)


@stage
def _e_step(
    family, rows, shift, whiten, coefs, K, base, label, until, todo, used, x, z, norm, common, out, best, phi, R
):  # fmt: skip
    """Frame coordinates, features, logits, labels and softmax of `used` panels."""
    n = rows.shape[0]
    D = whiten.shape[0]
    for u in range(used):
        begin = todo[u] * PANEL
        frame(rows, begin, n - 1, shift, whiten, until, x, z, START, norm, u * PANEL)
        columns(family, z, START, D, phi[u])
        logits(coefs, phi[u], R[u])
        if label.shape[0] > 0:
            label_rows(R, u * K * PANEL, K, base, common, best)
            for b in range(min(PANEL, n - begin)):
                label[begin + b] = int(best[b])
        softmax(R, u * K * PANEL, K, base, common, out[u])


@stage
def _over_lanes(by_lane, sums):
    """sums (K, q) += by_lane (K, q, lanes), added up over lanes."""
    for k in range(by_lane.shape[0]):
        for f in range(by_lane.shape[1]):
            for lane in range(by_lane.shape[2]):
                sums[k, f] += by_lane[k, f, lane]


@bare_jit
def _batches(
    family, rows, weight, shift, whiten, coefs, base, narrow, radius, done, logp, resp, label, sums, totals, until,
    todo, x, z, norm, common, out, best, w, phi, R, by_lane,
):  # fmt: skip
    """`dense`, with its scratch arrays."""
    n = rows.shape[0]
    K = narrow.shape[0]
    q = coefs.shape[1]
    statistics = sums.shape[0] > 0
    # Whether only sums over all rows are wanted, each counting once.
    summed = weight.shape[0] == 0 and logp.shape[0] == 0 and resp.shape[0] == 0
    lengths(whiten, shift.shape[0], until)
    cutoff = within(narrow, radius)
    total_value = broadcast(0.0)
    total_entropy = broadcast(0.0)
    total_log_max = broadcast(0.0)
    total_weight = 0.0
    g = 0
    while g < done.shape[0]:
        g, used = pending(done, g, todo)
        _e_step(
            family, rows, shift, whiten, coefs, K, base, label, until, todo, used, x, z, norm, common, out, best, phi, R
        )  # fmt: skip
        safe = np.sqrt(largest_norm(norm, START, used * PANEL)) < cutoff
        for u in range(used):
            begin = todo[u] * PANEL
            here = min(PANEL, n - begin)
            whole = summed and here == PANEL
            value = entropy = log_max = broadcast(0.0)
            if whole:
                value, entropy, log_max = _scale(out[u])
            else:
                finish(START + 1, common, out[u : u + 1])
            if not (safe or accurate(R[u], out[u], norm, u * PANEL, weight, begin, here, narrow, radius)):
                # Left to the centred form: no trace of it may stay in what is added up, NaN least of all.
                R[u] = 0.0
                phi[u] = 0.0
                continue
            done[todo[u]] = 1
            if whole:
                totals[4] += PANEL
                total_weight += PANEL
                total_value = add(value, total_value)
                total_entropy = add(entropy, total_entropy)
                total_log_max = add(log_max, total_log_max)
            else:
                totals[4] += row_weights(weight, begin, here, w)
                for v in range(0, PANEL, LANES):
                    wv = load(w, v)
                    total_value = fma(wv, load(out[u], v + 2 * PANEL), total_value)
                    total_entropy = fma(wv, load(out[u], v + 3 * PANEL), total_entropy)
                    total_log_max = fma(wv, load(out[u], v + 4 * PANEL), total_log_max)
                    total_weight += total(wv)
                if logp.shape[0] > 0:
                    for b in range(here):
                        logp[begin + b] = out[u, 2, b]
                if resp.shape[0] > 0:
                    write_resp(R, u * K * PANEL, K, out[u], here, x, resp, begin)
            if statistics:
                for v in range(0, PANEL, LANES):
                    s = load(out[u], v)
                    if not whole:
                        s = mul(s, load(w, v))
                    if q > K:
                        for k in range(v, K * PANEL, PANEL):
                            store(mul(s, load(R[u], k)), R[u], k)
                        s = broadcast(1.0)
                    else:
                        for f in range(v, (q - 1) * PANEL, PANEL):
                            store(mul(s, load(phi[u], f)), phi[u], f)
                    store(s, phi[u], (q - 1) * PANEL + v)
        if statistics:
            accumulate_by_lane(R, K, phi, used, by_lane)
    totals[0] += total(total_value)
    totals[1] += total(total_entropy)
    totals[2] += total(total_log_max)
    totals[3] += total_weight
    _over_lanes(by_lane, sums)


def dense(
    family: int, rows: Rows, weight: Array, shift: Array, whiten: Array, coefs: Array, base: float, narrow: Array,
    radius: Array, done: Flags, logp: Array, resp: Array, label: Labels, sums: Array, totals: Array,
) -> None:  # fmt: skip
    """The same as `vector.dense`, with the same arguments, for few features."""
    D = whiten.shape[0]
    K, q = len(narrow), coefs.shape[1]
    panels = max(1, min(batch_panels(K, q), len(done)))
    D8 = rounded(D, LANES)
    x, z, norm, common, out, best, w, phi, R, by_lane = zeros(
        (rounded(shift.shape[0], LANES), PANEL),
        (1, D8, PANEL),
        (panels * PANEL,),
        (PANEL,),
        (panels, 5, PANEL),
        (PANEL,),
        (PANEL,),
        (panels, q, PANEL),
        (panels, K, PANEL),
        (len(sums), q, PARTIAL),
    )
    _batches(
        family, rows, weight, shift, whiten, coefs, base, narrow, radius, done, logp, resp, label, sums, totals,
        np.zeros(D, np.int64), np.zeros(panels, np.int64), x, z, norm, common, out, best, w, phi, R, by_lane,
    )  # fmt: skip
