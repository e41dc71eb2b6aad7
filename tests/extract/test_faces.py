from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import insightface
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insightface.app import FaceAnalysis
from insightface.utils import face_align

from stages.extract.detector import Detector
from stages.extract.device import Device
from stages.extract.faces import TEMPLATE, align, five_points, similarity
from stages.extract.landmarks import crops_of_boxes
from stages.extract.nets import Nets, open_nets
from stages.extract.packs import Pack, resolve
from stages.extract.recipe import Recipe
from stages.extract.sessions import open_session
from tests.testing.clips import picture
from tests.testing.packs import tiny_pack


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))


@pytest.fixture(scope="module")
def lite(lite_pack: Pack) -> Nets:
    return open_nets(lite_pack, Device.CPU, Recipe())


@pytest.fixture(scope="module")
def analysis(lite_pack: Pack) -> FaceAnalysis:
    found = FaceAnalysis(name=str(lite_pack.folder), providers=["CPUExecutionProvider"])
    found.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=0.5)
    return found


@given(
    angle=st.floats(-3.1, 3.1),
    scale=st.floats(0.05, 20),
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
)
def test_similarity_recovers_any_turn_scale_and_shift(
    angle: float, scale: float, x: float, y: float
) -> None:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s, x], [s, c, y]])
    moved = TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(similarity(TEMPLATE, moved), matrix, atol=1e-6 * max(1, scale))


def test_similarity_is_insightfaces_on_points_that_do_not_fit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = TEMPLATE * rng.uniform(0.5, 4) + rng.normal(0, 6, (5, 2)) + 40
        with pytest.warns(FutureWarning):
            expected = face_align.estimate_norm(points)
        # insightface keeps its template in float32: equal to that rounding, in pixels
        np.testing.assert_allclose(similarity(points, TEMPLATE), expected, atol=2e-5)


def test_points_in_one_place_have_no_similarity() -> None:
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), TEMPLATE)


def test_five_points_are_means_of_the_eyes_and_corners() -> None:
    landmark = np.arange(136, dtype=np.float32).reshape(68, 2)
    eye = np.mean([[74, 75], [76, 77], [80, 81], [82, 83]], axis=0)
    np.testing.assert_allclose(five_points(landmark)[0], eye)
    np.testing.assert_allclose(five_points(landmark)[2], landmark[30])
    np.testing.assert_allclose(five_points(landmark)[4], (landmark[54] + landmark[64]) / 2)


def look(nets: Nets, images: list[np.ndarray], box: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Find landmarks (m, 68, 2) in two looks, faces levelled by an angle."""
    eyes = np.stack([np.zeros((len(box), 2)), np.stack([np.cos(angle), np.sin(angle)], -1)], 1)
    _, better = nets.landmark(images, crops_of_boxes(box, eyes))
    return nets.landmark(images, better)[0]


def test_detector_agrees_with_insightface(
    photo: np.ndarray, lite_pack: Pack, analysis: FaceAnalysis
) -> None:
    detector = Detector(open_session(lite_pack.detector, Device.CPU), (640,))
    found, expected = detector.detect(photo), analysis.get(photo)
    assert len(found) == len(expected) == 6
    order = np.argsort([f.bbox[0] for f in expected])
    boxes = np.stack([expected[i].bbox for i in order])
    points = np.stack([expected[i].kps for i in order])
    mine = np.argsort(found.box[:, 0])
    np.testing.assert_allclose(found.box[mine], boxes, atol=3)
    np.testing.assert_allclose(found.points[mine], points, atol=3)
    assert (found.score > 0.7).all()


def test_a_face_found_at_two_sizes_counts_once(lite_pack: Pack, photo: np.ndarray) -> None:
    session = open_session(lite_pack.detector, Device.CPU)
    twice = Detector(session, (640, 640)).detect(photo)
    assert len(twice) == len(Detector(session, (640,)).detect(photo)) == 6
    large = cv2.resize(photo[240:440, 420:620], (900, 900))  # one face that fills the picture
    assert len(Detector(session, (640, 256)).detect(large)) == 1


def test_detector_keeps_the_largest_faces(lite_pack: Pack, photo: np.ndarray) -> None:
    session = open_session(lite_pack.detector, Device.CPU)
    every = Detector(session, (640,)).detect(photo)
    few = Detector(session, (640,), max_faces=2).detect(photo)
    areas = np.prod(every.box[:, 2:] - every.box[:, :2], axis=1)
    kept = np.prod(few.box[:, 2:] - few.box[:, :2], axis=1)
    np.testing.assert_allclose(np.sort(kept), np.sort(areas)[-2:])


class Looks:
    """A session that notes the longest side of what it is shown."""

    def __init__(self, session: Any) -> None:
        self._session, self.sides = session, []

    def run(self, outputs: Any, feed: dict[str, Any]) -> Any:
        self.sides.append(max(next(iter(feed.values())).shape[2:]))
        return self._session.run(outputs, feed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.mark.parametrize(
    ("side", "sides"),
    [(500, [640]), (60, [640, 256]), (0, [640, 256, 1280]), (1000, [640, 256])],
)
def test_more_sizes_are_looked_at_where_they_can_find_more(
    tmp_path: Path, side: int, sides: list[int]
) -> None:
    pack = resolve(str(tiny_pack(tmp_path / "pack")))
    looks = Looks(open_session(pack.detector, Device.CPU))
    image = np.zeros((1280, 1280, 3), np.uint8)
    image[140 : 140 + side, 140 : 140 + side] = 255  # the net boxes bright squares
    faces = Detector(looks, (640, 256, 1280)).detect(image)
    assert looks.sides == sides
    assert (len(faces) > 0) == (side > 0)


def test_a_face_far_away_is_found_at_the_size_for_it(lite_pack: Pack, photo: np.ndarray) -> None:
    """Of the photo's six faces, laid small into a large frame, 640 pixels show too little."""
    nets = open_nets(lite_pack, Device.CPU, Recipe())
    frame = np.full((1920, 1080, 3), 90, np.uint8)
    small = cv2.resize(photo, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    frame[800 : 800 + small.shape[0], 300 : 300 + small.shape[1]] = small
    few, more = nets.detector.at((640,)), nets.detector.at(lite_pack.detection.sizes)
    assert len(few.detect(frame)) == 0
    assert len(more.detect(frame)) >= 5


def test_a_face_that_fills_the_frame_is_not_broken_in_two(
    lite_pack: Pack, photo: np.ndarray
) -> None:
    nets = open_nets(lite_pack, Device.CPU, Recipe())
    faces = nets.detector.at((640,)).detect(photo)
    x0, y0, x1, y1 = faces.box[faces.score.argmax()].round().astype(int)
    close = cv2.resize(photo[y0:y1, x0:x1], (1080, 1080), interpolation=cv2.INTER_CUBIC)
    (box,) = nets.detector.at(lite_pack.detection.sizes).detect(close).box
    assert box[:2].max() < 200 and box[2:].min() > 880


def test_detector_on_a_picture_without_faces(lite: Nets) -> None:
    found = lite.detector.detect(np.zeros((120, 90, 3), np.uint8))
    assert len(found) == 0
    assert found.box.shape == (0, 4)
    assert found.points.shape == (0, 5, 2)


def test_embeddings_are_insightfaces_on_the_same_aligned_faces(
    photo: np.ndarray, lite: Nets, analysis: FaceAnalysis
) -> None:
    found = lite.detector.detect(photo)
    landmarks = look(lite, [photo] * len(found), found.box, np.zeros(len(found)))
    with pytest.warns(FutureWarning):
        crops = [
            face_align.norm_crop(photo, five_points(landmark).astype(np.float32))
            for landmark in landmarks
        ]
    expected = analysis.models["recognition"].get_feat(crops)
    mine, appearance = lite.recognition([align(photo, landmark) for landmark in landmarks])
    cosine = (mine * expected).sum(1) / np.linalg.norm(mine, axis=1)
    assert (cosine / np.linalg.norm(expected, axis=1)).min() >= 0.9999
    assert appearance.shape == (6, 512)
    assert np.isfinite(appearance).all()


def test_landmarks_lie_where_insightface_puts_them(
    photo: np.ndarray, lite: Nets, analysis: FaceAnalysis
) -> None:
    """One pass without levelling is insightface's; ours moves them by a few percent, not more."""
    moved = []
    for face in analysis.get(photo):
        (mine,) = look(lite, [photo], face.bbox[None], np.zeros(1))
        eyes = five_points(mine)
        distance = np.linalg.norm(mine - face.landmark_2d_68, axis=1).mean()
        moved.append(distance / np.linalg.norm(eyes[1] - eyes[0]))
    assert np.median(moved) < 0.05
    assert max(moved) < 0.15


def test_landmarks_turn_with_the_picture(photo: np.ndarray, lite: Nets) -> None:
    found = lite.detector.detect(photo)
    box = found.box[:1]
    (upright,) = look(lite, [photo], box, np.zeros(1))
    middle = (box[0, :2] + box[0, 2:]) / 2
    for degrees in (-40, 25, 90):
        turn = cv2.getRotationMatrix2D(middle.tolist(), degrees, 1)
        turned = cv2.warpAffine(photo, turn, photo.shape[1::-1])
        (found_there,) = look(lite, [turned], box, np.array([-np.radians(degrees)]))
        expected = upright @ turn[:, :2].T + turn[:, 2]
        eyes = five_points(upright)
        error = np.linalg.norm(found_there - expected, axis=1).mean()
        assert error < 0.03 * np.linalg.norm(eyes[1] - eyes[0]), degrees


def test_a_large_face_gets_the_landmarks_of_the_same_face_shrunk(
    photo: np.ndarray, lite: Nets
) -> None:
    box = lite.detector.detect(photo).box[:1]
    (small,) = look(lite, [photo], box, np.zeros(1))
    large_photo = cv2.resize(photo, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    (large,) = look(lite, [large_photo], box * 5, np.zeros(1))
    eyes = five_points(small)
    error = np.linalg.norm((large + 0.5) / 5 - 0.5 - small, axis=1).mean()
    assert error < 0.01 * np.linalg.norm(eyes[1] - eyes[0])


def test_one_face_or_many_gives_the_same_bits(photo: np.ndarray, lite: Nets) -> None:
    found = lite.detector.detect(photo)
    together = look(lite, [photo] * 6, found.box, np.zeros(6))
    crops = [align(photo, landmark) for landmark in together]
    embedding, appearance = lite.recognition(crops * 4)
    for i in range(6):
        alone = look(lite, [photo], found.box[i : i + 1], np.zeros(1))
        np.testing.assert_array_equal(alone[0], together[i])
        one = lite.recognition([crops[i]])
        np.testing.assert_array_equal(one[0][0], embedding[i])
        np.testing.assert_array_equal(one[1][0], appearance[i + 18])


@pytest.mark.parametrize("variant", ["lite", "buffalo"])
def test_packs_of_both_protocols_run(tmp_path: Path, variant: str) -> None:
    """136 or 3309 landmark outputs, detectors with outputs of rank 2 or 3."""
    nets = open_nets(resolve(tiny_pack(tmp_path / "p", variant=variant)), Device.CPU, Recipe())
    image = picture([(150, 120, 80)])
    found = nets.detector.detect(image)
    assert len(found) == 1
    np.testing.assert_allclose(found.box[0], [110, 80, 190, 160], atol=6)
    (landmark,) = look(nets, [image], found.box, np.zeros(1))
    assert landmark.shape == (68, 2)
    assert (landmark.min(0) > [105, 75]).all()
    assert (landmark.max(0) < [195, 168]).all()
    embedding, appearance = nets.recognition([align(image, landmark)])
    assert embedding.shape == appearance.shape == (1, 512)


def test_pictures_of_many_sizes_are_found_alone_and_together(lite: Nets, photo: np.ndarray) -> None:
    pictures = [
        photo,
        photo[:600, :600],
        photo[::2, ::2],
        photo[:600, :600],
        np.rot90(photo).copy(),
    ]
    together = lite.detector.detect_many(pictures)
    for image, found in zip(pictures, together, strict=True):
        alone = lite.detector.detect(image)
        np.testing.assert_array_equal(found.box, alone.box)
        np.testing.assert_array_equal(found.score, alone.score)


def test_a_huge_picture_is_seen_as_the_same_one_shrunk(lite: Nets, photo: np.ndarray) -> None:
    found = lite.detector.detect(photo)
    huge = cv2.resize(photo, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    again = lite.detector.detect(huge)
    assert len(again) == len(found)
    order, mine = np.argsort(again.box[:, 0]), np.argsort(found.box[:, 0])
    np.testing.assert_allclose(again.box[order] / 6, found.box[mine], atol=3)
