"""Stage one as a whole: plan what is new, extract it in workers, write it as the only writer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import store
from stages.extract import cluster, packs
from stages.extract.device import Device, Precision
from stages.extract.inputs import InputError, Part, Source, find_clips
from stages.extract.machine import gpus
from stages.extract.recipe import Recipe, WhichFaces
from stages.extract.selftest import check_precision
from stages.extract.sessions import resolve_device
from stages.extract.workers import Result, WorkerSetup, run_clips
from store.errors import StoreDamagedError, StoreNotFoundError
from store.heap import give_back_memory, keep_one_heap
from store.layout import Layout
from store.schema import ClipRecord, ClipRows, Status

# Rows that wait in memory to be written: fewer than a Writer's own choice, since no net is so fast
# that writing would have to be. All processes together then grow by 18 MiB from 14 clips to 280.
FLUSH_ROWS = 2_048
_VERSIONS = ("facepipe", "insightface", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino",
             "opencv-python", "numpy", "zarr")  # fmt: skip


@dataclass(frozen=True)
class ExtractOptions:
    """What `extract` is asked to do; the command line's options by the same names.

    ``every``, ``precision``, ``faces``, ``crops``, ``crop_size`` None: what the store was made
    with, or 5, f32, main, none and 224 for a new one. ``workers`` None: one a core, or one a GPU.
    ``time_limit_s`` None: by the size of each file. ``scheduler``: None for worker processes
    of our own, ``local`` for a Dask cluster on this machine, or the address of a Dask scheduler.
    ``part``: only these clips. ``crops``: pictures to keep of each track, ``crop_size``: their side
    in pixels. ``detector_sizes`` None: the store's, or the pack's for a new one.
    """

    videos: Sequence[Path]
    store: Path = Path("features.store")
    pack: str = "lite"
    device: Device = Device.AUTO
    workers: int | None = None
    every: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    time_limit_s: float | None = None
    precision: Precision | None = None
    faces: WhichFaces | None = None
    scheduler: str | None = None
    part: Part = Part()
    crops: int | None = None
    crop_size: int | None = None
    detector_sizes: tuple[int, ...] | None = None


@dataclass
class Plan:
    """Which clips a run would extract.

    ``done``: in the store already. ``changed``: in the store, whole, but from a file of other
    content; left alone unless the user says overwrite.
    """

    todo: list[Source] = field(default_factory=list)
    done: list[Source] = field(default_factory=list)
    changed: list[Source] = field(default_factory=list)


@dataclass
class Summary:
    """What a run did.

    ``statuses``: clips of this run by status; ``problems``: their messages, numbers left out, with
    counts, and in ``examples`` a clip for each; ``seconds``: wall-clock from the first clip sent to
    the last one stored.
    """

    store: Path
    plan: Plan
    provider: str = ""
    device_reason: str = ""
    workers: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    valid_frames: int = 0
    seconds: float = 0.0

    def add(self, record: ClipRecord) -> None:
        """Count one clip."""
        self.statuses[record.status] += 1
        self.frames += record.frames
        self.valid_frames += record.valid_frames
        if record.message:
            kind = re.sub(r"(?<![\w.])\d+(\.\d+)?", "N", f"{record.status}: {record.message}")
            self.problems[kind] += 1
            self.examples.setdefault(kind, record.clip)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "store": str(self.store),
            "clips": dict(sorted(self.statuses.items())),
            "skipped": len(self.plan.done),
            "changed": [source.clip for source in self.plan.changed],
            "frames": self.frames,
            "valid_frames": self.valid_frames,
            "seconds": round(self.seconds, 3),
            "frames_per_s": round(self.frames / self.seconds, 2) if self.seconds else None,
            "provider": self.provider,
            "workers": self.workers,
            "problems": [
                {"message": kind, "clips": n, "example": self.examples[kind]}
                for kind, n in self.problems.most_common()
            ],
        }


def plan(options: ExtractOptions) -> Plan:
    """Find the clips and compare them with the store, without writing anything.

    Raises
    ------
    InputError, StoreError
    """
    sources = options.part.of(find_clips(options.videos))
    try:
        records = store.open(options.store).records()
    except StoreNotFoundError:
        records = iter(())
    return _plan(sources, records, options)


def _plan(
    sources: Sequence[Source], records: Iterable[ClipRecord], options: ExtractOptions
) -> Plan:
    """Sort the sources out. Both come ordered by clip: a million records are never held at once."""
    result = Plan()
    main = (record for record in records if record.track == 0)
    upcoming = next(main, None)
    for source in sources:
        while upcoming is not None and upcoming.clip < source.clip:
            upcoming = next(main, None)
        record = upcoming if upcoming is not None and upcoming.clip == source.clip else None
        retry = options.retry_failed and record is not None and not record.status.has_rows
        if record is None or options.overwrite or retry:
            result.todo.append(source)
        elif _same_file(source.path, record):
            result.done.append(source)
        elif record.status is Status.OK:  # never replace good rows unasked
            result.changed.append(source)
        else:  # a download that has gone on since, most likely
            result.todo.append(source)
    return result


def _same_file(path: Path, record: ClipRecord) -> bool:
    try:
        stat = path.stat()
    except OSError:  # gone since it was listed, or a link to a drive that is not mounted
        return False
    if (stat.st_size, stat.st_mtime_ns) == (record.size_bytes, record.mtime_ns):
        return True
    if stat.st_size != record.size_bytes:
        return False
    with path.open("rb") as file:  # copied or touched: the bytes decide
        return hashlib.file_digest(file, "sha256").hexdigest() == record.content_sha256


def extract(
    options: ExtractOptions,
    echo: Callable[[str], None] = lambda line: None,
    started: Callable[[Summary], None] = lambda summary: None,
    finished: Callable[[ClipRecord, Summary], None] = lambda record, summary: None,
) -> Summary:
    """Extract the clips of some folders into a store; do only what is new.

    Parameters
    ----------
    options : ExtractOptions
    echo : callable
        Told what a person wants to know while it happens: installing a pack, its licence.
    started : callable
        Called once with the plan known, before the first clip.
    finished : callable
        Called after each clip is safely in the store's journal.

    Returns
    -------
    Summary

    Raises
    ------
    InputError, PackError, DeviceError, ClusterError, StoreError
        Before anything is written. StoreWriteError at any time; what was finished is kept.
    """
    sources = options.part.of(find_clips(options.videos))
    saved = _recipe_of(options.store)
    pack = open_pack(options.pack, echo)
    precision = options.precision or Precision(saved.get("precision", Recipe.precision))
    device, reason = resolve_device(options.device, pack.landmark, precision)
    if precision is not Precision.F32:
        cosine = check_precision(pack, device, precision)
        reason += f"; {precision}: median cosine to f32 {cosine:.5f} on drawn faces"
    recipe = Recipe(
        every=options.every or saved.get("every", Recipe.every),
        faces=str(options.faces or saved.get("faces", Recipe.faces)),
        detector_sizes=options.detector_sizes
        or tuple(saved.get("detector_sizes", pack.detection.sizes)),
        detector_threshold=saved.get("detector_threshold", pack.detection.threshold),
        precision=str(precision),
        crops=options.crops or saved.get("crops", Recipe.crops),
        crop_size=options.crop_size or saved.get("crop_size", Recipe.crop_size),
    )
    if options.crop_size and not recipe.crops:
        raise InputError(
            f"a crop size of {options.crop_size} was asked for, and no crops",
            "say how many of each face with --crops",
        )
    workers = options.workers or usual_workers(device, options.scheduler)
    if options.scheduler is not None:
        workers = cluster.count_workers(options.scheduler, workers)
    provider = device.provider
    told = provenance(pack, recipe, provider)
    if saved:  # settings that came after the store was made had their defaults then
        default = Recipe().to_dict()
        told["recipe"] = {
            k: v for k, v in told["recipe"].items() if k in saved or v != default.get(k)
        }
    crop_size = recipe.crop_size if recipe.crops else None
    keep_one_heap()
    layout = Layout(flush_rows=FLUSH_ROWS)
    with store.Writer(options.store, told, layout=layout, crop_size=crop_size) as writer:
        todo = _plan(sources, writer.records(), options)
        again = {source.clip for source in todo.todo}
        held: dict[str, set[int]] = {}  # their tracks that have rows
        for record in writer.records() if again else ():
            if record.status.has_rows and record.clip in again:
                held.setdefault(record.clip, set()).add(record.track)
        summary = Summary(options.store, todo, provider, reason, min(workers, len(todo.todo)))
        started(summary)
        if todo.todo:
            setup = WorkerSetup(str(pack.folder), device, recipe)
            begin = time.perf_counter()
            written = 0
            for record, rows in _results(setup, summary, options, pack.fingerprint, echo):
                record = _keep(writer, record, rows, held)
                written += 0 if rows is None else len(rows.valid)
                if written >= FLUSH_ROWS:  # what a flush took for a moment
                    written = 0
                    give_back_memory()
                if record.track == 0:
                    summary.add(record)
                    finished(record, summary)
            writer.flush()
            summary.seconds = time.perf_counter() - begin
    return summary


def _results(
    setup: WorkerSetup,
    summary: Summary,
    options: ExtractOptions,
    fingerprint: str,
    echo: Callable[[str], None],
) -> Iterator[Result]:
    """Extract where the options say."""
    todo, limit = long_ones_first(summary.plan.todo, summary.workers), options.time_limit_s
    if options.scheduler is None:
        return run_clips(todo, setup, summary.workers, limit)
    return cluster.run_clips(
        todo,
        setup,
        summary.workers,
        limit,
        scheduler=options.scheduler,
        fingerprint=fingerprint,
        echo=echo,
    )


def long_ones_first(sources: Sequence[Source], workers: int) -> list[Source]:
    """Order clips so that no worker is left alone with a long one at the end.

    Clips of more than a twentieth of a worker's share go first, the longest at the front; the rest
    keep their order. A large folder is all rest: sorted, its largest frames would be in memory at
    the same time.
    """
    sizes = {source: _size(source) for source in sources}
    long = sum(sizes.values()) / max(workers, 1) / 20
    first = sorted((s for s in sources if sizes[s] > long), key=sizes.__getitem__, reverse=True)
    return [*first, *(source for source in sources if sizes[source] <= long)]


def _size(source: Source) -> int:
    try:
        return source.path.stat().st_size
    except OSError:  # gone since it was listed: its record will say so
        return 0


def _keep(
    writer: store.Writer, record: ClipRecord, rows: ClipRows | None, held: dict[str, set[int]]
) -> ClipRecord:
    """Write what came of a track; return the record of it, which says so if it was refused."""
    if rows is not None:
        try:
            writer.append(record, rows, replace=True)
            before = held.get(record.clip, set())
            before.discard(record.track)
            if record.track == 0:  # the last one: tracks that are left are of the time before
                for track in before:
                    writer.remove(record.clip, track)
            return record
        except StoreDamagedError:  # no fault of this clip's, and the next would meet it as well
            raise
        except store.StoreError as error:  # rows that break the format: no reader should see them
            record = ClipRecord(
                record.clip,
                Status.FAILED,
                message=str(error),
                content_sha256=record.content_sha256,
                size_bytes=record.size_bytes,
                mtime_ns=record.mtime_ns,
                track=record.track,
            )
    if record.clip in held:  # good rows are not given up for a failure
        return replace(record, message=f"{record.message}; the rows from before were kept")
    writer.append(record, None, replace=True)
    return record


def open_pack(name: str, echo: Callable[[str], None]) -> packs.Pack:
    """Open a pack, installing it first if it is known by name and not there yet."""
    if any(info.name == name and not info.installed for info in packs.known()):
        packs.install(name, echo)
    return packs.resolve(name)


def usual_workers(device: Device, scheduler: str | None) -> int:
    """Return one worker a core, or one a GPU; one in all on Dask, which shares out no GPUs."""
    if device.on_cpu:
        return available_cores()
    return max(len(gpus()), 1) if scheduler is None else 1


def available_cores() -> int:
    """Count the cores that this process may use, not those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def provenance(pack: packs.Pack, recipe: Recipe, provider: str) -> dict[str, Any]:
    """Say what features of this run depend on, as a store keeps it."""
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "pack": {
            "name": pack.name,
            "fingerprint": pack.fingerprint,
            "files": pack.files,
            "licence": pack.licence,
        },
        "recipe": recipe.to_dict(),
        "providers": [provider],
        "versions": versions,
    }


def _recipe_of(path: Path) -> dict[str, Any]:
    """Return the recipe that a store was made with, empty if there is no store."""
    try:
        return dict(store.open(path).provenance.get("recipe") or {})
    except StoreNotFoundError:
        return {}
