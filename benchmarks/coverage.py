"""How often the 95 % intervals of SRC, PC, MAE and RMSE hold the truth.

Worlds whose truth is known: predictions and labels are normal with a correlation rho; clips of one
person share a part of both ("within"), and persons have unequal numbers of clips. "ties": labels
are rounded to five values, as stars are. "skew": both are exponentials of normal numbers, as counts
of likes are. Every world is measured as `pipeline evaluate` measures (compare.py).

A line a world, one line of JSON at the end; leaves with 1 if a share lies outside 92 to 98 % in a
world of those that docs/evaluation.md vouches for (VOUCHED). The others are reported: what the
intervals are worth beyond that.

    python benchmarks/coverage.py [--worlds 2000] [--quick] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from machine import machine, tell
from scipy import stats

from stages.fit.bootstrap import STATISTICS
from stages.fit.compare import compare

Kind = Literal["normal", "ties", "skew"]
FloatArray = npt.NDArray[np.float64]


class World(NamedTuple):
    """Persons, clips of each on average, what they share, the correlation, and the margins."""

    persons: int
    clips: int
    within: float
    rho: float = 0.5
    kind: Kind = "normal"


VOUCHED = [
    *(World(n, 1, 0.0) for n in (20, 38, 60, 100, 300)),
    *(World(5, 8, 0.5), World(8, 6, 0.5), World(8, 6, 0.8), World(12, 5, 0.5)),
    *(World(20, 3, 0.5), World(30, 4, 0.7), World(40, 4, 0.5)),
]
BEYOND = [
    *(World(n, 1, 0.0, rho) for rho in (0.0, 0.9) for n in (20, 40, 100)),
    *(World(12, 5, 0.5, rho) for rho in (0.0, 0.9)),
    *(World(n, 8, within, rho) for n in (3, 4) for within, rho in ((0.0, 0.0), (0.5, 0.5))),
    *(World(n, 1, 0.0, 0.5, kind) for kind in ("ties", "skew") for n in (20, 60, 300)),
    *(World(20, 3, 0.5, 0.5, kind) for kind in ("ties", "skew")),
]  # fmt: skip
LOW, HIGH = 0.92, 0.98
DRAWS = 200
VERSIONS = ("facepipe", "numpy", "scipy")


def margins(x: FloatArray, kind: Kind, label: bool) -> FloatArray:
    """Give normal numbers the distribution of a world."""
    if kind == "skew":
        return np.exp(x)
    return np.clip(np.round(x), -2, 2) if kind == "ties" and label else x


def truth(rho: float, kind: Kind) -> dict[str, float]:
    """Each statistic of endlessly many clips of a world."""
    apart = math.sqrt(2 * (1 - rho))  # deviation of the difference of the normal numbers
    src = 6 / math.pi * math.asin(rho / 2)
    if kind == "normal":
        return {"src": src, "pc": rho, "mae": apart * math.sqrt(2 / math.pi), "rmse": apart}
    if kind == "skew":
        pc = math.expm1(rho) / math.expm1(1)
        # What the larger of two exponentials is above the smaller: twice Margrabe's formula.
        mae = 2 * math.exp(0.5) * (2 * float(stats.norm.cdf(apart / 2)) - 1)
        rmse = math.sqrt(2 * math.e * math.expm1(1) * (1 - pc))
        return {"src": src, "pc": pc, "mae": mae, "rmse": rmse}
    p, own = np.random.default_rng(0).normal(size=(2, 4_000_000))  # no formula is known to us
    g = margins(rho * p + math.sqrt(1 - rho**2) * own, kind, True)
    off = p - g
    return {
        "src": float(stats.spearmanr(p, g).statistic),
        "pc": float(np.corrcoef(p, g)[0, 1]),
        "mae": float(np.abs(off).mean()),
        "rmse": math.sqrt(float((off**2).mean())),
    }


def held(rng: np.random.Generator, world: World, wanted: dict[str, float]) -> list[bool]:
    """Draw one world; whether each statistic's interval holds its truth."""
    groups, clips, within, rho, kind = world
    sizes = 1 + rng.poisson(clips - 1, size=groups) if clips > 1 else np.ones(groups, int)
    code = np.repeat(np.arange(groups), sizes)
    mix = np.linalg.cholesky(np.array([[1, rho], [rho, 1]]))
    shared, own = mix @ rng.normal(size=(2, groups)), mix @ rng.normal(size=(2, len(code)))
    p, g = math.sqrt(within) * shared[:, code] + math.sqrt(1 - within) * own
    p, g = margins(p, kind, False), margins(g, kind, True)
    names = [f"{k:04d}" for k in code]
    seed = int(rng.integers(1 << 30))
    (row,) = compare(
        {"model": p[None]}, g[None], g, [""] * len(g), names, samples=DRAWS, seed=seed
    ).rows
    return [row.estimates[s].low <= wanted[s] <= row.estimates[s].high for s in STATISTICS]


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="200 worlds: not a result")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    worlds = 200 if given.quick else given.worlds
    about = machine(VERSIONS)
    table: list[dict[str, Any]] = []
    short: list[str] = []
    print(f"{'persons':>7s} {'clips':>5s} {'within':>6s} {'rho':>4s} {'':6s} "
          + " ".join(f"{s:>6s}" for s in STATISTICS))  # fmt: skip
    for world in [*VOUCHED, *BEYOND]:
        rng = np.random.default_rng((world.persons, world.clips, int(100 * world.within)))
        wanted = truth(world.rho, world.kind)
        share = np.mean([held(rng, world, wanted) for _ in range(worlds)], axis=0)
        cells = dict(zip(STATISTICS, map(float, share), strict=True))
        print(f"{world.persons:7d} {world.clips:5d} {world.within:6.1f} {world.rho:4.1f} "
              f"{world.kind:6s} " + " ".join(f"{value:6.3f}" for value in cells.values()),
              flush=True)  # fmt: skip
        bound = world in VOUCHED
        about_it = {**world._asdict(), "vouched": bound}
        table.append(about_it | {s: round(value, 4) for s, value in cells.items()})
        short += [
            f"{s}, {world.persons} persons of {world.clips}, {world.within:g} shared: {value:.3f}"
            for s, value in cells.items()
            if bound and not LOW <= value <= HIGH
        ]
    for line in short:
        print(f"SHORT  {line}")
    told = {
        "benchmark": "coverage",
        **about,
        "worlds": worlds,
        "standard_error": round(math.sqrt(0.95 * 0.05 / worlds), 4),
        "wanted": [LOW, HIGH],
        "coverage": table,
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
