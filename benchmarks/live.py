"""Whether `pipeline live` keeps up with real clips, and says what the offline path says.

For every clip: frames/s and latency with everything that the command does (decoding, nets, running
score, drawing, writing the mp4); the last score against the run's prediction from a store of the
rows that were scored, which must be the same; and against what `pipeline score` gives the file,
which need not, for its rows are found looking ahead, with landmarks and embeddings against theirs.
The run is named, and whether its model is causal. Ends with one line of JSON; leaves with 1 below
the floor or above a ceiling.

    python benchmarks/live.py FOLDER --run RUN [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, tell

import store
from stages.extract.inputs import find_clips
from stages.extract.run import ExtractOptions
from stages.fit.run import load_run
from stages.live import LiveOptions, live
from stages.score import score

VERSIONS = ("facepipe", "onnxruntime", "opencv-python", "torch", "numpy")
FLOORS = {"slowest_frames_per_s": 25.0, "median_cosine": 0.99, "faces_found": 0.98}
CEILINGS = {"largest_score_difference": 1e-5, "median_landmark_percent": 1.0}


def one(
    clip: str, path: Path, run: Path, offline: store.Store, scored: float, home: Path
) -> dict[str, Any]:
    """Play one clip and compare; ``scored`` is what `pipeline score` says of it."""
    kept = home / f"{len(list(home.iterdir()))}.store"
    result = live(LiveOptions(str(path), run, home / "seen.mp4", store=kept))
    told = {"clip": clip, **result.to_dict(), "out": None}
    predicted = load_run(run).predict(kept)["score"].tolist()
    told["score_difference"] = abs(predicted[0] - result.score) if result.score is not None else 0.0
    told["offline_score"] = scored
    off = None if result.score is None else abs(scored - result.score)
    told["offline_score_difference"] = off
    (record,) = store.open(kept).records()
    mine, theirs = store.open(kept).clip(record.clip), offline.clip(clip)
    told["offline_valid_frames"] = int(theirs["valid"].sum())
    last = len(theirs["valid"]) - len(mine["valid"])  # another person began anew
    both = mine["valid"] & theirs["valid"][last:]
    points = theirs["landmark"][last:][both].reshape(-1, 68, 2).astype(np.float64)
    eyes = points[:, 42:48].mean(axis=1) - points[:, 36:42].mean(axis=1)
    off = np.linalg.norm(mine["landmark"][both].reshape(-1, 68, 2) - points, axis=2).mean(axis=1)
    told["landmark_percent"] = (100 * off / np.linalg.norm(eyes, axis=1)).tolist()
    a, b = (
        x["embedding"].astype(np.float64) for x in (mine, {k: v[last:] for k, v in theirs.items()})
    )
    a, b = a[both], b[both]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    told["cosine"] = ((a * b).sum(axis=1) / norms).tolist()
    return told


def main() -> None:
    """Play all clips of a folder that show a face."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        options = ExtractOptions([args.clips], home / "offline.store")
        table = score(options, args.run, home / "scores.csv", keep_store=True).table
        scores = table.dropna(subset="score").set_index("clip")["score"]
        offline = store.open(home / "offline.store")
        for source in find_clips([args.clips]):
            if source.clip in scores:
                scored = float(scores[source.clip])
                rows.append(one(source.clip, source.path, args.run, offline, scored, home))
                print(rows[-1]["clip"], round(rows[-1]["frames_per_s"], 1), file=sys.stderr)
    off = [r["offline_score_difference"] for r in rows if r["score"] is not None]
    run = load_run(args.run)
    figures = {
        "slowest_frames_per_s": min(r["frames_per_s"] for r in rows),
        "frames_per_s": sum(r["frames"] for r in rows)
        / sum(r["frames"] / r["frames_per_s"] for r in rows),
        "median_latency_ms": statistics.median(r["latency_ms"]["median"] for r in rows),
        "largest_p95_latency_ms": max(r["latency_ms"]["p95"] for r in rows),
        "largest_score_difference": max(r["score_difference"] for r in rows),
        "largest_offline_score_difference": max(off),
        "median_offline_score_difference": statistics.median(off),
        "faces_found": sum(r["valid_frames"] for r in rows)
        / sum(r["offline_valid_frames"] for r in rows),
        "median_landmark_percent": statistics.median(
            v for r in rows for v in r["landmark_percent"]
        ),
        "median_cosine": statistics.median(v for r in rows for v in r["cosine"]),
        "p5_cosine": float(np.percentile([v for r in rows for v in r["cosine"]], 5)),
    }
    short = [n for n, least in FLOORS.items() if not figures[n] >= least]
    short += [n for n, most in CEILINGS.items() if not figures[n] <= most]
    clips = [{k: v for k, v in r.items() if not isinstance(v, list)} for r in rows]
    about = {
        "name": args.run.name,
        "model": run.config.model,
        "causal": bool(run.config.model_options.get("causal", False)),
        "held_out_rmse": run.metrics["test"]["rmse"],
    }
    told = {**figures, "short": short, "run": about, "clips": clips, "machine": machine(VERSIONS)}
    tell(told, args.out)
    sys.exit(bool(short))


if __name__ == "__main__":
    main()
