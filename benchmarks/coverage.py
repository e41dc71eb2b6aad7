"""How often the 95 % intervals of SRC, PC, MAE and RMSE hold the truth.

Worlds whose truth is known: predictions and labels are normal with a correlation of 0.5, so that
errors have a deviation of 1; clips of one person share a part of both ("within"), and persons have
unequal numbers of clips. Every world is measured as `pipeline evaluate` measures (compare.py).

A line a world, one line of JSON at the end; leaves with 1 if a share lies outside 92 to 98 %.

    python benchmarks/coverage.py [--worlds 2000] [--quick] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, tell

from stages.fit.bootstrap import STATISTICS
from stages.fit.compare import compare

RHO = 0.5
TRUTH = {
    "src": 6 / math.pi * math.asin(RHO / 2),
    "pc": RHO,
    "mae": math.sqrt(2 / math.pi),
    "rmse": 1.0,
}
# Persons, clips of each on average, what they share.
ALONE = [(20, 1, 0.0), (38, 1, 0.0), (60, 1, 0.0), (100, 1, 0.0), (300, 1, 0.0)]
GROUPED = [
    *((5, 8, 0.5), (8, 6, 0.5), (8, 6, 0.8), (12, 5, 0.5)),
    *((20, 3, 0.5), (30, 4, 0.7), (40, 4, 0.5)),
]
LOW, HIGH = 0.92, 0.98
DRAWS = 200
VERSIONS = ("facepipe", "numpy", "scipy")


def held(rng: np.random.Generator, groups: int, clips: int, within: float) -> list[bool]:
    """Draw one world; whether each statistic's interval holds its truth."""
    sizes = 1 + rng.poisson(clips - 1, size=groups) if clips > 1 else np.ones(groups, int)
    code = np.repeat(np.arange(groups), sizes)
    mix = np.linalg.cholesky(np.array([[1, RHO], [RHO, 1]]))
    shared, own = mix @ rng.normal(size=(2, groups)), mix @ rng.normal(size=(2, len(code)))
    p, g = math.sqrt(within) * shared[:, code] + math.sqrt(1 - within) * own
    names = [f"{k:04d}" for k in code]
    seed = int(rng.integers(1 << 30))
    (row,) = compare(
        {"model": p[None]}, g[None], g, [""] * len(g), names, samples=DRAWS, seed=seed
    ).rows
    return [row.estimates[s].low <= TRUTH[s] <= row.estimates[s].high for s in STATISTICS]


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
    print(f"{'persons':>7s} {'clips':>5s} {'within':>6s} " + " ".join(f"{s:>6s}" for s in TRUTH))
    for groups, clips, within in [*ALONE, *GROUPED]:
        rng = np.random.default_rng((groups, clips, int(100 * within)))
        share = np.mean([held(rng, groups, clips, within) for _ in range(worlds)], axis=0)
        cells = dict(zip(STATISTICS, map(float, share), strict=True))
        print(f"{groups:7d} {clips:5d} {within:6.1f} "
              + " ".join(f"{value:6.3f}" for value in cells.values()), flush=True)  # fmt: skip
        about_it = {"persons": groups, "clips": clips, "within": within}
        table.append(about_it | {s: round(value, 4) for s, value in cells.items()})
        short += [
            f"{s}, {groups} persons of {clips}, {within:g} shared: {value:.3f}"
            for s, value in cells.items()
            if not LOW <= value <= HIGH
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
