"""Features of any layer for the frames that a store holds, as an array beside the others.

The faces are those that the store's landmarks say: cut out of the videos again, or taken from its
crops. From the videos the embedding is computed along and held against the stored one, so that
features of other frames cannot slip in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pebble

import store
from stages.extract import packs
from stages.extract.batches import BATCHES, F32
from stages.extract.device import Device
from stages.extract.errors import PackError
from stages.extract.faces import CROP, align
from stages.extract.inputs import find_clips
from stages.extract.layers import LayerNet, LayerOptions
from stages.extract.run import available_cores, open_pack
from stages.extract.sessions import resolve_device
from stages.extract.video import ClipReader, Image, UnreadableClipError
from store.errors import FacepipeError
from store.layer_writer import open_layer
from store.schema import ClipRecord

F16 = npt.NDArray[np.float16]
# Devices and precisions differ in the last bits (median cosine 0.999 at least), other faces do not.
SAME_FACE = 0.98


class LayerError(FacepipeError, ValueError):
    """A video is not the one whose frames the store holds, or has gone; or a process was killed."""


class _Task(NamedTuple):
    """One track whose features are wanted, with what the store says of it."""

    record: ClipRecord
    path: Path | None  # None: from ``images``, of the frames ``shown``
    landmark: F32
    embedding: npt.NDArray[np.floating]
    valid: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LayerSummary:
    """What `add_layer` made: the array's name and width, its rows, and how many of them are new."""

    name: str
    width: int
    rows: int
    new: int


def add_layer(
    store_path: Path,
    videos: Sequence[Path],
    options: LayerOptions,
    *,
    name: str | None = None,
    pack: str | None = None,
    device: Device = Device.AUTO,
    workers: int | None = None,
    overwrite: bool = False,
    echo: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LayerSummary:
    """Compute a layer for every row of a store that has none yet; interrupted, it goes on.

    Parameters
    ----------
    store_path : Path
    videos : sequence of Path
        Where the store's clips lie, as for `extract`; not read if ``options.crops``.
    options : LayerOptions
    name : str, optional
        Of the array; ``options.name`` if not given.
    pack : str, optional
        Name or folder of the store's pack; by the name that the store notes if not given.
    device, workers
        As for `extract`.
    overwrite : bool
        Begin anew.
    echo, progress : callable
        Told of a pack's licence; rows done and rows in all.

    Raises
    ------
    LayerError
        A video has other frames than the store, or is not there.
    PackError, DeviceError, InputError, StoreError
    """
    source = store.open(store_path)
    opened = pack_of(source.provenance["pack"], pack, echo)
    chosen, _ = resolve_device(device, opened.landmark)
    net = LayerNet(opened, options, chosen)
    where = {} if options.crops else {s.clip: s.path for s in find_clips(videos)}
    total, array = source.n_rows, name or options.name
    with open_layer(
        store_path, array, net.width, options.provenance(opened), overwrite=overwrite
    ) as writer:
        before = writer.rows
        wanted = (r for r in source.records_by_start() if (r.start or 0) + r.frames > before)
        tasks = (_task(source, record, where, options.crops) for record in wanted)
        count = workers or (available_cores() if chosen.on_cpu else 1)
        for record, rows in _computed(tasks, net, (opened, options, chosen), count):
            start = record.start or 0
            writer.append(np.full((max(start - writer.rows, 0), net.width), np.nan, np.float16))
            writer.append(rows[writer.rows - start :])
            progress(writer.rows, total)
        writer.append(np.full((total - writer.rows, net.width), np.nan, np.float16))
        writer.finish()
    return LayerSummary(array, net.width, total, total - before)


def pack_of(
    noted: dict[str, str], place: str | None, echo: Callable[[str], None] = lambda line: None
) -> packs.Pack:
    """Open the pack of which ``noted`` has name and fingerprint, by name or where it is said to be.

    Raises
    ------
    PackError
        A folder that was not named, or another pack.
    """
    if place is None and noted["name"] not in {info.name for info in packs.known()}:
        raise PackError(
            f"the features are of the pack {noted['name']!r}, which is a folder somewhere",
            "say where with --pack FOLDER",
        )
    pack = open_pack(place or noted["name"], echo)
    if pack.fingerprint != noted["fingerprint"]:
        raise PackError(
            f"pack {noted['name']!r} here ({pack.fingerprint[:12]}) is not the one that made the "
            f"features ({noted['fingerprint'][:12]})",
            "install the pack of that version, or extract again with this one",
        )
    return pack


def _task(source: store.Store, record: ClipRecord, where: dict[str, Path], crops: bool) -> _Task:
    rows = source.clip(record.clip, record.track, ["landmark", "embedding", "valid"])
    shown, images = np.zeros(0, np.int64), np.zeros((0, 1, 1, 3), np.uint8)
    if crops:
        shown, images = source.crops(record.clip, record.track)
    elif record.clip not in where and record.valid_frames:
        raise LayerError(
            f"clip {record.clip!r} of {source.path} is not among the videos given",
            "give the folder that was extracted, or compute the layer from crops with --crops",
        )
    path = None if crops else where.get(record.clip)
    landmark = np.asarray(rows["landmark"], np.float32).reshape(-1, 68, 2)
    embedding = np.asarray(rows["embedding"], np.float32)
    valid = np.asarray(rows["valid"], np.bool_)
    return _Task(record, path, landmark, embedding, valid, shown, images)


_Setup = tuple[packs.Pack, LayerOptions, Device]
_net: LayerNet


def _start(setup: _Setup) -> None:
    global _net
    cv2.setNumThreads(1)
    _net = LayerNet(*setup)


def _work(task: _Task) -> F16:
    return _features(_net, task)


def _computed(
    tasks: Iterable[_Task], net: LayerNet, setup: _Setup, workers: int
) -> Iterator[tuple[ClipRecord, F16]]:
    """Yield records and their features in the order of the tasks."""
    if workers == 1:
        for task in tasks:
            yield task.record, _features(net, task)
        return
    flying: deque[tuple[ClipRecord, Future[F16]]] = deque()
    with pebble.ProcessPool(
        workers, context=get_context("spawn"), initializer=_start, initargs=(setup,)
    ) as pool:
        try:
            for task in tasks:
                flying.append((task.record, pool.schedule(_work, args=(task,))))
                if len(flying) > 2 * workers:
                    record, future = flying.popleft()
                    yield record, future.result()
            for record, future in flying:
                yield record, future.result()
        except (pebble.ProcessExpired, BrokenProcessPool):  # the latter: all, before their work
            pool.stop()
            raise LayerError(
                "a process that computed features was killed, for want of memory most often",
                "run the same command again with fewer --workers; rows that are done are kept",
            ) from None
        except BaseException:
            pool.stop()
            raise


def _features(net: LayerNet, task: _Task) -> F16:
    """Features of one track's rows (n, width), NaN where it shows no face."""
    found = np.full((task.record.frames, net.width), np.nan, np.float16)
    if not task.valid.any():
        return found
    held: list[tuple[int, Image]] = []
    cosines: list[float] = []

    def run() -> None:
        at = [index for index, _ in held]
        embedding, features = net([face for _, face in held])
        with np.errstate(over="ignore"):
            found[at] = features
        if task.path is not None:
            stored = task.embedding[at]
            norm = np.linalg.norm(embedding, axis=1) * np.linalg.norm(stored, axis=1)
            cosines.extend((embedding * stored).sum(axis=1) / np.maximum(norm, 1e-9))
        held.clear()

    for index, face in _faces(task):
        held.append((index, face))
        if len(held) == BATCHES[0]:
            run()
    if held:
        run()
    if cosines and not float(np.median(cosines)) >= SAME_FACE:
        raise LayerError(
            f"{task.path}: its faces are not those that the store holds as {task.record.clip!r} "
            f"(median cosine of the embeddings {np.median(cosines):.3f}, {SAME_FACE} expected)",
            "give the videos that were extracted",
        )
    return found


def _faces(task: _Task) -> Iterator[tuple[int, Image]]:
    """Yield (row, aligned face (112, 112, 3) BGR) of the frames that show the track."""
    if task.path is None:
        for index, picture in zip(task.shown.tolist(), task.images, strict=True):
            scaled = cv2.resize(picture, (CROP, CROP), interpolation=cv2.INTER_AREA)
            yield index, np.ascontiguousarray(scaled[..., ::-1])
        return
    count = -1
    try:
        for count, image in enumerate(_pictures(task.record, task.path)):
            if count < len(task.valid) and task.valid[count]:
                yield count, align(image, task.landmark[count])
    except UnreadableClipError as error:
        raise LayerError(f"{task.path}: {error}", "give the videos that were extracted") from None
    if count + 1 != task.record.frames:
        raise LayerError(
            f"{task.path}: {count + 1} frames, {task.record.frames} in the store as "
            f"{task.record.clip!r}: the file has changed",
            "extract it again with --overwrite, or give the videos that were extracted",
        )


def _pictures(record: ClipRecord, path: Path) -> Iterator[Image]:
    """Decode a clip, turned upright in the way in which it was extracted."""
    mirrored = bool(record.details.get("mirrored"))
    for obey in (True, False):
        with ClipReader(path, obey) as reader:
            for frame in reader:
                if obey and (reader.info.rotation, reader.info.mirrored) != (
                    record.rotation,
                    mirrored,
                ):
                    break  # its tag was found to lie, and was ignored
                yield frame.image
            else:
                return
