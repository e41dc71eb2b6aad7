from __future__ import annotations

import numpy as np

from stages.fit.pictures import Pictures

STILL = {"flip": False, "rotation": 0.0, "colour": 0.0}


def picture(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def test_crops_are_scaled_to_the_size_and_its_margin() -> None:
    asked = Pictures(64, margin=1 / 8)
    assert asked.full == 72
    flat = np.full((2, 144, 144, 3), (10, 200, 30), np.uint8)
    assert (asked.scaled(flat) == (10, 200, 30)).all() and asked.scaled(flat).shape[1:3] == (72, 72)
    same = picture(72)[None]
    assert (asked.scaled(same) == same).all()
    assert asked.scaled(same[:0]).shape == (0, 72, 72, 3)
    checks = np.kron(np.indices((72, 72)).sum(axis=0) % 2 * 200, np.ones((2, 2)))
    small = asked.scaled(np.repeat(checks[None, ..., None], 3, axis=3).astype(np.uint8))
    assert (small[0, ..., 0] == np.indices((72, 72)).sum(axis=0) % 2 * 200).all()


def test_without_change_it_is_a_window_and_every_window_comes() -> None:
    asked, whole = Pictures(5, margin=0.4, **STILL), picture(7)
    windows = {(y, x): whole[y : y + 5, x : x + 5].tobytes() for y in range(3) for x in range(3)}
    rng = np.random.default_rng(0)
    seen = {asked.varied(whole, rng).tobytes() for _ in range(200)}
    assert seen == set(windows.values())


def test_flips_come_in_half_of_the_pictures() -> None:
    asked, whole = Pictures(6, margin=0.0, **{**STILL, "flip": True}), picture(6)
    rng = np.random.default_rng(0)
    seen = [asked.varied(whole, rng) for _ in range(400)]
    mirrored = sum(np.array_equal(x, whole[:, ::-1]) for x in seen)
    assert sum(np.array_equal(x, whole) for x in seen) == 400 - mirrored
    assert 160 < mirrored < 240


def test_rotation_keeps_the_middle_and_turns_the_rest() -> None:
    asked = Pictures(33, margin=0.0, **{**STILL, "rotation": 30.0})
    cross = np.zeros((33, 33, 3), np.uint8)
    cross[16, 17:] = 255  # a hand that points right
    angles = []
    for seed in range(40):
        turned = asked.varied(cross, np.random.default_rng(seed))
        y, x = np.nonzero(turned[..., 0] > 60)
        angles.append(np.degrees(np.arctan2(16 - y.mean(), x.mean() - 16)))
        assert np.hypot(y - 16, x - 16).min() < 3
    assert -31 < min(angles) < -15 and 15 < max(angles) < 31


def test_colours_change_as_they_say_and_no_further() -> None:
    asked = Pictures(4, margin=0.0, **{**STILL, "colour": 0.2})
    grey = np.full((4, 4, 3), 100, np.uint8)
    found = [int(asked.varied(grey, np.random.default_rng(s))[0, 0, 0]) for s in range(60)]
    assert 80 <= min(found) < 85 and 115 < max(found) <= 120  # brightness alone shows in grey
    white = np.full((4, 4, 3), 255, np.uint8)
    assert max(int(asked.varied(white, np.random.default_rng(s)).max()) for s in range(9)) == 255


def test_the_same_state_gives_the_same_picture() -> None:
    asked, whole = Pictures(16), picture(18)
    first, again, other = (asked.varied(whole, np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
