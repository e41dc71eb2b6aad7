"""MDR on real clips: ranking accuracy on persons and on crops that were not learnt from.

Store form: every person is held out once (fit_mdr); pixel form: the last crops of every clip, of
persons that were learnt from (fit_pixels), where the store holds crops. Beside each scale: chance,
the still itself in place of what was learnt, and the RankSVM upper bound; 95 % intervals draw whole
persons.

A table, one line of JSON at the end; leaves with 1 unless every scale's interval lies above chance
and the bound above the accuracy.

    python benchmarks/mdr.py [FOLDER] [--store FILE] [--set KEY=VALUE ...] [--pixel-epochs 8]
        [--out benchmarks/results/NAME.json]

FOLDER: of clips, the demo's real ones if left out; --store keeps their features, or has them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from machine import leave, machine, real_clips, tell

from stages.extract.run import ExtractOptions, extract
from stages.fit.config import read_settings
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.pixels import fit_pixels
from stages.fit.dynamics.run import MdrResult, fit_mdr

VERSIONS = ("facepipe", "numpy", "scikit-learn", "torch")
CROPS, CROP_SIZE = 64, 64


def shown(form: str, result: MdrResult, seconds: float) -> None:
    """Print one form's table."""
    print(f"\n{form} form: {result.clips} clips, {result.persons} persons, {seconds:.0f} s")
    print(f"{'T':>4} {'MDR':>6} {'95 % interval':>15} {'still':>6} {'gain':>22} {'RankSVM':>8}")
    for s in result.scales:
        gain = f"{s.gain.value:+.3f} ({s.gain.low:+.3f}, {s.gain.high:+.3f})"
        span = f"{s.mdr.low:.3f} to {s.mdr.high:.3f}"
        print(
            f"{s.window:4} {s.mdr.value:6.3f} {span:>15} {s.still.value:6.3f} {gain:>22} "
            f"{s.rank_svm.value:8.3f}"
        )


def short(form: str, result: MdrResult) -> list[str]:
    """Say where it falls short."""
    told = []
    for s in result.scales:
        if not s.mdr.low > 0.5:
            told.append(f"{form}, T = {s.window}: the interval from {s.mdr.low:.3f} holds chance")
        if not s.rank_svm.value >= s.mdr.value:
            told.append(f"{form}, T = {s.window}: above its upper bound")
    return told


def main() -> int:
    """Run both forms and say what they came to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of clips; the demo's if left out")
    parser.add_argument("--store", type=Path, help="keep the features here; thrown away if not")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--pixel-epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = read_settings(MdrConfig, args.set)
    faults: list[str] = []
    about = machine(VERSIONS)
    told: dict[str, object] = {
        "benchmark": "mdr",
        **about,
        "config": config.model_dump(mode="json"),
    }
    with tempfile.TemporaryDirectory(prefix="facepipe-mdr-") as scratch:
        place = Path(scratch)
        features = args.store or place / "clips.store"
        clips = args.folder or real_clips()
        extract(ExtractOptions([clips], features, crops=CROPS, crop_size=CROP_SIZE))
        pixels = {"form": "pixel", "epochs": args.pixel_epochs, "targets": 16}
        forms = {"store": (fit_mdr, {"out": place / "features"}), "pixel": (fit_pixels, pixels)}
        for form, (fit, changed) in forms.items():
            start = time.perf_counter()
            result = fit(features, place / form, config.model_copy(update=changed))
            seconds = time.perf_counter() - start
            shown(form, result, seconds)
            faults += short(form, result)
            scales = [scale.to_dict() for scale in result.scales]
            told[form] = {"seconds": round(seconds, 1), "epochs": result.epochs, "scales": scales}
    for line in faults:
        print(f"SHORT: {line}")
    told["short_of"] = faults
    tell(told, args.out)
    return 1 if faults else 0


if __name__ == "__main__":
    leave(main)
