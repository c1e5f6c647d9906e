"""Register tiles: small matrix products whose sums stay in registers, in vectors of eight doubles (see `_vector`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamgmm.kernels._vector import LANES, _doubles, _fma, _int64, _load, _pointer, _splat, _store

_PANEL_VECTORS = 4


def _accumulate(builder: Any, sums: list[list[Any]], scalars: list[Any], vectors: Callable[[int], Any]) -> None:
    """sums[m][v] += scalars[m] * vectors[v] for one step; the sums are stack slots that LLVM turns into registers."""
    loaded = [_load(builder, vectors(v)) for v in range(len(sums[0]))]
    for m, pointer in enumerate(scalars):
        factor = _splat(builder, builder.load(pointer))
        for v, value in enumerate(loaded):
            builder.store(_fma(builder, factor, value, builder.load(sums[m][v])), sums[m][v])


def logit_tile(m_rows: int, n_vectors: int, *, onto: bool = False) -> Any:
    """out[m, :] = coef[m, q] + sum over f < q of coef[m, f] phi[f, :], for `m_rows` rows, 8 `n_vectors` columns.

    With `onto` the sum is added to what `out` holds, and coef[m, q] is not read. Arguments: coef, its place and row
    stride; phi, its place and row stride; q; out, its place and row stride.
    """

    @intrinsic
    def tile(typingctx, coef, coef_at, coef_stride, phi, phi_at, phi_stride, q, out, out_at, out_stride):
        def codegen(context, builder, signature, args):
            coef, coef_at, coef_stride, phi, phi_at, phi_stride, q, out, out_at, out_stride = args
            left = _pointer(context, builder, signature.args[0], coef, coef_at)
            left = [builder.gep(left, [builder.mul(coef_stride, ir.Constant(_int64, m))]) for m in range(m_rows)]
            right = _pointer(context, builder, signature.args[3], phi, phi_at)
            target = _pointer(context, builder, signature.args[7], out, out_at)
            sums = [[cgutils.alloca_once(builder, _doubles) for _ in range(n_vectors)] for _ in range(m_rows)]
            places = []
            for m in range(m_rows):
                row = builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))])
                places.append([builder.gep(row, [ir.Constant(_int64, v * LANES)]) for v in range(n_vectors)])
                start = None if onto else _splat(builder, builder.load(builder.gep(left[m], [q])))
                for v in range(n_vectors):
                    builder.store(_load(builder, places[m][v]) if onto else start, sums[m][v])
            with cgutils.for_range(builder, q) as loop:
                row = builder.gep(right, [builder.mul(loop.index, phi_stride)])
                _accumulate(
                    builder,
                    sums,
                    [builder.gep(pointer, [loop.index]) for pointer in left],
                    lambda v: builder.gep(row, [ir.Constant(_int64, v * LANES)]),
                )
            for m in range(m_rows):
                for v in range(n_vectors):
                    _store(builder, builder.load(sums[m][v]), places[m][v])
            return context.get_dummy_value()

        i = types.intp
        return types.void(coef, i, i, phi, i, i, i, out, i, i), codegen

    return tile


def sum_tile(m_rows: int, n_vectors: int) -> Any:
    """out[m, :] += sum over b < n of resp[m, b] psi[b, :], for `m_rows` rows, 8 `n_vectors` columns.

    Arguments: resp, its place, the stride of m and (in units of `panel`, a power of two of columns) of a panel; panel;
    psi, its place and row stride; n; out, its place and row stride.
    """

    @intrinsic
    def tile(
        typingctx, resp, resp_at, resp_stride, panel_stride, panel, psi, psi_at, psi_stride, n, out, out_at, out_stride
    ):
        def codegen(context, builder, signature, args):
            resp, resp_at, resp_stride, panel_stride, panel, psi, psi_at, psi_stride, n, out, out_at, out_stride = args
            left = _pointer(context, builder, signature.args[0], resp, resp_at)
            left = [builder.gep(left, [builder.mul(resp_stride, ir.Constant(_int64, m))]) for m in range(m_rows)]
            right = _pointer(context, builder, signature.args[5], psi, psi_at)
            target = _pointer(context, builder, signature.args[9], out, out_at)
            sums = [[cgutils.alloca_once(builder, _doubles) for _ in range(n_vectors)] for _ in range(m_rows)]
            places = []
            for m in range(m_rows):
                row = builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))])
                places.append([builder.gep(row, [ir.Constant(_int64, v * LANES)]) for v in range(n_vectors)])
                for v in range(n_vectors):
                    builder.store(_load(builder, places[m][v]), sums[m][v])
            with cgutils.for_range(builder, builder.udiv(n, panel)) as outer:
                left_panel = [builder.gep(pointer, [builder.mul(outer.index, panel_stride)]) for pointer in left]
                right_panel = builder.gep(right, [builder.mul(builder.mul(outer.index, panel), psi_stride)])
                with cgutils.for_range(builder, panel) as loop:
                    row = builder.gep(right_panel, [builder.mul(loop.index, psi_stride)])
                    _accumulate(
                        builder,
                        sums,
                        [builder.gep(pointer, [loop.index]) for pointer in left_panel],
                        lambda v: builder.gep(row, [ir.Constant(_int64, v * LANES)]),
                    )
            for m in range(m_rows):
                for v in range(n_vectors):
                    _store(builder, builder.load(sums[m][v]), places[m][v])
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, i, i, i, i, psi, i, i, i, out, i, i), codegen

    return tile


def outer_tile(m_rows: int, n_vectors: int) -> Any:
    """out[m, :] += sum over b < n of left[b, m] right[chosen[b], :], for `m_rows` values of m, 8 `n_vectors` columns.

    Arguments: left, its place and row stride; right, its column and row stride; chosen and the place of its first; n;
    out, its place and row stride.
    """

    @intrinsic
    def tile(
        typingctx, left, left_at, left_stride, right, column, right_stride, chosen, first, n, out, out_at, out_stride
    ):
        def codegen(context, builder, signature, args):
            left, left_at, left_stride, right, column, right_stride, chosen, first, n, out, out_at, out_stride = args
            scalars = _pointer(context, builder, signature.args[0], left, left_at)
            vectors = _pointer(context, builder, signature.args[3], right, column)
            listed = _pointer(context, builder, signature.args[6], chosen, first)
            target = _pointer(context, builder, signature.args[9], out, out_at)
            sums = [[cgutils.alloca_once(builder, _doubles) for _ in range(n_vectors)] for _ in range(m_rows)]
            places = []
            for m in range(m_rows):
                row = builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))])
                places.append([builder.gep(row, [ir.Constant(_int64, v * LANES)]) for v in range(n_vectors)])
                for v in range(n_vectors):
                    builder.store(_load(builder, places[m][v]), sums[m][v])
            with cgutils.for_range(builder, n) as loop:
                row = builder.gep(scalars, [builder.mul(loop.index, left_stride)])
                b = builder.load(builder.gep(listed, [loop.index]))
                other = builder.gep(vectors, [builder.mul(b, right_stride)])
                _accumulate(
                    builder,
                    sums,
                    [builder.gep(row, [ir.Constant(_int64, m)]) for m in range(m_rows)],
                    lambda v: builder.gep(other, [ir.Constant(_int64, v * LANES)]),
                )
            for m in range(m_rows):
                for v in range(n_vectors):
                    _store(builder, builder.load(sums[m][v]), places[m][v])
            return context.get_dummy_value()

        i = types.intp
        return types.void(left, i, i, right, i, i, chosen, i, i, out, i, i), codegen

    return tile


def quadratic_tile(m_rows: int, n_vectors: int, *, square: bool = False) -> Any:
    """out[:] += sum over i of z_i (b_i + sum over j <= i of A_ij z_j), for `m_rows` values of i, 8 `n_vectors` lanes.

    With `square` instead: out[:] += sum over i of (sum over j <= i of A_ij z_j)^2, and b is not read. Arguments: A
    packed (row i from i (i + 1) / 2 on) and its place; the place of b; the first i; z, its place and row stride; out
    and its place.
    """

    @intrinsic
    def tile(typingctx, coef, coef_at, linear_at, first, z, z_at, z_stride, out, out_at):
        def codegen(context, builder, signature, args):
            coef, coef_at, linear_at, first, z, z_at, z_stride, out, out_at = args
            one = ir.Constant(_int64, 1)
            index = [builder.add(first, ir.Constant(_int64, m)) for m in range(m_rows)]
            packed = _pointer(context, builder, signature.args[0], coef, coef_at)
            left = [builder.gep(packed, [builder.lshr(builder.mul(i, builder.add(i, one)), one)]) for i in index]
            linear = _pointer(context, builder, signature.args[0], coef, linear_at)
            right = _pointer(context, builder, signature.args[4], z, z_at)
            target = _pointer(context, builder, signature.args[7], out, out_at)
            places = [builder.gep(target, [ir.Constant(_int64, v * LANES)]) for v in range(n_vectors)]
            sums = [[cgutils.alloca_once(builder, _doubles) for _ in range(n_vectors)] for _ in range(m_rows)]
            for m, i in enumerate(index):
                zero = ir.Constant(_doubles, [0.0] * LANES)
                start = zero if square else _splat(builder, builder.load(builder.gep(linear, [i])))
                for v in range(n_vectors):
                    builder.store(start, sums[m][v])
            with cgutils.for_range(builder, first) as loop:
                row = builder.gep(right, [builder.mul(loop.index, z_stride)])
                _accumulate(
                    builder,
                    sums,
                    [builder.gep(pointer, [loop.index]) for pointer in left],
                    lambda v: builder.gep(row, [ir.Constant(_int64, v * LANES)]),
                )
            results = [_load(builder, place) for place in places]
            for j in range(m_rows):
                row = builder.gep(right, [builder.mul(index[j], z_stride)])
                values = [_load(builder, builder.gep(row, [ir.Constant(_int64, v * LANES)])) for v in range(n_vectors)]
                for m in range(j, m_rows):
                    factor = _splat(builder, builder.load(builder.gep(left[m], [index[j]])))
                    for v, value in enumerate(values):
                        builder.store(_fma(builder, factor, value, builder.load(sums[m][v])), sums[m][v])
                # Row j of the triangle is complete: columns up to j have been added.
                for v, value in enumerate(values):
                    complete = builder.load(sums[j][v])
                    results[v] = _fma(builder, complete if square else value, complete, results[v])
            for place, result in zip(places, results, strict=True):
                _store(builder, result, place)
            return context.get_dummy_value()

        i = types.intp
        return types.void(coef, i, i, i, z, i, i, out, i), codegen

    return tile


def lane_tile(m_rows: int, n_features: int) -> Any:
    """out[m, f, :] += sum over panels and v < 4 of resp[m, v, :] phi[f, v, :], for `m_rows` rows, `n_features` values
    of f.

    A lane is a row of the data: what comes out are eight partial sums each. Arguments: resp, its place and the stride
    of a panel; phi, its place and the stride of a panel; panels; out, its place and row stride. Rows of resp and phi
    are 32 long.
    """

    @intrinsic
    def tile(typingctx, resp, resp_at, resp_stride, phi, phi_at, phi_stride, panels, out, out_at, out_stride):
        def codegen(context, builder, signature, args):
            resp, resp_at, resp_stride, phi, phi_at, phi_stride, panels, out, out_at, out_stride = args
            left = _pointer(context, builder, signature.args[0], resp, resp_at)
            right = _pointer(context, builder, signature.args[3], phi, phi_at)
            target = _pointer(context, builder, signature.args[7], out, out_at)
            sums = [[cgutils.alloca_once(builder, _doubles) for _ in range(n_features)] for _ in range(m_rows)]
            places = []
            for m in range(m_rows):
                row = builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))])
                places.append([builder.gep(row, [ir.Constant(_int64, f * LANES)]) for f in range(n_features)])
                for f in range(n_features):
                    builder.store(_load(builder, places[m][f]), sums[m][f])
            with cgutils.for_range(builder, panels) as loop:
                left_panel = builder.gep(left, [builder.mul(loop.index, resp_stride)])
                right_panel = builder.gep(right, [builder.mul(loop.index, phi_stride)])

                def part(base: Any, row: int, vector: int) -> Any:
                    at = (row * _PANEL_VECTORS + vector) * LANES
                    return _load(builder, builder.gep(base, [ir.Constant(_int64, at)]))

                for v in range(_PANEL_VECTORS):
                    loaded = [part(right_panel, f, v) for f in range(n_features)]
                    for m in range(m_rows):
                        factor = part(left_panel, m, v)
                        for f, value in enumerate(loaded):
                            builder.store(_fma(builder, factor, value, builder.load(sums[m][f])), sums[m][f])
            for m in range(m_rows):
                for f in range(n_features):
                    _store(builder, builder.load(sums[m][f]), places[m][f])
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, i, i, phi, i, i, i, out, i, i), codegen

    return tile
