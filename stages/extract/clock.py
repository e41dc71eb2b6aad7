"""Times of frames that increase, whatever a file says, and are the file's wherever they can be."""

from __future__ import annotations

import math

_MOMENT_S = 1e-4  # from a frame to one of the same time: within 1 ms of what the file says of both
_FRAMES_BACK = 2  # a time that is further back than this starts over
_REPEATS = 2  # a time that comes more often in a row is that of a clock which stands still


class Clock:
    """Gives each frame of a clip a time after the last one's.

    A frame without a time, or of a clock that stands still, comes a frame's duration after the one
    before. One whose time repeats, or goes back a little, comes a moment after it, so that the true
    times that follow stay true. Where times start over, as in files that were put one behind the
    other, they go on from the last one with their own distances, until the file's own times are
    ahead again.

    Attributes
    ----------
    last : float
        Time of the last frame in seconds, -inf before the first.
    repaired : int
        Frames whose time is not the file's.
    """

    def __init__(self) -> None:
        self.last = -math.inf
        self.repaired = 0
        self._told, self._same = math.nan, 0  # the file's last time, and how often in a row
        self._shift = 0.0  # what is added to the file's times since they started over

    def __call__(self, time: float, step: float) -> float:
        """Return the time of a frame that the file puts at ``time`` s, NaN if it does not say.

        ``step``: duration of a frame by the header, in s.
        """
        self._same = self._same + 1 if time == self._told else 1
        self._told = time
        if time > self.last:
            self._shift = 0.0
        else:
            self.repaired += 1
            time = self._repair(time, step)
        self.last = time
        return time

    def _repair(self, time: float, step: float) -> float:
        last = self.last
        if not math.isfinite(last):
            return 0.0
        if math.isnan(time) or self._same > _REPEATS:
            return last + step
        if time > last - _FRAMES_BACK * step:
            self._shift = 0.0
            return last + _MOMENT_S
        if time + self._shift <= last - _FRAMES_BACK * step:
            self._shift = last + step - time
        return max(time + self._shift, last + _MOMENT_S)
