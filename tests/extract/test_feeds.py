from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.extract.feeds import Channels, Feed


def test_blobs_are_rgb_and_scaled() -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 1] = (10, 20, 30)
    blob = Feed.normalised(127.5, 128.0).blob([picture, picture])
    assert blob.shape == (2, 3, 2, 3)
    assert blob.dtype == np.float32
    np.testing.assert_allclose(blob[1, :, 0, 1] * 128 + 127.5, [30, 20, 10], atol=1e-4)


def test_blobs_are_those_of_opencv() -> None:
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8))
    expected = cv2.dnn.blobFromImages(pictures, 1 / 128, (30, 20), (127.5,) * 3, swapRB=True)
    np.testing.assert_allclose(Feed.normalised(127.5, 128).blob(pictures), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_grey_is_luma_whether_given_in_colour_or_grey(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    feed = Feed(1 / 256, 0.0, Channels.GREY)
    blob = feed.blob([picture])
    luma = picture[..., ::-1].astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(blob[0, 0] * 256, luma, atol=0.6)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(feed.blob([np.asarray(grey, np.uint8)]), blob)


def test_bgr_stays_as_it_is() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    blob = Feed(1.0, 0.0, Channels.BGR).blob([picture])
    np.testing.assert_array_equal(blob[0], picture.transpose(2, 0, 1))
