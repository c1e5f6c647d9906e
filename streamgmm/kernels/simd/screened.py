"""Screened form for full covariances: exact terms where they can matter, by proven bounds, and nothing elsewhere.

With precision P_k = U_k U_k^T and orthonormal columns O, |O^T U_k^T (z - mu_k)|^2 never exceeds the squared distance
|U_k^T (z - mu_k)|^2: a few projections of each row bound every logit from above. The exact logit of the component with
the largest bound is a lower bound of the row's best. Components more than `cutoff_of(K)` nats below cannot matter. The
others are listed by component and evaluated and accumulated exactly on gathered rows. Where the bounds exclude too
little, all logits are evaluated densely, and only the accumulation is sparse.

What is dropped from a row is below e^-40 of it in all. A component lives on such terms only where its whole mass is
tiny: those with little weight are evaluated everywhere, and should one turn out to have too little mass for what may
have been dropped, the whole call is done again in the dense form. Spans of rows in which too many survive are left to
it from the first.
"""

from __future__ import annotations

import math

import numpy as np

from streamgmm.kernels._jit import bare_jit, helper, inline
from streamgmm.kernels.family import Flags, Labels, Rows
from streamgmm.kernels.plan import Array
from streamgmm.kernels.simd.bounds import upper_bounds, ways_of
from streamgmm.kernels.simd.intrinsics import (
    LANES,
    SHAPES,
    append_where,
    broadcast,
    div,
    fma,
    gather_listed,
    load,
    maximum,
    mul,
    select_greater,
    store,
    sub,
    total,
    transpose,
)
from streamgmm.kernels.simd.panels import (
    accurate,
    finish,
    frame,
    label_rows,
    largest_norm,
    lengths,
    row_weights,
    softmax,
    weigh,
    within,
    write_resp,
)
from streamgmm.kernels.simd.products import PANEL, START, STRIP, logits_of_products, outer_sums
from streamgmm.kernels.simd.scratch import rounded, zeros
from streamgmm.kernels.simd.tiles import quadratic_tiles

CENTRED_ONLY = 2
"""In `done`: rows so far away that no form but the centred one is accurate, or not finite."""
SPAN = 2048
"""Rows that are screened together; a multiple of PANEL."""
SHIFTED = 72
"""Distance of rows of responsibilities beyond a span: at a power of two they would share sets of the cache."""
_BATCH = 64
"""Rows whose outer products are added together: what they need stays in the first-level cache."""
_ACROSS = SHAPES.across * LANES
_quadratic = quadratic_tiles(SHAPES.quadratic, SHAPES.across)
_quadratic_8 = quadratic_tiles(SHAPES.quadratic, 1)


@inline
def _round(n, unit):
    return -(-n // unit) * unit


@helper
def _evaluate(k, D, coef, rows, chosen, count, z, value, found):
    """found[b] = the exact logit of component k for `count` listed rows b; pads the list to eights."""
    p = coef.shape[1]
    D8 = rows.shape[1]
    for i in range(count, _round(count, LANES)):
        chosen[i] = chosen[count - 1]
    at = k * p
    linear = at + D * (D + 1) // 2
    constant = broadcast(coef[k, p - 1])
    done = 0
    while done < count:
        width = _ACROSS if count - done >= _ACROSS else LANES
        for v in range(0, width, LANES):
            for column in range(0, D8, LANES):
                gather_listed(rows, chosen, done + v, column, z, column * PANEL + v, PANEL)
            store(constant, value, v)
        if width > LANES:
            _quadratic(coef, at, linear, D, z, 0, PANEL, value, 0)
        else:
            _quadratic_8(coef, at, linear, D, z, 0, PANEL, value, 0)
        for i in range(min(width, count - done)):
            found[chosen[done + i]] = value[i]
        done += width


@inline
def _copy(source, at, stride, K, to, to_at, to_stride):
    """K rows of 32 numbers from `source` to `to`."""
    for k in range(K):
        for v in range(0, PANEL, LANES):
            store(load(source, at + k * stride + v), to, to_at + k * to_stride + v)


@inline
def _whitened(
    rows, shift, whiten, until, narrow, radius, first, count, x, z, flat, norm, good, taken,
):  # fmt: skip
    """z, flat, norm: `count` rows from `first` in the frame, panel by panel and row by row, and their squared lengths.

    Panels with a row too far for any but the centred form are marked, with zeros in their place. Returns the largest
    squared length and the number of the others.
    """
    D8 = z.shape[1]
    largest = 0.0
    usable = 0
    for u in range((count + PANEL - 1) // PANEL):
        at = u * D8 * PANEL
        frame(rows, first + u * PANEL, first + count - 1, shift, whiten, until, x, z, at, norm, u * PANEL)
        here_largest = largest_norm(norm, u * PANEL, PANEL)
        good[u] = here_largest < np.inf
        if good[u]:
            for k in range(narrow.shape[0]):
                good[u] &= narrow[k] * (math.sqrt(here_largest) + radius[k]) ** 2 < 1.0
        if good[u]:
            usable += 1
            largest = max(largest, here_largest)
        else:
            taken[first // PANEL + u] = CENTRED_ONLY
            z[u] = 0.0
            norm[u * PANEL : (u + 1) * PANEL] = 0.0
        for i in range(0, D8, LANES):
            for v in range(0, PANEL, LANES):
                transpose(z, at + i * PANEL + v, PANEL, flat, (u * PANEL + v) * D8 + i, D8)
    return largest, usable


@inline
def _excluded(
    D, coefs, base, narrow, radius, const, projections, cutoff, probe, z, norm, bound, single, line, phi, panel, spare,
):  # fmt: skip
    """Number of terms that the bounds exclude, in the first `probe` panels of a span."""
    K = narrow.shape[0]
    excluded = 0
    for u in range(probe):
        logits_of_products(coefs, z, u * z.shape[1] * PANEL, D, phi, panel[0])
        here_largest = largest_norm(norm, u * PANEL, PANEL)
        upper_bounds(projections, z[u], D, here_largest, const, narrow, radius, single, line, bound)
        for v in range(0, PANEL, LANES):
            top = broadcast(base)
            for k in range(K):
                top = maximum(load(panel, k * PANEL + v), top)
            top = sub(top, broadcast(cutoff))
            for k in range(K):
                excluded += LANES - append_where(load(bound, k * PANEL + v), top, 0, spare, 0)
    return excluded


@inline
def _likeliest(bound, K, lean, norm, at, best):
    """best, from `at` on: the component whose logit is the largest as far as its bound (K, 32) and `lean` tell."""
    for v in range(0, PANEL, LANES):
        length = load(norm, at + v)
        top = broadcast(-np.inf)
        index = broadcast(0.0)
        for k in range(K):
            estimate = fma(broadcast(lean[k]), length, load(bound, k * PANEL + v))
            index = select_greater(estimate, top, broadcast(float(k)), index)
            top = maximum(estimate, top)
        store(index, best, at + v)


@inline
def _floors(
    D, coef, base, narrow, radius, const, projections, lean, cutoff, used, x, z, flat, norm, bound, single, line, R,
    common, best, floor, exact, value, chosen, begin_of,
):  # fmt: skip
    """R: upper bounds of all logits; exact: the logit of `best`, the component with the largest estimate, whose bound
    becomes minus infinity; floor: what another logit must reach to matter."""
    K = coef.shape[0]
    for u in range(used):
        here_largest = largest_norm(norm, u * PANEL, PANEL)
        upper_bounds(projections, z[u], D, here_largest, const, narrow, radius, single, line, bound)
        _likeliest(bound, K, lean, norm, u * PANEL, best)
        _copy(bound, START, PANEL, K, R, u * PANEL, R.shape[1])
    begin_of[:] = 0
    for b in range(used * PANEL):
        begin_of[int(best[b]) + 1] += 1
    for k in range(K):
        begin_of[k + 1] = _round(begin_of[k + 1], LANES) + begin_of[k]
    for b in range(used * PANEL):
        k = int(best[b])
        chosen[begin_of[k]] = b
        begin_of[k] += 1
        R[k, b] = -np.inf
    start = 0
    for k in range(K):
        stop = begin_of[k]
        if stop > start:
            _evaluate(k, D, coef, flat, chosen[start:], stop - start, x, value, exact)
        start = _round(stop, LANES)
    for b in range(used * PANEL):
        floor[b] = max(exact[b], base) - cutoff


@inline
def _survivors(D, coef, never_screened, used, most, x, flat, R, best, floor, exact, value, chosen):
    """R: exact logits of all terms that can matter, others without any weight. Returns False where there are more than
    `most`."""
    stride = R.shape[1]
    kept = 0
    for k in range(coef.shape[0]):
        size = START
        for v in range(0, used * PANEL, LANES):
            least = load(floor, v) if never_screened[k] == 0 else broadcast(-1e300)
            size = append_where(load(R, k * stride + v), least, v, chosen, size)
            store(broadcast(-1e300), R, k * stride + v)
        kept += size
        if kept > most:
            return False
        if size > 0:
            _evaluate(k, D, coef, flat, chosen, size, x, value, R[k])
    for b in range(used * PANEL):
        R[int(best[b]), b] = exact[b]
    return True


@inline
def _normalised(densely, D, coefs, base, first, count, z, phi, panel, R, out, common, best, label):
    """R: exponentials of the logits, computed here where `densely`; out: what `softmax` says of each row; labels."""
    K = R.shape[0]
    used = (count + PANEL - 1) // PANEL
    for u in range(used):
        if densely:
            logits_of_products(coefs, z, u * z.shape[1] * PANEL, D, phi, panel[0])
        else:
            _copy(R, u * PANEL, R.shape[1], K, panel, START, PANEL)
        if label.shape[0] > 0:
            label_rows(panel, START, K, base, common, best)
            for b in range(min(PANEL, count - u * PANEL)):
                label[first + u * PANEL + b] = int(best[b])
        softmax(panel, START, K, base, common, out[u])
        _copy(panel, START, PANEL, K, R, u * PANEL, R.shape[1])
    finish(used, common, out)


@inline
def _large(K, cut, used, R, out, spare):
    """Number of responsibilities above `cut`."""
    kept = 0
    for u in range(used):
        for v in range(0, PANEL, LANES):
            least = div(broadcast(cut), load(out[u], v))
            for k in range(K):
                kept = append_where(load(R, k * R.shape[1] + u * PANEL + v), least, 0, spare, 0) + kept
    return kept


@inline
def _answered(
    safe, statistics, K, weight, narrow, radius, first, count, x, norm, panel, R, out, w, masses, squares, local, taken,
    good, logp, resp,
):  # fmt: skip
    """Totals, answers and weighted responsibilities of the panels that this form is accurate for, and of no others."""
    stride = R.shape[1]
    for u in range((count + PANEL - 1) // PANEL):
        here = min(PANEL, count - u * PANEL)
        begin = first + u * PANEL
        _copy(R, u * PANEL, stride, K, panel, START, PANEL)
        if good[u] and not safe:
            good[u] = accurate(panel[0], out[u], norm, u * PANEL, weight, begin, here, narrow, radius)
        if not good[u]:
            taken[first // PANEL + u] = CENTRED_ONLY
            panel[0] = 0.0
            _copy(panel, START, PANEL, K, R, u * PANEL, stride)
            w[u] = 0.0
            continue
        taken[first // PANEL + u] = 1
        local[4] += row_weights(weight, begin, here, w[u])
        for b in range(here):
            local[0] += w[u, b] * out[u, 2, b]
            local[1] += w[u, b] * out[u, 3, b]
            local[2] += w[u, b] * out[u, 4, b]
            local[3] += w[u, b]
        if logp.shape[0] > 0:
            for b in range(here):
                logp[begin + b] = out[u, 2, b]
        if resp.shape[0] > 0:
            write_resp(panel, START, K, out[u], here, x, resp, begin)
        if statistics:
            weigh(panel, START, K, out[u], w[u], norm, u * PANEL, masses, squares)
            _copy(panel, START, PANEL, K, R, u * PANEL, stride)


@inline
def _accumulated(K, cut, never_screened, used, flat, R, w, chosen, roots, near, part):
    """part: the outer products of rows, added to the components in which they have more than `cut` of their weight."""
    for k in range(K):
        least = broadcast(5e-324 if never_screened[k] != 0 else cut)
        size = START
        for v in range(0, used * PANEL, LANES):
            lowest = maximum(mul(least, load(w, v)), broadcast(5e-324))
            size = append_where(load(R, k * R.shape[1] + v), lowest, v, chosen, size)
        if size > 0:
            for start in range(0, size, _BATCH):
                count = min(_BATCH, size - start)
                outer_sums(flat, chosen, start, count, R[k], roots, near, part[k])


@inline
def _unpack(D, part, masses, sums):
    """Add the sums of all spans to `sums` (K, p), in the order of `Family`."""
    D8 = part.shape[2]
    p = sums.shape[1]
    for k in range(sums.shape[0]):
        q = 0
        for i in range(D):
            for j in range(i + 1):
                sums[k, q] += part[k, i, j]
                q += 1
        for i in range(D):
            sums[k, q + i] += part[k, D8, i]
        sums[k, p - 1] += total(load(masses, k * LANES))


@bare_jit
def _spans(
    rows, weight, shift, whiten, coef, coefs, base, narrow, radius, const, projections, lean, never_screened, cutoff,
    max_share, done, logp, resp, label,
    sums, totals,
    until, x, z, flat, norm, bound, single, line, phi, panel, R, out, common, best, floor, exact, w, value, chosen,
    begin_of, spare, roots, near, part, masses, squares, local, taken, good,
):  # fmt: skip
    """`screened`, with its scratch arrays."""
    n = rows.shape[0]
    D = whiten.shape[0]
    K = coef.shape[0]
    span = z.shape[0] * PANEL
    statistics = sums.shape[0] > 0
    lengths(whiten, shift.shape[0], until)
    cut = math.exp(-cutoff)
    good_to = within(narrow, radius)
    farthest = 1.0
    bounds_too_loose = False  # the bounds exclude too little to be worth their time
    for first in range(0, n, span):
        count = min(span, n - first)
        used = (count + PANEL - 1) // PANEL
        largest, usable = _whitened(
            rows, shift, whiten, until, narrow, radius, first, count, x, z, flat, norm, good, taken
        )
        if usable == 0:
            continue
        if first == 0:  # Try on a few rows what the bounds are worth.
            probe = min(4, used)
            excluded = _excluded(
                D, coefs, base, narrow, radius, const, projections, cutoff, probe, z, norm, bound, single, line, phi,
                panel, spare,
            )  # fmt: skip
            bounds_too_loose = excluded < (1.0 - max_share) * probe * PANEL * K
        if not bounds_too_loose:
            _floors(
                D, coef, base, narrow, radius, const, projections, lean, cutoff, used, x, z, flat, norm, bound, single,
                line, R, common, best, floor, exact, value, chosen, begin_of,
            )  # fmt: skip
            most = max_share * K * span
            bounds_too_loose = not _survivors(
                D, coef, never_screened, used, most, x, flat, R, best, floor, exact, value, chosen
            )
        _normalised(bounds_too_loose, D, coefs, base, first, count, z, phi, panel, R, out, common, best, label)
        safe = math.sqrt(largest) < good_to
        if statistics and bounds_too_loose and _large(K, cut, used, R, out, spare) > max_share * K * used * PANEL:
            break
        farthest = max(farthest, largest)
        _answered(
            safe, statistics, K, weight, narrow, radius, first, count, x, norm, panel, R, out, w, masses, squares,
            local, taken, good, logp, resp,
        )  # fmt: skip
        if statistics:
            _accumulated(K, cut, never_screened, used, flat, R, w, chosen, roots, near, part)
    for g in range(done.shape[0]):
        done[g] |= taken[g]
    for i in range(5):
        totals[i] += local[i]
    if statistics:
        _unpack(D, part, masses, sums)
    return local[3] * cut * farthest


def screened(
    rows: Rows, weight: Array, shift: Array, whiten: Array, coef: Array, coefs: Array, base: float, narrow: Array,
    radius: Array, const: Array, projections: Array, lean: Array, never_screened: Flags, cutoff: float,
    max_share: float, done: Flags, logp: Array, resp: Array, label: Labels,
    sums: Array, totals: Array,
) -> float:  # fmt: skip
    """One E-step over the spans of `rows` where few components can matter; the others are left to `dense`.

    Returns a bound of what was dropped of any component's sums that is not in `never_screened`: see `negligible`.

    Parameters
    ----------
    rows, weight, shift, whiten, coefs, base, narrow, radius, logp, resp, label, sums, totals : as in `dense.dense`
    coef : (K, p)                                       # IN  see `Plan`
    const : (K,)                                        # IN  largest possible logit of each component
    projections : (K d, D + 1) float32                  # IN  see `Screen`
    lean : (K,)                                         # IN  see `Screen`
    never_screened : (K,) uint8                         # IN  components to be evaluated everywhere
    cutoff : float                                      # IN  nats below the best at which a component is dropped
    max_share : float                                   # IN  part of all terms above which the dense form is cheaper
    done : (ceil(n / 32),) uint8                        # INOUT set to 1 where the panel was taken, to `CENTRED_ONLY`
                                                              where no other form but the centred one can
    """
    n = rows.shape[0]
    D = whiten.shape[0]
    K = coef.shape[0]
    until = np.zeros(D, np.int64)
    statistics = sums.shape[0] > 0
    D8 = rounded(D, LANES)
    span = min(SPAN, rounded(n, PANEL))
    panels = span // PANEL
    whole = len(projections) // ways_of(D)
    chosen = np.zeros(span + (K + 1) * LANES, np.int64)
    begin_of = np.zeros(K + 1, np.int64)
    spare = np.zeros(LANES, np.int64)
    local = np.zeros(5)
    taken = np.zeros(done.shape[0], np.uint8)
    x, z, flat, norm, bound, single, line, phi, panel, R, out, common, best, floor, exact, w, value, *rest = zeros(
        (rounded(shift.shape[0], LANES), PANEL),
        (panels, D8, PANEL),
        (span, D8),
        (span,),
        (whole, PANEL),
        (D8, PANEL // 2),
        (2, whole),
        (STRIP + D8, PANEL),
        (1, K, PANEL),
        (K, span + SHIFTED),
        (panels, 5, PANEL),
        (span,),
        (span,),
        (span,),
        (span,),
        (panels, PANEL),
        (PANEL,),
        (_BATCH,),
        (_BATCH, D8),
        (K if statistics else 0, D8 + 1, D8),
        (K, LANES),
        (0, LANES),
    )
    roots, near, part, masses, squares = rest
    dropped = _spans(
        rows, weight, shift, whiten, coef, coefs, base, narrow, radius, const, projections, lean, never_screened,
        cutoff, max_share, done, logp, resp,
        label, sums, totals, until, x, z, flat, norm, bound, single.view(np.float32), line, phi, panel, R, out, common,
        best, floor, exact, w, value, chosen, begin_of, spare, roots, near, part, masses, squares, local, taken,
        np.zeros(panels, np.bool_),
    )  # fmt: skip
    return float(dropped)
