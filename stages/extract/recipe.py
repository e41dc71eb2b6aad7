"""The settings that decide what ends up in a store; two stores of one recipe are comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class WhichFaces(StrEnum):
    """Which faces of a clip are kept: the one with the largest summed area, or every track."""

    MAIN = "main"
    ALL = "all"


@dataclass(frozen=True)
class Recipe:
    """How clips are turned into rows.

    Attributes
    ----------
    every : int
        The detector runs on every so many-th frame (and on cuts, first and last frame, wherever
        neighbouring key frames disagree, and wherever landmarks leave their face, and sooner where
        frames are too large to hold as many: `tracks.HELD_BYTES`); boxes between are interpolated.
    detector_sizes : tuple of int
        Longest sides in pixels at which the detector looks.
    detector_threshold : float
        Least score of a face; a face is only followed if it reaches `tracks.SURE_SCORE` once.
    faces : {"main", "all"}
        Whether only the face with the largest summed area is kept, or every track.
    precision : str
        Arithmetic of the recognition net (`device.Precision`).
    crops : int
        Aligned pictures that are kept of each track; 0 for none.
    crop_size : int
        Their side in pixels.
    """

    every: int = 5
    detector_sizes: tuple[int, ...] = (640,)
    detector_threshold: float = 0.5
    faces: str = "main"
    precision: str = "f32"
    crops: int = 0
    crop_size: int = 224

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types, as stores keep it: with crops only where there are any."""
        kept = asdict(self)
        if not self.crops:
            del kept["crops"], kept["crop_size"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}
