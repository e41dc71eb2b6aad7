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
_PART = 1 << 16  # links that are Python's at a time
HELD_BYTES = 256 << 20  # frames that are held: 10 of 4K
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
        Distance of regular key frames, 1 or more. So many frames are held at a time, or fewer
        where they are so large that they would take more than `HELD_BYTES`.
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
        held = 0
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
                held += seen.image.nbytes
                enough = len(gap) == self._every or held + seen.image.nbytes > HELD_BYTES
                if self._key is None or seen.cut or enough:
                    break
        if gap:
            key = _Key.of(gap[-1], (yield Detect(gap[-1].image)))
            yield from _resolve(self._key, gap[:-1], key, self._names)
            self._key = key
        return gap


@dataclass
class _Key:
    """A frame on which the detector ran, without its picture, since it outlives the run.

    ``sightings``: those of the frame; ``names``: tracklet of each of its faces.
    """

    index: int
    cut: bool
    sightings: list[Sighting]
    faces: Faces
    names: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Seen, faces: Faces) -> _Key:
        """Return a frame in which the detector found these faces."""
        return cls(seen.index, seen.cut, seen.sightings, faces)

    def name(self, i: int, tracklet: int) -> Sighting:
        """Say that its i-th face belongs to a tracklet."""
        self.names[i] = tracklet
        sighting = self.faces.sighting(i, tracklet)
        self.sightings.append(sighting)
        return sighting


def _resolve(
    a: _Key | None,
    between: list[Seen],
    b: _Key,
    number: Iterator[int],
) -> Generator[Detect, Faces, None]:
    """Name the faces of key frame b after those of a, and fill the frames between."""
    pairs: list[tuple[int, int]] = []
    if a is not None and not b.cut:
        pairs = match(a.faces.box, b.faces.box, SMOOTH_IOU if between else LEAST_IOU)
    if a is not None and between and not _settled(a.faces, b.faces, pairs):
        middle = len(between) // 2
        key = _Key.of(between[middle], (yield Detect(between[middle].image)))
        yield from _resolve(a, between[:middle], key, number)
        yield from _resolve(key, between[middle + 1 :], b, number)
        return
    for i, j in pairs:
        assert a is not None
        end = b.name(j, a.names[i])
        box, points, score = a.faces.box[i], a.faces.points[i], float(a.faces.score[i])
        for seen in between:
            t = np.float32((seen.index - a.index) / (b.index - a.index))
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
    overlap[overlap < least] = 0
    pairs = _best(overlap)
    if pairs is None:
        # Imported here: it takes a third of a worker's start and 40 MB, and clips in which faces
        # keep apart never need it.
        from scipy.optimize import linear_sum_assignment

        pairs = list(zip(*linear_sum_assignment(overlap, maximize=True), strict=True))
    return [(int(i), int(j)) for i, j in pairs if overlap[i, j] > 0]


def _best(overlap: npt.NDArray[np.float64]) -> list[tuple[int, int]] | None:
    """Pair each box with the one that it overlaps most; None where two want the same one.

    No sum of overlaps can be larger, so where nothing is contested no solver is needed.
    """
    rows, columns = (np.flatnonzero(overlap.any(axis=axis)) for axis in (1, 0))
    if len(rows) <= len(columns):
        pairs = [(i, int(overlap[i].argmax())) for i in rows.tolist()]
    else:
        pairs = [(int(overlap[:, j].argmax()), j) for j in columns.tolist()]
    distinct = all(len({pair[side] for pair in pairs}) == len(pairs) for side in (0, 1))
    return pairs if distinct else None


def iou(a: F32, b: F32) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and (m, 4) -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2, dtype=np.float64)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=1, dtype=np.float64) for x in (a, b))
    return np.asarray(inter / np.maximum(area_a[:, None] + area_b - inter, 1e-9))


_MEAN = np.full(3, 1 / 3, np.float32)  # of the three channels


def _thumbnail(image: Image) -> F32:
    """Grey levels of every (h/24)-th row and (w/24)-th column."""
    h, w = image.shape[:2]
    grid = image[:: max(1, h // 24), :: max(1, w // 24)].astype(np.float32)
    return np.asarray(grid @ _MEAN)  # half the time of mean(axis=2)


def strangers(tracklets: Mapping[int, Tracklet]) -> list[int]:
    """List the tracklets whose embedding `join` needs: those that motion alone cannot place."""
    order = _Order(tracklets)
    needed = np.zeros(len(order.names), bool)
    for i, later in enumerate(order.later):
        moved = order.moved_on(i)
        needed[later:] |= ~moved
        needed[i] |= not moved.all()
    return sorted(name for name, here in zip(order.names, needed, strict=True) if here)


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
    order = _Order(tracklets)
    # Sets of places as the bits of an integer: thousands of them are compared in a microsecond.
    group = [
        _Group([i], 1 << i, (1 << later) - (1 << i + 1)) for i, later in enumerate(order.later)
    ]
    for i, j in order.links(embedding):
        a, b = group[i], group[j]
        if a is b or a.members & b.beside or b.members & a.beside:
            continue
        both = _Group(sorted(a.places + b.places), a.members | b.members, a.beside | b.beside)
        for place in both.places:
            group[place] = both
    tracks = [[order.names[i] for i in g.places] for g in {id(g): g for g in group}.values()]
    return sorted(tracks, key=lambda g: (-sum(tracklets[n].area for n in g), g[0]))


@dataclass
class _Group:
    """Tracklets of one person, by their places in `_Order`.

    ``members``: these places as bits; ``beside``: those of later ones that begin before one of the
    members ends.
    """

    places: list[int]
    members: int
    beside: int


class _Order:
    """The sure tracklets of a clip, n in number, in the order in which they begin.

    ``names``: their numbers; ``later``: of each, the place of the first that begins when it has
    ended. Those between are seen together with it: two people.
    """

    def __init__(self, tracklets: Mapping[int, Tracklet]) -> None:
        sure = [n for n, t in tracklets.items() if t.best >= SURE_SCORE]
        self.names = sorted(sure, key=lambda n: tracklets[n].first)
        self._all = [tracklets[n] for n in self.names]
        first, last = [t.first for t in self._all], [t.last for t in self._all]
        self.later: list[int] = np.searchsorted(first, last, "right").tolist()
        # In arrays: there may be thousands, and every one is held against all that come later.
        self._start_s = np.array([t.start_s for t in self._all])
        self._after_cut = np.array([t.after_cut for t in self._all], bool)
        self._first_box = np.array([t.first_box for t in self._all]).reshape(-1, 4)

    def moved_on(self, i: int) -> npt.NDArray[np.bool_]:
        """Whether those from ``later[i]`` on start where i ended, shortly after, without a cut."""
        a, later = self._all[i], self.later[i]
        moved = ~self._after_cut[later:] & (self._start_s[later:] - a.end_s <= JOIN_SECONDS)
        moved &= not a.before_cut
        near = np.flatnonzero(moved)
        moved[near] = iou(a.last_box[None], self._first_box[later + near])[0] >= LEAST_IOU
        return moved

    def links(self, embedding: Mapping[int, npt.NDArray[np.floating]]) -> Iterator[tuple[int, int]]:
        """Yield places of two tracklets that may be of one person, the surest first."""
        unit = {n: v / max(float(np.linalg.norm(v)), 1e-9) for n, v in embedding.items()}
        none = np.zeros_like(next(iter(unit.values()), np.zeros(1)))
        units = np.array([unit.get(n, none) for n in self.names])
        weights, ones, others = [], [], []
        for i, later in enumerate(self.later):
            # One product after the other, not as a matrix: the same vectors give the same bits.
            weight = (units[later:, None] @ units[i, :, None])[:, 0, 0]
            weight[self.moved_on(i)] = 2.0
            (found,) = np.nonzero(weight >= JOIN_COSINE)
            weights.append(weight[found])
            ones.append(np.full(len(found), i, np.int32))
            others.append((later + found).astype(np.int32))
        if not weights:
            return
        one, other, names = np.concatenate(ones), np.concatenate(others), np.array(self.names)
        order = np.lexsort((names[other], names[one], -np.concatenate(weights)))
        for part in np.array_split(order, len(order) // _PART + 1):  # as int objects, a few
            yield from zip(one[part].tolist(), other[part].tolist(), strict=True)
