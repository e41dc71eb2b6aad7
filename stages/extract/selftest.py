"""Is a precision good enough on this machine? Asked before a run, not after a night."""

from __future__ import annotations

import numpy as np

from stages.extract.batches import F32
from stages.extract.device import Device, DeviceError, Precision
from stages.extract.faces import CROP, F64, TEMPLATE
from stages.extract.nets import open_recognition
from stages.extract.packs import Pack
from stages.extract.video import Image

# The bars that extraction itself is held to: the median face, and each single one. On 130 real
# faces bf16's embeddings had 0.99976 in the median and 0.9984 at worst; on these 16 drawn ones,
# 0.9992 and 0.9985.
LEAST_MEDIAN = 0.999
LEAST_COSINE = 0.99

# Radii (x, y) in pixels of the dark spots at the template's eyes, nose and mouth corners.
_SPOTS = ((9, 5), (9, 5), (5, 4), (8, 4), (8, 4))


def check_precision(pack: Pack, device: Device, precision: Precision) -> float:
    """Compare the recognition net in a precision with ONNX Runtime's f32 on the CPU.

    Parameters
    ----------
    pack : Pack
    device : Device
    precision : Precision

    Returns
    -------
    float
        The median cosine over a few drawn faces, of the embedding or the appearance, the lower.

    Raises
    ------
    DeviceError
        If it is below `LEAST_MEDIAN`, a single face is below `LEAST_COSINE`, or the device does not
        offer the precision.
    """
    faces = pseudo_faces()
    exact = open_recognition(pack, Device.CPU)(faces)
    rough = open_recognition(pack, device, precision)(faces)
    cosines = [_cosine(a, b) for a, b in zip(exact, rough, strict=True)]
    median = min(float(np.median(c)) for c in cosines)
    worst = min(float(c.min()) for c in cosines)
    if not (median >= LEAST_MEDIAN and worst >= LEAST_COSINE):  # NaN fails too
        raise DeviceError(
            f"--precision {precision}: vectors of pack {pack.name} on {device.provider} have a "
            f"median cosine of {median:.5f} to those in f32 (worst {worst:.5f}), expected at least "
            f"{LEAST_MEDIAN} ({LEAST_COSINE})",
            "run with --precision f32",
        )
    return median


def pseudo_faces(count: int = 16, seed: int = 0) -> list[Image]:
    """Draw aligned faces (112, 112, 3) uint8 BGR: a tinted oval with dark features, softly lit.

    The same on every machine: they come from NumPy alone. Real faces would need a licence and bring
    nothing: what is measured is rounding.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:CROP, :CROP].astype(np.float64)
    faces = []
    for _ in range(count):
        tint = np.array([0.62, 0.74, 1.0]) * rng.uniform(70, 240) + rng.normal(0, 8, 3)
        ground = rng.uniform(20, 200, 3)
        oval = _spot(x, y, np.array([56.0, 62.0]), rng.uniform(42, 50), rng.uniform(56, 66))
        skin = np.clip(4 * oval - 1.4, 0, 1)[..., None]
        face = skin * tint + (1 - skin) * ground
        for centre, (rx, ry) in zip(TEMPLATE, _SPOTS, strict=True):
            size = rng.uniform(0.7, 1.3, 2)
            at = centre + rng.normal(0, 1.5, 2)
            depth = rng.uniform(0.4, 0.9) * _spot(x, y, at, rx * size[0], ry * size[1])
            face *= 1 - depth[..., None]
        light = 1 + 0.25 * _smooth(rng)[..., None] + 0.06 * _smooth(rng, 28)[..., None]
        faces.append(np.clip(face * light, 0, 255).astype(np.uint8))
    return faces


def _spot(x: F64, y: F64, centre: F64, rx: float, ry: float) -> F64:
    """Return a bump (112, 112), 1 in its centre."""
    return np.asarray(np.exp(-0.5 * (((x - centre[0]) / rx) ** 2 + ((y - centre[1]) / ry) ** 2)))


def _smooth(rng: np.random.Generator, cells: int = 4) -> F64:
    """Return noise (112, 112) that is linear between points of a grid, about -2 to 2."""
    grid = rng.normal(size=(cells + 1, cells + 1))
    where = np.arange(CROP) * cells / CROP
    low, part = where.astype(int), where % 1
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def _cosine(a: F32, b: F32) -> F64:
    """Return the cosines (n,) of rows."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(axis=1) / norms)
