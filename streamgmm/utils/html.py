"""HTML for notebooks: tables and small pictures, self-contained, in the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.utils.colours import colour

__all__ = [
    "Number", "Raw", "component", "curves", "ellipses", "facts", "folded", "note", "pre", "share", "table", "wrapped",
]  # fmt: skip

Array = NDArray[np.float64]

_WIDTH, _HEIGHT, _LEFT, _BELOW, _MARGIN = 460.0, 240.0, 64.0, 36.0, 12.0

_SORT = (
    "const h=this.closest('th'),b=h.closest('table').tBodies[0],i=h.cellIndex,"
    "d=h.ariaSort==='ascending'?-1:1,v=r=>r.cells[i].dataset.v??'',"
    "c=(x,y)=>x===''||y===''?(x==='')-(y===''):d*(isNaN(x)||isNaN(y)?(x>y)-(x<y):x-y);"
    "[...b.rows].sort((x,y)=>c(v(x),v(y))).forEach(r=>b.append(r));"
    "for(const o of h.parentNode.cells)o.ariaSort='none';h.ariaSort=d>0?'ascending':'descending'"
)
"""Sorts the rows of a table by the column of the button that was pressed; empty cells come last."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Markup that is made here, and no text to be escaped; `value` is what a column is sorted by."""

    markup: str
    value: float | str = ""


@dataclass(frozen=True, slots=True)
class Number:
    """A number with the text that shows it."""

    value: float
    text: str


def wrapped(title: str, *parts: str) -> str:
    """Parts below a title (text), in a box that scrolls sideways rather than stand out.

    Examples
    --------
    >>> "a &lt; b" in wrapped("a < b", note("more"))
    True
    """
    head = f'<p style="margin:0 0 4px"><strong>{escape(title)}</strong></p>'
    return f'<div class="streamgmm" style="overflow-x:auto;max-width:100%">{head}{"".join(parts)}</div>'


def note(text: str) -> str:
    """A line of text.

    Examples
    --------
    >>> note("a < b")
    '<p style="opacity:0.75">a &lt; b</p>'
    """
    return f'<p style="opacity:0.75">{escape(text)}</p>'


def pre(values: Mapping[str, Any]) -> str:
    """Names and values as they are written in Python, a line each.

    Examples
    --------
    >>> pre({"rows": 3})
    '<pre>rows: 3</pre>'
    """
    lines = "\n".join(f"{name}: {value!r}" for name, value in values.items())
    return f"<pre>{escape(lines)}</pre>"


def folded(title: str, body: str) -> str:
    """Markup that shows when its title (text) is pressed.

    Examples
    --------
    >>> folded("more", note("text"))[:32]
    '<details><summary>more</summary>'
    """
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def component(k: int) -> Raw:
    """The number of a component beside its colour.

    Examples
    --------
    >>> component(3).value
    3
    """
    dot = f'<span aria-hidden="true" style="color:{colour(k)}">&#9679;</span>'
    return Raw(f"{dot}&nbsp;{k}", k)


def share(value: float) -> Raw:
    """A share in percent, with a bar.

    Examples
    --------
    >>> share(0.25).markup.endswith(" 25.0&nbsp;%</span>")
    True
    """
    width = f"{60 * min(max(value, 0.0), 1.0):.0f}px"
    bar = f'<span style="display:inline-block;height:0.6em;width:{width};background:currentColor;opacity:0.4"></span>'
    return Raw(f'<span style="white-space:nowrap">{bar} {100 * value:.1f}&nbsp;%</span>', value)


def _cell(value: Any, left: bool = False) -> str:
    """A cell with its key for sorting; numbers stand to the right unless `left`."""
    side = "left" if left else "right"
    if isinstance(value, Raw):
        return f'<td style="text-align:left" data-v="{escape(str(value.value))}">{value.markup}</td>'
    if isinstance(value, Number):
        key = repr(float(value.value)) if math.isfinite(value.value) else ""
        return f'<td style="text-align:{side}" data-v="{key}">{escape(value.text)}</td>'
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return f'<td style="text-align:{side}" data-v="">-</td>'
    if isinstance(value, bool):
        return f'<td style="text-align:left" data-v="{value:d}">{"yes" if value else "no"}</td>'
    if isinstance(value, int | float | np.integer | np.floating):
        text = f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.6g}"
        return f'<td style="text-align:{side}" data-v="{float(value)!r}">{text}</td>'
    return f'<td style="text-align:left" data-v="{escape(str(value))}">{escape(str(value))}</td>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], *, sortable: bool = False, marked: int | None = None
) -> str:
    """A table of values: text is escaped, numbers stand to the right, None is a dash.

    Parameters
    ----------
    sortable : bool
        Names of columns are buttons that sort the rows.
    marked : number of the row in bold, or None

    Examples
    --------
    >>> "&lt;script&gt;" in table(["a & b"], [["<script>"]]), "<script" in table(["a & b"], [["<script>"]])
    (True, False)
    """
    look = "all:revert;border:0;padding:0;background:none;font:inherit;color:inherit;cursor:pointer"
    button = f'<button type="button" onclick="{escape(_SORT)}" style="{look};text-decoration:underline dotted">'
    names = [f"{button}{escape(name)}</button>" if sortable else escape(name) for name in head]
    top = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in names)
    lines = []
    for i, row in enumerate(rows):
        strong = ' style="font-weight:bold"' if i == marked else ""
        lines.append(f"<tr{strong}>{''.join(map(_cell, row))}</tr>")
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one a line; without those that are None.

    Examples
    --------
    >>> "<th" in facts([("rows", 3), ("path", None)]), "path" in facts([("rows", 3), ("path", None)])
    (True, False)
    """
    lines = [
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>{_cell(value, left=True)}</tr>'
        for name, value in pairs
        if value is not None
    ]
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


# Pictures -------------------------------------------------------------------------------------------------------------


Ticks = Sequence[tuple[float, float]]
"""Pixels and values of marks along an axis."""


def _frame(title: str, body: str, x: Ticks, y: Ticks, labels: tuple[str, str]) -> str:
    """An SVG with axes; `title` says to those who do not see it what it shows."""
    top, right, floor = _MARGIN, _WIDTH - _MARGIN, _HEIGHT - _BELOW
    text = 'font-size="11" fill="currentColor"'
    marks = [
        *(f'<text x="{u:.1f}" y="{floor + 14}" text-anchor="middle" {text}>{v:.4g}</text>' for u, v in x),
        *(f'<text x="{_LEFT - 4}" y="{u + 4:.1f}" text-anchor="end" {text}>{v:.4g}</text>' for u, v in y),
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle" {text}>'
        f"{escape(_short(labels[0]))}</text>",
        f'<text transform="translate(12 {(top + floor) / 2}) rotate(-90)" text-anchor="middle" {text}>'
        f"{escape(_short(labels[1]))}</text>",
        f'<path d="M{_LEFT} {top}V{floor}H{right}" fill="none" stroke="currentColor" opacity="0.5"/>',
    ]
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" width="{_WIDTH:.0f}" '
        f'style="max-width:100%;height:auto;display:block" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(marks)}{body}</svg>"
    )


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _scale(low: float, high: float, start: float, stop: float) -> tuple[float, float]:
    """(a, b) of pixels a + b value."""
    b = (stop - start) / (high - low)
    return start - b * low, b


def _range(values: Array, pad: float = 0.05) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = pad * (high - low) or max(abs(low), 1.0) * 1e-3
    return low - room, high + room


def _ends(values: Array, a: float, b: float) -> Ticks:
    """Marks at the smallest and the largest value; one where they would lie on each other."""
    low, high = float(values.min()), float(values.max())
    return [(a + b * v, v) for v in ((low, high) if abs(b * (high - low)) > 24 else (low,))]


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    labels: tuple[str, str],
    marked: tuple[float, float] | None = None,
    dots: bool = True,
) -> str:
    """Curves as SVG, each named at its end; without a curve nothing.

    Parameters
    ----------
    lines : {name: (x, y)}, of finite numbers
    title : what the picture shows, for those who do not see it
    labels : of the axes
    marked : a point to be ringed
    dots : whether points are marked

    Examples
    --------
    >>> picture = curves({"BIC": ([1, 2], [5.0, 3.0])}, title="BIC falls", labels=("K", "BIC"))
    >>> picture[:4], picture.count("<circle")
    ('<svg', 2)
    """
    drawn = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in lines.items() if len(x)}
    if not drawn:
        return ""
    xs, ys = (np.concatenate([line[i] for line in drawn.values()]) for i in (0, 1))
    x, y = _range(xs), _range(ys)
    (ax, bx) = _scale(*x, _LEFT, _WIDTH - _MARGIN - (70.0 if len(drawn) > 1 and dots else 0.0))
    (ay, by) = _scale(*y, _HEIGHT - _BELOW, _MARGIN)
    body = []
    for i, (name, line) in enumerate(drawn.items()):
        points = [(ax + bx * u, ay + by * v) for u, v in zip(*(part.tolist() for part in line), strict=True)]
        path = " ".join(f"{u:.1f},{v:.1f}" for u, v in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour(i)}" stroke-width="1.5"/>')
        if dots:
            body += [f'<circle cx="{u:.1f}" cy="{v:.1f}" r="2.5" fill="{colour(i)}"/>' for u, v in points]
        if len(drawn) > 1 and dots:
            u, v = points[-1]
            body.append(f'<text x="{u + 6:.1f}" y="{v + 4:.1f}" font-size="11" fill="currentColor">'
                        f"{escape(_short(name, 12))}</text>")  # fmt: skip
    if marked is not None:
        u, v = ax + bx * marked[0], ay + by * marked[1]
        body.append(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="7" fill="none" stroke="currentColor" stroke-width="1.5"/>')
    return _frame(title, "".join(body), _ends(xs, ax, bx), _ends(ys, ay, by), labels)


def ellipses(
    means: Array, covariances: Array, weights: Array, numbers: Sequence[int], *, title: str, labels: tuple[str, str]
) -> str:
    """Ellipses of two standard deviations as SVG.

    Parameters
    ----------
    means, covariances : (K, 2), (K, 2, 2)
    weights : (K,); heavy components are drawn stronger
    numbers : of the components, for their colours

    Examples
    --------
    >>> import numpy as np
    >>> one = ellipses(np.zeros((1, 2)), np.eye(2)[None], np.ones(1), [0], title="one", labels=("x", "y"))
    >>> one.count("<ellipse")
    1
    """
    reach = 2.0 * np.sqrt(np.maximum(np.einsum("kii->ki", covariances), 0.0))
    x, y = (_range(np.concatenate([means[:, i] - reach[:, i], means[:, i] + reach[:, i]])) for i in (0, 1))
    (ax, bx), (ay, by) = _scale(*x, _LEFT, _WIDTH - _MARGIN), _scale(*y, _HEIGHT - _BELOW, _MARGIN)
    stretch = np.array([bx, by])
    body = []
    for k, mean, covariance, weight in zip(numbers, means, covariances, weights, strict=True):
        values, vectors = np.linalg.eigh(covariance * np.outer(stretch, stretch))
        small, large = 2.0 * np.sqrt(np.maximum(values, 0.0))
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        u, v = ax + bx * mean[0], ay + by * mean[1]
        strength = 0.35 + 0.65 * math.sqrt(weight / max(float(weights.max()), 1e-300))
        body.append(
            f'<ellipse rx="{max(large, 1.0):.1f}" ry="{max(small, 1.0):.1f}" '
            f'transform="translate({u:.1f} {v:.1f}) rotate({angle:.1f})" fill="{colour(k)}" fill-opacity="0.12" '
            f'stroke="{colour(k)}" stroke-width="1.5" opacity="{strength:.2f}"/>'
            f'<text x="{u:.1f}" y="{v + 4:.1f}" text-anchor="middle" font-size="11" fill="currentColor">{k}</text>'
        )
    return _frame(title, "".join(body), _ends(means[:, 0], ax, bx), _ends(means[:, 1], ay, by), labels)
