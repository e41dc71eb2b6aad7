"""Where the net looks, and how often: faces of a made world, answered without nets."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from stages.extract.detector import Faces
from stages.extract.locate import Located, Locator
from stages.extract.requests import Answer, Detect, FindLandmarks, Request
from stages.extract.tracks import Follower
from stages.extract.video import Frame

SIDE = 60.0
CIRCLE = np.stack([np.cos(np.linspace(0, 6, 68)), np.sin(np.linspace(0, 6, 68))], -1)

Path = Callable[[int], tuple[float, float] | None]


class World:
    """A face whose centre follows a path; frames hold their index in a pixel.

    Landmarks are right where the crop is no farther from the face than ``hold``; elsewhere the net
    sees nothing, says "in the middle", and asks for a crop twice as large.
    """

    def __init__(self, path: Path, hold: float = 0.9) -> None:
        self.path, self.hold = path, hold
        self.looks: dict[int, int] = {}
        self.detections: list[int] = []

    def run(self, n: int, every: int = 5) -> list[Located]:
        frames = []
        for i in range(n):
            image = np.zeros((200, 400, 3), np.uint8)
            image[0, 0] = i
            frames.append(Frame(i / 25, image))
        return self.answered(self.follow(frames, every))

    def follow(self, frames: list[Frame], every: int) -> Generator[Request, Answer, list[Located]]:
        follower, locator, found = Follower(frames, every), Locator(), []
        while run := (yield from follower.next_run()):
            found += yield from locator.locate(run)
        return found

    def answered(self, asking: Generator[Request, Answer, list[Located]]) -> list[Located]:
        answer = None
        while True:
            try:
                request = asking.send(answer)
            except StopIteration as end:
                return end.value
            answer = self.detect(request) if isinstance(request, Detect) else self.look(request)

    def detect(self, request: Detect) -> Faces:
        index = int(request.image[0, 0, 0])
        self.detections.append(index)
        at = self.path(index)
        centre = np.array([at] if at else []).reshape(-1, 2)
        box = np.hstack([centre - SIDE / 2, centre + SIDE / 2]).astype(np.float32)
        eyes = np.array([[-10, 0], [10, 0], [0, 5], [-8, 10], [8, 10]])
        points = (centre[:, None] + eyes).astype(np.float32)
        return Faces(box, np.full(len(box), 0.9, np.float32), points)

    def look(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(request, FindLandmarks)
        landmarks, asked = [], []
        for image, (x, y, side, _) in zip(request.images, request.crop, strict=True):
            index = int(image[0, 0, 0])
            self.looks[index] = self.looks.get(index, 0) + 1
            at = self.path(index)
            if at and np.hypot(x - at[0], y - at[1]) < self.hold * side:
                landmarks.append(np.array(at) + SIDE / 2 * CIRCLE)
                asked.append((*at, SIDE, 0.0))
            else:
                landmarks.append(np.array([x, y]) + SIDE / 2 * CIRCLE)
                asked.append((x, y, 2 * side, 0.0))
        return np.array(landmarks, np.float32), np.array(asked)


def centres(found: list[Located]) -> np.ndarray:
    return np.array([(f.landmark.min(0) + f.landmark.max(0)) / 2 for f in found])


def expected(path: Path, indices: range | list[int]) -> np.ndarray:
    return np.array([path(i) for i in indices])


def test_steady_motion_costs_one_look_a_frame() -> None:
    def path(i: int) -> tuple[float, float]:
        return 100 + 3 * i, 100

    world = World(path)
    found = world.run(21)
    assert [f.seen.index for f in found] == list(range(21))
    np.testing.assert_allclose(centres(found), expected(path, range(21)), atol=1)
    assert world.looks == dict.fromkeys(range(21), 1)
    assert world.detections == [0, 5, 10, 15, 20]


def test_a_face_that_does_not_move_as_expected_is_looked_at_again() -> None:
    def path(i: int) -> tuple[float, float]:
        return 100 + (15 if i == 7 else 0), 100

    world = World(path)
    found = world.run(11)
    np.testing.assert_allclose(centres(found), expected(path, range(11)), atol=1)
    assert world.looks == {i: 2 if i == 7 else 1 for i in range(11)}
    assert world.detections == [0, 5, 10]
    assert abs(found[7].crop[0] - 115) < 1


def test_where_landmarks_leave_the_box_the_detector_looks() -> None:
    def path(i: int) -> tuple[float, float]:
        return 100 + (35 if i in (7, 8) else 0), 100

    world = World(path)
    found = world.run(11)
    np.testing.assert_allclose(centres(found), expected(path, range(11)), atol=1)
    assert world.detections == [0, 5, 10, 7, 8]
    assert [f.sighting.detected for f in found] == [i in (0, 5, 7, 8, 10) for i in range(11)]
    np.testing.assert_allclose(found[7].sighting.box, [105, 70, 165, 130])
    assert {f.sighting.tracklet for f in found} == {0}


def test_where_landmarks_have_no_hold_the_detector_looks() -> None:
    def path(i: int) -> tuple[float, float]:
        return 100 + (25 if i == 7 else 0), 100

    world = World(path, hold=0.3)  # 18 px: the net sees nothing of it from where it was
    found = world.run(11)
    np.testing.assert_allclose(centres(found), expected(path, range(11)), atol=1)
    assert world.detections == [0, 5, 10, 7]


def test_a_face_that_is_gone_in_between_has_no_landmarks_there() -> None:
    def path(i: int) -> tuple[float, float] | None:
        return None if i in (6, 7) else (100, 100)

    world = World(path)
    found = world.run(11)
    assert [f.seen.index for f in found] == [0, 1, 2, 3, 4, 5, 8, 9, 10]
    assert world.detections == [0, 5, 10, 6, 7]


def test_of_two_faces_each_gets_its_own_detection() -> None:
    def path(i: int) -> tuple[float, float]:
        return 100 + (40 if i == 7 else 0), 100

    class Two(World):
        def detect(self, request: Detect) -> Faces:
            one = super().detect(request)
            other = one.box * 0 + np.array([150, 70, 210, 130], np.float32)
            points = one.points * 0 + np.array([180, 100], np.float32)
            points[:, 1] += (20, 0)
            return Faces(
                np.vstack([one.box, other]),
                np.concatenate([one.score, one.score]),
                np.vstack([one.points, points]),
            )

        def look(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
            landmarks, asked = super().look(request)
            assert isinstance(request, FindLandmarks)
            for i, (x, *_) in enumerate(request.crop):
                if abs(x - 180) < 20:
                    landmarks[i] = np.array([180, 100]) + SIDE / 2 * CIRCLE
                    asked[i] = (180, 100, SIDE, 0)
            return landmarks, asked

    world = Two(path, hold=0.5)
    found = world.run(11)
    at_7 = [f for f in found if f.seen.index == 7]
    assert len(at_7) == 2
    np.testing.assert_allclose(sorted(centres(at_7)[:, 0]), [140, 180], atol=1)
