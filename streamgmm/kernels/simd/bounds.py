"""Upper bounds of all logits of 32 rows, from a few projections of each in single precision.

A projection p = way . z is known as p' with |p - p'| <= e, by the rounding of the numbers, of the products and of their
sum (Higham 2002, sec. 3.1). As p'^2 <= (1 + t) p^2 + (1 + 1/t) e^2 for every t > 0,

    sum of p^2 >= (1 - a) sum of p'^2 - d e^2 / a    for every 0 < a < 1,

and a proportional to e keeps most of a bound just far enough away to matter: two hundredths of a nat are lost where
e is 1e-3.
"""

from __future__ import annotations

import math

from streamgmm.kernels._jit import helper
from streamgmm.kernels.simd.intrinsics import LANES, SHAPES, load, store_single
from streamgmm.kernels.simd.products import PANEL
from streamgmm.kernels.simd.tiles import bound_tiles

_FEW, _MANY = 4, 8
_FAR = 45.0  # nats below the best at which bounds are to be tight
_SINGLE = 2.0**-24
_EPS = 2.0**-52


def ways_of(D: int) -> int:
    """Projections of each component: as many more as an exact term of many features costs more."""
    return _FEW if D < 48 else _MANY


def tile_components(D: int) -> int:
    """Components that a tile takes, whose number is rounded up to."""
    return SHAPES.bounds[ways_of(D)][0]


_few, _many = (bound_tiles(projections, *SHAPES.bounds[projections]) for projections in (_FEW, _MANY))


@helper
def upper_bounds(projections, z, D, largest, const, narrow, radius, single, line, bound):
    """bound (K, 32): upper bounds of the logits of 32 rows z (D, 32), of which `largest` is the largest |z|^2.

    Nothing overflows where narrow (|z| + radius)^2 < 1 for all k, as it must be: some component is no wider than the
    whole, so that its |P| is at least about 1, and |z| below 7e7.

    ways (K d, D + 1) float32: see `Screen`; d = `ways_of` (D), K here and below rounded up to whole tiles
    single (D, 32) float32, line (2, K): scratch
    """
    K = const.shape[0]
    whole = line.shape[1]
    d = projections.shape[0] // whole
    for v in range(0, D * PANEL, LANES):
        store_single(load(z, v), single, v)
    cutoff = math.sqrt(largest)
    wrong = (D + 4) * _SINGLE / math.sqrt(_EPS)
    share = math.sqrt(d / (2.0 * _FAR))
    for k in range(K):
        # Of one projection: |way|^2 <= |P|, and `narrow` holds eps |P|.
        error = wrong * math.sqrt(narrow[k]) * (cutoff + radius[k])
        # Rounding of the columns' orthogonality and of the exact logit, each at most a small multiple of
        # D eps |P| (|z| + |mu|)^2.
        slack = 32.0 * (D + 8) * narrow[k] * (cutoff + radius[k]) ** 2
        line[0, k] = const[k] + slack + 0.5 * d * error / share
        line[1, k] = min(0.0, -0.5 * (1.0 - 32.0 * _SINGLE - share * error))
    if d == _FEW:
        _few(projections, single, D, line, bound, whole)
    else:
        _many(projections, single, D, line, bound, whole)
