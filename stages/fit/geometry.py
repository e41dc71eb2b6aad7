"""Pose and expression of a face from its 68 landmarks (iBUG-68), a number a frame each.

All are closed forms on a few points under weak perspective (a small face seen from afar: depth only
shifts, it does not shrink), in the face's own axes and its own size, so that where the face is, how
large, and how it is rolled makes no difference. They are measures for asking whether something goes
with pose or expression, not a head tracker: landmarks of two dimensions hold neither a nodding head
nor a person's own proportions apart from the rest. What that does to each is said there.

The unit of length is the distance between the eyes, each the mean of its six points, divided by
cos(yaw): the distance that a frontal view would show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.fit.landmarks import FIRST_EYE, SECOND_EYE

FloatArray = npt.NDArray[np.float64]

# How far the tip of the nose (point 30) lies before the eyes, in distances between them: of the
# mean shape of 68 points in three dimensions that insightface fits poses with (meanshape_68.pkl).
NOSE_DEPTH = 0.534
NOSE_TIP, NOSE_BASE = 30, 33
LIP_CORNERS = (48, 54)
INNER_UPPER, INNER_LOWER = [61, 62, 63], [67, 66, 65]  # of the lips' inner edges, pair by pair


@dataclass(frozen=True)
class Geometry:
    """Pose and expression in n frames, (n,) float64 each; NaN where undefined.

    Attributes
    ----------
    yaw : degrees, -90 to 90
        Turn of the head, positive towards the right of the picture: atan of the nose tip's shift
        from the middle between the eyes, over NOSE_DEPTH distances between the eyes. Exact for a
        head of that proportion at any yaw, and any pitch that follows it; another nose scales it
        (a third longer: 45 degrees read as 53), and an asymmetric face adds a constant.
    roll : degrees, above -180 to 180
        Tilt of the line through both eyes, positive clockwise in the picture. Exact in a frontal
        view; yaw and pitch at once look like some roll.
    mouth_opening : distances between the eyes, 0 (closed) to about 1
        Mean height between the three pairs of points on the lips' inner edges (the vertical part of
        the mouth's aspect ratio, after the eye's of Soukupova and Cech, CVWW 2016), along the
        face's own axis. A nodding head shrinks it by the cosine of the pitch; trackers leave a
        closed mouth some hundredths open or crossed.
    smile : distances between the eyes, about -0.4 to 0.4, no 0 of its own
        How far the lips' corners are drawn out and up, as the zygomatic major draws them in a smile
        (action unit 12 of Ekman and Friesen's FACS: obliquely upwards, taken as 45 degrees): half
        the mouth's width minus the corners' depth below the base of the nose, over sqrt(2). It
        rises with a smile from whatever a person's mouth has at rest, so compare frames of one
        person; nodding down and opening the jaw lower or raise it a little, and it does not tell a
        smile from a stretch of the mouth (action unit 20).
    """

    yaw: FloatArray
    roll: FloatArray
    mouth_opening: FloatArray
    smile: FloatArray


def measure_geometry(landmark: npt.NDArray[np.floating]) -> Geometry:
    """Measure faces, see Geometry.

    Parameters
    ----------
    landmark : (n, 136) floating
        x0, y0, x1, y1, ... in pixels as in a store, y downwards; not normalised.

    Returns
    -------
    Geometry
        NaN in frames whose landmarks are not finite or whose eyes coincide (a full profile).
    """
    points = np.asarray(landmark, np.float64).reshape(-1, 68, 2)
    first, second = points[:, FIRST_EYE].mean(axis=1), points[:, SECOND_EYE].mean(axis=1)  # (n, 2)
    across = second - first
    distance = np.hypot(across[:, 0], across[:, 1])  # (n,)
    distance = np.where(distance > 1e-6, distance, np.nan)
    cos, sin = across[:, 0, None] / distance[:, None], across[:, 1, None] / distance[:, None]
    centred = points - ((first + second) / 2)[:, None]
    x = (centred[..., 0] * cos + centred[..., 1] * sin) / distance[:, None]  # (n, 68)
    y = (centred[..., 1] * cos - centred[..., 0] * sin) / distance[:, None]
    yaw = np.arctan2(x[:, NOSE_TIP], NOSE_DEPTH)
    # Widths shrink with yaw as the distance between the eyes does; heights stay.
    y = y * np.cos(yaw)[:, None]
    opening = (y[:, INNER_LOWER] - y[:, INNER_UPPER]).mean(axis=1)
    left, right = LIP_CORNERS
    width = x[:, right] - x[:, left]
    depth = (y[:, left] + y[:, right]) / 2 - y[:, NOSE_BASE]
    return Geometry(
        yaw=np.degrees(yaw),
        roll=np.degrees(
            np.where(np.isfinite(distance), np.arctan2(across[:, 1], across[:, 0]), np.nan)
        ),
        mouth_opening=opening,
        smile=(width / 2 - depth) / np.sqrt(2),
    )
