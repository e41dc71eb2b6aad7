"""Keeps one device busy: several clips at a time, what they ask for in common batches.

One code path for CPU and GPU; they differ in how many clips are open (one CPU worker gains nothing
from more than one) and in whether decoding has threads of its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.extract.batches import BATCHES, CPU_BATCHES
from stages.extract.clip import ClipTask, Result
from stages.extract.faces import CROP
from stages.extract.inputs import Source
from stages.extract.nets import Nets
from stages.extract.recipe import Recipe
from stages.extract.requests import Answer, Detect, FindLandmarks, Request
from stages.extract.video import Frame

AHEAD = 16  # frames that a decoding thread may be ahead; of 1080p that is 100 MB


@dataclass
class _Open:
    """A clip that waits for an answer."""

    source: Source
    task: Generator[Request, Answer, list[Result]]
    request: Request


class Engine:
    """Extracts clips with the nets of one device.

    Parameters
    ----------
    nets : Nets
    recipe : Recipe
    clips : int
        Clips that are open at a time.
    threads : bool
        Whether each open clip is decoded ahead in a thread of its own.
    """

    def __init__(self, nets: Nets, recipe: Recipe, clips: int = 1, threads: bool = False) -> None:
        self._nets, self._recipe = nets, recipe
        self._clips, self._threads = clips, threads

    def warm_up(self) -> None:
        """Meet every batch size once: a GPU searches kernels, TensorRT builds engines.

        On a CPU, which looks for faces in one picture at a time, the nets take their memory here
        and not on the way, so that a worker shows from its start what it needs. The detector's
        shapes depend on the clips; it meets those of 16:9.
        """
        n = sum(BATCHES if self._clips > 1 else CPU_BATCHES)
        pictures = [np.zeros((720, 1280, 3), np.uint8)] * n
        self._nets.detector.detect_many(pictures if self._clips > 1 else pictures[:1])
        self._nets.landmark(pictures, np.tile([640.0, 360.0, 300.0, 0.0], (n, 1)))
        self._nets.recognition([picture[:CROP, :CROP] for picture in pictures])

    def run(self, sources: Iterable[Source]) -> Iterator[tuple[Source, list[Result]]]:
        """Yield each clip with its results as it is finished, in any order."""
        waiting = iter(sources)
        open_: list[_Open] = []
        while True:
            while len(open_) < self._clips and (source := next(waiting, None)):
                task = ClipTask(
                    source.clip, source.path, self._recipe, ahead if self._threads else _in_turn
                ).run()
                yield from self._advance(open_, source, task, None)
            if not open_:
                return
            kind = type(max(open_, key=lambda clip: _size(clip.request)).request)
            asking = [clip for clip in open_ if type(clip.request) is kind]
            open_[:] = [clip for clip in open_ if type(clip.request) is not kind]
            answers = self._answer([clip.request for clip in asking])
            answered = [(clip.source, clip.task) for clip in asking]
            del asking  # its requests hold frames, and the tasks are about to decode the next ones
            for (source, task), answer in zip(answered, answers, strict=True):
                yield from self._advance(open_, source, task, answer)

    @staticmethod
    def _advance(
        open_: list[_Open],
        source: Source,
        task: Generator[Request, Answer, list[Result]],
        answer: Answer,
    ) -> Iterator[tuple[Source, list[Result]]]:
        try:
            open_.append(_Open(source, task, task.send(answer)))
        except StopIteration as end:
            yield source, end.value

    def _answer(self, requests: Sequence[Any]) -> list[Answer]:
        """Run requests of one kind as one batch and give each its part."""
        nets = self._nets
        if isinstance(requests[0], Detect):
            return list(nets.detector.detect_many([r.image for r in requests]))
        counts = [_size(r) for r in requests]
        ends = np.cumsum(counts)[:-1]
        if isinstance(requests[0], FindLandmarks):
            images = [image for r in requests for image in r.images]
            found: Sequence[Any] = nets.landmark(images, np.concatenate([r.crop for r in requests]))
        else:
            found = nets.recognition([crop for r in requests for crop in r.crops])
        return list(zip(*(np.split(part, ends) for part in found), strict=True))


def _size(request: Request) -> int:
    if isinstance(request, Detect):
        return 1
    return len(request.images if isinstance(request, FindLandmarks) else request.crops)


def _in_turn(frames: Iterable[Frame]) -> Generator[Frame]:
    yield from frames


def ahead(frames: Iterable[Frame]) -> Generator[Frame]:
    """Iterate in a thread, `AHEAD` frames ahead; errors come out where the frame would."""
    ready: queue.Queue[Frame | BaseException | None] = queue.Queue(AHEAD)
    given_up = threading.Event()

    def put(item: Frame | BaseException | None) -> bool:
        while not given_up.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def decode() -> None:
        try:
            for frame in frames:
                if not put(frame):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=decode, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        given_up.set()
        thread.join()
