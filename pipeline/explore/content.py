"""What there is to see of a store: its clips, where each lies among the others, its curves."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from stages.fit.geometry import measure_geometry
from store.progress import Progress, unheard
from store.reader import Store
from store.schema import ClipRows, Status
from store.several import Stores

SEED = 0  # of UMAP, so that a store looks the same every time


@dataclass(frozen=True)
class Content:
    """The main track of every clip of a store.

    Attributes
    ----------
    store : Store or Stores
    clips : dict
        Column by name, a value a clip: clip, status, frames, valid (share of frames with the
        face, 0 to 1), seconds, fps, message.
    embedding : (n, 512) float32
        Mean over a clip's frames with a face, scaled to length 1; NaN where there is none.
    """

    store: Store | Stores
    clips: dict[str, list[Any]]
    embedding: npt.NDArray[np.float32]

    def project(self, method: str) -> npt.NDArray[np.float64]:
        """Return (n, 2) coordinates of the clips by ``pca`` or ``umap``; NaN where no face is."""
        out = np.full((len(self.embedding), 2), np.nan)
        shown = np.isfinite(self.embedding).all(axis=1)
        if shown.sum() < 3:
            return out
        if method == "umap" and shown.sum() > 4:
            from umap import UMAP

            near = min(15, int(shown.sum()) - 1)
            out[shown] = UMAP(n_neighbors=near, metric="cosine", random_state=SEED).fit_transform(
                self.embedding[shown]
            )
        else:
            out[shown] = PCA(2, random_state=SEED).fit_transform(self.embedding[shown])
        return out

    def track(self, clip: str) -> dict[str, npt.NDArray[Any]]:
        """Return a clip's main track, n frames; NaN where there is no face.

        time (n,) seconds, valid (n,) bool, yaw (n,) degrees, mouth (n,) distances between the eyes
        (see stages.fit.geometry), box (n,) side of the square of the box's area, pixels; and as
        the store has them corners (n, 4) and landmark (n, 136), pixels of the upright frame.

        Raises
        ------
        ClipNotFoundError
            There is no such clip.
        """
        if self.store.record(clip).status.has_rows:
            rows = self.store.clip(clip, 0, ["timestamp", "valid", "landmark", "box"])
        else:
            rows = ClipRows.empty(np.empty(0)).as_dict()
        face = measure_geometry(rows["landmark"])
        x0, y0, x1, y1 = np.asarray(rows["box"], np.float64).T
        return {
            "time": rows["timestamp"],
            "valid": rows["valid"],
            "yaw": face.yaw,
            "mouth": face.mouth_opening,
            "box": np.sqrt(np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)),
            "corners": rows["box"],
            "landmark": rows["landmark"],
        }

    def curves(self, clip: str) -> dict[str, list[float | None]]:
        """Return what of `track` is one number a frame, None for NaN."""
        return {k: _values(v) for k, v in self.track(clip).items() if v.ndim == 1}

    def size(self, clip: str) -> tuple[int, int]:
        """Return width and height of a clip's frames; if not known, of the part with faces."""
        record = self.store.record(clip)
        if record.width and record.height:
            return record.width, record.height
        far = self.track(clip)["corners"][:, 2:]
        seen = far[np.isfinite(far).all(axis=1)]
        width, height = np.ceil(seen.max(axis=0, initial=1.0)).astype(int)
        return int(width), int(height)


def methods() -> list[str]:
    """Return the projections that this environment has."""
    return ["pca", *(["umap"] if importlib.util.find_spec("umap") else [])]


def read(opened: Store | Stores, progress: Progress = unheard) -> Content:
    """Read what is shown of all clips; ``progress`` is told of the clips."""
    records = [record for record in opened.records() if record.track == 0]
    means = np.full((len(records), 512), np.nan, np.float32)
    for k, record in enumerate(records):
        if record.status.has_rows and record.valid_frames:
            rows = opened.clip(record.clip, 0, ["embedding", "valid"])
            mean = rows["embedding"][rows["valid"].astype(bool)].astype(np.float32).mean(axis=0)
            means[k] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        progress(k + 1, len(records))
    return Content(
        opened,
        {
            "clip": [r.clip for r in records],
            "status": [str(Status(r.status)) for r in records],
            "frames": [r.frames for r in records],
            "valid": [round(r.valid_frames / r.frames, 3) if r.frames else 0.0 for r in records],
            "seconds": [None if r.duration_s is None else round(r.duration_s, 2) for r in records],
            "fps": [None if r.fps is None else round(r.fps, 2) for r in records],
            "message": [r.message for r in records],
        },
        means,
    )


def _values(values: npt.NDArray[Any]) -> list[float | None]:
    numbers = np.asarray(values, np.float64).round(4)
    return [float(v) if np.isfinite(v) else None for v in numbers]
