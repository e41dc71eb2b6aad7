"""One clip -> the rows of its tracks: follow, landmarks, alignment, vectors, main face.

A generator (requests.py): it decodes and decides, the engine runs the nets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.extract.batches import F32
from stages.extract.crops import Reservoir, bound, choose
from stages.extract.faces import align
from stages.extract.locate import Locator
from stages.extract.recipe import Recipe
from stages.extract.requests import Answer, Embed, Request
from stages.extract.tags import tag_is_false
from stages.extract.tracks import Follower, Seen, Tracklet, join, strangers
from stages.extract.video import (
    ClipInfo,
    ClipReader,
    Frame,
    Image,
    UnreadableClipError,
    check_regular,
)
from store.schema import ClipRecord, ClipRows, Status

Result = tuple[ClipRecord, ClipRows | None]
Asking = Generator[Request, Answer, None]

# Aligned faces wait here until it is known which face is the main one. Past this many (77 MB) those
# of the largest tracklets so far go through the net, until half of the places are free: the main
# face is among them as a rule, so little is embedded in vain.
HELD_CROPS = 2048
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
    pictures: Reservoir | None = None

    def embed(self) -> Asking:
        """Embed the crops that wait."""
        waiting, self.crops = self.crops, []
        if waiting:
            embedding, appearance = yield Embed(waiting)
            self.vectors += zip(embedding, appearance, strict=True)

    def identity(self) -> Generator[Request, Answer, npt.NDArray[np.floating]]:
        """Return the mean embedding (512,) over a few frames."""
        if self.vectors:
            embeddings = np.stack([embedding for embedding, _ in self.vectors])
        else:
            picks = np.linspace(0, len(self.crops) - 1, _SAMPLED_CROPS).round().astype(int)
            embeddings, _ = yield Embed([self.crops[i] for i in np.unique(picks)])
        return np.asarray(embeddings.mean(axis=0))


class ClipTask:
    """The extraction of one clip, as a generator of requests.

    Parameters
    ----------
    clip : str
        Its id.
    path : Path
        The video or still image.
    recipe : Recipe
    ahead : callable
        Iterates over frames, maybe in a thread; closed before the file is.
    """

    def __init__(
        self,
        clip: str,
        path: Path,
        recipe: Recipe,
        ahead: Callable[[Iterable[Frame]], Generator[Frame]],
    ) -> None:
        self.clip, self.path, self.recipe = clip, path, recipe
        self._ahead = ahead
        self._sequences: dict[int, _Sequence] = {}
        self._times: list[float] = []
        self._locator = Locator()

    def run(self) -> Generator[Request, Answer, list[Result]]:
        """Yield requests, be sent answers, return a record and rows for each track.

        One row a decoded frame; rows None if nothing could be decoded. Tracks come with the highest
        number first, so that who finds track 0 in a store knows that the clip is whole. A file's
        faults end up in status and message and are never raised.
        """
        try:
            stat = self.path.stat()
            check_regular(self.path)  # before a byte is read
            identity: dict[str, Any] = {
                "content_sha256": _sha256(self.path),
                "size_bytes": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
            }
        except OSError as error:
            return [(ClipRecord(self.clip, Status.UNREADABLE, message=str(error.strerror)), None)]
        except UnreadableClipError as error:
            return [(ClipRecord(self.clip, Status.UNREADABLE, message=str(error)), None)]
        try:
            obey = not (yield from tag_is_false(self.path))
            with ClipReader(self.path, obey) as reader, closing(self._ahead(reader)) as frames:
                yield from self._look_through(frames)
        except UnreadableClipError as error:
            record = ClipRecord(self.clip, Status.UNREADABLE, message=str(error), **identity)
            return [(record, None)]
        info = reader.info
        tracks = yield from self._tracks()
        if not tracks:
            rows = ClipRows.empty(np.asarray(self._times))
            message = "; ".join(filter(None, ["no face in any frame", info.message]))
            return [(self._record(0, Status.NO_FACE, message, info, rows, identity), rows)]
        results: list[Result] = []
        for number, names in reversed(list(enumerate(tracks))):
            rows = yield from self._rows(names)
            record = self._record(number, info.status, info.message, info, rows, identity)
            results.append((record, rows))
        return results

    def _look_through(self, frames: Iterator[Frame]) -> Asking:
        """Read the clip to its end, following every face."""
        follower = Follower(frames, self.recipe.every)
        before: set[int] = set()  # tracklets of the frame before
        ended_by_cut: set[int] = set()
        held = 0
        while run := (yield from follower.next_run()):
            for seen in run:
                if seen.cut:
                    ended_by_cut |= before
                before = {s.tracklet for s in seen.sightings}
                self._times.append(seen.timestamp)
            del seen
            held += yield from self._look(run)
            run.clear()  # the next frames are decoded without these in memory
            if self.recipe.crops:
                bound(self._reservoirs(self._sequences), self.recipe.crop_size)
            if held > HELD_CROPS:
                held -= yield from self._make_room(held)
        for name in ended_by_cut & self._sequences.keys():
            self._sequences[name].tracklet.before_cut = True

    def _make_room(self, held: int) -> Generator[Request, Answer, int]:
        """Embed crops that wait, those of the largest tracklet first; return how many."""
        done = 0
        for sequence in sorted(
            self._sequences.values(), key=lambda s: s.tracklet.area, reverse=True
        ):
            if held - done <= HELD_CROPS // 2:
                break
            done += len(sequence.crops)
            yield from sequence.embed()
        return done

    def _look(self, run: list[Seen]) -> Generator[Request, Answer, int]:
        """Add landmarks and aligned faces of some frames; return how many faces were added."""
        faces = yield from self._locator.locate(run)
        for face in faces:
            seen, sighting = face.seen, face.sighting
            if sighting.tracklet not in self._sequences:
                self._sequences[sighting.tracklet] = _Sequence(
                    Tracklet(seen.index, seen.timestamp, sighting.box, after_cut=seen.cut)
                )
                if self.recipe.crops:
                    self._sequences[sighting.tracklet].pictures = Reservoir(
                        self.recipe.crops, self.recipe.crop_size
                    )
            sequence = self._sequences[sighting.tracklet]
            sequence.tracklet.add(seen, sighting)
            sequence.frames.append(seen.index)
            sequence.boxes.append(sighting.box)
            sequence.scores.append(sighting.score)
            sequence.landmarks.append(face.landmark)
            sequence.crops.append(align(seen.image, face.landmark))
            if sequence.pictures is not None:
                sequence.pictures.offer(seen.index, seen.image, face.landmark)
        return len(faces)

    def _tracks(self) -> Generator[Request, Answer, list[list[int]]]:
        """Join tracklets into tracks and choose those that are wanted."""
        tracklets = {name: sequence.tracklet for name, sequence in self._sequences.items()}
        embedding = {}
        for name in strangers(tracklets):
            embedding[name] = yield from self._sequences[name].identity()
        tracks = join(tracklets, embedding)
        return tracks if self.recipe.faces == "all" else tracks[:1]

    def _rows(self, names: list[int]) -> Generator[Request, Answer, ClipRows]:
        """Put the tracklets of one track together, NaN where it is not seen."""
        rows = ClipRows.empty(np.asarray(self._times))
        for name in names:
            sequence = self._sequences[name]
            yield from sequence.embed()
            at = np.asarray(sequence.frames)
            rows.embedding[at] = [embedding for embedding, _ in sequence.vectors]
            rows.appearance[at] = [appearance for _, appearance in sequence.vectors]
            rows.landmark[at] = np.stack(sequence.landmarks).reshape(len(at), -1)
            rows.box[at] = np.stack(sequence.boxes)
            rows.score[at] = sequence.scores
            rows.valid[at] = True
        if self.recipe.crops:
            crops = choose(self._reservoirs(names), np.flatnonzero(rows.valid), self.recipe.crops)
            rows = replace(rows, crops=crops)
        return rows

    def _reservoirs(self, names: Iterable[int]) -> list[Reservoir]:
        found = (self._sequences[name].pictures for name in names)
        return [pictures for pictures in found if pictures is not None]

    def _record(
        self,
        track: int,
        status: Status,
        message: str,
        info: ClipInfo,
        rows: ClipRows,
        identity: dict[str, Any],
    ) -> ClipRecord:
        return ClipRecord(
            self.clip,
            status,
            track=track,
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
            details={
                name: True for name in ("variable_frame_rate", "mirrored") if getattr(info, name)
            },
            **identity,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
