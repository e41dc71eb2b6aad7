"""How well stills are rated from features: SCUT-FBP5500's training part as one-frame clips.

The portraits are extracted with the lite pack into a store, as `pipeline extract` does. Then each
model predicts every portrait from four fifths of the others (5 folds fixed by the seed, one person
a portrait, so nobody stands on both sides): Pearson's correlation of all out-of-fold predictions
together, with a bootstrap 95 % interval, for all and within each subset. Strengths are chosen by
inner folds of the training part alone. Beside the models stands what sex and ancestry say alone.

    DATA/images, DATA/labels.csv with the columns clip, score, gender, race, subset

A table, one line of JSON at the end; leaves with 1 where it falls short of the floors below.

    python benchmarks/scut.py DATA [--store FILE] [--flip] [--networks 2stcn-plus] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from machine import judge, machine, portraits_parser, tell
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

import store
from stages.extract.run import ExtractOptions, extract
from stages.fit import models
from stages.fit.batches import ClipData
from stages.fit.config import TrainConfig
from stages.fit.loader import ClipLoader
from stages.fit.metrics import pearson, spearman
from stages.fit.pooled import PooledRegressor
from stages.fit.reproducible import reproducible
from stages.fit.spans import ClipSpan, clip_spans, span_table
from stages.fit.trainer import LabelScale, predict, refit

FLOORS = {"meanpool": 0.89, "best": 0.915}
MEANPOOL = "meanpool ridge, appearance+landmarks"
SUBSETS = ("AF", "AM", "CF", "CM")
DRAWS = 1000
VERSIONS = ("facepipe", "numpy", "scikit-learn", "torch")
Clips = dict[str, ClipData]
FloatArray = npt.NDArray[np.float64]
# One model: training places, test places -> predictions of the latter.
Rater = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp]], FloatArray]


def extracted(images: Path, path: Path, workers: int | None) -> store.Store | store.Stores:
    """Extract what the store lacks; return it, open."""
    begin = time.perf_counter()
    summary = extract(ExtractOptions([images], path, workers=workers))
    print(f"{path.name}: {summary.frames} new stills in {time.perf_counter() - begin:.0f} s")
    return store.open(path)


def mirrored(images: Path, folder: Path) -> Path:
    """Write every picture left to right, without loss."""
    folder.mkdir(exist_ok=True)
    for source in images.iterdir():
        target = folder / f"{source.stem}.png"
        if not target.exists():
            cv2.imwrite(str(target), cv2.flip(cv2.imread(str(source)), 1))
    return folder


def read(source: store.Store | store.Stores, stream: Any) -> Clips:
    """All clips that show a face, by the stem of their id."""
    loader = ClipLoader(source, span_table(source), stream=stream)
    return {Path(clip.clip).stem: clip for clip in loader.iter_clips()}


def beside(first: Clips, second: Clips) -> Clips:
    """Two features of each clip as one, side by side."""
    return {
        name: replace(c, appearance=np.concatenate([c.appearance, second[name].appearance], axis=1))
        for name, c in first.items()
    }


def with_mirror(clips: Clips, mirror: Clips) -> Clips:
    """Each still as two frames, the second with the features of its mirror image."""
    doubled: Clips = {}
    for name, c in clips.items():
        other = mirror.get(name, c)
        doubled[name] = ClipData(
            c.clip,
            np.concatenate([c.appearance, other.appearance]),
            np.concatenate([c.landmark, c.landmark]),
            np.ones(2, np.bool_),
            np.arange(2.0),
        )
    return doubled


def pooled_rater(clips: list[ClipData], score: FloatArray, kind: str, **options: Any) -> Rater:
    """Wrap a PooledRegressor."""

    def rate(train: npt.NDArray[np.intp], test: npt.NDArray[np.intp]) -> FloatArray:
        model = PooledRegressor(kind, **options).fit((clips[k] for k in train), score[train])
        return model.predict(clips[k] for k in test)

    return rate


def attribute_rater(table: pd.DataFrame, score: FloatArray) -> Rater:
    """Mean rating of the subset (sex and ancestry): what a model must beat."""
    x = pd.get_dummies(table["subset"]).to_numpy(float)

    def rate(train: npt.NDArray[np.intp], test: npt.NDArray[np.intp]) -> FloatArray:
        found: FloatArray = LinearRegression().fit(x[train], score[train]).predict(x[test])
        return found

    return rate


def network_rater(
    source: store.Store | store.Stores, spans: list[ClipSpan], score: FloatArray, name: str, n: int
) -> Rater:
    """Wrap a network, trained for ``n`` epochs; nothing is chosen on the test part."""
    config = TrainConfig(epochs=n, batch_size=64)

    def rate(train: npt.NDArray[np.intp], test: npt.NDArray[np.intp]) -> FloatArray:
        label = LabelScale.of(score[train].tolist())
        scores = {spans[k].clip: (float(score[k]) - label.mean) / label.sd for k in train}
        loader = ClipLoader(source, [spans[k] for k in train], scores)
        with reproducible(0):
            model = models.create(name, **models.complete(name, {}, 1))
            model.set_statistics(loader.statistics())
            refit(model, loader, n, config, 0)
        clips, p, _ = predict(model, ClipLoader(source, [spans[k] for k in test]), 256)
        found = dict(zip(clips, (p.double() * label.sd + label.mean).tolist(), strict=True))
        return np.asarray([found[spans[k].clip] for k in test])

    return rate


def out_of_fold(rate: Rater, n: int, folds: int, seed: int) -> FloatArray:
    """Every clip predicted by a model that has not seen it."""
    found = np.full(n, np.nan)
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(np.arange(n)):
        found[test] = rate(train, test)
    return found


def with_interval(prediction: FloatArray, score: FloatArray, seed: int) -> list[float]:
    """Pearson's correlation and the bounds of its bootstrap 95 % interval."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(score), size=(DRAWS, len(score)))
    values = [float(np.corrcoef(prediction[d], score[d])[0, 1]) for d in draws]
    return [pearson(prediction, score), *map(float, np.percentile(values, [2.5, 97.5]))]


def measure(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run everything; return the figures by model."""
    images = given.data / "images"
    source = extracted(images, given.store or scratch / "scut.store", given.workers)
    appearance, embedding = read(source, "appearance"), read(source, "embedding")
    labels = pd.read_csv(given.data / "labels.csv")
    labels["stem"] = labels["clip"].map(lambda clip: Path(clip).stem)
    table = labels[labels["stem"].isin(appearance)].reset_index(drop=True)
    without = sorted(set(labels["stem"]) - set(appearance))
    print(f"{len(table)} of {len(labels)} portraits with a face found; without: {without}")
    score = table["score"].to_numpy(np.float64)
    order = table["stem"].tolist()

    inputs = {"appearance": appearance, "embedding": embedding}
    inputs["embedding+appearance"] = beside(appearance, embedding)
    if given.flip:
        pictures = mirrored(images, given.mirror or scratch / "mirror")
        path = given.store.with_suffix(".mirror.store") if given.store else scratch / "m.store"
        flipped = extracted(pictures, path, given.workers)
        other = beside(read(flipped, "appearance"), read(flipped, "embedding"))
        inputs["embedding+appearance, mirror"] = with_mirror(inputs["embedding+appearance"], other)

    raters: dict[str, Rater] = {"attributes only": attribute_rater(table, score)}
    for name, clips in inputs.items():
        chosen = [clips[stem] for stem in order]
        raters[f"meanpool ridge, {name}"] = pooled_rater(
            chosen, score, "meanpool", streams="appearance"
        )
        raters[f"meanpool ridge, {name}+landmarks"] = pooled_rater(chosen, score, "meanpool")
        if given.quick:
            continue
        raters[f"meanpool svr, {name}+landmarks"] = pooled_rater(
            chosen, score, "meanpool", regressor="svr"
        )
    plain = [appearance[stem] for stem in order]
    raters["meanpool ridge, landmarks"] = pooled_rater(
        plain, score, "meanpool", streams="landmarks"
    )
    raters["statpool ridge"] = pooled_rater(plain, score, "statpool")
    if not given.quick:
        raters["statpool boosting"] = pooled_rater(plain, score, "statpool", regressor="boosting")
    spans = clip_spans(source)
    ordered = [spans[appearance[stem].clip] for stem in order]
    for name in given.networks:
        raters[name] = network_rater(source, ordered, score, name, given.epochs)

    found: dict[str, FloatArray] = {}
    figures: dict[str, Any] = {}
    for name, rate in raters.items():
        if given.only and not any(part in name for part in given.only):
            continue
        begin = time.perf_counter()
        found[name] = out_of_fold(rate, len(score), given.folds, given.seed)
        figures[name] = row(name, found[name], score, table, given.seed, begin)
    kernels = [name for name in found if name.startswith("meanpool svr")]
    if kernels:
        name, begin = f"mean of the {len(kernels)} svr", time.perf_counter()
        together: FloatArray = np.mean([found[k] for k in kernels], axis=0)
        figures[name] = row(name, together, score, table, given.seed, begin)
    return {"figures": figures, "portraits": len(score), "without_face": without}


def row(
    name: str,
    prediction: FloatArray,
    score: FloatArray,
    table: pd.DataFrame,
    seed: int,
    begin: float,
) -> dict[str, Any]:
    """Print and return the figures of one model."""
    parts = {"all": np.ones(len(score), np.bool_)}
    parts |= {subset: (table["subset"] == subset).to_numpy() for subset in SUBSETS}
    pc = {
        part: [round(v, 4) for v in with_interval(prediction[rows], score[rows], seed)]
        for part, rows in parts.items()
    }
    error = prediction - score
    cells = "  ".join(f"{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for v in pc.values())
    print(f"{name:52s} {cells}  {time.perf_counter() - begin:5.0f} s", flush=True)
    return {
        "pc": pc,
        "src": round(spearman(prediction, score), 4),
        "mae": round(float(np.abs(error).mean()), 4),
        "rmse": round(float(np.sqrt((error**2).mean())), 4),
    }


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = portraits_parser(__doc__)
    parser.add_argument("--mirror", type=Path, help="keep the mirror images here")
    parser.add_argument("--flip", action="store_true", help="features of mirror images too")
    parser.add_argument("--networks", nargs="*", default=["2stcn-plus"], help="networks to train")
    parser.add_argument("--epochs", type=int, default=30, help="of the networks")
    parser.add_argument("--only", nargs="+", help="models whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="no kernels, no trees")
    given = parser.parse_args()
    about = machine(VERSIONS)
    print(f"{'PC':52s} " + "  ".join(f"{part:22s}" for part in ("all", *SUBSETS)))
    with tempfile.TemporaryDirectory(prefix="facepipe-scut-") as scratch:
        found = measure(given, Path(scratch))
    pc = {name: values["pc"]["all"][0] for name, values in found["figures"].items()}
    reached = {"best": max(value for name, value in pc.items() if not name.startswith("mean of"))}
    if MEANPOOL in pc:
        reached["meanpool"] = pc[MEANPOOL]
    short = judge(reached, FLOORS)
    told = {"benchmark": "scut", **about, "folds": given.folds, "seed": given.seed, **found}
    tell({**told, "reached": reached, "short_of": short}, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
