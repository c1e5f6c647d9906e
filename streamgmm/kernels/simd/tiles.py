"""Register tiles: small matrix products whose sums stay in registers, in vectors of eight doubles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamgmm.kernels.simd.intrinsics import (
    LANES,
    _doubles,
    _fma,
    _int32,
    _int64,
    _load,
    _pointer,
    _prefetch,
    _singles,
    _splat,
    _store,
)

_PANEL_VECTORS = 4


class _Sums:
    """A tile of sums, rows of vectors, in stack slots that LLVM turns into registers."""

    def __init__(self, builder: ir.IRBuilder, begin: list[list[ir.Value]]) -> None:
        self._builder = builder
        self.slots = [[cgutils.alloca_once(builder, value.type) for value in row] for row in begin]
        for slots, values in zip(self.slots, begin, strict=True):
            for slot, value in zip(slots, values, strict=True):
                builder.store(value, slot)

    def add(self, m: int, vectors: list[ir.Value], factors: list[ir.Value] | None = None) -> None:
        """sums[m] += factors * vectors, vector by vector; += vectors without factors."""
        builder = self._builder
        for v, (slot, value) in enumerate(zip(self.slots[m], vectors, strict=True)):
            old = builder.load(slot)
            builder.store(builder.fadd(value, old) if factors is None else _fma(builder, factors[v], value, old), slot)

    def step(self, scalars: list[ir.Value], vectors: list[ir.Value]) -> None:
        """sums[m] += scalar m * vectors for all m, the scalars given by where they stand."""
        for m, pointer in enumerate(scalars):
            factor = _splat(self._builder, self._builder.load(pointer), vectors[0].type)
            self.add(m, vectors, [factor] * len(vectors))

    def put(self, places: list[list[ir.Value]]) -> None:
        for slots, row in zip(self.slots, places, strict=True):
            for slot, place in zip(slots, row, strict=True):
                _store(self._builder, self._builder.load(slot), place)


def _along(builder: ir.IRBuilder, pointer: ir.Value, n_vectors: int, lanes: int = LANES) -> list[ir.Value]:
    """Where vectors side by side begin."""
    return [builder.gep(pointer, [ir.Constant(_int64, v * lanes)]) for v in range(n_vectors)]


def _down(builder: ir.IRBuilder, pointer: ir.Value, stride: ir.Value, n_rows: int) -> list[ir.Value]:
    """Where rows one below the other begin."""
    return [builder.gep(pointer, [builder.mul(stride, ir.Constant(_int64, m))]) for m in range(n_rows)]


def _vectors(builder: ir.IRBuilder, places: list[ir.Value], kind: ir.Type = _doubles) -> list[ir.Value]:
    return [_load(builder, place, kind) for place in places]


def _in_turn(
    builder: ir.IRBuilder,
    n: ir.Value,
    sizes: tuple[int, ...],
    emit: Callable[[int, ir.Value], None],
    begin: ir.Value | None = None,
    *,
    even: bool = False,
) -> None:
    """Cover `begin` to `n` with tiles of these sizes, largest first, by loops over emit(size, where it begins).

    With `even`, rather two of a smaller size than one of three or six and a small rest, which would leave pipes idle.
    """
    at = ir.Constant(_int64, 0) if begin is None else begin
    for size in sizes:
        unit = ir.Constant(_int64, size)
        left = builder.sub(n, at)
        count = builder.udiv(left, unit)
        if even and size % 3 == 0:
            rest = builder.urem(left, unit)
            few = builder.icmp_unsigned("<", builder.sub(rest, ir.Constant(_int64, 1)), ir.Constant(_int64, size // 3))
            few = builder.and_(few, builder.icmp_signed(">", left, unit))
            count = builder.sub(count, builder.zext(few, _int64))
        with cgutils.for_range(builder, count) as loop:
            emit(size, builder.add(at, builder.mul(loop.index, unit)))
        at = builder.add(at, builder.mul(count, unit))


def logit_tiles(heights: tuple[int, ...], n_vectors: int, together: int, *, onto: bool = False) -> Callable[..., Any]:
    """out[k, :] = coef[k, q] + sum over f < q of coef[k, f] phi[f, :], for k < K and 32 columns.

    In tiles of `heights` rows and `n_vectors` vectors. `coefs` has those of `together` components side by side,
    see `products.grouped_coefficients`; heights are multiples of that but for 1. With `onto` the sum is added to
    what `out` holds, coef[k, q] is not read, and the coefficients of the next tile are brought nearer. Arguments:
    coefs; the first f; p, the columns of coef; phi (q, 32); q; out (K, 32); K.
    """

    @intrinsic
    def tiles(typingctx, coefs, first, p, phi, q, out, K):
        def codegen(context, builder, signature, args):
            coefs, first, p, phi, q, out, K = args
            zero, row_length = ir.Constant(_int64, 0), ir.Constant(_int64, _PANEL_VECTORS * LANES)
            pace, turns = ir.Constant(_int64, together), _PANEL_VECTORS // n_vectors
            base = _pointer(context, builder, signature.args[0], coefs, builder.mul(pace, first))
            features = _pointer(context, builder, signature.args[3], phi, zero)
            target = _pointer(context, builder, signature.args[5], out, zero)

            def fetch(places: list[ir.Value]) -> None:
                lines = builder.udiv(builder.mul(pace, q), ir.Constant(_int64, LANES))
                with cgutils.for_range(builder, lines) as loop:
                    at = builder.mul(loop.index, ir.Constant(_int64, LANES))
                    for place in places:
                        _prefetch(builder, builder.gep(place, [at]))

            def tile(m_rows: int, k: ir.Value, turn: int) -> None:
                groups = -(-m_rows // together)
                begins = _down(builder, builder.gep(base, [builder.mul(k, p)]), builder.mul(pace, p), groups)
                left = [pointer for begin in begins for pointer in _along(builder, begin, together, 1)][:m_rows]
                v = ir.Constant(_int64, turn * n_vectors * LANES)
                right = builder.gep(features, [v])
                to = builder.gep(target, [builder.add(builder.mul(k, row_length), v)])
                places = [_along(builder, row, n_vectors) for row in _down(builder, to, row_length, m_rows)]
                if onto and turns > 1:  # a tile across the panel reads too few numbers for this to matter
                    step = builder.mul(ir.Constant(_int64, m_rows), p)
                    fetch([builder.gep(begin, [step]) for begin in begins[turn::turns]])
                if onto:
                    begin = [_vectors(builder, row) for row in places]
                else:
                    constants = [builder.load(builder.gep(pointer, [builder.mul(pace, q)])) for pointer in left]
                    begin = [[_splat(builder, constant)] * n_vectors for constant in constants]
                sums = _Sums(builder, begin)
                with cgutils.for_range(builder, q) as loop:
                    row = builder.gep(right, [builder.mul(loop.index, row_length)])
                    at = builder.mul(pace, loop.index)
                    scalars = [builder.gep(pointer, [at]) for pointer in left]
                    sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors)))
                sums.put(places)

            def rows(m_rows: int, k: ir.Value) -> None:
                for turn in range(turns):
                    tile(m_rows, k, turn)

            _in_turn(builder, K, heights, rows, even=True)
            return context.get_dummy_value()

        i = types.intp
        return types.void(coefs, i, i, phi, i, out, i), codegen

    return tiles


def sum_tiles(shapes: tuple[tuple[int, tuple[int, ...]], ...], together: int = 1) -> Callable[..., Any]:
    """out[k, f] += sum over b < n of resp[k, b] psi[b, f], for k < K and f < `columns`, a multiple of 8.

    In tiles of `shapes`, vectors with numbers of rows. Of resp `together` rows stand side by side, one number of each
    after the other; where fewer are left, one stands alone. Numbers of rows are multiples of that but for 1.
    Arguments: resp, its place, the stride of k and (in units of
    `panel`, a power of two of columns) of a panel; panel; psi, its place and row stride; n; out, its place and row
    stride; K; columns.
    """

    @intrinsic
    def tiles(
        typingctx, resp, resp_at, resp_stride, panel_stride, panel, psi, psi_at, psi_stride, n, out, out_at, out_stride,
        K, columns,
    ):  # fmt: skip
        def codegen(context, builder, signature, args):
            resp, resp_at, resp_stride, panel_stride, panel, psi, psi_at, psi_stride, n = args[:9]
            out, out_at, out_stride, K, columns = args[9:]
            resps = _pointer(context, builder, signature.args[0], resp, resp_at)
            features = _pointer(context, builder, signature.args[5], psi, psi_at)
            target = _pointer(context, builder, signature.args[9], out, out_at)
            panels = builder.udiv(n, panel)

            def tile(n_vectors: int, v: ir.Value, m_rows: int, k: ir.Value) -> None:
                f = builder.mul(v, ir.Constant(_int64, LANES))
                first = builder.gep(resps, [builder.mul(k, resp_stride)])
                group = together if m_rows > 1 else 1
                pace = ir.Constant(_int64, group)
                begins = _down(builder, first, builder.mul(pace, resp_stride), m_rows // group)
                left = [pointer for begin in begins for pointer in _along(builder, begin, group, 1)]
                right = builder.gep(features, [f])
                to = builder.gep(target, [builder.add(builder.mul(k, out_stride), f)])
                places = [_along(builder, row, n_vectors) for row in _down(builder, to, out_stride, m_rows)]
                sums = _Sums(builder, [_vectors(builder, row) for row in places])
                with cgutils.for_range(builder, panels) as outer:
                    left_panel = [builder.gep(pointer, [builder.mul(outer.index, panel_stride)]) for pointer in left]
                    right_panel = builder.gep(right, [builder.mul(builder.mul(outer.index, panel), psi_stride)])
                    with cgutils.for_range(builder, panel) as loop:
                        row = builder.gep(right_panel, [builder.mul(loop.index, psi_stride)])
                        scalars = [builder.gep(pointer, [builder.mul(pace, loop.index)]) for pointer in left_panel]
                        sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors)))
                sums.put(places)

            heights = dict(shapes)

            def rows(n_vectors: int, v: ir.Value) -> None:
                _in_turn(builder, K, heights[n_vectors], partial(tile, n_vectors, v), even=True)

            vectors = builder.udiv(columns, ir.Constant(_int64, LANES))
            _in_turn(builder, vectors, tuple(heights), rows)
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, i, i, i, i, psi, i, i, i, out, i, i, i, i), codegen

    return tiles


def outer_tiles(heights: tuple[int, ...], widths: tuple[int, ...]) -> Callable[..., Any]:
    """out[m, f] += sum over b < n of rows[b, m] rows[b, f], for m < D and f up to m, in whole vectors.

    In tiles of `heights` rows of out and `widths` vectors. Arguments: rows (n, D); D, a multiple of 8; n; out (D, D).
    """

    @intrinsic
    def tiles(typingctx, rows, D, n, out):
        def codegen(context, builder, signature, args):
            rows, D, n, out = args
            zero = ir.Constant(_int64, 0)
            data = _pointer(context, builder, signature.args[0], rows, zero)
            target = _pointer(context, builder, signature.args[3], out, zero)

            def tile(m_rows: int, m: ir.Value, n_vectors: int, v: ir.Value) -> None:
                f = builder.mul(v, ir.Constant(_int64, LANES))
                to = builder.gep(target, [builder.add(builder.mul(m, D), f)])
                places = [_along(builder, row, n_vectors) for row in _down(builder, to, D, m_rows)]
                sums = _Sums(builder, [_vectors(builder, row) for row in places])
                with cgutils.for_range(builder, n) as loop:
                    row = builder.gep(data, [builder.mul(loop.index, D)])
                    left, right = builder.gep(row, [m]), builder.gep(row, [f])
                    sums.step(_along(builder, left, m_rows, 1), _vectors(builder, _along(builder, right, n_vectors)))
                sums.put(places)

            def band(m_rows: int, m: ir.Value) -> None:
                end = builder.add(m, ir.Constant(_int64, m_rows + LANES - 1))
                vectors = builder.udiv(end, ir.Constant(_int64, LANES))
                _in_turn(builder, vectors, widths, partial(tile, m_rows, m), even=True)

            _in_turn(builder, D, heights, band)
            return context.get_dummy_value()

        i = types.intp
        return types.void(rows, i, i, out), codegen

    return tiles


def quadratic_tiles(m_rows: int, n_vectors: int, *, square: bool = False) -> Callable[..., Any]:
    """out[:] += sum over i < q of z_i (b_i + sum over j <= i of A_ij z_j), for 8 `n_vectors` lanes.

    In tiles of `m_rows` values of i; those that are left come first, one by one, where the triangle's rows are short: a
    tile of one row waits for its own sums. With `square` instead: out[:] += sum over i of (sum over j <= i of A_ij
    z_j)^2, and b is not read. Arguments: A packed (row i from i (i + 1) / 2 on) and its place; the place of b; q; z,
    its place and row stride; out and its place.
    """

    @intrinsic
    def tiles(typingctx, coef, coef_at, linear_at, q, z, z_at, z_stride, out, out_at):
        def codegen(context, builder, signature, args):
            coef, coef_at, linear_at, q, z, z_at, z_stride, out, out_at = args
            packed = _pointer(context, builder, signature.args[0], coef, coef_at)
            linear = _pointer(context, builder, signature.args[0], coef, linear_at)
            right = _pointer(context, builder, signature.args[4], z, z_at)
            target = _pointer(context, builder, signature.args[7], out, out_at)
            places = _along(builder, target, n_vectors)
            zero = ir.Constant(_doubles, [0.0] * LANES)
            one = ir.Constant(_int64, 1)

            def tile(m_rows: int, first: ir.Value) -> None:
                index = [builder.add(first, ir.Constant(_int64, m)) for m in range(m_rows)]
                left = [builder.gep(packed, [builder.lshr(builder.mul(i, builder.add(i, one)), one)]) for i in index]
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

            odd = builder.urem(q, ir.Constant(_int64, m_rows))
            _in_turn(builder, odd, (1,), tile)
            _in_turn(builder, q, (m_rows,), tile, odd)
            return context.get_dummy_value()

        i = types.intp
        return types.void(coef, i, i, i, z, i, i, out, i), codegen

    return tiles


def lane_tiles(lanes: int, heights: tuple[int, ...], widths: tuple[int, ...]) -> Callable[..., Any]:
    """out[k, f, :] += sum over panels and v of resp[k, v, :] phi[f, v, :], for k < K and f < q.

    In tiles of `heights` values of k and `widths` values of f. A lane is a row of the data: what comes out are `lanes`
    partial sums each. Arguments: resp (panels, K, 32); phi (panels, q, 32); panels; out (K, q, lanes); K; q.
    """
    kind = ir.VectorType(ir.DoubleType(), lanes)
    length = _PANEL_VECTORS * LANES

    @intrinsic
    def tiles(typingctx, resp, phi, panels, out, K, q):
        def codegen(context, builder, signature, args):
            resp, phi, panels, out, K, q = args
            zero, unit, panel = (ir.Constant(_int64, i) for i in (0, lanes, length))
            resps = _pointer(context, builder, signature.args[0], resp, zero)
            features = _pointer(context, builder, signature.args[1], phi, zero)
            target = _pointer(context, builder, signature.args[3], out, zero)

            def tile(n_features: int, f: ir.Value, m_rows: int, k: ir.Value) -> None:
                left = builder.gep(resps, [builder.mul(k, panel)])
                right = builder.gep(features, [builder.mul(f, panel)])
                to = builder.gep(target, [builder.mul(builder.add(builder.mul(k, q), f), unit)])
                down = _down(builder, to, builder.mul(q, unit), m_rows)
                places = [_along(builder, row, n_features, lanes) for row in down]
                sums = _Sums(builder, [_vectors(builder, row, kind) for row in places])
                with cgutils.for_range(builder, panels) as loop:
                    step = builder.mul(loop.index, panel)
                    left_panel = builder.gep(left, [builder.mul(step, K)])
                    right_panel = builder.gep(right, [builder.mul(step, q)])

                    def part(base: ir.Value, row: int, at: int) -> ir.Value:
                        return _load(builder, builder.gep(base, [ir.Constant(_int64, row * length + at)]), kind)

                    for at in range(0, length, lanes):
                        loaded = [part(right_panel, f, at) for f in range(n_features)]
                        for m in range(m_rows):
                            sums.add(m, loaded, [part(left_panel, m, at)] * n_features)
                sums.put(places)

            def rows(n_features: int, f: ir.Value) -> None:
                _in_turn(builder, K, heights, partial(tile, n_features, f))

            # 6 = 3 + 3, and else as many fives as there are: 10 and 15 are the full covariances of three and four
            # features.
            _in_turn(builder, q, widths, rows, even=True)
            return context.get_dummy_value()

        i = types.intp
        return types.void(resp, phi, i, out, i, i), codegen

    return tiles


def bound_tiles(ways_each: int, components: int, n_vectors: int) -> Callable[..., Any]:
    """out[c, :] = top[c] + scale[c] * sum over ways m of c of (ways[m, q] + sum over f < q of ways[m, f] z[f, :])^2.

    For C components, a multiple of `components`, of `ways_each` ways, and 32 rows; in tiles of `components` and
    `n_vectors` vectors. Ways and z are float32, and so are the sums. Arguments: ways (C ways_each, q + 1); z (q, 32);
    q; line (2, C) with top and scale; out (C, 32); C.
    """
    width = _singles.count
    panel = _PANEL_VECTORS * LANES

    @intrinsic
    def tiles(typingctx, projections, z, q, line, out, C):
        def codegen(context, builder, signature, args):
            projections, z, q, line, out, C = args
            zero = ir.Constant(_int64, 0)
            all_ways = _pointer(context, builder, signature.args[0], projections, zero)
            rows = _pointer(context, builder, signature.args[1], z, zero)
            tops = _pointer(context, builder, signature.args[3], line, zero)
            scales = builder.gep(tops, [C])
            target = _pointer(context, builder, signature.args[4], out, zero)
            stride = builder.add(q, ir.Constant(_int64, 1))

            def finish(sums: _Sums, c: int, first: ir.Value, to: ir.Value) -> None:
                at = builder.add(first, ir.Constant(_int64, c))
                top, scale = (_splat(builder, builder.load(builder.gep(pointer, [at]))) for pointer in (tops, scales))
                squares = _Sums(builder, [[ir.Constant(_singles, [0.0] * width)] * n_vectors])
                for slots in sums.slots[c * ways_each : (c + 1) * ways_each]:
                    side = [builder.load(slot) for slot in slots]
                    squares.add(0, side, side)
                for v, slot in enumerate(squares.slots[0]):
                    value = builder.load(slot)
                    for part in range(0, width, LANES):
                        lanes = ir.Constant(ir.VectorType(_int32, LANES), list(range(part, part + LANES)))
                        half = builder.fpext(builder.shuffle_vector(value, value, lanes), _doubles)
                        place = builder.gep(to, [ir.Constant(_int64, c * panel + v * width + part)])
                        _store(builder, _fma(builder, scale, half, top), place)

            def tile(first: ir.Value, b: ir.Value) -> None:
                at = builder.mul(builder.mul(first, ir.Constant(_int64, ways_each)), stride)
                left = _down(builder, builder.gep(all_ways, [at]), stride, components * ways_each)
                right = builder.gep(rows, [b])
                begin = [_splat(builder, builder.load(builder.gep(pointer, [q])), _singles) for pointer in left]
                sums = _Sums(builder, [[value] * n_vectors for value in begin])
                with cgutils.for_range(builder, q) as loop:
                    row = builder.gep(right, [builder.mul(loop.index, ir.Constant(_int64, panel))])
                    scalars = [builder.gep(pointer, [loop.index]) for pointer in left]
                    sums.step(scalars, _vectors(builder, _along(builder, row, n_vectors, width), _singles))
                to = builder.gep(target, [builder.add(builder.mul(first, ir.Constant(_int64, panel)), b)])
                for c in range(components):
                    finish(sums, c, first, to)

            def all_rows(_: int, first: ir.Value) -> None:
                with cgutils.for_range(builder, ir.Constant(_int64, panel // (n_vectors * width))) as loop:
                    tile(first, builder.mul(loop.index, ir.Constant(_int64, n_vectors * width)))

            _in_turn(builder, C, (components,), all_rows)
            return context.get_dummy_value()

        i = types.intp
        return types.void(projections, z, i, line, out, i), codegen

    return tiles
