from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from stages.extract import tracks
from stages.extract.detector import Faces
from stages.extract.requests import Detect
from stages.extract.tracks import Follower, Seen, Tracklet, iou, join, match, strangers
from stages.extract.video import Frame, Image

Script = Callable[[int], list[tuple[float, float, float]]]


def faces(items: list[tuple[float, float, float]], side: float = 40) -> Faces:
    """Boxes of one side at (x, y) with a score."""
    box = np.array([[x, y, x + side, y + side] for x, y, _ in items], np.float32).reshape(-1, 4)
    points = np.zeros((len(items), 5, 2), np.float32) + box[:, None, :2]
    return Faces(box, np.array([s for *_, s in items], np.float32), points)


class World:
    """Frames whose pictures hold their index, and a detector that reads a script by it."""

    def __init__(self, n: int, script: Script, cuts: tuple[int, ...] = ()) -> None:
        self.n, self.script, self.cuts = n, script, cuts
        self.looked: list[int] = []

    def frames(self) -> list[Frame]:
        shade = 0
        out = []
        for i in range(self.n):
            if i in self.cuts:
                shade = 200 - shade
            image = np.full((24, 24, 3), shade, np.uint8)
            image[0, 0, 0] = i
            out.append(Frame(i / 25, image))
        return out

    def detect(self, image: Image) -> Faces:
        index = int(image[0, 0, 0])
        self.looked.append(index)
        return faces(self.script(index))

    def run(self, every: int) -> list[Seen]:
        follower, seen = Follower(self.frames(), every), []
        while run := self.answered(follower.next_run()):
            seen += run
        return seen

    def answered(self, asking: Generator[Detect, Faces, list[Seen]]) -> list[Seen]:
        answer = None
        while True:
            try:
                answer = self.detect(asking.send(answer).image)
            except StopIteration as end:
                return end.value


def test_boxes_between_key_frames_are_interpolated() -> None:
    world = World(11, lambda i: [(10 + 2 * i, 20, 0.9)])
    seen = world.run(every=5)
    assert world.looked == [0, 5, 10]
    assert [s.index for s in seen] == list(range(11))
    for s in seen:
        assert len(s.sightings) == 1
        assert s.sightings[0].tracklet == 0
        np.testing.assert_allclose(s.sightings[0].box[:2], (10 + 2 * s.index, 20), atol=1e-4)
        np.testing.assert_allclose(s.sightings[0].points[0], (10 + 2 * s.index, 20), atol=1e-4)


@given(n=st.integers(1, 40), every=st.integers(1, 9))
def test_every_frame_comes_once_and_first_and_last_are_looked_at(n: int, every: int) -> None:
    world = World(n, lambda i: [(10, 20, 0.9)])
    assert [s.index for s in world.run(every)] == list(range(n))
    assert {0, n - 1} <= set(world.looked)
    assert len(world.looked) == len(set(world.looked))
    assert all(len(s.sightings) == 1 for s in world.run(every))


def test_large_frames_are_not_held_in_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "HELD_BYTES", 4 * 24 * 24 * 3 + 5)
    world = World(11, lambda i: [(10 + 2 * i, 20, 0.9)])
    seen = world.run(every=300)
    assert world.looked == [0, 4, 8, 10]
    assert [s.index for s in seen if s.sightings] == list(range(11))


def test_a_face_that_appears_is_found_on_its_first_frame() -> None:
    world = World(21, lambda i: [(10, 20, 0.9)] if i >= 7 else [])
    assert [s.index for s in world.run(every=10) if s.sightings] == list(range(7, 21))


def test_a_face_that_leaves_is_lost_on_its_last_frame() -> None:
    world = World(21, lambda i: [(10, 20, 0.9)] if i <= 13 else [])
    assert [s.index for s in world.run(every=10) if s.sightings] == list(range(14))


def test_a_jump_ends_the_tracklet() -> None:
    world = World(11, lambda i: [(10.0 if i < 6 else 150.0, 20, 0.9)])
    names = [s.sightings[0].tracklet for s in world.run(every=5)]
    assert names == [0] * 6 + [1] * 5


def test_a_cut_ends_it_even_where_the_next_face_is_in_the_same_place() -> None:
    world = World(12, lambda i: [(10, 20, 0.9)], cuts=(7,))
    seen = world.run(every=5)
    assert [s.sightings[0].tracklet for s in seen] == [0] * 7 + [1] * 5
    assert [s.index for s in seen if s.cut] == [7]
    assert {6, 7} <= set(world.looked)


def test_two_people_who_stay_apart_keep_their_names() -> None:
    world = World(30, lambda i: [(10 + i, 20, 0.8), (100 - i, 90, 0.9)][:: 1 if i % 2 else -1])
    for s in world.run(every=5):
        at = {sighting.tracklet: sighting.box[1] for sighting in s.sightings}
        assert at == ({0: 90, 1: 20} if world.script(0)[0][1] == 90 else {0: 20, 1: 90})


def test_weak_detections_that_flicker_cost_no_extra_looks() -> None:
    world = World(21, lambda i: [(10, 20, 0.9)] + ([(100, 100, 0.55)] if i % 2 else []))
    world.run(every=5)
    assert world.looked == [0, 5, 10, 15, 20]


def tracklet(first: int, last: int, x: float = 10, *, best: float = 0.9, side: float = 40,
             after_cut: bool = False, before_cut: bool = False) -> Tracklet:  # fmt: skip
    box = np.array([x, 20, x + side, 20 + side], np.float32)
    return Tracklet(first, first / 25, box, after_cut, last, last / 25, box,
                    side * side * (last - first + 1), best, before_cut)  # fmt: skip


def unit(*values: float) -> np.ndarray:
    vector = np.zeros(512)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def test_one_tracklet_is_a_track_without_embedding() -> None:
    assert strangers({3: tracklet(0, 9)}) == []
    assert join({3: tracklet(0, 9)}, {}) == [[3]]


def test_weak_tracklets_are_no_faces() -> None:
    assert join({0: tracklet(0, 9, best=0.6)}, {}) == []


def test_motion_joins_over_a_short_gap() -> None:
    parts = {0: tracklet(0, 9), 1: tracklet(15, 30)}
    assert strangers(parts) == []
    assert join(parts, {}) == [[0, 1]]


@pytest.mark.parametrize("cosine", [0.6, 0.1])
def test_over_a_cut_only_the_embedding_joins(cosine: float) -> None:
    parts = {0: tracklet(0, 9, before_cut=True), 1: tracklet(10, 30, after_cut=True)}
    vectors = [unit(1), unit(cosine, (1 - cosine**2) ** 0.5)]
    assert strangers(parts) == [0, 1]
    found = join(parts, dict(enumerate(vectors)))
    assert found == ([[0, 1]] if cosine == 0.6 else [[1], [0]])


def test_who_is_seen_together_is_never_joined() -> None:
    parts = {0: tracklet(0, 20), 1: tracklet(10, 30, x=100), 2: tracklet(60, 80, x=200)}
    found = join(parts, dict.fromkeys(parts, unit(1)))
    assert sorted(map(sorted, found)) in ([[0, 2], [1]], [[0], [1, 2]])


def slow_join(parts: dict[int, Tracklet], vectors: dict[int, np.ndarray]) -> list[list[int]]:
    """Do what `join` promises, pair by pair."""

    def apart(a: Tracklet, b: Tracklet) -> bool:
        return a.last < b.first or b.last < a.first

    links = []
    for (m, a), (n, b) in itertools.permutations(parts.items(), 2):
        near = b.start_s - a.end_s <= 1 and not (a.before_cut or b.after_cut)
        if a.last < b.first:
            same_place = near and iou(a.last_box[None], b.first_box[None])[0, 0] >= 0.2
            links.append((2.0 if same_place else float(vectors[m] @ vectors[n]), m, n))
    groups = [{n} for n in parts]
    for weight, m, n in sorted(links, key=lambda link: (-link[0], *link[1:])):
        one, other = (next(g for g in groups if k in g) for k in (m, n))
        pairs = itertools.product(one, other)
        if weight >= 0.35 and one is not other and all(apart(parts[a], parts[b]) for a, b in pairs):
            groups.remove(other)
            one |= other
    ordered = [sorted(g, key=lambda n: parts[n].first) for g in groups]
    return sorted(ordered, key=lambda g: (-sum(parts[n].area for n in g), g[0]))


def crowd(count: int, people: int, seed: int) -> tuple[dict[int, Tracklet], dict[int, np.ndarray]]:
    """Make tracklets of a few people, some at the same time, and their unit embeddings."""
    rng = np.random.default_rng(seed)
    parts, first = {}, 0
    for n in rng.permutation(count).tolist():
        first = max(0, first + int(rng.integers(-15, 30)))
        cuts = {"after_cut": rng.random() < 0.3, "before_cut": rng.random() < 0.3}
        last = first + int(rng.integers(1, 20))
        parts[n] = tracklet(first, last, float(rng.integers(5) * 25), **cuts)
    who = rng.normal(size=(people, 512))
    vectors = {n: who[rng.integers(people)] + rng.normal(size=512) for n in parts}
    return parts, {n: v / np.linalg.norm(v) for n, v in vectors.items()}


@pytest.mark.parametrize("seed", range(12))
def test_joining_is_what_it_would_be_pair_by_pair(seed: int) -> None:
    parts, vectors = crowd(5 * seed, 1 + seed % 4, seed)
    needed = {n: vectors[n] for n in strangers(parts)}
    assert join(parts, needed) == slow_join(parts, vectors)


@pytest.mark.no_cover
def test_thousands_of_tracklets_are_joined_in_seconds() -> None:
    parts, vectors = crowd(2000, 2, 0)
    began = time.process_time()
    needed = strangers(parts)
    joined = join(parts, {n: vectors[n] for n in needed})
    assert time.process_time() - began < 15  # pair by pair: minutes
    assert sorted(n for group in joined for n in group) == list(range(2000))


def test_the_largest_summed_area_comes_first() -> None:
    parts = {0: tracklet(0, 30, side=30), 1: tracklet(0, 20, x=100, side=60)}
    assert join(parts, {})[0] == [1]


def test_iou() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0]], atol=1e-6)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 10_000))
def test_pairs_are_those_of_the_solver(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (n + m, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 120, (n + m, 2))]).astype(np.float32)
    a, b = boxes[:n], boxes[n:]
    overlap = iou(a, b)
    found = match(a, b, 0.1)
    overlap[overlap < 0.1] = 0
    best = overlap[linear_sum_assignment(overlap, maximize=True)].sum()
    assert sum(overlap[i, j] for i, j in found) == pytest.approx(best)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    assert all(overlap[i, j] >= 0.1 for i, j in found)
