"""What a clip asks of the nets while it is extracted.

A clip is a generator that yields requests and is sent their answers, so that one engine can hold
several clips and run what they ask for in common batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.extract.video import Image


@dataclass(frozen=True)
class Detect:
    """Find the faces of a picture -> `Faces`."""

    image: Image


@dataclass(frozen=True)
class FindLandmarks:
    """Look at m faces once -> landmarks (m, 68, 2) float32 and better crops (m, 4) float64.

    ``images``: m pictures; ``crop``: (m, 4) float64, see landmarks.py.
    """

    images: Sequence[Image]
    crop: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Embed:
    """Embed m aligned faces (112, 112, 3) -> embedding and appearance, (m, 512) float32 each."""

    crops: Sequence[Image]


Request = Detect | FindLandmarks | Embed
Answer = Any
