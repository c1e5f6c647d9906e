"""Compiled loops over bare arrays: which form takes a block, and the forms.

`dispatch` decides. NumPy: `plain.reference`, `plain.lloyd` and `plain.missing` (small tables, and the twins for tests),
`plain.own_mean` (rows far away). Compiled and cut to registers: `simd.dense`, `simd.few_features`, `simd.centred`, and
`simd.screened` with `simd.screening` and `simd.bounds`; they are built from `simd.panels`, `simd.products` and
`simd.tiles`, whose shapes follow `_target`. All options of Numba are in `_jit`.
"""
