from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.fit.landmarks import normalise_landmarks
from tests.fit.fit_clips import face


def clip(n: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = np.repeat(face(rng)[None], n, axis=0) + rng.normal(size=(n, 68, 2))
    return points.reshape(n, 136)


def eyes(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = row.reshape(68, 2)
    return points[36:42].mean(axis=0), points[42:48].mean(axis=0)


def move(
    landmark: np.ndarray, angle: float, scale: float, shift: tuple[float, float]
) -> np.ndarray:
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    turned = landmark.reshape(-1, 68, 2) @ np.array([[c, s], [-s, c]]) + shift
    return turned.reshape(-1, 136)


def test_frame_mode_puts_the_eyes_of_every_frame_in_place() -> None:
    out = normalise_landmarks(clip(), np.ones(9, bool), "frame")
    for row in out:
        left, right = eyes(row)
        np.testing.assert_allclose(left, [-0.5, 0], atol=1e-5)
        np.testing.assert_allclose(right, [0.5, 0], atol=1e-5)


@pytest.mark.parametrize("mode", ["clip", "frame"])
@given(st.floats(-3, 3), st.floats(0.1, 10), st.floats(-500, 500))
def test_place_size_and_roll_of_the_clip_do_not_matter(
    mode: str, angle: float, scale: float, shift: float
) -> None:
    valid = np.ones(9, bool)
    a = normalise_landmarks(clip(), valid, mode)  # type: ignore[arg-type]
    b = normalise_landmarks(move(clip(), angle, scale, (shift, -shift)), valid, mode)  # type: ignore[arg-type]
    if mode == "frame":
        np.testing.assert_allclose(a, b, atol=1e-4)
    else:  # the median of each coordinate turns only nearly with the clip
        np.testing.assert_allclose(a, b, atol=0.05)


def test_head_motion_survives_in_clip_mode_and_not_in_frame_mode() -> None:
    still = np.repeat(clip(1), 9, axis=0)
    nod = still.copy()
    nod[:, 1::2] += 6 * np.sin(np.arange(9))[:, None]
    valid = np.ones(9, bool)
    assert np.ptp(normalise_landmarks(nod, valid, "clip")[:, 1]) > 0.15
    assert np.ptp(normalise_landmarks(nod, valid, "frame")[:, 1]) < 1e-5


def test_one_wild_frame_does_not_move_the_others() -> None:
    landmark, valid = clip(), np.ones(9, bool)
    wild = landmark.copy()
    wild[4] = wild[4] * 7 + 900
    a, b = normalise_landmarks(landmark, valid), normalise_landmarks(wild, valid)
    others = np.arange(9) != 4
    np.testing.assert_allclose(a[others], b[others], atol=0.05)


def test_invalid_frames_are_0_and_do_not_count() -> None:
    landmark = clip()
    valid = np.ones(9, bool)
    valid[[2, 5]] = False
    landmark[~valid] = np.nan
    out = normalise_landmarks(landmark, valid)
    assert np.isfinite(out).all() and not out[~valid].any()
    np.testing.assert_array_equal(
        out[valid], normalise_landmarks(landmark[valid], np.ones(7, bool))
    )
    assert not normalise_landmarks(landmark, np.zeros(9, bool)).any()


@pytest.mark.parametrize("mode", ["clip", "frame"])
def test_eyes_that_coincide_still_give_a_finite_face(mode: str) -> None:
    landmark = clip().reshape(-1, 68, 2)
    landmark[:, 36:48] = (200, 140)
    out = normalise_landmarks(landmark.reshape(-1, 136), np.ones(9, bool), mode)  # type: ignore[arg-type]
    assert np.isfinite(out).all()
    assert 0.5 < np.sqrt((out**2).reshape(-1, 68, 2).sum(axis=2).mean()) < 2
    point = np.full((3, 136), 7.0)
    assert not normalise_landmarks(point, np.ones(3, bool), mode).any()  # type: ignore[arg-type]


def test_none_keeps_pixels_and_other_modes_are_refused() -> None:
    np.testing.assert_allclose(
        normalise_landmarks(clip(), np.ones(9, bool), "none"), clip(), rtol=1e-6
    )
    with pytest.raises(ValueError, match="clip"):
        normalise_landmarks(clip(), np.ones(9, bool), "video")  # type: ignore[arg-type]
