"""Pictures of faces for image models: which part of a crop is seen, and how it is varied."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """What an image model is given of a crop, and what is varied while it trains.

    Source: HMTNet's recipe (repository lucasxlu/HMTNet): crops of 224 from 256 pixels, rotations
    of up to 30 degrees, a colour jitter that its defaults switch off. Flips are ours, and so are
    the defaults here: aligned faces need not be turned as far.

    Attributes
    ----------
    size : int
        Side that the model reads, pixels.
    margin : float
        Pictures are scaled to ``size * (1 + margin)``, of which a window of ``size`` is seen.
    flip : bool
        Left for right, in half of the pictures.
    rotation : float
        Up to so many degrees either way.
    colour : float
        Brightness, contrast and saturation change by up to this share either way.
    """

    size: int
    margin: float = 1 / 7
    flip: bool = True
    rotation: float = 10.0
    colour: float = 0.2

    @property
    def full(self) -> int:
        """Side of a whole picture before a window is cut out of it, pixels."""
        return round(self.size * (1 + self.margin))

    def scaled(self, images: Image) -> Image:
        """(k, S, S, 3) -> (k, full, full, 3): whole pictures, as they are kept and tested on."""
        if images.shape[1] == self.full or not len(images):
            return np.ascontiguousarray(images).reshape(len(images), self.full, self.full, 3)
        way = cv2.INTER_AREA if images.shape[1] > self.full else cv2.INTER_LINEAR
        whole = [cv2.resize(image, (self.full, self.full), interpolation=way) for image in images]
        return np.stack(whole).astype(np.uint8, copy=False)

    def varied(self, image: Image, rng: np.random.Generator) -> Image:
        """(full, full, 3) -> (size, size, 3): a random window, turned, mirrored, recoloured.

        The same picture and the same state of ``rng`` give the same result. What lies outside the
        picture repeats its edge.
        """
        spare = self.full - self.size
        x, y = rng.integers(spare + 1, size=2)
        angle = rng.uniform(-self.rotation, self.rotation)
        mirrored = self.flip and rng.random() < 0.5
        gains = rng.uniform(1 - self.colour, 1 + self.colour, size=3)
        if angle:
            middle = (float(x + (self.size - 1) / 2), float(y + (self.size - 1) / 2))
            turn = cv2.getRotationMatrix2D(middle, angle, 1.0)
            turn[:, 2] -= (x, y)
            seen = cv2.warpAffine(
                image,
                turn,
                (self.size, self.size),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            ).astype(np.uint8, copy=False)
        else:
            seen = image[y : y + self.size, x : x + self.size]
        if mirrored:
            seen = seen[:, ::-1]
        if self.colour:
            seen = _recoloured(seen, *gains)
        return np.ascontiguousarray(seen)


def _recoloured(image: Image, brightness: float, contrast: float, saturation: float) -> Image:
    """Scale an RGB picture: all of it, its distance from its mean grey, and from each pixel's."""
    x = image.astype(np.float32) * np.float32(brightness)
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    x = grey[..., None] + np.float32(saturation) * (x - grey[..., None])
    x = grey.mean() + np.float32(contrast) * (x - grey.mean())
    found: Image = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return found
