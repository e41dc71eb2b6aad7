"""Which face is which through a clip: key frames, tracklets between them, tracks across gaps.

`Follower` asks for faces on every k-th frame, on the first and the last, and on both sides of a
cut; where the faces of two neighbouring key frames do not match it looks in the middle, and again,
until they match or the frames are adjacent. Between matched key frames boxes are interpolated. What
it yields are tracklets: a face followed without a break. `join` puts tracklets of one person
together, by motion over short gaps and by embedding over long ones and cuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stages.extract.batches import F32
from stages.extract.detector import Faces, Sighting
from stages.extract.requests import Detect
from stages.extract.video import Frame, Image

SURE_SCORE = 0.7  # a tracklet needs one face as sure as this; weaker ones only carry it on
SMOOTH_IOU = 0.5  # boxes of neighbouring key frames that overlap so much may be interpolated
LEAST_IOU = 0.2  # on adjacent frames this overlap still is the same face
CUT_CHANGE = 28.0  # mean change of a thumbnail's grey levels (0-255) from one frame to the next
JOIN_SECONDS = 1.0  # over gaps up to this long, motion alone may join
JOIN_COSINE = 0.35  # same person 0.61 +- 0.12, other people 0.01 +- 0.09 (reference-lite-pack.md)


@dataclass
class Seen:
    """A frame with the faces in it: ``index`` from 0, ``timestamp`` s, ``image``, ``sightings``."""

    index: int
    timestamp: float
    image: Image
    sightings: list[Sighting] = field(default_factory=list)
    cut: bool = False


@dataclass
class Tracklet:
    """Where one tracklet begins and ends, for `join`.

    ``first``, ``last``: frame indices; ``start_s``, ``end_s``: their times; ``first_box``,
    ``last_box`` (4,); ``area``: sum of box areas over its frames; ``best``: highest score;
    ``after_cut``, ``before_cut``: whether a cut lies right before or after it.
    """

    first: int
    start_s: float
    first_box: F32
    after_cut: bool
    last: int = 0
    end_s: float = 0.0
    last_box: F32 = field(default_factory=lambda: np.zeros(4, np.float32))
    area: float = 0.0
    best: float = 0.0
    before_cut: bool = False

    def add(self, seen: Seen, sighting: Sighting) -> None:
        """Extend it by one frame."""
        self.last, self.end_s, self.last_box = seen.index, seen.timestamp, sighting.box
        self.area += float(np.prod(sighting.box[2:] - sighting.box[:2]))
        self.best = max(self.best, sighting.score)


class Follower:
    """Follows the faces of a clip, a few frames at a time.

    Parameters
    ----------
    frames : iterable of Frame
    every : int
        Distance of regular key frames, 1 or more. At most so many frames are held at a time.
    """

    def __init__(self, frames: Iterable[Frame], every: int) -> None:
        self._frames = enumerate(frames)
        self._every = every
        self._names = itertools.count()
        self._key: _Key | None = None  # the last key frame, given out already
        self._carried: Seen | None = None  # the first frame after a cut
        self._thumbnail: F32 | None = None

    def next_run(self) -> Generator[Detect, Faces, list[Seen]]:
        """Return the next neighbouring frames with their sightings; empty at the clip's end.

        A generator: yields pictures to look for faces in, and is sent the faces.
        """
        gap = [self._carried] if self._carried else []
        cut, self._carried = bool(gap), None
        if not cut:
            for index, frame in self._frames:
                seen = Seen(index, frame.timestamp, frame.image)
                before, self._thumbnail = self._thumbnail, _thumbnail(frame.image)
                if before is not None:
                    seen.cut = float(np.abs(self._thumbnail - before).mean()) > CUT_CHANGE
                if seen.cut and gap:  # the frame before a cut is a key frame as well
                    self._carried = seen
                    break
                gap.append(seen)
                if self._key is None or seen.cut or len(gap) == self._every:
                    break
        if gap:
            key = _Key(gap[-1], (yield Detect(gap[-1].image)))
            yield from _resolve(self._key, gap[:-1], key, self._names)
            self._key = key
        return gap


@dataclass
class _Key:
    """A frame on which the detector ran; ``names``: tracklet of each of its faces."""

    seen: Seen
    faces: Faces
    names: dict[int, int] = field(default_factory=dict)

    def name(self, i: int, tracklet: int) -> Sighting:
        """Say that its i-th face belongs to a tracklet."""
        self.names[i] = tracklet
        sighting = self.faces.sighting(i, tracklet)
        self.seen.sightings.append(sighting)
        return sighting


def _resolve(
    a: _Key | None,
    between: list[Seen],
    b: _Key,
    number: Iterator[int],
) -> Generator[Detect, Faces, None]:
    """Name the faces of key frame b after those of a, and fill the frames between."""
    pairs: list[tuple[int, int]] = []
    if a is not None and not b.seen.cut:
        pairs = match(a.faces.box, b.faces.box, SMOOTH_IOU if between else LEAST_IOU)
    if a is not None and between and not _settled(a.faces, b.faces, pairs):
        middle = len(between) // 2
        key = _Key(between[middle], (yield Detect(between[middle].image)))
        yield from _resolve(a, between[:middle], key, number)
        yield from _resolve(key, between[middle + 1 :], b, number)
        return
    for i, j in pairs:
        assert a is not None
        end = b.name(j, a.names[i])
        box, points, score = a.faces.box[i], a.faces.points[i], float(a.faces.score[i])
        for seen in between:
            t = np.float32((seen.index - a.seen.index) / (b.seen.index - a.seen.index))
            seen.sightings.append(
                Sighting(
                    end.tracklet,
                    box + t * (end.box - box),
                    score + float(t) * (end.score - score),
                    points + t * (end.points - points),
                    detected=False,
                )
            )
    for j in range(len(b.faces)):
        if j not in b.names:
            b.name(j, next(number))


def _settled(a: Faces, b: Faces, pairs: Sequence[tuple[int, int]]) -> bool:
    """Whether every face that counts is paired; weak ones may come and go."""
    lost = set(np.flatnonzero(a.score >= SURE_SCORE)) - {i for i, _ in pairs}
    new = set(np.flatnonzero(b.score >= SURE_SCORE)) - {j for _, j in pairs}
    return not lost and not new


def match(a: F32, b: F32, least: float) -> list[tuple[int, int]]:
    """Pair boxes (n, 4) and (m, 4) so that the summed overlap is largest; none below ``least``."""
    if not len(a) or not len(b):
        return []
    overlap = iou(a, b)
    if overlap.size == 1:
        return [(0, 0)] if overlap[0, 0] >= least else []
    # Imported here: it takes a third of a worker's start, and clips of one person never need it.
    from scipy.optimize import linear_sum_assignment

    return [
        (int(i), int(j))
        for i, j in zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
        if overlap[i, j] >= least
    ]


def iou(a: F32, b: F32) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and (m, 4) -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2, dtype=np.float64)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=1, dtype=np.float64) for x in (a, b))
    return np.asarray(inter / np.maximum(area_a[:, None] + area_b - inter, 1e-9))


def _thumbnail(image: Image) -> F32:
    """Grey levels of every (h/24)-th row and (w/24)-th column."""
    h, w = image.shape[:2]
    grid = image[:: max(1, h // 24), :: max(1, w // 24)]
    return np.asarray(grid.mean(axis=2, dtype=np.float32))


def strangers(tracklets: Mapping[int, Tracklet]) -> list[int]:
    """List the tracklets whose embedding `join` needs: those that motion alone cannot place."""
    sure = _sure(tracklets)
    needed = {n for a, b in _in_turn(sure) if not _moved_on(sure[a], sure[b]) for n in (a, b)}
    return sorted(needed)


def join(
    tracklets: Mapping[int, Tracklet], embedding: Mapping[int, npt.NDArray[np.floating]]
) -> list[list[int]]:
    """Group tracklets into tracks, the one with the largest summed box area first.

    Parameters
    ----------
    tracklets : mapping of int to Tracklet
    embedding : mapping of int to (512,) array
        Mean embeddings of `strangers`.

    Returns
    -------
    list of list of int
        Tracklet numbers of each track, in time order. Tracklets without one sure face are left out.
    """
    sure = _sure(tracklets)
    group = {n: [n] for n in sure}
    unit = {n: v / max(float(np.linalg.norm(v)), 1e-9) for n, v in embedding.items()}
    links: list[tuple[float, int, int]] = []
    for a, b in _in_turn(sure):
        if _moved_on(sure[a], sure[b]):
            links.append((2.0, a, b))
        elif (cosine := float(unit[a] @ unit[b])) >= JOIN_COSINE:
            links.append((cosine, a, b))
    for _, a, b in sorted(links, key=lambda link: (-link[0], link[1], link[2])):
        if group[a] is group[b]:
            continue
        both = sorted(group[a] + group[b], key=lambda n: sure[n].first)
        if all(sure[x].last < sure[y].first for x, y in itertools.pairwise(both)):
            for n in both:
                group[n] = both
    tracks = list({id(g): g for g in group.values()}.values())
    return sorted(tracks, key=lambda g: (-sum(sure[n].area for n in g), g[0]))


def _sure(tracklets: Mapping[int, Tracklet]) -> dict[int, Tracklet]:
    return {n: t for n, t in tracklets.items() if t.best >= SURE_SCORE}


def _in_turn(tracklets: Mapping[int, Tracklet]) -> list[tuple[int, int]]:
    """Pairs of which the first ends before the second begins; others are two people."""
    order = sorted(tracklets, key=lambda n: tracklets[n].first)
    return [(a, b) for a in order for b in order if tracklets[a].last < tracklets[b].first]


def _moved_on(a: Tracklet, b: Tracklet) -> bool:
    """Whether b starts where a ended, shortly after it, with no cut between."""
    if a.before_cut or b.after_cut or b.start_s - a.end_s > JOIN_SECONDS:
        return False
    return float(iou(a.last_box[None], b.first_box[None])[0, 0]) >= LEAST_IOU
