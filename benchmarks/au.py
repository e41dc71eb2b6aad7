"""Action-unit heads on real clips: what a frame's appearance says of its mouth, on other persons.

No intensities of action units may be shipped, so that the tracks are two that the landmarks give:
how far the mouth is open, and how far its corners are drawn up (stages/fit/geometry.py), in units
of the distance between the eyes. The heads read the appearance alone, with and without MDR of it
beside: Table I of the MDR slides with another label. ICC(3,1) and MSE over frames of persons that
were held out; 95 % intervals draw whole persons.

A table, one line of JSON at the end; leaves with 1 unless the mouth's opening is read better than
by chance (the demo's eight persons are too few to say so of the smile).

    python benchmarks/au.py [FOLDER] [--store FILE] [--out benchmarks/results/NAME.json]

FOLDER: of clips, the demo's real ones if left out; --store keeps their features, or has them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from machine import leave, machine, real_clips, tell

import store
from stages.extract.run import ExtractOptions, extract
from stages.fit.action_units import AuResult, fit_au
from stages.fit.au_inputs import AuConfig
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.run import fit_mdr
from stages.fit.geometry import measure_geometry

VERSIONS = ("facepipe", "numpy", "scikit-learn", "torch")
TRACKS = ("mouth_opening", "smile")


def write_tracks(features: Path, folder: Path) -> None:
    """Write a CSV of both tracks for every clip, frames without a face left out."""
    with store.open(features) as opened:
        for record in opened.records():
            if not record.valid_frames:
                continue
            rows = opened.clip(record.clip, arrays=("landmark", "valid"))
            geometry = measure_geometry(rows["landmark"])
            table = pd.DataFrame({name: getattr(geometry, name) for name in TRACKS})
            table.insert(0, "frame", np.arange(1, len(table) + 1))
            path = folder / f"{record.clip}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            table[rows["valid"]].dropna().to_csv(path, index=False)


def shown(name: str, result: AuResult) -> None:
    """Print one row for each track."""
    for track, a in result.tracks.items():
        print(
            f"{name:18s} {track:14s} ICC {a.icc:6.3f} ({a.icc_low:6.3f} to {a.icc_high:6.3f})  "
            f"MSE {a.mse:.5f}  {a.n} frames, {a.groups} persons"
        )


def main() -> int:
    """Fit with and without MDR and say what it came to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of clips; the demo's if left out")
    parser.add_argument("--store", type=Path, help="keep the features here; thrown away if not")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    told: dict[str, object] = {"benchmark": "au", **machine(VERSIONS)}
    faults = []
    with tempfile.TemporaryDirectory(prefix="facepipe-au-") as scratch:
        place = Path(scratch)
        features = given.store or place / "clips.store"
        extract(ExtractOptions([given.folder or real_clips()], features))
        write_tracks(features, place / "tracks")
        fit_mdr(features, place / "mdr", MdrConfig(out=place / "features"))
        config = AuConfig(read="appearance", columns="*")
        beside = config.model_copy(update={"features": str(place / "features")})
        for name, chosen in (("appearance", config), ("appearance + MDR", beside)):
            result = fit_au(features, place / "tracks", place / name, chosen)
            shown(name, result)
            told[name] = result.to_dict() | {"run": None}
            faults += [] if result.tracks[TRACKS[0]].icc_low > 0 else [name]
    told["short_of"] = faults
    tell(told, given.out)
    return int(bool(faults))


if __name__ == "__main__":
    leave(main)
