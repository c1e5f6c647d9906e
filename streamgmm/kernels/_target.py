"""Vector registers of the processor that Numba compiles for, and what the kernels' tiles are cut to."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from llvmlite import binding

_PROBE = """
declare <8 x double> @llvm.fmuladd.v8f64(<8 x double>, <8 x double>, <8 x double>)
define void @f(ptr %p, <8 x double> %a) {
  %b = load <8 x double>, ptr %p
  %c = call <8 x double> @llvm.fmuladd.v8f64(<8 x double> %a, <8 x double> %b, <8 x double> %b)
  store <8 x double> %c, ptr %p
  ret void
}
"""


class Shapes(NamedTuple):
    """Sizes that depend on the number and width of the registers. A vector has eight doubles in either case.

    Tiles keep their sums in registers: AVX-512 has 32 of one vector each. AVX2 (16 of half a vector) and NEON (32 of a
    quarter) both hold eight vectors in all; there a tile has six sums where it can. Four are the least that hide the
    time a multiply-add takes, and take 8 % longer (Emerald Rapids limited to AVX2). Sizes of tiles are listed from the
    largest; smaller ones take what is left.
    """

    across: int
    """Vectors of rows of the data, of the four in a panel, in a tile of logits or of a quadratic form."""
    logits: tuple[int, ...]
    """Tiles of logits: numbers of components."""
    sums: tuple[tuple[int, tuple[int, ...]], ...]
    """Tiles of statistics: vectors of features, each with numbers of components."""
    by_lane: tuple[int, tuple[int, ...], tuple[int, ...]]
    """Tiles of statistics with few features: partial sums of each, numbers of components, numbers of features."""
    together: int
    """Components whose coefficients, or responsibilities, stand side by side. Narrow tiles read many numbers for each
    multiply-add; half as many places of memory take 8 to 10 % less time (Emerald Rapids limited to AVX2)."""
    outer: tuple[tuple[int, ...], tuple[int, ...]]
    """Tiles of outer products: numbers of rows, and of vectors."""
    quadratic: int
    """Rows in a tile of a quadratic form."""
    singles: int
    """Numbers in a vector of single precision."""
    bounds: dict[int, tuple[int, int]]
    """Tiles of upper bounds, by projections of a component: components and vectors."""
    max_shares: tuple[float, float, float]
    """Part of all terms up to which the screened form is cheaper than the dense one: below 24, 48 features, above."""
    permutes: bool
    """Whether an instruction looks up eight of sixteen doubles, and another packs chosen lanes."""


WIDE = Shapes(
    across=4,
    logits=(4, 2, 1),
    sums=((4, (4, 2, 1)), (2, (4, 2, 1)), (1, (8, 4, 2, 1))),
    by_lane=(8, (4, 1), (5, 3, 1)),
    together=1,
    outer=((8, 4, 2, 1), (3, 2, 1)),
    quadratic=4,
    singles=16,
    bounds={4: (2, 2), 8: (1, 2)},
    max_shares=(0.2, 0.35, 0.7),
    permutes=True,
)
NARROW = Shapes(
    across=1,
    logits=(6, 4, 2, 1),
    sums=((1, (6, 4, 2, 1)),),
    by_lane=(4, (4, 2, 1), (3, 2, 1)),
    together=2,
    outer=((6, 4, 2, 1), (1,)),
    quadratic=6,
    singles=8,
    bounds={4: (1, 2), 8: (1, 1)},
    max_shares=(0.2, 0.4, 0.7),
    permutes=False,
)


class Registers(NamedTuple):
    """The target's vector registers and their instructions."""

    width: int
    """Doubles in one: 8 (AVX-512), 4 (AVX, AVX2) or 2 (SSE2, NEON)."""
    fused: bool
    """Whether a multiply-add is one instruction with one rounding."""


@cache
def registers() -> Registers:
    """The registers of Numba's target.

    The machine code that LLVM makes of one multiply-add tells: unlike the features of the host, it follows
    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.
    """
    from numba.core.registry import cpu_target

    return registers_of(*cpu_target.target_context.codegen().magic_tuple())


def registers_of(triple: str, cpu: str, features: str) -> Registers:
    """`registers` of any target that LLVM knows."""
    for initialize in (binding.initialize_native_target, binding.initialize_native_asmprinter):
        initialize()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    code = machine.emit_assembly(binding.parse_assembly(_PROBE))
    width = 8 if "zmm" in code else 4 if "ymm" in code else 2
    return Registers(width, re.search(r"\b(vfn?m(add|sub)|fml[as])", code) is not None)


def shapes() -> Shapes:
    """Sizes of tiles on this target."""
    return WIDE if registers().width == 8 else NARROW
