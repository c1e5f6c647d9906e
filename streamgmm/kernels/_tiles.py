"""Register tiles: small matrix products whose sums stay in registers, in vectors of eight doubles (see `_vector`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamgmm.kernels._vector import LANES, _doubles, _fma, _int64, _load, _pointer, _splat, _store

_PANEL_VECTORS = 4


class _Sums:
    """A tile of sums in stack slots, which LLVM turns into registers: rows of vectors, begun from memory."""

    def __init__(
        self, builder: Any, rows: list[Any], n_vectors: int, start: Callable[[int], Any] | None = None
    ) -> None:
        self._builder = builder
        self._places = [[builder.gep(row, [ir.Constant(_int64, v * LANES)]) for v in range(n_vectors)] for row in rows]
        self.slots = [[cgutils.alloca_once(builder, _doubles) for _ in range(n_vectors)] for _ in rows]
        for m, places in enumerate(self._places):
            begin = None if start is None else start(m)
            for slot, place in zip(self.slots[m], places, strict=True):
                builder.store(_load(builder, place) if begin is None else begin, slot)

    def add(self, m: int, scalar: Any, vectors: list[Any]) -> None:
        """sums[m] += scalar * vectors."""
        factor = _splat(self._builder, scalar)
        for slot, value in zip(self.slots[m], vectors, strict=True):
            self._builder.store(_fma(self._builder, factor, value, self._builder.load(slot)), slot)

    def step(self, scalars: list[Any], row: Any) -> None:
        """sums[m] += scalars[m] * row for all m, the scalars and the row given by where they stand."""
        builder = self._builder
        places = [builder.gep(row, [ir.Constant(_int64, v * LANES)]) for v in range(len(self.slots[0]))]
        vectors = [_load(builder, place) for place in places]
        for m, pointer in enumerate(scalars):
            self.add(m, builder.load(pointer), vectors)

    def put_back(self) -> None:
        for slots, places in zip(self.slots, self._places, strict=True):
            for slot, place in zip(slots, places, strict=True):
                _store(self._builder, self._builder.load(slot), place)


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
            rows = [builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))]) for m in range(m_rows)]
            constants = None if onto else lambda m: _splat(builder, builder.load(builder.gep(left[m], [q])))
            sums = _Sums(builder, rows, n_vectors, constants)
            with cgutils.for_range(builder, q) as loop:
                row = builder.gep(right, [builder.mul(loop.index, phi_stride)])
                sums.step([builder.gep(pointer, [loop.index]) for pointer in left], row)
            sums.put_back()
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
            rows = [builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))]) for m in range(m_rows)]
            sums = _Sums(builder, rows, n_vectors)
            with cgutils.for_range(builder, builder.udiv(n, panel)) as outer:
                left_panel = [builder.gep(pointer, [builder.mul(outer.index, panel_stride)]) for pointer in left]
                right_panel = builder.gep(right, [builder.mul(builder.mul(outer.index, panel), psi_stride)])
                with cgutils.for_range(builder, panel) as loop:
                    row = builder.gep(right_panel, [builder.mul(loop.index, psi_stride)])
                    sums.step([builder.gep(pointer, [loop.index]) for pointer in left_panel], row)
            sums.put_back()
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, i, i, i, i, psi, i, i, i, out, i, i), codegen

    return tile


def outer_tile(m_rows: int, n_vectors: int, *, first_moment: bool = False) -> Any:
    """out[m, :] += sum over listed rows b of weight[b] rows[b, m] rows[b, :], for `m_rows` values of m, 8 `n_vectors`
    columns; with `first_moment` also moment[:] += sum of weight[b] rows[b, :].

    Arguments: rows, their stride, the first m, the first column; weight; chosen, the place of the first row and their
    number; out, its place and row stride; the place of the moment, in out.
    """

    @intrinsic
    def tile(typingctx, rows, stride, row_at, column, weight, chosen, first, n, out, out_at, out_stride, moment_at):
        def codegen(context, builder, signature, args):
            rows, stride, row_at, column, weight, chosen, first, n, out, out_at, out_stride, moment_at = args
            left = _pointer(context, builder, signature.args[0], rows, row_at)
            right = _pointer(context, builder, signature.args[0], rows, column)
            weights = _pointer(context, builder, signature.args[4], weight, ir.Constant(_int64, 0))
            listed = _pointer(context, builder, signature.args[5], chosen, first)
            target = _pointer(context, builder, signature.args[8], out, out_at)
            targets = [builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))]) for m in range(m_rows)]
            if first_moment:
                targets.append(_pointer(context, builder, signature.args[8], out, moment_at))
            sums = _Sums(builder, targets, n_vectors)
            with cgutils.for_range(builder, n) as loop:
                b = builder.load(builder.gep(listed, [loop.index]))
                scale = _splat(builder, builder.load(builder.gep(weights, [b])))
                row = builder.mul(b, stride)
                scalars, vectors = builder.gep(left, [row]), builder.gep(right, [row])
                place = [builder.gep(vectors, [ir.Constant(_int64, v * LANES)]) for v in range(n_vectors)]
                values = [builder.fmul(scale, _load(builder, at)) for at in place]
                for m in range(m_rows):
                    sums.add(m, builder.load(builder.gep(scalars, [ir.Constant(_int64, m)])), values)
                if first_moment:
                    for v, value in enumerate(values):
                        slot = sums.slots[m_rows][v]
                        builder.store(builder.fadd(value, builder.load(slot)), slot)
            sums.put_back()
            return context.get_dummy_value()

        i = types.intp
        return types.void(rows, i, i, i, weight, chosen, i, i, out, i, i, i), codegen

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
            zero = ir.Constant(_doubles, [0.0] * LANES)
            start = [zero if square else _splat(builder, builder.load(builder.gep(linear, [i]))) for i in index]
            sums = _Sums(builder, [target] * m_rows, n_vectors, lambda m: start[m])
            with cgutils.for_range(builder, first) as loop:
                row = builder.gep(right, [builder.mul(loop.index, z_stride)])
                sums.step([builder.gep(pointer, [loop.index]) for pointer in left], row)
            results = [_load(builder, place) for place in places]
            for j in range(m_rows):
                row = builder.gep(right, [builder.mul(index[j], z_stride)])
                values = [_load(builder, builder.gep(row, [ir.Constant(_int64, v * LANES)])) for v in range(n_vectors)]
                for m in range(j, m_rows):
                    sums.add(m, builder.load(builder.gep(left[m], [index[j]])), values)
                # Row j of the triangle is complete: columns up to j have been added.
                for v, value in enumerate(values):
                    complete = builder.load(sums.slots[j][v])
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
            rows = [builder.gep(target, [builder.mul(out_stride, ir.Constant(_int64, m))]) for m in range(m_rows)]
            sums = _Sums(builder, rows, n_features)
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
                        for slot, value in zip(sums.slots[m], loaded, strict=True):
                            builder.store(_fma(builder, factor, value, builder.load(slot)), slot)
            sums.put_back()
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, i, i, phi, i, i, i, out, i, i), codegen

    return tile
