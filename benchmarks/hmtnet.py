"""HMTNet's tables on SCUT-FBP5500's training part: joint training, losses, and its accuracies.

Stills are clips of one frame in a store of the lite pack. Each variant predicts every portrait from
four fifths of the others (5 folds fixed by the seed, one person a portrait) after a number of
epochs that is settled beforehand: nothing is chosen on what is tested, which the published code
does. The backbone is the store's `appearance`, frozen; --scratch N trains networks of pictures from
random weights for N epochs too, on the store's crops, in one fold: hmtnet on the published VGG-M,
and the static networks of the 2S-TCN paper's Table II. The tables are the slides' Table 3
(joint training) and Table 4 (losses), with bootstrap 95 % intervals of PC, MAE and RMSE, Wilson's
of accuracies, and of each difference to the default in PC, paired.

    DATA/images, DATA/labels.csv with the columns clip, score, gender, race

A table, one line of JSON at the end; leaves with 1 where it falls short of the floors below.

    python benchmarks/hmtnet.py DATA [--store FILE] [--scratch 16] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from machine import machine, tell
from sklearn.model_selection import KFold

import store
from stages.extract.run import ExtractOptions, extract
from stages.fit import models
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.fitting import predict_classes, predict_scores, refit_network
from stages.fit.labels import read_labels
from stages.fit.run_folder import make_loader
from stages.fit.spans import FeatureStore, clip_spans
from stages.fit.tasks import accuracy_of, attributes_of
from stages.fit.trainer import LabelScale

FLOORS = {"pc": 0.91, "gender": 0.985, "race": 0.993}
SCRATCH = {
    "vgg-m": ("hmtnet", ["model.backbone=vgg-m"]),
    **{name: (name, []) for name in ("alexnet", "resnet18", "resnext50")},
}
VGG_FLOOR = 0.5
DEFAULT = "smooth-huber, joint"
ALONE = {
    "score alone": ["model.tasks=[]"],
    "gender alone": ['model.tasks=["gender"]', "model.score_weight=0"],
    "race alone": ['model.tasks=["race"]', "model.score_weight=0"],
}
LOSSES = ("mse", "l1", "smooth-l1", "slide", "repository")
TASKS = ("gender", "race")
DRAWS = 1000
VERSIONS = ("facepipe", "numpy", "torch")
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """An open store, its labels and their folds; ``fold`` is -1 where a portrait is not tested."""

    source: FeatureStore
    table: pd.DataFrame
    fold: npt.NDArray[np.int64]


def opened(given: argparse.Namespace, scratch: Path) -> Data:
    """Extract what the store lacks, read the labels, deal the folds."""
    path = given.store or scratch / "scut.store"
    extract(ExtractOptions([given.data / "images"], path, crops=1, workers=given.workers))
    source = store.open(path)
    labels = read_labels(given.data / "labels.csv", clip_spans(source))
    print(f"{len(labels.frame)} portraits; {len(labels.warnings)} without a face")
    fold = np.zeros(len(labels.frame), np.int64)
    dealt = KFold(given.folds, shuffle=True, random_state=given.seed).split(fold)
    for k, (_, test) in enumerate(dealt):
        fold[test] = k
    return Data(source, labels.frame, fold)


def out_of_fold(
    data: Data, settings: list[str], folds: list[int], name: str = "hmtnet"
) -> tuple[FloatArray, dict[str, list[str]]]:
    """Predict the portraits of some folds: scores (n,), NaN elsewhere, and classes by task."""
    config = apply_overrides(FitConfig(model=name), ["batch_size=64", *settings])
    spans, words = clip_spans(data.source), attributes_of(data.table)
    clips = data.table["clip"].tolist()
    score = data.table["score"].to_numpy(np.float64)
    found = np.full(len(clips), np.nan)
    classes: dict[str, list[str]] = {}
    for fold in folds:
        test = data.fold == fold
        label = LabelScale.of(score[~test].tolist())
        scaled = {clips[k]: (score[k] - label.mean) / label.sd for k in np.flatnonzero(~test)}
        loaders = [
            make_loader(
                data.source,
                [spans[clips[k]] for k in np.flatnonzero(rows)],
                scaled,
                config,
                attributes=words,
            )
            for rows in (~test, test)
        ]
        seen = {clip: words[clip] for clip in scaled}
        options = models.complete(name, config.model_options, 1)
        options = models.get(name).settle(options, seen)
        model = refit_network(config, options, loaders[0], config.train.epochs, config.seed)
        scores = predict_scores(model, loaders[1:], label, config)
        told = predict_classes(model, loaders[1], config)
        for k in np.flatnonzero(test):
            found[k] = scores[clips[k]]
            for task, by_clip in told.items():
                classes.setdefault(task, [""] * len(clips))[k] = by_clip[clips[k]]
    return found, classes


def statistics(p: FloatArray, g: FloatArray) -> dict[str, float]:
    """PC, MAE and RMSE of (n,) predictions."""
    error = p - g
    return {
        "pc": float(np.corrcoef(p, g)[0, 1]),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
    }


def row(data: Data, p: FloatArray, classes: dict[str, list[str]], seed: int) -> dict[str, Any]:
    """Every statistic with its interval, [value, low, high]."""
    rows = np.flatnonzero(np.isfinite(p))
    truth = data.table.iloc[rows]
    g = truth["score"].to_numpy(np.float64)
    draws = np.random.default_rng(seed).integers(len(rows), size=(DRAWS, len(rows)))
    drawn = pd.DataFrame([statistics(p[rows][d], g[d]) for d in draws])
    found: dict[str, Any] = {
        name: [round(v, 4) for v in (value, *np.percentile(drawn[name], [2.5, 97.5]))]
        for name, value in statistics(p[rows], g).items()
    }
    for task, told in classes.items():
        words = [told[k] for k in rows]
        a = accuracy_of(task, [words], truth[task].tolist(), truth["clip"].tolist())
        if a is not None:
            found[task] = [round(v, 4) for v in (a.accuracy, a.low, a.high)]
    return found


def difference(p: FloatArray, q: FloatArray, g: FloatArray, seed: int) -> list[float]:
    """PC of p less that of q on the same portraits, and its paired bootstrap interval."""
    draws = np.random.default_rng(seed).integers(len(g), size=(DRAWS, len(g)))
    gap = [np.corrcoef(p[d], g[d])[0, 1] - np.corrcoef(q[d], g[d])[0, 1] for d in draws]
    value = np.corrcoef(p, g)[0, 1] - np.corrcoef(q, g)[0, 1]
    return [round(float(v), 4) for v in (value, *np.percentile(gap, [2.5, 97.5]))]


def measure(given: argparse.Namespace, data: Data) -> dict[str, Any]:
    """Train and test every variant; print a row each."""
    epochs = f"epochs={given.epochs}"
    variants = {DEFAULT: [epochs]}
    variants |= {name: [epochs, *settings] for name, settings in ALONE.items()}
    variants |= {f"{loss}, joint": [epochs, f"model.score_loss={loss}"] for loss in LOSSES}
    if given.only:
        variants = {n: v for n, v in variants.items() if any(part in n for part in given.only)}
    score = data.table["score"].to_numpy(np.float64)
    figures: dict[str, Any] = {}
    predicted: dict[str, FloatArray] = {}
    for name, settings in variants.items():
        begin = time.perf_counter()
        p, classes = out_of_fold(data, settings, list(range(given.folds)))
        predicted[name], figures[name] = p, row(data, p, classes, given.seed)
        if name in ("gender alone", "race alone"):  # their scores were never trained
            figures[name] = {task: figures[name][task] for task in TASKS if task in figures[name]}
        elif DEFAULT in predicted and name != DEFAULT:
            gap = difference(predicted[DEFAULT], p, score, given.seed)
            figures[name]["default less this, pc"] = gap
        show(name, figures[name], time.perf_counter() - begin)
    for network in given.networks if given.scratch else ():
        begin = time.perf_counter()
        model, asked = SCRATCH[network]
        asked = [*asked, f"model.size={given.size}", f"epochs={given.scratch}", "batch_size=32"]
        p, classes = out_of_fold(data, [*asked, f"lr={given.scratch_lr}"], [0], model)
        name = f"{network} from scratch, {given.size} pixels, fold 1"
        figures[name] = row(data, p, classes, given.seed)
        figures[name] |= {"seconds": round(time.perf_counter() - begin), "epochs": given.scratch}
        show(name, figures[name], time.perf_counter() - begin)
    return figures


def show(name: str, figures: dict[str, Any], seconds: float) -> None:
    """Print the statistics of one variant."""
    cells = [f"{k} {v[0]:.4f} ({v[1]:.4f} to {v[2]:.4f})" for k, v in figures.items()
             if isinstance(v, list)]  # fmt: skip
    print(f"{name:36s} {'  '.join(cells)}  {seconds:.0f} s", flush=True)


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=Path, help="folder with images/ and labels.csv")
    parser.add_argument("--store", type=Path, help="keep the features here; thrown away if not")
    parser.add_argument("--epochs", type=int, default=40, help="behind frozen features")
    parser.add_argument("--scratch", type=int, default=0, help="epochs from scratch; 0: none")
    parser.add_argument("--networks", nargs="+", choices=SCRATCH, default=["vgg-m"])
    parser.add_argument("--scratch-lr", type=float, default=3e-4, help="highest learning rate")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures from scratch")
    parser.add_argument("--only", nargs="+", help="variants whose name holds one of these")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    about = machine(VERSIONS)
    with tempfile.TemporaryDirectory(prefix="facepipe-hmtnet-") as scratch:
        figures = measure(given, opened(given, Path(scratch)))
    short = []
    for name, floor in FLOORS.items() if DEFAULT in figures else ():
        if figures[DEFAULT][name][0] < floor:
            short.append(f"{name} {figures[DEFAULT][name][0]} below {floor}")
    for name, found in figures.items():
        if name.startswith("vgg-m") and found["pc"][0] < VGG_FLOOR:
            short.append(f"{name}: {found['pc'][0]} below {VGG_FLOOR}")
    told = {"benchmark": "hmtnet", **about, "folds": given.folds, "seed": given.seed,
            "epochs": given.epochs, "figures": figures, "short_of": short}  # fmt: skip
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
