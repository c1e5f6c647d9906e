"""Numbers as people read them: as many digits as their spread makes meaningful."""

from __future__ import annotations

import math

__all__ = ["count", "percent", "size", "written"]


def written(value: float, spread: float) -> str:
    """`value` to a tenth of `spread` or finer: two significant digits of a deviation.

    Examples
    --------
    >>> written(5.00612, 0.35), written(1_700_000_123.4, 20.0), written(4.2e-9, 3e-10)
    ('5.01', '1700000123', '4.20e-09')
    """
    if not math.isfinite(value):
        return "-"
    if not (math.isfinite(spread) and spread > 0):
        return f"{value:.6g}"
    decimals = 1 - math.floor(math.log10(spread))
    if abs(value) < 1e15 and decimals <= 6:
        return f"{value:.{max(decimals, 0)}f}"
    if value == 0:
        return "0"
    return f"{value:.{min(max(decimals + math.floor(math.log10(abs(value))), 0), 16)}e}"


def percent(share: float) -> str:
    """A share in percent.

    Examples
    --------
    >>> percent(0.3333), percent(1.0), percent(0.0), percent(1e-5)
    ('33.3 %', '100 %', '0 %', '< 0.1 %')
    """
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.9995 else f"{100 * share:.1f} %"


def count(value: float) -> str:
    """A number of rows, or a sum of weights: whole numbers of rows, more digits of small sums.

    Examples
    --------
    >>> count(45.3), count(47.0002), count(1_234_567.0), count(0.25)
    ('45.3', '47', '1,234,567', '0.25')
    """
    if not math.isfinite(value):
        return "-"
    if abs(value - round(value)) <= 0.005 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(n_bytes: float) -> str:
    """A number of bytes.

    Examples
    --------
    >>> size(1), size(900), size(999_900), size(12_345_678)
    ('1 byte', '900 bytes', '1 MB', '12.3 MB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= 0.9995 * unit:
            return f"{n_bytes / unit:.3g} {name}"
    return "1 byte" if round(n_bytes) == 1 else f"{n_bytes:.0f} bytes"
