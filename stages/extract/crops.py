"""Which aligned faces of a track are kept as pictures, chosen while its length is not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from stages.extract.batches import F32
from stages.extract.faces import align
from stages.extract.video import Image
from store.schema import ClipCrops

SPARE = 4  # times as many crops as are wanted may wait for a tracklet's end
HELD_BYTES = 1 << 28  # of all tracklets of one clip


class Reservoir:
    """Crops of evenly spaced frames of one tracklet: all at first, then every 2nd, 4th, 8th, ...

    Holds at most ``SPARE * wanted`` crops, and once it is thinned at least half as many, so that
    ``wanted`` of them can be chosen a quarter of their distance or less from where they should be.

    Parameters
    ----------
    wanted : int
        Crops that a track shall have.
    size : int
        Their side in pixels.
    """

    def __init__(self, wanted: int, size: int) -> None:
        self._most, self._size = SPARE * wanted, size
        self._stride, self._offered = 1, 0
        self.frames: list[int] = []
        self.images: list[Image] = []

    def __len__(self) -> int:
        return len(self.frames)

    def offer(self, frame: int, image: Image, landmark: F32) -> None:
        """Cut a face out of a picture (h, w, 3) BGR by its landmarks (68, 2), if it is its turn."""
        if self._offered % self._stride == 0:
            self.frames.append(frame)
            self.images.append(align(image, landmark, self._size)[..., ::-1])
            if len(self) > self._most:
                self.thin()
        self._offered += 1

    def thin(self) -> None:
        """Let go of every second crop."""
        self.frames, self.images = self.frames[::2], self.images[::2]
        self._stride *= 2


def bound(reservoirs: Iterable[Reservoir], size: int) -> None:
    """Thin the fullest reservoirs of a clip until all of them together fit into `HELD_BYTES`.

    Only clips with more faces than 256 MiB have room for come to that (at 8 crops of 224 pixels:
    more than 55 tracklets of 32 frames); tracks may then get fewer crops than were asked for, and
    a tracklet keeps one at least.
    """
    everyone = list(reservoirs)
    most = HELD_BYTES // (3 * size * size)
    held = sum(map(len, everyone))
    while held > most:
        fullest = max(everyone, key=len)  # the first of them, so that runs agree
        before = len(fullest)
        if before < 2:
            return
        fullest.thin()
        held -= before - len(fullest)


def choose(
    reservoirs: Sequence[Reservoir], valid: npt.NDArray[np.intp], wanted: int
) -> ClipCrops | None:
    """Return the crops of a track: nearest to the middles of ``wanted`` equal stretches of it.

    Parameters
    ----------
    reservoirs : sequence of Reservoir
        Of the track's tracklets.
    valid : (n,) int
        The track's frames that hold its face, ascending; a track of n <= ``wanted`` gets them all.
    wanted : int
        How many crops.
    """
    held = {f: image for r in reservoirs for f, image in zip(r.frames, r.images, strict=True)}
    frames = np.array(sorted(held), np.int64)
    count = min(wanted, len(frames))
    if not count:
        return None
    at = np.searchsorted(valid, frames)  # which of the valid frames each of them is
    targets = (np.arange(count) + 0.5) * len(valid) / count - 0.5
    picks: list[int] = []
    for i, target in enumerate(targets):
        first = picks[-1] + 1 if picks else 0
        last = len(frames) - (count - i)  # leaves one for each of the others
        picks.append(first + int(np.argmin(np.abs(at[first : last + 1] - target))))
    chosen = frames[picks]
    return ClipCrops(chosen, np.stack([held[int(f)] for f in chosen]))
