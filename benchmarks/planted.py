"""What each model can see and cannot see: its rank correlation where the answer is planted.

Every seed is a world of its own (see planted_truths.py). Of its clips some are trained on, some
choose the epoch, the others are predicted; no person stands on two sides unless the row says so.
SRC of the held-out clips by model and row, mean of the seeds; the 95 % interval is the bootstrap's
over held-out persons in every world, and each seed's SRC stands beside it. Rows:

a b c d e        the truths
c-shuffled       c with the frames of each clip in random order, in training and test
f-raw f-zscore   mean SRC within a channel; trained on labels as they are, or on z-scores a channel
g-apart g-mixed  no person on two sides; clips dealt whoever they are of

A table, one line of JSON at the end; leaves with 1 where it falls short of what FLOORS says of the
models that were run.

    python benchmarks/planted.py [--models 2stcn meanpool ...] [--rows a b ...] [--seeds 5]
        [--quick] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import machine, tell
from planted_truths import APPEARANCE_DIM, FloatArray, Planted, plant

from stages.fit import models, pooled
from stages.fit.config import TrainConfig
from stages.fit.metrics import spearman
from stages.fit.trainer import LabelScale, predict, reproducible, train

ROWS = ("a", "b", "c", "c-shuffled", "d", "e", "f-raw", "f-zscore", "g-apart", "g-mixed")
VERSIONS = ("facepipe", "numpy", "scikit-learn", "scipy", "torch")
DRAWS = 500
TRAIN, VAL, TEST = 160, 40, 152  # whole persons of 4 clips
Places = npt.NDArray[np.intp]


def split(world: Planted, mixed: bool, seed: int) -> list[Places]:
    """Places to train on, to validate with, to test on; whole persons unless mixed."""
    rng = np.random.default_rng(seed)
    unit = np.arange(len(world.score)) if mixed else world.person
    order = rng.permutation(int(unit.max()) + 1)[unit]
    by_unit = np.argsort(order, kind="stable")
    return [by_unit[:TRAIN], by_unit[TRAIN : TRAIN + VAL], by_unit[TRAIN + VAL :]]


def normalised(world: Planted, fitted_on: Places) -> FloatArray:
    """Labels as z-scores of their channel, by the mean and deviation of the clips fitted on."""
    result = world.score.copy()
    for channel in np.unique(world.channel):
        known = world.score[fitted_on][world.channel[fitted_on] == channel]
        here = world.channel == channel
        result[here] = (world.score[here] - known.mean()) / known.std()
    return result


def fitted(
    name: str, world: Planted, parts: list[Places], score: FloatArray, epochs: int, seed: int
) -> FloatArray:
    """Fit a model; return its predictions of the last part, in that part's order."""
    learn, choose, test = parts
    if name in pooled.POOLED:
        places = np.sort(np.concatenate([learn, choose]))
        model = pooled.PooledRegressor(name, seed).fit(
            world.loader(places).iter_clips(), score[places]
        )
        found = model.predict(world.loader(test).iter_clips())  # in row order
    else:
        label = LabelScale.of(score[learn].tolist())
        loaders = [world.loader(p, (score - label.mean) / label.sd) for p in parts]
        options = {"appearance_dim": APPEARANCE_DIM}
        config = TrainConfig(epochs=epochs, patience=epochs)
        with reproducible(seed):
            options = models.complete(name, options, loaders[0].longest())
            network = models.create(name, **options)
            network.set_statistics(loaders[0].statistics())
            train(network, loaders[0], loaders[1], config, seed)
        found = predict(network, loaders[2], 64)[1].double().numpy()
    return found[np.argsort(np.argsort(test))]


@dataclass(frozen=True)
class Held:
    """Clips held out in one row and world: predictions, labels, persons, channels, (n,) each."""

    found: FloatArray
    score: FloatArray
    person: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]

    def drawn(self, rng: np.random.Generator) -> Held:
        """Persons drawn with replacement, each with all clips."""
        names = np.unique(self.person)
        clips = [np.flatnonzero(self.person == p) for p in rng.choice(names, len(names))]
        k = np.concatenate(clips)
        return Held(self.found[k], self.score[k], self.person[k], self.channel[k])


def held_out(name: str, row: str, seed: int, epochs: int) -> Held:
    """Plant, fit and predict."""
    world = plant(row[0], TRAIN + VAL + TEST, seed)
    if row.endswith("shuffled"):
        world = world.shuffled(seed)
    parts = split(world, row.endswith("mixed"), seed)
    score = normalised(world, parts[0]) if row.endswith("zscore") else world.score
    found = fitted(name, world, parts, score, epochs, seed)
    test = parts[2]
    return Held(found, world.score[test], world.person[test], world.channel[test])


def correlation(row: str, held: Held) -> float:
    """SRC of all clips, in the rows of f the mean of those within a channel; 0 if all are equal."""
    here = [np.ones(len(held.score), np.bool_)]
    if row[0] == "f":
        here = [held.channel == c for c in np.unique(held.channel)]
    values = [spearman(held.found[rows], held.score[rows]) for rows in here]
    return float(np.mean(np.nan_to_num(values)))


def cell(name: str, row: str, seeds: int, epochs: int) -> dict[str, Any]:
    """One model on one row."""
    begin = time.perf_counter()
    held = [held_out(name, row, seed, epochs) for seed in range(seeds)]
    values = [correlation(row, h) for h in held]
    rng = np.random.default_rng(0)
    draws = [np.mean([correlation(row, h.drawn(rng)) for h in held]) for _ in range(DRAWS)]
    src, (low, high) = float(np.mean(values)), map(float, np.percentile(draws, [2.5, 97.5]))
    print(
        f"{name:14s} {row:11s} {src:6.3f} ({low:6.3f} to {high:6.3f})   seeds "
        f"{' '.join(f'{v:6.3f}' for v in values)}   {time.perf_counter() - begin:5.0f} s",
        flush=True,
    )
    told = {"src": src, "low": low, "high": high}
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


def main() -> int:
    """Run it all, print a table and the JSON line."""
    known = [*pooled.POOLED, *models.names()]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=TrainConfig().epochs)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 30 epochs: not a result")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seeds, epochs = (2, 30) if given.quick else (given.seeds, given.epochs)
    about = machine(VERSIONS)
    table: dict[str, Cells] = {
        name: {row: cell(name, row, seeds, epochs) for row in given.rows} for name in given.models
    }
    print()
    print(f"{'SRC':14s} " + " ".join(f"{row:>10s}" for row in given.rows))
    for name, cells in table.items():
        print(f"{name:14s} " + " ".join(f"{c['src']:10.3f}" for c in cells.values()))
    short = []
    for name, needed, words, holds in FLOORS:
        if name not in table or not set(needed) <= set(table[name]):
            continue
        kept = holds(table[name])
        print(f"{'holds' if kept else 'SHORT':6s} {name}: {words}")
        if not kept:
            short.append(f"{name}: {words}")
    told = {
        "benchmark": "planted",
        **about,
        "quick": given.quick,
        "clips": {"train": TRAIN, "val": VAL, "test": TEST},
        "epochs": epochs,
        "seeds": seeds,
        "table": table,
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
