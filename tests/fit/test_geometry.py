"""Pose and expression of planted faces: heads of known proportions, turned by known angles."""

from __future__ import annotations

import numpy as np
import pytest

from stages.fit.geometry import NOSE_DEPTH, measure_geometry

Points = np.ndarray


def head(
    nose: float = NOSE_DEPTH, opening: float = 0.0, out: float = 0.0, up: float = 0.0
) -> Points:
    """68 points (68, 3) of a frontal head, eyes 1 apart around the origin, y down, z to the viewer.

    ``opening``: height between the lips' inner edges; ``out``, ``up``: how far the corners of the
    mouth are drawn. Points that nothing reads lie at random.
    """
    points = np.random.default_rng(0).normal(size=(68, 3))
    turn = np.radians([0, 60, 120, 180, 240, 300])
    ring = np.stack([0.15 * np.cos(turn), 0.06 * np.sin(turn), 0 * turn], axis=1)
    points[36:42], points[42:48] = ring - (0.5, 0, 0), ring + (0.5, 0, 0)
    points[30], points[33] = (0, 0.35, nose), (0, 0.5, 0.2)
    points[48], points[54] = (-0.4 - out, 0.9 - up, 0), (0.4 + out, 0.9 - up, 0)
    for k, (upper, lower) in enumerate(((61, 67), (62, 66), (63, 65))):
        points[upper] = (0.1 * (k - 1), 0.9, 0.1)
        points[lower] = (0.1 * (k - 1), 0.9 + opening, 0.1)
    return points


def seen(
    points: Points, yaw: float = 0, roll: float = 0, pitch: float = 0, size: float = 80
) -> Points:
    """Turn a head by yaw, then pitch, then roll (degrees), and look at it from afar: (1, 136)."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    flat = (points @ (about_z @ about_x @ about_y).T)[:, :2]
    return (flat * size + (310, 170)).reshape(1, 136)


@pytest.mark.parametrize("yaw", [-75.0, -30.0, 0.0, 12.0, 60.0])
@pytest.mark.parametrize("roll", [-170.0, -20.0, 0.0, 95.0])
def test_a_turned_and_tilted_head_is_read_exactly_whatever_its_size(
    yaw: float, roll: float
) -> None:
    for size in (3, 400):
        found = measure_geometry(seen(head(opening=0.25, out=0.1, up=0.05), yaw, roll, size=size))
        assert found.yaw[0] == pytest.approx(yaw, abs=1e-6)
        assert found.roll[0] == pytest.approx(roll, abs=1e-6)
        assert found.mouth_opening[0] == pytest.approx(0.25)
        # half of the width 0.8 + 2 * 0.1, less the depth 0.9 - 0.05 - 0.5 below the nose's base
        assert found.smile[0] == pytest.approx((0.5 - 0.35) / 2**0.5)


def test_signs_are_those_of_the_picture() -> None:
    right = seen(head(), yaw=20).reshape(68, 2)
    assert right[30, 0] > right[36:48, 0].mean()  # the nose moved to the right
    clockwise = seen(head(), roll=20).reshape(68, 2)
    assert clockwise[45, 1] > clockwise[36, 1]  # the eye on the right is lower


def test_a_smile_rises_and_an_open_mouth_alone_is_none() -> None:
    rest, out, up = (measure_geometry(seen(head(**k))).smile[0]
                     for k in ({}, {"out": 0.1}, {"up": 0.1}))  # fmt: skip
    assert out - rest == pytest.approx(0.1 / 2**0.5) == pytest.approx(up - rest)
    assert measure_geometry(seen(head(opening=0.5))).smile[0] == pytest.approx(rest)
    assert measure_geometry(seen(head())).mouth_opening[0] == pytest.approx(0)


def test_limits_are_as_documented() -> None:
    longer = measure_geometry(seen(head(nose=NOSE_DEPTH * 4 / 3), yaw=45))
    assert longer.yaw[0] == pytest.approx(53.13, abs=0.01)
    nodding = measure_geometry(seen(head(opening=0.3), yaw=25, pitch=30))
    assert nodding.yaw[0] != pytest.approx(25, abs=0.01) or nodding.roll[0] != pytest.approx(0)
    straight = measure_geometry(seen(head(opening=0.3), pitch=30))
    assert straight.yaw[0] == pytest.approx(0, abs=1e-6)
    assert straight.mouth_opening[0] == pytest.approx(0.3 * np.cos(np.radians(30)))


def test_frames_without_landmarks_or_with_one_eye_are_nan() -> None:
    rows = np.concatenate([seen(head(), yaw=90), np.full((1, 136), np.nan), np.zeros((1, 136)),
                           seen(head(), yaw=10)])  # fmt: skip
    found = measure_geometry(rows)
    for values in vars(found).values():
        assert values.shape == (4,) and values.dtype == np.float64
        assert np.isnan(values[:3]).all() and np.isfinite(values[3])
    assert measure_geometry(np.zeros((0, 136), np.float32)).yaw.shape == (0,)
