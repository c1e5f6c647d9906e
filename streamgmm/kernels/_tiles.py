"""Register tiles: small matrix products whose sums stay in registers, in vectors of eight doubles (see `_vector`)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamgmm.kernels._vector import LANES, _doubles, _fma, _int32, _int64, _load, _pointer, _singles, _splat, _store

_PANEL_VECTORS = 4


class _Sums:
    """A tile of sums, rows of vectors, in stack slots that LLVM turns into registers."""

    def __init__(self, builder: Any, begin: list[list[Any]]) -> None:
        self._builder = builder
        self.slots = [[cgutils.alloca_once(builder, value.type) for value in row] for row in begin]
        for slots, values in zip(self.slots, begin, strict=True):
            for slot, value in zip(slots, values, strict=True):
                builder.store(value, slot)

    def add(self, m: int, vectors: list[Any], factors: list[Any] | None = None) -> None:
        """sums[m] += factors * vectors, vector by vector; += vectors without factors."""
        builder = self._builder
        for v, (slot, value) in enumerate(zip(self.slots[m], vectors, strict=True)):
            old = builder.load(slot)
            builder.store(builder.fadd(value, old) if factors is None else _fma(builder, factors[v], value, old), slot)

    def step(self, scalars: list[Any], vectors: list[Any]) -> None:
        """sums[m] += scalar m * vectors for all m, the scalars given by where they stand."""
        for m, pointer in enumerate(scalars):
            factor = _splat(self._builder, self._builder.load(pointer), vectors[0].type)
            self.add(m, vectors, [factor] * len(vectors))

    def put(self, places: list[list[Any]]) -> None:
        for slots, row in zip(self.slots, places, strict=True):
            for slot, place in zip(slots, row, strict=True):
                _store(self._builder, self._builder.load(slot), place)


def _along(builder: Any, pointer: Any, n_vectors: int, lanes: int = LANES) -> list[Any]:
    """Where vectors side by side begin."""
    return [builder.gep(pointer, [ir.Constant(_int64, v * lanes)]) for v in range(n_vectors)]


def _down(builder: Any, pointer: Any, stride: Any, n_rows: int) -> list[Any]:
    """Where rows one below the other begin."""
    return [builder.gep(pointer, [builder.mul(stride, ir.Constant(_int64, m))]) for m in range(n_rows)]


def _vectors(builder: Any, places: list[Any], kind: Any = _doubles) -> list[Any]:
    return [_load(builder, place, kind) for place in places]


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
            left = _down(builder, left, coef_stride, m_rows)
            right = _pointer(context, builder, signature.args[3], phi, phi_at)
            target = _pointer(context, builder, signature.args[7], out, out_at)
            places = [_along(builder, row, n_vectors) for row in _down(builder, target, out_stride, m_rows)]
            if onto:
                begin = [_vectors(builder, row) for row in places]
            else:
                begin = [[_splat(builder, builder.load(builder.gep(row, [q])))] * n_vectors for row in left]
            sums = _Sums(builder, begin)
            with cgutils.for_range(builder, q) as loop:
                row = builder.gep(right, [builder.mul(loop.index, phi_stride)])
                scalars = [builder.gep(pointer, [loop.index]) for pointer in left]
                sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors)))
            sums.put(places)
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
            left = _down(builder, left, resp_stride, m_rows)
            right = _pointer(context, builder, signature.args[5], psi, psi_at)
            target = _pointer(context, builder, signature.args[9], out, out_at)
            places = [_along(builder, row, n_vectors) for row in _down(builder, target, out_stride, m_rows)]
            sums = _Sums(builder, [_vectors(builder, row) for row in places])
            with cgutils.for_range(builder, builder.udiv(n, panel)) as outer:
                left_panel = [builder.gep(pointer, [builder.mul(outer.index, panel_stride)]) for pointer in left]
                right_panel = builder.gep(right, [builder.mul(builder.mul(outer.index, panel), psi_stride)])
                with cgutils.for_range(builder, panel) as loop:
                    row = builder.gep(right_panel, [builder.mul(loop.index, psi_stride)])
                    scalars = [builder.gep(pointer, [loop.index]) for pointer in left_panel]
                    sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors)))
            sums.put(places)
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
            targets = _down(builder, target, out_stride, m_rows)
            if first_moment:
                targets.append(_pointer(context, builder, signature.args[8], out, moment_at))
            places = [_along(builder, row, n_vectors) for row in targets]
            sums = _Sums(builder, [_vectors(builder, row) for row in places])
            with cgutils.for_range(builder, n) as loop:
                b = builder.load(builder.gep(listed, [loop.index]))
                scale = _splat(builder, builder.load(builder.gep(weights, [b])))
                at = builder.mul(b, stride)
                row = _vectors(builder, _along(builder, builder.gep(right, [at]), n_vectors))
                row = [builder.fmul(scale, value) for value in row]
                sums.step(_along(builder, builder.gep(left, [at]), m_rows, 1), row)
                if first_moment:
                    sums.add(m_rows, row)
            sums.put(places)
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
            places = _along(builder, target, n_vectors)
            zero = ir.Constant(_doubles, [0.0] * LANES)
            begin = [zero if square else _splat(builder, builder.load(builder.gep(linear, [i]))) for i in index]
            sums = _Sums(builder, [[value] * n_vectors for value in begin])
            with cgutils.for_range(builder, first) as loop:
                row = builder.gep(right, [builder.mul(loop.index, z_stride)])
                scalars = [builder.gep(pointer, [loop.index]) for pointer in left]
                sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors)))
            results = _vectors(builder, places)
            for j in range(m_rows):
                row = builder.gep(right, [builder.mul(index[j], z_stride)])
                values = _vectors(builder, _along(builder, row, n_vectors))
                for m in range(j, m_rows):
                    factor = _splat(builder, builder.load(builder.gep(left[m], [index[j]])))
                    sums.add(m, values, [factor] * n_vectors)
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
            places = [_along(builder, row, n_features) for row in _down(builder, target, out_stride, m_rows)]
            sums = _Sums(builder, [_vectors(builder, row) for row in places])
            with cgutils.for_range(builder, panels) as loop:
                left_panel = builder.gep(left, [builder.mul(loop.index, resp_stride)])
                right_panel = builder.gep(right, [builder.mul(loop.index, phi_stride)])

                def part(base: Any, row: int, vector: int) -> Any:
                    at = (row * _PANEL_VECTORS + vector) * LANES
                    return _load(builder, builder.gep(base, [ir.Constant(_int64, at)]))

                for v in range(_PANEL_VECTORS):
                    loaded = [part(right_panel, f, v) for f in range(n_features)]
                    for m in range(m_rows):
                        sums.add(m, loaded, [part(left_panel, m, v)] * n_features)
            sums.put(places)
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, i, i, phi, i, i, i, out, i, i), codegen

    return tile


def bound_tile(m_rows: int, components: int) -> Any:
    """out[c, :] = top[c] + scale[c] * sum over ways m of c of (ways[m, q] + sum over f < q of ways[m, f] z[f, :])^2.

    For `components` components of `m_rows` ways in all, and 32 rows. Ways and z are float32, and so are the sums.
    Arguments: ways, their place and stride; z (q, 32); q; line, and where in it top and scale stand; out and its place.
    """
    d = m_rows // components
    width = _singles.count
    n_vectors = _PANEL_VECTORS * LANES // width

    @intrinsic
    def tile(typingctx, ways, ways_at, stride, z, q, line, top_at, scale_at, out, out_at):
        def codegen(context, builder, signature, args):
            ways, ways_at, stride, z, q, line, top_at, scale_at, out, out_at = args
            left = _down(builder, _pointer(context, builder, signature.args[0], ways, ways_at), stride, m_rows)
            right = _pointer(context, builder, signature.args[3], z, ir.Constant(_int64, 0))
            target = _pointer(context, builder, signature.args[8], out, out_at)
            tops, scales = (_pointer(context, builder, signature.args[5], line, at) for at in (top_at, scale_at))
            begin = [_splat(builder, builder.load(builder.gep(pointer, [q])), _singles) for pointer in left]
            sums = _Sums(builder, [[value] * n_vectors for value in begin])
            with cgutils.for_range(builder, q) as loop:
                row = builder.gep(right, [builder.mul(loop.index, ir.Constant(_int64, n_vectors * width))])
                scalars = [builder.gep(pointer, [loop.index]) for pointer in left]
                sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors, width), _singles))
            for c in range(components):
                one = [builder.gep(pointer, [ir.Constant(_int64, c)]) for pointer in (tops, scales)]
                top, scale = (_splat(builder, builder.load(pointer)) for pointer in one)
                squares = _Sums(builder, [[ir.Constant(_singles, [0.0] * width)] * n_vectors])
                for slots in sums.slots[c * d : (c + 1) * d]:
                    side = [builder.load(slot) for slot in slots]
                    squares.add(0, side, side)
                for v, slot in enumerate(squares.slots[0]):
                    value = builder.load(slot)
                    for first in range(0, width, LANES):
                        lanes = ir.Constant(ir.VectorType(_int32, LANES), list(range(first, first + LANES)))
                        half = builder.fpext(builder.shuffle_vector(value, value, lanes), _doubles)
                        place = builder.gep(target, [ir.Constant(_int64, (c * n_vectors + v) * width + first)])
                        _store(builder, _fma(builder, scale, half, top), place)
            return context.get_dummy_value()

        i = types.intp
        return types.void(ways, i, i, z, i, line, i, i, out, i), codegen

    return tile
