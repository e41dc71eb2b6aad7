"""Generated clips whose answer is known: what planted.py and the tests fit models on.

Each truth is a world drawn from a seed: a face of 68 points with eyes 60 px apart, moved a little
by a wandering head and a tracker's jitter, and a vector of appearance that is the person's, with
noise. Where it matters for the label, points of mouth or brows move as told below; 25 frames a
second, now and then a frame without a face.

a  label = a direction of the person's vector: it stands in every frame (static)
b  label = frequency of the mouth's opening, 0.5 to 4 Hz; amplitude and phase say nothing
c  label = seconds from the brows' rise to the mouth's opening, its sign the order of the two
d  label = strength of one swing of the mouth, 0.5 s anywhere in 300 frames, among swings of others
e  label = chance
f  label rises with the face within each of 4 channels, and the channels' offsets outweigh that the
   other way round (Simpson)
g  label = chance, but one value for all clips of a person
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt

from stages.fit.loader import Budget, ClipLoader
from stages.fit.spans import ClipSpan

FloatArray = npt.NDArray[np.float64]
TRUTHS = tuple("abcdefg")
FPS = 25
FRAMES = {"a": 20, "b": 75, "c": 75, "d": 300, "e": 30, "f": 20, "g": 20}
APPEARANCE_DIM = 16
CHANNELS = 4
CLIPS_A_PERSON = 4
BROWS, MOUTH, NOSE, JAW = slice(17, 27), slice(48, 68), slice(27, 36), slice(0, 17)
ARRAYS = ("appearance", "landmark", "valid", "timestamp")


@dataclass(frozen=True)
class Planted:
    """n clips of one world, in memory; a FeatureStore for ClipLoader.

    Attributes
    ----------
    arrays : of ARRAYS, the rows of all clips, one clip after the other
    spans : (n,) where each clip's rows lie
    score : (n,) float64
    person, channel : (n,) int
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    spans: Sequence[ClipSpan]
    score: FloatArray
    person: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Nothing: no pack made these."""
        return {}

    @property
    def layers(self) -> Mapping[str, Any]:
        """Nothing: no net either."""
        return {}

    def iter_rows(self, columns: Sequence[str], *_: Any, **__: Any) -> Iterator[tuple[Any, ...]]:
        """Columns of the index."""
        yield from (tuple(getattr(span, name) for name in columns) for span in self.spans)

    def dask(self, name: str) -> Any:
        """One array, lazily."""
        return dask.array.from_array(self.arrays[name], chunks=-1)

    def loader(self, places: Iterable[int], score: FloatArray | None = None) -> ClipLoader:
        """Clips by their places, with (n,) labels of all clips, their own if left out."""
        values = self.score if score is None else score
        chosen = [self.spans[k] for k in places]
        scores = {s.clip: float(v) for s, v in zip(self.spans, values, strict=True)}
        return ClipLoader(self, chosen, scores, budget=Budget())

    def shuffled(self, seed: int) -> Planted:
        """Every clip with its frames in random order, under the old timestamps."""
        rng = np.random.default_rng(seed)
        order = np.concatenate([s.start + rng.permutation(s.frames) for s in self.spans])
        mixed = {k: v if k == "timestamp" else v[order] for k, v in self.arrays.items()}
        return replace(self, arrays=mixed)


def plant(truth: str, clips: int, seed: int, frames: int | None = None) -> Planted:
    """Draw the world of a seed and clips in it.

    Parameters
    ----------
    truth : one of TRUTHS
    clips, seed : int
    frames : int, optional
        Of each clip; FRAMES if left out.
    """
    rng = np.random.default_rng((TRUTHS.index(truth), seed))
    n = frames or FRAMES[truth]
    base = rng.normal(size=(68, 2)) * 20 + (200, 150)
    base[36:42], base[42:48] = (170, 140), (230, 140)
    base += rng.normal(size=base.shape)
    direction = rng.normal(size=APPEARANCE_DIM)
    direction /= np.linalg.norm(direction)
    person = np.arange(clips) // (CLIPS_A_PERSON if truth == "g" else 1)
    channel = np.arange(clips) % CHANNELS
    vectors = rng.normal(size=(int(person.max()) + 1, APPEARANCE_DIM))
    shapes = rng.normal(size=(len(vectors), 68, 2)) * 2
    per_person = rng.normal(size=len(vectors))
    if truth == "f":  # channels differ in the very direction that counts
        vectors += 1.5 * (channel - 1.5)[:, None] * direction

    held: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ARRAYS}
    score = np.empty(clips)
    time = np.arange(n) / FPS
    for k in range(clips):
        vector = vectors[person[k]]
        points = np.repeat((base + shapes[person[k]])[None], n, axis=0)  # (n, 68, 2)
        points += np.cumsum(rng.normal(size=(n, 1, 2)) * 0.2, axis=0)
        points += rng.normal(size=points.shape) * 0.15
        along = float(vector @ direction)
        if truth == "a":
            score[k] = along
        elif truth in "bcd":
            score[k] = _move(truth, points, time, rng)
        elif truth == "f":
            score[k] = along - 4.5 * (channel[k] - 1.5)
        else:
            score[k] = per_person[person[k]] if truth == "g" else rng.normal()
        appearance = vector + 0.3 * rng.normal(size=(n, APPEARANCE_DIM))
        valid = rng.random(n) > 0.02
        valid[n // 2] = True
        appearance[~valid], points[~valid] = np.nan, np.nan
        held["appearance"].append(appearance.astype(np.float32))
        held["landmark"].append(points.reshape(n, 136).astype(np.float32))
        held["valid"].append(valid)
        held["timestamp"].append(time)
    spans = [
        ClipSpan(f"{k:04d}", k * n, n, int(valid.sum())) for k, valid in enumerate(held["valid"])
    ]
    arrays = {name: np.concatenate(rows) for name, rows in held.items()}
    return Planted(arrays, spans, score, person, channel)


def _move(truth: str, points: FloatArray, time: FloatArray, rng: np.random.Generator) -> float:
    """Move points in place as the truth says, (n, 68, 2); return the label."""
    length = float(time[-1])
    if truth == "b":
        frequency = float(rng.uniform(0.5, 4))
        swing = np.sin(2 * np.pi * (frequency * time + rng.random()))
        points[:, MOUTH, 1] += (rng.uniform(4, 6) * swing)[:, None]
        return frequency
    if truth == "c":
        brow, mouth = rng.uniform(0.3, length - 0.3, size=2)
        points[:, BROWS, 1] -= (6 * _bump(time - brow))[:, None]
        points[:, MOUTH, 1] += (6 * _bump(time - mouth))[:, None]
        return float(mouth - brow)
    strength = float(rng.uniform(0, 8))
    points[:, MOUTH, 1] += (strength * _swing(time - rng.uniform(0.5, length - 0.5)))[:, None]
    for part in (BROWS, NOSE, JAW):
        for _ in range(2):
            other = rng.uniform(0, 8) * _swing(time - rng.uniform(0.5, length - 0.5))
            points[:, part, 1] += other[:, None]
    return strength


def _bump(time: FloatArray) -> FloatArray:
    """Up and down again within 0.4 s around 0."""
    return np.where(np.abs(time) < 0.2, np.cos(np.pi * time / 0.4) ** 2, 0.0)


def _swing(time: FloatArray) -> FloatArray:
    """One period of a sine, 0.5 s around 0: its time average is 0."""
    return np.where(np.abs(time) < 0.25, np.sin(4 * np.pi * time), 0.0)
