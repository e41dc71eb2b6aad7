from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from store.schema import Status
from tests.testing.av_clips import read, write_av
from tests.testing.clips import tagged


def lopsided() -> np.ndarray:
    """Draw a picture that differs from itself under every turn and mirror."""
    image = np.full((48, 64, 3), 20, np.uint8)
    image[8:40, 8:16] = image[8:16, 8:48] = 220
    image[36:44, 48:60] = (220, 60, 60)
    return image


# Display matrix (ISO/IEC 14496-12: x' = a x + c y, y' = b x + d y) -> degrees, mirrored, and what
# it does to a picture.
ORIENTATIONS: dict[
    tuple[int, int, int, int], tuple[int, bool, Callable[[np.ndarray], np.ndarray]]
] = {
    (1, 0, 0, 1): (0, False, lambda p: p),
    (0, 1, -1, 0): (90, False, lambda p: np.rot90(p, -1)),
    (-1, 0, 0, -1): (180, False, lambda p: np.rot90(p, 2)),
    (0, -1, 1, 0): (270, False, lambda p: np.rot90(p, 1)),
    (-1, 0, 0, 1): (0, True, lambda p: p[:, ::-1]),
    (1, 0, 0, -1): (180, True, lambda p: p[::-1]),
    (0, 1, 1, 0): (270, True, lambda p: p.transpose(1, 0, 2)),
    (0, -1, -1, 0): (90, True, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
}


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    from PIL import Image as PilImage

    tall = np.zeros((40, 20, 3), np.uint8)
    tall[:10] = 255
    exif = PilImage.Exif()
    exif[0x0112] = 3  # stored upside down
    path = tmp_path / "turned.png"
    PilImage.fromarray(np.rot90(tall, 2).copy()).save(path, exif=exif)
    _, _, images = read(path)
    np.testing.assert_array_equal(images[0], tall)


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_pictures_come_out_as_a_player_shows_them(
    tmp_path: Path, matrix: tuple[int, int, int, int], either_decoder: str
) -> None:
    degrees, mirrored, turn = ORIENTATIONS[matrix]
    path = tagged(write_av(tmp_path / "a.mp4", [lopsided()] * 3), matrix)
    reader, _, images = read(path)
    assert reader.info.decoder.startswith(either_decoder)
    expected = turn(lopsided())
    assert (reader.info.rotation, reader.info.mirrored) == (degrees, mirrored)
    assert images[0].shape == expected.shape
    assert (reader.info.height, reader.info.width) == expected.shape[:2]
    assert np.abs(images[-1].astype(int) - expected).mean() < 8


def test_the_matrix_of_the_whole_movie_counts_too(tmp_path: Path, either_decoder: str) -> None:
    path = write_av(tmp_path / "a.mp4", [lopsided()] * 3)
    path = tagged(tagged(path, (0, 1, -1, 0)), (-1, 0, 0, 1), b"mvhd")  # turned, then mirrored
    _, _, images = read(path)
    expected = np.rot90(lopsided(), -1)[:, ::-1]
    assert np.abs(images[0].astype(int) - expected).mean() < 8


def test_a_matrix_that_nobody_films_with_is_left_alone(tmp_path: Path, either_decoder: str) -> None:
    for matrix in ((1, 1, -1, 1), (0, 0, 0, 0), (0, 0, 0, 1)):
        path = tagged(write_av(tmp_path / "a.mp4", [lopsided()] * 3), matrix)
        reader, _, images = read(path)
        assert reader.info.status is Status.OK
        assert images[0].shape == (48, 64, 3), matrix
        assert np.abs(images[0].astype(int) - lopsided()).mean() < 8, matrix


@pytest.mark.parametrize(
    ("aspect", "width"),
    [
        (Fraction(4, 3), 85),
        (Fraction(1, 2), 32),
        (Fraction(224, 225), 64),  # what a scaler leaves when it rounds to even numbers
        (Fraction(200, 1), 64),
    ],
)
def test_pixels_come_out_square(
    tmp_path: Path, aspect: Fraction, width: int, either_decoder: str
) -> None:
    path = write_av(tmp_path / "a.mkv", [lopsided()] * 3, aspect=aspect)
    reader, _, images = read(path)
    assert images[0].shape == (48, width, 3)
    assert (reader.info.width, reader.info.height) == (width, 48)
    wide = cv2.resize(lopsided(), (width, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(images[0].astype(int) - wide).mean() < 12


def test_pixels_are_made_square_before_the_turn(tmp_path: Path, either_decoder: str) -> None:
    path = write_av(tmp_path / "a.mp4", [lopsided()] * 3, aspect=Fraction(2), codec="libx264")
    _, _, images = read(tagged(path, (0, 1, -1, 0)))
    assert images[0].shape == (128, 48, 3)
