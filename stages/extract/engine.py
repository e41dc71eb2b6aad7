"""One clip -> its rows: decode, follow, landmarks, alignment, vectors. No store, no processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.extract.detector import F32
from stages.extract.faces import align, roll
from stages.extract.nets import Nets
from stages.extract.recipe import Recipe
from stages.extract.tracks import Seen, Sighting, Tracklet, follow, join
from stages.extract.video import ClipInfo, ClipReader, Image, UnreadableClipError
from store.schema import ClipRecord, ClipRows, Status

# Aligned faces wait here until it is known which face is the main one; past this many (150 MB) all
# of them go through the net, which costs time but no memory.
_HELD_CROPS = 4096
_SAMPLED_CROPS = 4  # crops of a tracklet that are embedded to tell who it is


@dataclass
class _Sequence:
    """The frames of one tracklet; the first ``len(vectors)`` of them are embedded already."""

    tracklet: Tracklet
    frames: list[int] = field(default_factory=list)
    boxes: list[F32] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    landmarks: list[F32] = field(default_factory=list)
    crops: list[Image] = field(default_factory=list)
    vectors: list[tuple[F32, F32]] = field(default_factory=list)

    def embed(self, nets: Nets) -> int:
        """Embed the crops that wait; return how many."""
        waiting, self.crops = self.crops, []
        if waiting:
            self.vectors += zip(*nets.recognition(waiting), strict=True)
        return len(waiting)

    def identity(self, nets: Nets) -> npt.NDArray[np.floating]:
        """Return the mean embedding (512,) over a few frames."""
        if self.vectors:
            embeddings = np.stack([embedding for embedding, _ in self.vectors])
        else:
            picks = np.linspace(0, len(self.crops) - 1, _SAMPLED_CROPS).round().astype(int)
            embeddings, _ = nets.recognition([self.crops[i] for i in np.unique(picks)])
        return np.asarray(embeddings.mean(axis=0))


def extract_clip(
    clip: str, path: Path, nets: Nets, recipe: Recipe
) -> tuple[ClipRecord, ClipRows | None]:
    """Extract the main face of one clip.

    Parameters
    ----------
    clip : str
        Its id.
    path : Path
        The video or still image.
    nets : Nets
    recipe : Recipe

    Returns
    -------
    tuple of ClipRecord and (ClipRows or None)
        One row a decoded frame; None if nothing could be decoded. A file's faults end up in the
        record's status and message and are never raised.
    """
    stat = path.stat()
    identity: dict[str, Any] = {
        "content_sha256": _sha256(path),
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }
    try:
        with ClipReader(path) as reader:
            times, rows = _rows(reader, nets, recipe)
    except UnreadableClipError as error:
        return ClipRecord(clip, Status.UNREADABLE, message=str(error), **identity), None
    info = reader.info
    status, message = info.status, info.message
    if rows is None:
        rows = ClipRows.empty(times)
        status = Status.NO_FACE
        message = "; ".join(filter(None, ["no face in any frame", info.message]))
    return _record(clip, status, message, info, rows, identity), rows


def _record(
    clip: str,
    status: Status,
    message: str,
    info: ClipInfo,
    rows: ClipRows,
    identity: dict[str, Any],
) -> ClipRecord:
    return ClipRecord(
        clip,
        status,
        message=message,
        frames=len(rows),
        valid_frames=int(rows.valid.sum()),
        claimed_frames=info.claimed_frames,
        fps=info.fps,
        duration_s=info.duration_s,
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        decoder=info.decoder,
        details={"variable_frame_rate": True} if info.variable_frame_rate else {},
        **identity,
    )


def _rows(
    reader: ClipReader, nets: Nets, recipe: Recipe
) -> tuple[npt.NDArray[np.float64], ClipRows | None]:
    """Read a clip to its end; return its times (n,) and the main track's rows, if there is one."""
    times: list[float] = []
    sequences: dict[int, _Sequence] = {}
    held = 0
    cut_before: set[int] = set()  # tracklets that a cut ended
    last_seen: Seen | None = None
    for run in follow(reader, nets.detector.detect, recipe.every):
        for seen in run:
            if seen.cut and last_seen is not None:
                cut_before |= {s.tracklet for s in last_seen.sightings}
            last_seen = seen
            times.append(seen.timestamp)
        held += _look(run, sequences, nets)
        if held > _HELD_CROPS:
            held -= sum(sequence.embed(nets) for sequence in sequences.values())
    for name in cut_before & sequences.keys():
        sequences[name].tracklet.before_cut = True
    timestamp = np.asarray(times, np.float64)
    tracks = join(
        {name: sequence.tracklet for name, sequence in sequences.items()},
        lambda name: sequences[name].identity(nets),
    )
    if not tracks:
        return timestamp, None
    rows = ClipRows.empty(timestamp)
    for name in tracks[0]:
        sequence = sequences[name]
        sequence.embed(nets)
        at = np.asarray(sequence.frames)
        rows.embedding[at] = [embedding for embedding, _ in sequence.vectors]
        rows.appearance[at] = [appearance for _, appearance in sequence.vectors]
        rows.landmark[at] = np.stack(sequence.landmarks).reshape(len(at), -1)
        rows.box[at] = np.stack(sequence.boxes)
        rows.score[at] = sequence.scores
        rows.valid[at] = True
    return timestamp, rows


def _look(run: list[Seen], sequences: dict[int, _Sequence], nets: Nets) -> int:
    """Add landmarks and aligned faces of a run of frames; return the number of faces added."""
    jobs: list[tuple[Seen, Sighting]] = [(seen, s) for seen in run for s in seen.sightings]
    if not jobs:
        return 0
    landmarks = nets.landmark(
        [seen.image for seen, _ in jobs],
        np.stack([s.box for _, s in jobs]),
        roll(np.stack([s.points[:2] for _, s in jobs])),
    )
    added = 0
    for (seen, sighting), landmark in zip(jobs, landmarks, strict=True):
        if not _face_like(landmark, sighting.box, seen.image):
            continue
        if sighting.tracklet not in sequences:
            sequences[sighting.tracklet] = _Sequence(
                Tracklet(seen.index, seen.timestamp, sighting.box, after_cut=seen.cut)
            )
        sequence = sequences[sighting.tracklet]
        sequence.tracklet.add(seen, sighting)
        sequence.frames.append(seen.index)
        sequence.boxes.append(sighting.box)
        sequence.scores.append(sighting.score)
        sequence.landmarks.append(landmark)
        sequence.crops.append(align(seen.image, landmark))
        added += 1
    return added


def _face_like(landmark: F32, box: F32, image: Image) -> bool:
    """Whether the net saw a face: points that spread out, within a frame's size of the frame."""
    size = np.array(image.shape[1::-1], np.float32)
    inside = ((landmark > -size) & (landmark < 2 * size)).all()  # False for NaN as well
    return bool(inside and np.ptp(landmark, axis=0).min() > 1 and (box[2:] > box[:2]).all())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
