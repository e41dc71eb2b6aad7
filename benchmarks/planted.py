"""What each model can see and cannot see: its rank correlation where the answer is planted.

Every seed is a world of its own (see planted_truths.py). Of its clips some are trained on, some
choose the epoch, the others are predicted; no person stands on two sides unless the row says so.
SRC of the held-out clips by model and row, mean of the worlds; the 95 % interval is Student's t
over them, so that what differs between worlds, and between fits, is in it as much as who is held
out. Each world's SRC stands beside it. Rows:

a b c d e        the truths
c-shuffled       c with the frames of each clip in random order, in training and test
f-raw f-zscore   mean SRC within a channel; trained on labels as they are, or on z-scores a channel
g-apart g-mixed  no person on two sides; clips dealt whoever they are of

Models that look at pictures are left out: nothing is planted in any. Those that need an attribute
get the channel.

A table, one line of JSON at the end; leaves with 1 where it falls short of what FLOORS says of the
models that were run. The map of all models takes many hours: where the file of --out is there
already, with as many worlds and epochs, the cells that are asked for are added to it or replaced.

    python benchmarks/planted.py [--models 2stcn meanpool ...] [--rows a b ...] [--seeds 5]
        [--quick] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from machine import machine, tell
from planted_truths import FloatArray, Planted, plant
from scipy import stats

from stages.fit import models
from stages.fit.config import FitConfig, TrainConfig
from stages.fit.fitting import predict_scores, train_network
from stages.fit.metrics import spearman
from stages.fit.pooled_models import POOLED_MODELS, create, words
from stages.fit.targets import Target
from stages.fit.trainer import LabelScale

ROWS = ("a", "b", "c", "c-shuffled", "d", "e", "f-raw", "f-zscore", "g-apart", "g-mixed")
VERSIONS = ("facepipe", "numpy", "scikit-learn", "scipy", "torch")
TRAIN, VAL, TEST = 160, 40, 152  # whole persons of 4 clips
Places = npt.NDArray[np.intp]


def known() -> list[str]:
    """Every registered model that reads features."""
    return [*POOLED_MODELS, *(n for n in models.names() if not models.pictures(n, {}))]


def split(world: Planted, mixed: bool, seed: int) -> list[Places]:
    """Places to train on, to validate with, to test on; whole persons unless mixed."""
    rng = np.random.default_rng(seed)
    unit = np.arange(len(world.score)) if mixed else world.person
    order = rng.permutation(int(unit.max()) + 1)[unit]
    by_unit = np.argsort(order, kind="stable")
    return [by_unit[:TRAIN], by_unit[TRAIN : TRAIN + VAL], by_unit[TRAIN + VAL :]]


def fitted(
    name: str, world: Planted, parts: list[Places], score: FloatArray, epochs: int, seed: int
) -> FloatArray:
    """Fit a model; return its predictions of the last part, in that part's order."""
    learn, choose, test = parts
    if name in POOLED_MODELS:
        places = np.sort(np.concatenate([learn, choose]))
        model = create(name, seed)
        channels = pd.DataFrame({model.attribute: [f"c{k}" for k in world.channel[places]]})
        model.fit(world.loader(places).iter_clips(), score[places], words(model, channels))
        found = model.predict(world.loader(test).iter_clips())  # in row order
        return found[np.argsort(np.argsort(test))]
    label = LabelScale.of(score[learn].tolist())
    train, val, tested = (world.loader(p, (score - label.mean) / label.sd) for p in parts)
    config = FitConfig(model=name, train=TrainConfig(epochs=epochs, patience=epochs))
    network, *_ = train_network(config, train, val, train.longest(), seed)
    by_clip = predict_scores(network, [tested], label, config)
    return np.array([by_clip[world.spans[k].clip] for k in test])


@dataclass(frozen=True)
class Held:
    """Clips held out in one row and world: predictions, labels, channels, (n,) each."""

    found: FloatArray
    score: FloatArray
    channel: npt.NDArray[np.int64]


def held_out(name: str, row: str, seed: int, epochs: int) -> Held:
    """Plant, fit and predict."""
    world = plant(row[0], TRAIN + VAL + TEST, seed)
    if row.endswith("shuffled"):
        world = world.shuffled(seed)
    parts = split(world, row.endswith("mixed"), seed)
    channels = world.channel.astype(str)
    kind = "zscore" if row.endswith("zscore") else "none"
    scale = Target(kind, world.score[parts[0]], channels[parts[0]].tolist())
    score = scale(world.score, channels.tolist())
    found = fitted(name, world, parts, score, epochs, seed)
    return Held(found, world.score[parts[2]], world.channel[parts[2]])


def correlation(row: str, held: Held) -> float:
    """SRC of all clips, in the rows of f the mean of those within a channel; 0 if all are equal."""
    here = [np.ones(len(held.score), np.bool_)]
    if row[0] == "f":
        here = [held.channel == c for c in np.unique(held.channel)]
    values = [spearman(held.found[rows], held.score[rows]) for rows in here]
    return float(np.mean(np.nan_to_num(values)))


def over_worlds(values: list[float]) -> dict[str, float]:
    """Mean of the worlds' SRC and its 95 % interval, Student's t; none of a single world."""
    n, mean = len(values), float(np.mean(values))
    half = math.nan
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return {"src": mean, "low": max(mean - half, -1.0), "high": min(mean + half, 1.0)}


def cell(name: str, row: str, seeds: int, epochs: int) -> dict[str, Any]:
    """One model on one row."""
    begin = time.perf_counter()
    values = [correlation(row, held_out(name, row, seed, epochs)) for seed in range(seeds)]
    told = over_worlds(values)
    print(
        f"{name:14s} {row:11s} {told['src']:6.3f} ({told['low']:6.3f} to {told['high']:6.3f})   "
        f"worlds {' '.join(f'{v:6.3f}' for v in values)}   {time.perf_counter() - begin:5.0f} s",
        flush=True,
    )
    return {key: round(v, 4) for key, v in told.items()} | {"seeds": [round(v, 4) for v in values]}


Cells = dict[str, dict[str, Any]]


def about_zero(cells: Cells, row: str) -> bool:
    """Whether the row's interval holds 0."""
    return bool(cells[row]["low"] <= 0 <= cells[row]["high"])


def src(row: str) -> Callable[[Cells], float]:
    """Return a look-up of the row's SRC."""
    return lambda cells: float(cells[row]["src"])


# What must hold: model, rows that it needs, in words, and how it is told.
FLOORS: list[tuple[str, tuple[str, ...], str, Callable[[Cells], bool]]] = [
    ("2stcn", ("b",), "at least 0.9 on b", lambda c: src("b")(c) >= 0.9),
    ("2stcn", ("c",), "at least 0.8 on c", lambda c: src("c")(c) >= 0.8),
    ("2stcn", ("d",), "at least 0.8 on d", lambda c: src("d")(c) >= 0.8),
    ("2stcn", ("e",), "within its interval of 0 on e", lambda c: about_zero(c, "e")),
    *(
        ("meanpool", (row,), f"within 0.15 of 0 on {row}", lambda c, r=row: abs(src(r)(c)) <= 0.15)
        for row in ("b", "c", "d")
    ),
    (
        "2stcn",
        ("c", "c-shuffled"),
        "shuffling takes at least half of c",
        lambda c: src("c-shuffled")(c) <= src("c")(c) / 2,
    ),
    *(
        (
            name,
            ("f-raw", "f-zscore"),
            "f: raw labels fail within channels, z-scores do not",
            lambda c: src("f-raw")(c) <= 0 and c["f-zscore"]["low"] > 0,
        )
        for name in ("2stcn", "meanpool")
    ),
    *(
        (
            name,
            ("g-apart", "g-mixed"),
            "g: no gain with persons apart, gain with them mixed",
            lambda c: c["g-apart"]["low"] <= 0 and c["g-mixed"]["low"] > 0,
        )
        for name in ("2stcn", "meanpool")
    ),
]


def earlier(out: Path | None, terms: dict[str, Any]) -> dict[str, Any]:
    """Return the result that is to be added to; empty where there is none yet.

    Raises
    ------
    SystemExit
        It was made on other terms: other worlds, epochs, numbers of clips.
    """
    if out is None or not out.exists():
        return {}
    held: dict[str, Any] = json.loads(out.read_text())
    differ = [key for key, value in terms.items() if held.get(key) != value]
    if differ:
        sys.exit(f"error: {out} has other {', '.join(differ)}; name another file with --out")
    return held


def merged(held: dict[str, Any], table: dict[str, Cells]) -> dict[str, Cells]:
    """Cells there were and cells made now, these first in doubt; rows in their order."""
    before: dict[str, Cells] = held.get("table", {})
    both = {
        name: {**before.get(name, {}), **table.get(name, {})}
        for name in dict.fromkeys([*before, *table])
    }
    return {name: {r: cells[r] for r in ROWS if r in cells} for name, cells in both.items()}


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=known(), default=known(), metavar="NAME")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=TrainConfig().epochs)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 30 epochs: not a result")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seeds, epochs = (2, 30) if given.quick else (given.seeds, given.epochs)
    about = machine(VERSIONS)
    terms = {
        "benchmark": "planted",
        "interval": "t over worlds",
        "quick": given.quick,
        "clips": {"train": TRAIN, "val": VAL, "test": TEST},
        "epochs": epochs,
        "seeds": seeds,
    }
    held = earlier(given.out, terms)
    made = {name: {row: cell(name, row, seeds, epochs) for row in given.rows}
            for name in given.models}  # fmt: skip
    table = merged(held, made)
    rows = [row for row in ROWS if any(row in cells for cells in table.values())]
    print()
    print(f"{'SRC':14s} " + " ".join(f"{row:>10s}" for row in rows))
    for name, cells in table.items():
        print(f"{name:14s} " + " ".join(
            f"{cells[row]['src']:10.3f}" if row in cells else f"{'':10s}" for row in rows
        ))  # fmt: skip
    short = []
    for name, needed, said, holds in FLOORS:
        if name not in table or not set(needed) <= set(table[name]):
            continue
        kept = holds(table[name])
        print(f"{'holds' if kept else 'SHORT':6s} {name}: {said}")
        if not kept:
            short.append(f"{name}: {said}")
    part = {**about, "models": given.models, "rows": given.rows}
    told = {
        **terms,
        **about,
        "slices": [*held.get("slices", []), part],
        "table": table,
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
