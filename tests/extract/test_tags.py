from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import insightface
import numpy as np
import pytest

from stages.extract.detector import Faces
from stages.extract.device import Device
from stages.extract.engine import Engine
from stages.extract.inputs import Source
from stages.extract.nets import Nets, open_nets
from stages.extract.packs import Pack
from stages.extract.recipe import Recipe
from stages.extract.tags import tag_is_false
from tests.testing.clips import tagged, write_video

MATRIX = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.fixture(scope="module")
def nets(lite_pack: Pack) -> Nets:
    return open_nets(lite_pack, Device.CPU, Recipe())


def filmed(path: Path, turn: int | None) -> Path:
    """Write a clip of faces, its pixels turned by a code of cv2.rotate."""
    photo = cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))
    photo = photo[150:550, 350:950]
    frames = [np.roll(photo, step, axis=1) for step in range(0, 40, 2)]
    return write_video(path, [f if turn is None else cv2.rotate(f, turn) for f in frames])


@pytest.mark.parametrize(
    ("turn", "degrees"),
    [
        (cv2.ROTATE_90_COUNTERCLOCKWISE, 90),
        (cv2.ROTATE_180, 180),
        (cv2.ROTATE_90_CLOCKWISE, 270),
    ],
)
def test_a_true_tag_is_obeyed_and_a_false_one_is_not(
    tmp_path: Path, nets: Nets, turn: int, degrees: int
) -> None:
    true = tagged(filmed(tmp_path / "true.mp4", turn), MATRIX[degrees])
    false = tagged(filmed(tmp_path / "false.mp4", None), MATRIX[degrees])
    found = {}
    for path in (true, false):
        ((_, ((record, rows),)),) = Engine(nets, Recipe()).run([Source(path.stem, path)])
        assert rows is not None
        assert (record.width, record.height) == (600, 400)
        assert record.valid_frames == 20
        found[path.stem] = record, rows
    assert (found["true"][0].rotation, found["true"][0].message) == (degrees, "")
    assert found["false"][0].rotation == 0
    assert "ignored" in found["false"][0].message
    moved = np.abs(found["true"][1].landmark - found["false"][1].landmark)
    assert np.median(moved) < 3  # the same faces, but for the encoder


def answered(path: Path, score: Callable[[tuple[int, ...]], float]) -> tuple[bool, int]:
    """Ask about a file; the surest level face of a picture is scored by its shape."""
    asking, looks, answer = tag_is_false(path), 0, None
    while True:
        try:
            request = asking.send(answer)
        except StopIteration as end:
            return end.value, looks
        looks += 1
        points = np.array([[[0, 0], [9, 1], [5, 5], [1, 9], [9, 9]]], np.float32)
        scores = np.array([score(request.image.shape)], np.float32)
        answer = Faces(np.array([[0, 0, 9, 9]], np.float32), scores, points)


def test_files_without_a_tag_are_not_looked_at(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 20)
    assert answered(path, lambda shape: 0.9) == (False, 0)


def test_doubt_is_for_the_tag(tmp_path: Path) -> None:
    frames = [np.zeros((48, 64, 3), np.uint8)] * 20
    path = tagged(write_video(tmp_path / "a.mp4", frames), MATRIX[90])
    assert answered(path, lambda shape: 0.9) == (False, 4)
    assert answered(path, lambda shape: 0.92 if shape[0] == 48 else 0.9) == (False, 4)
    assert answered(path, lambda shape: 0.95 if shape[0] == 48 else 0.9) == (True, 4)
