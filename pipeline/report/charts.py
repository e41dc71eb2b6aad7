"""Charts as numbers in pixels, which the template draws as SVG.

Not a plotting library's: the page must stay light with a chart for each of forty clips, print, turn
dark with the reader's system, and be walked through by keyboard. Colours are classes of the style
sheet; nothing here is markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.floating]
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40  # margins in pixels, for ticks and labels
SYMBOLS = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",  # circle
    "M-3 -3h6v6h-6z",  # square
    "M0 -4.2l4 7h-8z",  # triangle
    "M0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z",  # diamond
    "M-4 -1.2h2.8v-2.8h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8z",  # cross
    "M0 4.2l4 -7h-8z",  # triangle upside down
)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two bounds, a step of 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """From values to pixels: ``low`` lies at ``start``, ``high`` at ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    label: str
    about: int = 5

    def at(self, value: float) -> float:
        """Return the pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Return pixels and texts of the ticks."""
        return [(self.at(v), f"{v:.10g}") for v in ticks(self.low, self.high, self.about)]


@dataclass(frozen=True)
class Mark:
    """One shape: a ``kind`` of the style sheet, an SVG path, and where it goes if that is a symbol.

    ``row``: of the clip that it stands for, by which it is filtered.
    """

    kind: str
    path: str
    x: float | None = None
    y: float | None = None
    row: dict[str, Any] | None = None


@dataclass
class Chart:
    """A chart and what is said of its points.

    ``tips``: pixel x, y and text of every point that can be asked for; ``by`` says whether the
    nearest one is looked for in both directions or along x only. ``legend``: kind and label.
    """

    title: str
    x: Axis
    y: Axis
    width: int
    height: int
    by: str = "x"
    second: Axis | None = None  # another panel below, on the same x
    marks: list[Mark] = field(default_factory=list)
    tips: list[tuple[float, float, str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)

    def line(self, xs: Values, ys: Values, kind: str) -> None:
        """Draw a line; it breaks where a value is not finite."""
        path, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            path.append(f"{pen}{self.x.at(x):g} {self.y.at(y):g}")
            pen = "L"
        self.marks.append(Mark(f"line {kind}", "".join(path)))

    def band(self, xs: Values, low: Values, high: Values, kind: str) -> None:
        """Fill between two lines, finite throughout."""
        there = [f"{self.x.at(x):g} {self.y.at(y):g}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self.x.at(x):g} {self.y.at(y):g}" for x, y in zip(xs, low, strict=True)]
        if there:
            self.marks.append(Mark(f"band {kind}", f"M{'L'.join(there + back[::-1])}z"))

    def steps(self, edges: Values, heights: Values, kind: str) -> None:
        """Outline a histogram: n + 1 edges, n heights."""
        path = f"M{self.x.at(edges[0]):g} {self.y.at(0):g}"
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            y = self.y.at(height)
            path += f"L{self.x.at(left):g} {y:g}L{self.x.at(right):g} {y:g}"
        path += f"L{self.x.at(edges[-1]):g} {self.y.at(0):g}z"
        self.marks.append(Mark(f"steps {kind}", path))

    def rule(self, kind: str, x: float | None = None, y: float | None = None) -> None:
        """Draw a straight line across, at an x or a y."""
        if x is not None:
            ends = f"M{self.x.at(x):g} {self.y.start:g}V{self.y.stop:g}"
        else:
            ends = f"M{self.x.start:g} {self.y.at(y or 0.0):g}H{self.x.stop:g}"
        self.marks.append(Mark(f"rule {kind}", ends))

    def point(self, x: float, y: float, symbol: int, row: dict[str, Any], tip: str) -> None:
        """Draw a symbol for a clip, and what is said of it."""
        at = self.x.at(x), self.y.at(y)
        shape = SYMBOLS[symbol % len(SYMBOLS)]
        self.marks.append(Mark(f"point c{symbol % len(SYMBOLS)}", shape, *at, row))
        self.tips.append((*at, tip))

    def tip(self, x: float, y: float, text: str) -> None:
        """Say something of a place."""
        self.tips.append((self.x.at(x), self.y.at(y), text))


def span(values: Values, pad: float = 0.05) -> tuple[float, float]:
    """Bounds that hold all finite values with some room; 0 to 1 where there is none."""
    v = np.asarray(values, np.float64)
    v = v[np.isfinite(v)]
    if not len(v):
        return 0.0, 1.0
    low, high = float(v.min()), float(v.max())
    room = (high - low) * pad or abs(high) * pad or 0.5
    return low - room, high + room


def chart(
    title: str,
    x: tuple[float, float],
    y: tuple[float, float],
    xlabel: str,
    ylabel: str,
    size: tuple[int, int] = (440, 300),
    by: str = "x",
) -> Chart:
    """Return an empty chart with axes over two intervals."""
    width, height = size
    across = Axis(*x, LEFT, width - RIGHT, xlabel)
    up = Axis(*y, height - BOTTOM, TOP, ylabel, about=max(2, height // 45))
    return Chart(title, across, up, width, height, by)


def histogram(
    title: str,
    series: Sequence[tuple[str, Values]],
    xlabel: str,
    bounds: tuple[float, float] | None = None,
    bins: int = 20,
) -> Chart | None:
    """Outlines of the distributions of several series over common bins, in percent of each.

    Between ``bounds``, or as far as the values reach. None where no series has a finite value.
    """
    kept = [(name, np.asarray(v, np.float64)) for name, v in series]
    kept = [(name, v[np.isfinite(v)]) for name, v in kept]
    kept = [(name, v) for name, v in kept if len(v)]
    if not kept:
        return None
    low, high = bounds or span(np.concatenate([v for _, v in kept]), 0.02)
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(v, edges)[0] / len(v) * 100 for _, v in kept]
    made = chart(
        title,
        (float(edges[0]), float(edges[-1])),
        (0.0, max(float(s.max()) for s in shares) * 1.05),
        xlabel,
        "% of clips",
    )
    for k, ((name, v), share) in enumerate(zip(kept, shares, strict=True)):
        made.steps(edges, share, f"c{k}")
        if len(kept) > 1:
            made.legend.append((f"steps c{k}", f"{name} ({len(v)})"))
    for b in range(bins):
        said = ", ".join(f"{name} {s[b]:.0f} %" for (name, _), s in zip(kept, shares, strict=True))
        middle = (edges[b] + edges[b + 1]) / 2
        top = max(float(s[b]) for s in shares)
        made.tip(middle, top, f"{edges[b]:.3g} to {edges[b + 1]:.3g}: {said}")
    return made


def curve(
    title: str, xs: Values, ys: Values, xlabel: str, ylabel: str, mark: float | None, said: str
) -> Chart:
    """One line over x, with a rule at ``mark`` which is called ``said``."""
    made = chart(title, span(xs, 0.01), span(ys), xlabel, ylabel, (360, 240))
    if mark is not None:
        made.rule("chosen", x=mark)
        made.legend = [("chosen", said)]
    made.line(xs, ys, "c0")
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            made.tip(x, y, f"{xlabel} {x:g}: {y:.4g}")
    return made


def symbol(kind: str) -> str:
    """Return the path of a kind's key in a legend."""
    return SYMBOLS[int(kind.removeprefix("point c"))] if kind.startswith("point") else "M-6 0H6"
