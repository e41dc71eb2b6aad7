"""Deep features, shared and blind ones: SCUT-FBP5500's training part as one-frame clips.

The portraits are extracted with the lite pack, and `pipeline features` adds layers of its
recognition net. Then each model predicts every portrait from four fifths of the others (the 5 folds
of scut.py): Pearson's correlation of all out-of-fold predictions together, with a bootstrap 95 %
interval, for all and within each subset. What a model chooses it chooses on inner folds of the
training part alone.

`blind` must cost little of that and tell nothing of the gender: in each fold, classifiers that have
seen nothing of its making learn the gender from the blind features of the training part and tell
that of the test part; so they do from the appearance, to show that they can. Balanced accuracy, all
folds together.

    DATA/images, DATA/labels.csv with the columns clip, score, gender, race, subset

A table, one line of JSON at the end; leaves with 1 where it falls short of the floors below.

    python benchmarks/deep.py DATA [--store FILE] [--only blind] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from machine import machine, portraits_parser, tell
from scut import SUBSETS, VERSIONS, FloatArray, attribute_rater, extracted, read, row
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from stages.extract.layer_run import add_layer
from stages.extract.layers import LayerOptions, Pool
from stages.fit.batches import ClipData
from stages.fit.blind import BlindRegressor
from stages.fit.pooled_models import create, words
from stages.fit.selective import SelectiveSharing

LEAST_PC = 0.92  # of deep
MOST_COST = 0.05  # of blind, against deep
MOST_TOLD = 0.55  # balanced accuracy of the gender from blind features
# Of lite's recognition net: the last maps of 512 and of 128 channels, 7 x 7.
LAYERS = (LayerOptions("507", Pool.MEANSD, flip=True), LayerOptions("503", Pool.FLATTEN, flip=True))
PLAIN = "appearance"
DEEP = "+".join(["appearance", *(options.name for options in LAYERS)])
# name: model, stream, options
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "meanpool ridge": ("meanpool", PLAIN, {}),
    "meanpool svr": ("meanpool", PLAIN, {"regressor": "svr"}),
    "deep svr, layers": ("deep", DEEP, {"regressor": "svr"}),
    "deep, layers": ("deep", DEEP, {}),
    "deep, appearance": ("deep", PLAIN, {}),
    "selective, weight 0": ("selective", PLAIN, {"weight": 0}),
    "selective": ("selective", PLAIN, {}),
    "blind": ("blind", PLAIN, {}),
}
CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(class_weight="balanced", max_iter=500),
    "rbf svm": lambda: SVC(class_weight="balanced"),
    "sharp rbf svm": lambda: SVC(C=10, gamma=1, class_weight="balanced"),
    "5 neighbours": lambda: KNeighborsClassifier(5),
    "forest": lambda: RandomForestClassifier(
        100, min_samples_leaf=3, class_weight="balanced", random_state=0
    ),
    "boosting": lambda: HistGradientBoostingClassifier(class_weight="balanced", random_state=0),
}


class Telling:
    """Classifiers that try to tell an attribute from features, in fold after fold."""

    def __init__(self, truth: npt.NDArray[np.str_]) -> None:
        self.truth = truth
        self.found = {name: np.full_like(truth, "") for name in CLASSIFIERS}

    def try_fold(
        self, train: FloatArray, test: FloatArray, seen: npt.NDArray[Any], left: npt.NDArray[Any]
    ) -> None:
        """Learn from the training part's features, tell the test part's attribute."""
        for name, make in CLASSIFIERS.items():
            model = make_pipeline(StandardScaler(), make()).fit(train, self.truth[seen])
            self.found[name][left] = model.predict(test)

    def accuracies(self) -> dict[str, float]:
        """Balanced accuracy of each, all folds together."""
        return {
            name: round(float(balanced_accuracy_score(self.truth, found)), 4)
            for name, found in self.found.items()
        }


def measure(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run everything; return the figures."""
    images, path = given.data / "images", given.store or scratch / "scut.store"
    source = extracted(images, path, given.workers)
    asked = {stream for name, (_, stream, _) in MODELS.items() if name in (given.only or MODELS)}
    for options in LAYERS if DEEP in asked else ():
        begin = time.perf_counter()
        made = add_layer(path, [images], options, workers=given.workers)
        print(f"{made.name}: {made.new} new rows in {time.perf_counter() - begin:.0f} s")
    clips = {stream: read(source, stream) for stream in {PLAIN, *asked}}
    labels = pd.read_csv(given.data / "labels.csv")
    labels["stem"] = labels["clip"].map(lambda clip: Path(clip).stem)
    table = labels[labels["stem"].isin(clips[PLAIN])].reset_index(drop=True)
    score = table["score"].to_numpy(np.float64)
    ordered: dict[str, list[ClipData]] = {
        stream: [found[stem] for stem in table["stem"]] for stream, found in clips.items()
    }
    gender = table["gender"].to_numpy(str)
    blind, open_eyed = Telling(gender), Telling(gender)
    shared = np.full_like(gender, "")
    figures: dict[str, Any] = {}
    chosen: dict[str, list[dict[str, Any]]] = {}
    folds = list(
        KFold(given.folds, shuffle=True, random_state=given.seed).split(np.arange(len(table)))
    )
    for name, (model_name, stream, options) in MODELS.items():
        if given.only and name not in given.only:
            continue
        begin = time.perf_counter()
        found = np.full(len(score), np.nan)
        own = ordered[stream]
        for seen, left in folds:
            model = create(model_name, 0, **options)
            column = words(model, table)
            model.fit((own[k] for k in seen), score[seen], column and [column[k] for k in seen])
            found[left] = model.predict(own[k] for k in left)
            chosen.setdefault(name, []).append(model.strength)
            if isinstance(model, BlindRegressor):
                train, test = (model.transform(own[k] for k in part) for part in (seen, left))
                blind.try_fold(train, test, seen, left)
                raw = [np.stack([own[k].appearance[0] for k in part]) for part in (seen, left)]
                open_eyed.try_fold(*(part.astype(float) for part in raw), seen, left)
            if isinstance(model, SelectiveSharing) and name == "selective":
                shared[left] = model.predict_attribute(own[k] for k in left)
        figures[name] = row(name, found, score, table, given.seed, begin)
    begin = time.perf_counter()
    rate = attribute_rater(table, score)
    found = np.full(len(score), np.nan)
    for seen, left in folds:
        found[left] = rate(seen, left)
    figures["attributes only"] = row("attributes only", found, score, table, given.seed, begin)
    told: dict[str, Any] = {"figures": figures, "chosen": chosen, "portraits": len(score)}
    if "blind" in figures:
        told["gender told"] = {"blind": blind.accuracies(), "appearance": open_eyed.accuracies()}
    if "selective" in figures:
        told["gender by selective"] = round(float(accuracy_score(gender, shared)), 4)
    return told


def judge(found: dict[str, Any]) -> list[str]:
    """Print how the floors stand; return what falls short."""
    pc = {name: values["pc"]["all"][0] for name, values in found["figures"].items()}
    checks: list[tuple[str, float, bool, float]] = []
    best = max((pc[name] for name in pc if name.startswith("deep")), default=None)
    if best is not None:
        checks.append(("PC of deep", best, best >= LEAST_PC, LEAST_PC))
    if "blind" in pc:
        seeing = best or pc.get("meanpool svr", np.nan)
        if np.isfinite(seeing):
            cost = seeing - pc["blind"]
            checks.append(("cost of being blind", cost, cost <= MOST_COST, MOST_COST))
        for name, value in found["gender told"]["blind"].items():
            checks.append((f"gender told by {name}", value, value <= MOST_TOLD, MOST_TOLD))
            print(f"from the appearance, by {name}: {found['gender told']['appearance'][name]:.4f}")
    for name, value, holds, bound in checks:
        print(f"{name:52s} {value:.4f}   ({'holds' if holds else 'SHORT of'} {bound})")
    return [name for name, _, holds, _ in checks if not holds]


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = portraits_parser(__doc__)
    parser.add_argument("--only", nargs="+", help="rows of the table")
    given = parser.parse_args()
    about = machine(VERSIONS)
    print(f"{'PC':52s} " + "  ".join(f"{part:22s}" for part in ("all", *SUBSETS)))
    with tempfile.TemporaryDirectory(prefix="facepipe-deep-") as scratch:
        found = measure(given, Path(scratch))
    short = judge(found)
    told = {"benchmark": "deep", **about, "folds": given.folds, "seed": given.seed, **found}
    tell({**told, "short_of": short}, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
