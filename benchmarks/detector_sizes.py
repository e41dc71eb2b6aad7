"""At which sizes the detector has to look, so that large faces are found and small ones.

Portraits are laid into frames of 720 x 1280 and of 1080 x 1080 pixels so that the face is a given
share of the frame's width: a person far away, a selfie, a face that the frame cuts off. Where the
face is, is known from the portrait as it came. For every set of sizes (longest sides in pixels, in
the order of `detector.Detector`): the share of faces found with an overlap of one half, the finds
that are no such face, and milliseconds a frame on one core. Ends with one line of JSON; leaves with
1 where the pack's own sizes find fewer than another set that costs no more.

    python benchmarks/detector_sizes.py FOLDER [--pack lite] [--pictures 60] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from machine import leave, machine, tell

from stages.extract import packs
from stages.extract.detector import Detector, Faces
from stages.extract.device import Device
from stages.extract.nets import open_nets
from stages.extract.recipe import Recipe
from stages.extract.video import Image
from store.errors import FacepipeError

FRAMES = {"9:16": (720, 1280), "1:1": (1080, 1080)}  # width, height
SHARES = (0.03, 0.05, 0.08, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2)  # face's width in frame's widths
SETS = ((640,), (256,), (640, 160), (640, 256), (640, 320), (1280, 256), (640, 256, 1280))


def in_frame(
    portrait: Image, box: np.ndarray, share: float, size: tuple[int, int]
) -> tuple[Image, np.ndarray]:
    """Lay a portrait into a frame; return that, and the part of its face's box that is in it."""
    scale = share * size[0] / (box[2] - box[0])
    move = np.array(size) / 2 - scale * (box[:2] + box[2:]) / 2
    if scale < 1:  # warping alone would skip pixels
        portrait = np.asarray(
            cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
        )
    drawn = max(scale, 1.0)  # what is left to enlarge
    matrix = np.array([[drawn, 0, move[0]], [0, drawn, move[1]]])
    frame = cv2.warpAffine(portrait, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    known = np.concatenate([scale * box[:2] + move, scale * box[2:] + move])
    return np.asarray(frame, np.uint8), known.clip(0, [*size, *size])


def overlap(box: np.ndarray, known: np.ndarray, size: tuple[int, int]) -> float:
    """Intersection of two boxes (4,) over their union, both cut to the frame."""
    box = box.clip(0, [*size, *size])
    both = np.prod(np.maximum(np.minimum(box[2:], known[2:]) - np.maximum(box[:2], known[:2]), 0))
    return float(both / (np.prod(box[2:] - box[:2]) + np.prod(known[2:] - known[:2]) - both))


def measured(detector: Detector, frames: list[tuple[Image, np.ndarray]]) -> dict[str, float]:
    """Return recall, finds too many a frame, and milliseconds a frame."""
    found, others, seconds = 0, 0, []
    for frame, known in frames:
        begin = time.perf_counter()
        faces: Faces = detector.detect(frame)
        seconds.append(time.perf_counter() - begin)
        size = frame.shape[1], frame.shape[0]
        hits = sum(overlap(box, known, size) >= 0.5 for box in faces.box)
        found += hits > 0
        others += len(faces) - min(hits, 1)
    return {
        "found": found / len(frames),
        "others": others / len(frames),
        "ms": 1e3 * float(np.median(seconds)),
    }


def main() -> int:
    """Measure every set of sizes at every share; print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="portraits, one face each, as in SCUT-FBP5500")
    parser.add_argument("--pack", default="lite")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    pack = packs.resolve(packs.install(given.pack, print) if given.pack == "lite" else given.pack)
    files = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    if not files:
        raise FacepipeError(f"{given.folder}: no .jpg or .png in it. Name a folder of portraits.")
    files = files[:: max(1, len(files) // given.pictures)][: given.pictures]
    sets = SETS if pack.detection.sizes in SETS else (*SETS, pack.detection.sizes)
    recipe = Recipe(detector_threshold=pack.detection.threshold)
    session = open_nets(pack, Device.CPU, recipe).detector
    detectors = {sizes: session.at(sizes) for sizes in sets}
    portraits = [np.asarray(cv2.imread(str(path)), np.uint8) for path in files]
    known = [(p, faces.box[0]) for p in portraits if len(faces := detectors[(640,)].detect(p)) == 1]
    mean: dict[tuple[int, ...], dict[str, float]] = {}
    told: dict[str, dict[str, dict[float, dict[str, float]]]] = {}
    rows: dict[tuple[int, ...], list[dict[str, float]]] = {sizes: [] for sizes in sets}
    for shape, size in FRAMES.items():
        table: dict[tuple[int, ...], dict[float, dict[str, float]]] = {sizes: {} for sizes in sets}
        for share in SHARES:
            frames = [in_frame(portrait, box, share, size) for portrait, box in known]
            for sizes, detector in detectors.items():
                table[sizes][share] = measured(detector, frames)
        print(f"{shape}: {len(known)} faces; % found (finds too many a frame) by the face's share")
        print(" " * 13 + "".join(f"{share:>11}" for share in SHARES) + "   ms a frame")
        for sizes, row in table.items():
            cells = "".join(f"{100 * r['found']:5.0f} ({r['others']:.1f})" for r in row.values())
            times = sum(r["ms"] for r in row.values()) / len(row)
            print(f"{'+'.join(map(str, sizes)):13s}{cells}   {times:.1f}")
            rows[sizes] += row.values()
        told[shape] = {"+".join(map(str, sizes)): row for sizes, row in table.items()}
    for sizes, cells_of in rows.items():
        mean[sizes] = {k: float(np.mean([r[k] for r in cells_of])) for k in ("found", "ms")}
    own = mean[pack.detection.sizes]
    better = [s for s, m in mean.items() if m["found"] > own["found"] and m["ms"] <= own["ms"]]
    tell(
        {
            "benchmark": "detector_sizes",
            **machine(("facepipe", "onnxruntime", "opencv-python", "numpy")),
            "pack": pack.name,
            "own_sizes": pack.detection.sizes,
            "faces": len(known),
            "by_frame": told,
            "short": ["+".join(map(str, s)) for s in better],
        },
        given.out,
    )
    return int(bool(better))


if __name__ == "__main__":
    leave(main)
