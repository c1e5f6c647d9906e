"""Vectors of eight doubles inside Numba: a type modelled as LLVM's <8 x double>, its operations, and register tiles.

LLVM keeps such values in registers and splits them where the processor's are narrower. Nothing here is contracted or
reordered by the compiler: a multiply-add is written `fma`, so that on one target the bits are those of the source.
Arrays must be C-contiguous float64 unless said otherwise; `at` counts elements from the array's start, and nothing is
checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from streamgmm.kernels._target import registers, shapes

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.datamodel.manager import DataModelManager
    from numba.core.typing.templates import Signature

LANES = 8
REGISTERS, SHAPES = registers(), shapes()
_PANEL_VECTORS = 4
_double = ir.DoubleType()
_int64 = ir.IntType(64)
_int32 = ir.IntType(32)
_doubles = ir.VectorType(_double, LANES)
_integers = ir.VectorType(_int64, LANES)
_singles = ir.VectorType(ir.FloatType(), SHAPES.singles)
_bytes = ir.VectorType(ir.IntType(8), LANES)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__("Vector8d")


vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: DataModelManager, kind: types.Type) -> None:
        super().__init__(manager, kind, _doubles)


# What the generators below are written with -------------------------------------------------------------------------


def _pointer(context: BaseContext, builder: ir.IRBuilder, kind: types.Type, array: ir.Value, at: ir.Value) -> ir.Value:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [at])


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _load(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.Type = _doubles) -> ir.Value:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4 if kind is _singles else 8)


def _store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=8)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, kind: ir.Type = _doubles) -> ir.Value:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_int32, 0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_int32, kind.count), [0] * kind.count)
    )


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    name = f"llvm.fmuladd.v{a.type.count}{'f32' if a.type == _singles else 'f64'}"
    return _call(builder, name, a.type, a, b, c)


def _prefetch(builder: ir.IRBuilder, pointer: ir.Value) -> None:
    read, keep, data = (ir.Constant(_int32, i) for i in (0, 3, 1))
    place = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), place, read, keep, data)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose 8 vectors of 8: three rounds of exchanging ever larger blocks."""
    for span in (1, 2, 4):
        lower = [i + (LANES if i & span else 0) - (span if i & span else 0) for i in range(LANES)]
        upper = [i + span + (LANES if i & span else 0) - (span if i & span else 0) for i in range(LANES)]
        masks = [ir.Constant(ir.VectorType(_int32, LANES), m) for m in (lower, upper)]
        out = list(rows)
        for i in range(LANES):
            if not i & span:
                out[i] = builder.shuffle_vector(rows[i], rows[i + span], masks[0])
                out[i + span] = builder.shuffle_vector(rows[i], rows[i + span], masks[1])
        rows = out
    return rows


# Operations ---------------------------------------------------------------------------------------------------------


def _elementwise(n: int, emit: Callable[..., ir.Value]) -> Callable[..., Any]:
    """An intrinsic of `n` vectors whose code `emit(builder, *vectors)` writes."""

    def codegen(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]
    ) -> ir.Value:
        return emit(builder, *args)

    if n == 1:

        @intrinsic
        def operation(typingctx, a):
            return vector(vector), codegen

    elif n == 2:

        @intrinsic
        def operation(typingctx, a, b):
            return vector(vector, vector), codegen

    else:

        @intrinsic
        def operation(typingctx, a, b, c):
            return vector(vector, vector, vector), codegen

    return operation


def _maximum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _alternating(first: int, builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    lanes = [lane + side for lane in range(first, first + LANES // 2) for side in (0, LANES)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_int32, LANES), lanes))


def _every_other(first: int, builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    lanes = list(range(first, 2 * LANES, 2))
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_int32, LANES), lanes))


def _integer_bits(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.bitcast(a, _integers)


def _constant_bits(value: int) -> ir.Value:
    return ir.Constant(_integers, [value] * LANES)


# Bits of 2^(j / 16), less j << 48: adding i << 48 for i = 16 n + j gives 2^(i / 16).
_SIXTEENTHS = [struct.unpack("<q", struct.pack("<d", 2.0 ** (j / 16)))[0] - (j << 48) for j in range(16)]


def _sixteenth_power(builder: ir.IRBuilder, i: ir.Value) -> ir.Value:
    bits = _integer_bits(builder, i)
    low, high = (builder.bitcast(ir.Constant(_integers, half), _doubles) for half in (_SIXTEENTHS[:8], _SIXTEENTHS[8:]))
    found = _call(builder, "llvm.x86.avx512.vpermi2var.pd.512", _doubles, low, bits, high)
    shifted = builder.shl(bits, _constant_bits(48))
    return builder.bitcast(builder.add(_integer_bits(builder, found), shifted), _doubles)


def _power(builder: ir.IRBuilder, n: ir.Value) -> ir.Value:
    return builder.bitcast(builder.shl(_integer_bits(builder, n), _constant_bits(52)), _doubles)


def _positive_above(builder: ir.IRBuilder, a: ir.Value, x: ir.Value, bound: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", x, bound), a, ir.Constant(_doubles, [0.0] * LANES))


def _exponent(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    # Counted from the octave [sqrt(1/2), sqrt(2)), with 0x3FE6A09E667F3BCD the bits of sqrt(1/2). Few processors turn
    # such integers into doubles: as low bits of 2^52 they are doubles.
    offset = builder.sub(_integer_bits(builder, a), _constant_bits(0x3FE6A09E667F3BCD - (1023 << 52)))
    biased = builder.or_(builder.lshr(offset, _constant_bits(52)), _constant_bits(0x4330000000000000))
    return builder.fsub(builder.bitcast(biased, _doubles), ir.Constant(_doubles, [2.0**52 + 1023] * LANES))


def _mantissa(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    bits = _integer_bits(builder, a)
    offset = builder.sub(bits, _constant_bits(0x3FE6A09E667F3BCD))
    power = builder.and_(offset, _constant_bits(-(1 << 52)))
    return builder.bitcast(builder.sub(bits, power), _doubles)


add = _elementwise(2, lambda builder, a, b: builder.fadd(a, b))
sub = _elementwise(2, lambda builder, a, b: builder.fsub(a, b))
mul = _elementwise(2, lambda builder, a, b: builder.fmul(a, b))
div = _elementwise(2, lambda builder, a, b: builder.fdiv(a, b))
maximum = _elementwise(2, _maximum)
"""Lane by lane a where a > b, else b: the second operand where one is NaN."""
evens = _elementwise(2, partial(_every_other, 0))
"""Lanes 0, 2, 4, 6 of a, then those of b."""
odds = _elementwise(2, partial(_every_other, 1))
"""Lanes 1, 3, 5, 7 of a, then those of b."""
lower_pairs = _elementwise(2, partial(_alternating, 0))
"""Lanes 0 of a and b, then their lanes 1, 2 and 3."""
upper_pairs = _elementwise(2, partial(_alternating, LANES // 2))
"""Lanes 4 of a and b, then their lanes 5, 6 and 7."""
fma = _elementwise(3, _fma)
"""a b + c, in one rounding where the processor has an instruction for it."""
sixteenth_power = _elementwise(1, _sixteenth_power)
"""2^(i / 16), correctly rounded, with the integer i in the low bits of the mantissa (see `exp`)."""
power = _elementwise(1, _power)
"""2^n for -1022 <= n <= 1023, with the integer n + 1023 in the low bits of the mantissa (see `exp`)."""
positive_above = _elementwise(3, _positive_above)
"""a where x > bound, else 0."""
exponent = _elementwise(1, _exponent)
"""n of a = 2^n m with m in [sqrt(1/2), sqrt(2)), for a > 0."""
mantissa = _elementwise(1, _mantissa)
"""m of a = 2^n m, likewise."""


@intrinsic
def broadcast(typingctx, scalar):
    """All lanes `scalar`."""

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0])

    return vector(types.float64), codegen


@intrinsic
def load(typingctx, array, at):
    """array.flat[at : at + 8]."""

    def codegen(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], *args))

    return vector(array, types.intp), codegen


@intrinsic
def load_rows(typingctx, rows, at):
    """rows.flat[at : at + 8] of float64 or float32 rows."""
    element = _double if rows.dtype == types.float64 else ir.FloatType()

    def codegen(context, builder, signature, args):
        place = _pointer(context, builder, signature.args[0], *args)
        value = builder.load(
            builder.bitcast(place, ir.VectorType(element, LANES).as_pointer()),
            align=element.get_abi_size(context.target_data),
        )
        return value if element is _double else builder.fpext(value, _doubles)

    return vector(rows, types.intp), codegen


@intrinsic
def store(typingctx, value, array, at):
    """array.flat[at : at + 8] = value."""

    def codegen(context, builder, signature, args):
        _store(builder, args[0], _pointer(context, builder, signature.args[1], *args[1:]))
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), codegen


@intrinsic
def store_single(typingctx, value, array, at):
    """array.flat[at : at + 8] = value, rounded, for an array of float32."""

    def codegen(context, builder, signature, args):
        half = ir.VectorType(ir.FloatType(), LANES)
        place = builder.bitcast(_pointer(context, builder, signature.args[1], *args[1:]), half.as_pointer())
        builder.store(builder.fptrunc(args[0], half), place, align=4)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), codegen


@intrinsic
def total(typingctx, a):
    """Sum of the lanes, pairwise in a fixed order."""

    def codegen(context, builder, signature, args):
        (value,) = args
        for span in (4, 2, 1):
            mask = ir.Constant(ir.VectorType(_int32, LANES), [(i + span) % LANES for i in range(LANES)])
            value = builder.fadd(value, builder.shuffle_vector(value, value, mask))
        return builder.extract_element(value, ir.Constant(_int32, 0))

    return types.float64(vector), codegen


@intrinsic
def highest(typingctx, a):
    """Largest lane; which one where some are NaN is not told."""

    def codegen(context, builder, signature, args):
        (value,) = args
        for span in (4, 2, 1):
            mask = ir.Constant(ir.VectorType(_int32, LANES), [(i + span) % LANES for i in range(LANES)])
            value = _maximum(builder, value, builder.shuffle_vector(value, value, mask))
        return builder.extract_element(value, ir.Constant(_int32, 0))

    return types.float64(vector), codegen


@intrinsic
def select_greater(typingctx, a, b, x, y):
    """Lane by lane x where a > b, else y."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return vector(vector, vector, vector, vector), codegen


@intrinsic
def prefetch(typingctx, rows, at):
    """Ask for rows.flat[at] to come into the first-level cache; it need not exist."""

    def codegen(context, builder, signature, args):
        _prefetch(builder, _pointer(context, builder, signature.args[0], *args))
        return context.get_dummy_value()

    return types.void(rows, types.intp), codegen


@intrinsic
def gather_columns(typingctx, rows, first, last, column, out, at, stride):
    """Eight rows, from `first` on, of `rows` (n, D) in columns of `out`: out.flat[at + j stride + b] = row b's feature.

    Takes features column + j for j < 8 that exist, others are 0; rows beyond `last` repeat it. Reads float32 as it is.
    """
    element = _double if rows.dtype == types.float64 else ir.FloatType()
    suffix = "f64" if rows.dtype == types.float64 else "f32"

    def codegen(context, builder, signature, args):
        rows_value, first, last, column, out, at, stride = args
        array = context.make_array(signature.args[0])(context, builder, rows_value)
        width = builder.extract_value(array.shape, 1)
        kind = ir.VectorType(element, LANES)
        lanes = ir.Constant(_integers, list(range(LANES)))
        mask = builder.icmp_signed("<", lanes, _splat(builder, builder.sub(width, column), _integers))
        zero = ir.Constant(kind, [0.0] * LANES)
        loaded = []
        for b in range(LANES):
            row = builder.add(first, ir.Constant(_int64, b))
            row = builder.select(builder.icmp_signed("<", row, last), row, last)
            place = builder.gep(array.data, [builder.add(builder.mul(row, width), column)])
            place = builder.bitcast(place, kind.as_pointer())
            align = ir.Constant(_int32, element.get_abi_size(context.target_data))
            name = f"llvm.masked.load.v8{suffix}.p0"
            value = _call(builder, name, kind, place, align, mask, zero)
            loaded.append(value if element is _double else builder.fpext(value, _doubles))
        target = _pointer(context, builder, signature.args[4], out, at)
        for j, value in enumerate(_transposed(builder, loaded)):
            _store(builder, value, builder.gep(target, [builder.mul(stride, ir.Constant(_int64, j))]))
        return context.get_dummy_value()

    integers = (types.intp,) * 3
    return types.void(rows, *integers, out, types.intp, types.intp), codegen


@intrinsic
def transpose(typingctx, source, at, stride, out, out_at, out_stride):
    """out.flat[out_at + b out_stride + j] = source.flat[at + j stride + b] for j, b < 8."""

    def codegen(context, builder, signature, args):
        source, at, stride, out, out_at, out_stride = args
        begin = _pointer(context, builder, signature.args[0], source, at)
        target = _pointer(context, builder, signature.args[3], out, out_at)
        step = [ir.Constant(_int64, j) for j in range(LANES)]
        loaded = [_load(builder, builder.gep(begin, [builder.mul(stride, j)])) for j in step]
        for j, value in zip(step, _transposed(builder, loaded), strict=True):
            _store(builder, value, builder.gep(target, [builder.mul(out_stride, j)]))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, out, types.intp, types.intp), codegen


@intrinsic
def gather_listed(typingctx, source, chosen, first, column, out, at, stride):
    """Eight listed rows of `source` (n, D8), features column to column + 7, in columns of `out`:

    out.flat[at + j stride + b] = source[chosen[first + b], column + j] for j, b < 8.
    """

    def codegen(context, builder, signature, args):
        source, chosen, first, column, out, at, stride = args
        array = context.make_array(signature.args[0])(context, builder, source)
        width = builder.extract_value(array.shape, 1)
        index = _pointer(context, builder, signature.args[1], chosen, first)
        loaded = []
        for b in range(LANES):
            row = builder.load(builder.gep(index, [ir.Constant(_int64, b)]))
            loaded.append(_load(builder, builder.gep(array.data, [builder.add(builder.mul(row, width), column)])))
        target = _pointer(context, builder, signature.args[4], out, at)
        for j, value in enumerate(_transposed(builder, loaded)):
            _store(builder, value, builder.gep(target, [builder.mul(stride, ir.Constant(_int64, j))]))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, chosen, integer, integer, out, integer, integer), codegen


_LANES_OF_MASK = [
    ir.Constant(_bytes, ([lane for lane in range(LANES) if mask >> lane & 1] + [0] * LANES)[:LANES])
    for mask in range(256)
]


@intrinsic
def append_where(typingctx, value, bound, first, chosen, count):
    """Write first + lane to chosen[count:] for every lane with value >= bound; return the new count.

    May write, not count, up to eight places further.
    """

    def codegen(context, builder, signature, args):
        value, bound, first, chosen, count = args
        mask = builder.fcmp_ordered(">=", value, bound)
        lanes = builder.add(ir.Constant(_integers, list(range(LANES))), _splat(builder, first, _integers))
        bits = builder.zext(builder.bitcast(mask, ir.IntType(LANES)), _int64)
        if SHAPES.permutes:
            name = "llvm.experimental.vector.compress.v8i64"
            packed = _call(builder, name, _integers, lanes, mask, ir.Constant(_integers, ir.Undefined))
        else:  # which lanes, from a table: LLVM would write them one after the other
            kind = ir.ArrayType(_bytes, 256)
            table = cgutils.global_constant(builder, "lanes_of_mask", ir.Constant(kind, _LANES_OF_MASK))
            found = builder.load(builder.gep(table, [ir.Constant(_int64, 0), bits]), align=8)
            packed = builder.add(builder.zext(found, _integers), _splat(builder, first, _integers))
        place = _pointer(context, builder, signature.args[3], chosen, count)
        builder.store(packed, builder.bitcast(place, _integers.as_pointer()), align=8)
        return builder.add(count, _call(builder, "llvm.ctpop.i64", _int64, bits))

    return types.intp(vector, vector, types.intp, chosen, types.intp), codegen
