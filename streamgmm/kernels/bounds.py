"""Upper bounds of all logits of 32 rows, from a few projections of each in single precision.

A projection p = way . z is known as p' with |p - p'| <= e, by the rounding of the numbers, of the products and of their
sum (Higham 2002, sec. 3.1). As p'^2 <= (1 + t) p^2 + (1 + 1/t) e^2 for every t > 0,

    sum of p^2 >= (1 - a) sum of p'^2 - d e^2 / a    for every 0 < a < 1,

and a proportional to e keeps most of a bound just far enough away to matter: two hundredths of a nat are lost where
e is 1e-3.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamgmm._jit import helper
from streamgmm.kernels._vector import (
    LANES,
    _call,
    _doubles,
    _fma,
    _int32,
    _int64,
    _pointer,
    _splat,
    _store,
    load,
    vector,
)
from streamgmm.kernels.products import PANEL

ROWS = 8
"""Projections that a tile makes: of one component, or of two with half as many."""
_FAR = 45.0  # nats below the best at which bounds are to be tight
_SINGLE = 2.0**-24
_EPS = 2.0**-52
_WIDTH = 2 * LANES
_float = ir.FloatType()
_singles = ir.VectorType(_float, _WIDTH)


def ways_of(D: int) -> int:
    """Projections of each component: as many more as an exact term of many features costs more."""
    return ROWS // 2 if D < 48 else ROWS


@intrinsic
def store_single(typingctx, value, array, at):
    """array.flat[at : at + 8] = value, for a float32 array."""

    def codegen(context, builder, signature, args):
        half = ir.VectorType(_float, LANES)
        place = builder.bitcast(_pointer(context, builder, signature.args[1], *args[1:]), half.as_pointer())
        builder.store(builder.fptrunc(args[0], half), place, align=4)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), codegen


def bound_tile(components: int) -> Any:
    """out[c, :] = top[c] + scale[c] * sum over ways m of c of (ways[m, q] + sum over f < q of ways[m, f] z[f, :])^2.

    For `components` components and 32 rows; ways and z are float32, each component has `ROWS` / `components` ways.
    Arguments: ways, their place and stride; z (q, 32); q; line, and where in it top and scale stand; out and its place.
    """
    d = ROWS // components

    @intrinsic
    def tile(typingctx, ways, ways_at, stride, z, q, line, top_at, scale_at, out, out_at):
        def codegen(context, builder, signature, args):
            ways, ways_at, stride, z, q, line, top_at, scale_at, out, out_at = args
            halves = range(PANEL // _WIDTH)
            left = _pointer(context, builder, signature.args[0], ways, ways_at)
            left = [builder.gep(left, [builder.mul(stride, ir.Constant(_int64, m))]) for m in range(ROWS)]
            right = _pointer(context, builder, signature.args[3], z, ir.Constant(_int64, 0))
            target = _pointer(context, builder, signature.args[8], out, out_at)
            tops = _pointer(context, builder, signature.args[5], line, top_at)
            scales = _pointer(context, builder, signature.args[5], line, scale_at)
            slots = [[cgutils.alloca_once(builder, _singles) for _ in halves] for _ in range(ROWS)]
            for pointer, row in zip(left, slots, strict=True):
                begin = _splat(builder, builder.load(builder.gep(pointer, [q])), _singles)
                for slot in row:
                    builder.store(begin, slot)
            with cgutils.for_range(builder, q) as loop:
                begin = builder.gep(right, [builder.mul(loop.index, ir.Constant(_int64, PANEL))])
                places = [builder.gep(begin, [ir.Constant(_int64, h * _WIDTH)]) for h in halves]
                values = [builder.load(builder.bitcast(p, _singles.as_pointer()), align=4) for p in places]
                for pointer, row in zip(left, slots, strict=True):
                    factor = _splat(builder, builder.load(builder.gep(pointer, [loop.index])), _singles)
                    for slot, value in zip(row, values, strict=True):
                        builder.store(
                            _call(builder, "llvm.fma.v16f32", _singles, factor, value, builder.load(slot)), slot
                        )
            for c in range(components):
                place = [builder.gep(pointer, [ir.Constant(_int64, c)]) for pointer in (tops, scales)]
                above, factor = (_splat(builder, builder.load(pointer)) for pointer in place)
                for h in halves:
                    total = ir.Constant(_singles, [0.0] * _WIDTH)
                    for row in slots[c * d : (c + 1) * d]:
                        side = builder.load(row[h])
                        total = _call(builder, "llvm.fma.v16f32", _singles, side, side, total)
                    for part in range(2):
                        lanes = ir.Constant(ir.VectorType(_int32, LANES), [part * LANES + i for i in range(LANES)])
                        half = builder.fpext(builder.shuffle_vector(total, total, lanes), _doubles)
                        to = c * PANEL + h * _WIDTH + part * LANES
                        place = builder.gep(target, [ir.Constant(_int64, to)])
                        _store(builder, _fma(builder, factor, half, above), place)
            return context.get_dummy_value()

        i = types.intp
        return types.void(ways, i, i, z, i, line, i, i, out, i), codegen

    return tile


_one, _two = bound_tile(1), bound_tile(2)


@helper
def upper_bounds(ways, z, D, largest, const, narrow, radius, single, line, bound):
    """bound (K, 32): upper bounds of the logits of 32 rows z (D, 32), of which `largest` is the largest |z|^2.

    ways (K d, D + 1) float32: see `Screen`; d = `ways_of` (D), K here and below rounded up to whole tiles
    single (D, 32) float32, line (2, K): scratch
    """
    K = const.shape[0]
    whole = line.shape[1]
    d = ways.shape[0] // whole
    for v in range(0, D * PANEL, LANES):
        store_single(load(z, v), single, v)
    reach = math.sqrt(largest)
    wrong = (D + 4) * _SINGLE / math.sqrt(_EPS)
    share = math.sqrt(d / (2.0 * _FAR))
    for k in range(K):
        # Of one projection: |way|^2 <= |P|, and `narrow` holds eps |P|.
        error = wrong * math.sqrt(narrow[k]) * (reach + radius[k])
        # Rounding of the columns' orthogonality and of the exact logit, each at most a small multiple of
        # D eps |P| (|z| + |mu|)^2.
        slack = 32.0 * (D + 8) * narrow[k] * (reach + radius[k]) ** 2
        line[0, k] = const[k] + slack + 0.5 * d * error / share
        line[1, k] = min(0.0, -0.5 * (1.0 - 32.0 * _SINGLE - share * error))
    for k in range(0, whole, ROWS // d):
        at = k * d * (D + 1)
        if d == ROWS:
            _one(ways, at, D + 1, single, D, line, k, whole + k, bound, k * PANEL)
        else:
            _two(ways, at, D + 1, single, D, line, k, whole + k, bound, k * PANEL)
