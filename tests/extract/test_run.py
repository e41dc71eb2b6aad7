from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pebble
import pytest
import zarr

import store
from stages.extract import run as run_module
from stages.extract.device import Device
from stages.extract.inputs import Source, find_clips
from stages.extract.recipe import Recipe, WhichFaces
from stages.extract.run import Plan, Summary, extract, long_ones_first, plan
from stages.extract.workers import WorkerSetup, run_clips
from store import ClipRecord, Status, StoreMismatchError, StoreWriteError
from tests.testing.children import children
from tests.testing.clips import moving_square, picture, write_video
from tests.testing.packs import tiny_pack
from tests.testing.runs import mixed_videos, options
from tests.testing.stuck import stuck


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_videos(tmp_path_factory.mktemp("videos"), 5)


@pytest.fixture(scope="module")
def done(
    videos: Path, small_pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Summary]:
    home = tmp_path_factory.mktemp("done")
    return home / "f.store", extract(options(videos, home, small_pack))


def test_a_folder_becomes_a_store(done: tuple[Path, Summary], videos: Path) -> None:
    path, summary = done
    assert summary.statuses == {"ok": 5, "no_face": 1, "unreadable": 1}
    assert summary.frames == sum(range(12, 17)) + 8
    assert summary.valid_frames == summary.frames - 8
    assert sum(summary.problems.values()) == 2
    report = store.verify(path)
    assert report.ok, report.problems
    assert (report.clips, report.rows) == (7, summary.frames)
    opened = store.open(path)
    assert opened.provenance["providers"] == ["CPUExecutionProvider"]
    assert opened.provenance["recipe"]["every"] == 5
    group = zarr.open(path / "arrays.zarr", mode="r")
    assert group["embedding"].shape == group["appearance"].shape == (summary.frames, 512)
    assert group["landmark"].shape == (summary.frames, 136)


def test_again_does_only_what_is_new(
    done: tuple[Path, Summary], videos: Path, small_pack: Path, tmp_path: Path
) -> None:
    first = extract(options(videos, tmp_path, small_pack))
    assert first.frames == done[1].frames
    again = extract(options(videos, tmp_path, small_pack))
    assert not again.statuses
    assert len(again.plan.done) == 7
    assert sorted(store.digest(tmp_path / "f.store")) == sorted(store.digest(done[0]))


@pytest.mark.parametrize("workers", [1, 4])
def test_as_many_workers_as_you_like_give_the_digest_of_two(
    workers: int, done: tuple[Path, Summary], videos: Path, small_pack: Path, tmp_path: Path
) -> None:
    extract(options(videos, tmp_path, small_pack, workers=workers))
    assert dict(store.digest(tmp_path / "f.store")) == dict(store.digest(done[0]))


def test_what_failed_is_tried_again_only_when_asked(
    videos: Path, small_pack: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "videos"
    mine.mkdir()
    moving_square(mine / "a.mp4", frames=6)
    (mine / "b.mp4").write_text("not a video")
    given = options(mine, tmp_path, small_pack, workers=1)
    assert extract(given).statuses == {"ok": 1, "unreadable": 1}
    assert not extract(given).statuses
    retry = options(mine, tmp_path, small_pack, workers=1, retry_failed=True)
    assert extract(retry).statuses == {"unreadable": 1}
    moving_square(mine / "b.mp4", frames=7)  # the download has gone on
    assert extract(given).statuses == {"ok": 1}
    assert store.verify(tmp_path / "f.store").ok
    assert store.open(tmp_path / "f.store").n_rows == 13


def test_a_good_clip_is_only_replaced_when_asked(small_pack: Path, tmp_path: Path) -> None:
    mine = tmp_path / "videos"
    mine.mkdir()
    path = moving_square(mine / "a.mp4", frames=6)
    given = options(mine, tmp_path, small_pack, workers=1)
    extract(given)
    before = dict(store.digest(tmp_path / "f.store"))
    os.utime(path, ns=(1, 1))
    assert [s.clip for s in plan(given).done] == ["a.mp4"]  # touched, the same bytes
    moving_square(path, frames=9)
    summary = extract(given)
    assert [s.clip for s in summary.plan.changed] == ["a.mp4"]
    assert dict(store.digest(tmp_path / "f.store")) == before
    extract(options(mine, tmp_path, small_pack, workers=1, overwrite=True))
    assert store.open(tmp_path / "f.store").n_rows == 9
    assert store.verify(tmp_path / "f.store").ok


def test_good_rows_are_not_given_up_for_a_failure(small_pack: Path, tmp_path: Path) -> None:
    mine = tmp_path / "videos"
    mine.mkdir()
    moving_square(mine / "a.mp4", frames=6)
    extract(options(mine, tmp_path, small_pack, workers=1))
    before = dict(store.digest(tmp_path / "f.store"))
    (mine / "a.mp4").write_text("the disk ate it")
    summary = extract(options(mine, tmp_path, small_pack, workers=1, overwrite=True))
    assert summary.statuses == {"unreadable": 1}
    assert dict(store.digest(tmp_path / "f.store")) == before


def test_rows_that_the_store_refuses_cost_their_clip_not_the_run(
    videos: Path, small_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_module.run_clips

    def spoilt(*args: object) -> object:
        for record, rows in real(*args):  # type: ignore[arg-type]
            if record.clip == "clip2.mp4":
                rows.landmark[3] = 1e6
            yield record, rows

    monkeypatch.setattr(run_module, "run_clips", spoilt)
    summary = extract(options(videos, tmp_path, small_pack))
    assert summary.statuses == {"ok": 4, "no_face": 1, "unreadable": 1, "failed": 1}
    record = store.open(tmp_path / "f.store").record("clip2.mp4")
    assert "landmark" in record.message
    assert store.verify(tmp_path / "f.store").ok


def test_packs_and_recipes_are_not_mixed(
    done: tuple[Path, Summary], videos: Path, tmp_path: Path, small_pack: Path
) -> None:
    extract(options(videos, tmp_path, small_pack))
    other = tiny_pack(tmp_path / "other", variant="buffalo")
    with pytest.raises(StoreMismatchError, match="pack"):
        extract(options(videos, tmp_path, other))
    with pytest.raises(StoreMismatchError, match="every"):
        extract(options(videos, tmp_path, small_pack, every=3))


def test_the_stores_own_key_frame_distance_is_the_default(
    videos: Path, tmp_path: Path, small_pack: Path
) -> None:
    mine = tmp_path / "videos"
    mine.mkdir()
    moving_square(mine / "a.mp4", frames=6)
    extract(options(mine, tmp_path, small_pack, workers=1, every=3))
    moving_square(mine / "b.mp4", frames=6)
    assert extract(options(mine, tmp_path, small_pack, workers=1)).statuses == {"ok": 1}


def test_a_full_disk_keeps_what_was_finished(
    videos: Path, tmp_path: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.Writer.append
    calls = []

    def append(self: store.Writer, *args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise StoreWriteError("f.store: the disk is full", "free some space")
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module.store.Writer, "append", append)
    with pytest.raises(StoreWriteError, match="disk is full"):
        extract(options(videos, tmp_path, small_pack))
    monkeypatch.undo()
    assert store.verify(tmp_path / "f.store").clips == 3
    summary = extract(options(videos, tmp_path, small_pack))
    assert sum(summary.statuses.values()) == 4


def test_dry_run_writes_nothing(videos: Path, tmp_path: Path, small_pack: Path) -> None:
    found = plan(options(videos, tmp_path, small_pack))
    assert len(found.todo) == 7
    assert not (tmp_path / "f.store").exists()


def work(sources: list[Source], pack: Path, limit: float = 60.0) -> dict[str, ClipRecord]:
    setup = WorkerSetup(str(pack), Device.CPU, Recipe())
    return {record.clip: record for record, _ in run_clips(sources, setup, 1, limit)}


def test_a_worker_that_dies_takes_only_its_clip_along(
    videos: Path, tmp_path: Path, small_pack: Path
) -> None:
    sources = [
        Source("stuck.mp4", stuck(tmp_path / "stuck.mp4")),
        Source("a", videos / "clip0.mp4"),
    ]
    records = work(sources, small_pack, limit=8.0)
    assert records["a"].status is Status.OK
    assert records["stuck.mp4"].status is Status.FAILED
    assert "time limit" in records["stuck.mp4"].message


def test_pipes_and_devices_are_not_read(videos: Path, small_pack: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    sources = find_clips([tmp_path])
    records = work([*sources, Source("a", videos / "clip0.mp4")], small_pack)
    assert records.pop("a").status is Status.OK
    assert {(clip, record.status, record.message) for clip, record in records.items()} == {
        (clip, Status.UNREADABLE, "not a regular file") for clip in ("pipe.mp4", "zero.mp4")
    }


def test_a_killed_worker_is_replaced_and_its_clip_tried_again(
    videos: Path, small_pack: Path
) -> None:
    setup = WorkerSetup(str(small_pack), Device.CPU, Recipe())
    sources = [Source(f"{i}", videos / f"clip{i % 5}.mp4") for i in range(10)]
    statuses = []
    for record, _ in run_clips(sources, setup, 1, 60.0):
        statuses.append(record.status)
        if len(statuses) == 1:
            (child,) = children()
            os.kill(child, signal.SIGKILL)
    assert statuses == [Status.OK] * 10


RUN = """
import sys
from pathlib import Path
from stages.extract.run import ExtractOptions, extract
from stages.extract.device import Device
if __name__ == "__main__":
    videos, store, pack = sys.argv[1:]
    extract(ExtractOptions([Path(videos)], Path(store), pack, Device.CPU, 2),
            finished=lambda record, summary: print(record.clip, flush=True))
"""


def test_kill_9_then_again_gives_the_digest_of_a_quiet_run(
    done: tuple[Path, Summary], videos: Path, small_pack: Path, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(videos), str(tmp_path / "f.store"), str(small_pack)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    finished = [process.stdout.readline().strip() for _ in range(3)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert all(finished)
    assert store.verify(tmp_path / "f.store").ok
    summary = extract(options(videos, tmp_path, small_pack))
    assert sum(summary.statuses.values()) <= 4  # what was finished is not done twice
    assert store.verify(tmp_path / "f.store").ok
    assert dict(store.digest(tmp_path / "f.store")) == dict(store.digest(done[0]))


def test_workers_die_with_their_parent(videos: Path, small_pack: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(videos), str(tmp_path / "g.store"), str(small_pack)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    children = [int(pid) for pid in listed.stdout.split()]
    assert children
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_problems_are_counted_by_kind_and_words_stay_whole(tmp_path: Path) -> None:
    summary = Summary(tmp_path, Plan())
    for i in (1, 2.5, 30):
        message = f"ends after {i} of 40 frames (codec h264, an MP4/MOV file)"
        summary.add(ClipRecord(f"{i}", Status.TRUNCATED, message=message))
    kind = "truncated: ends after N of N frames (codec h264, an MP4/MOV file)"
    assert (summary.problems, summary.examples) == ({kind: 3}, {kind: "1"})


def test_rows_are_those_of_the_right_clip(done: tuple[Path, Summary]) -> None:
    opened = store.open(done[0])
    for i in range(5):
        rows = opened.clip(f"clip{i}.mp4")
        centre = (rows["box"][:, 0] + rows["box"][:, 2]) / 2
        assert len(centre) == 12 + i
        np.testing.assert_allclose(np.diff(centre).mean(), 2 + i / 2, atol=0.5)


def test_tracks_are_stored_under_their_clip_and_replaced_with_it(
    small_pack: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "videos"
    mine.mkdir()
    both, one = [(70, 120, 50), (220, 120, 90)], [(220, 120, 90)]
    write_video(mine / "a.mp4", [picture(both)] * 8)
    given = options(mine, tmp_path, small_pack, workers=1, faces=WhichFaces.ALL)
    assert extract(given).statuses == {"ok": 1}
    assert [r.track for r in store.open(tmp_path / "f.store").records()] == [0, 1]
    write_video(mine / "a.mp4", [picture(one)] * 9)
    # the store's own recipe is the default
    extract(options(mine, tmp_path, small_pack, workers=1, overwrite=True))
    assert [r.track for r in store.open(tmp_path / "f.store").records()] == [0]
    assert store.open(tmp_path / "f.store").n_rows == 9
    assert store.verify(tmp_path / "f.store").ok


def test_long_clips_go_first_and_a_large_folder_keeps_its_order(tmp_path: Path) -> None:
    def source(name: str, size: int) -> Source:
        (tmp_path / name).write_bytes(bytes(size))
        return Source(name, tmp_path / name)

    some = [source("a", 10), source("b", 500), source("c", 900), source("d", 20)]
    assert [s.clip for s in long_ones_first(some, 2)] == ["c", "b", "a", "d"]
    many = [source(f"{i:03d}", 10 + i % 7) for i in range(200)]
    assert long_ones_first(many, 2) == many
    giant = source("zzz", 5000)
    assert long_ones_first([*many, giant], 2) == [giant, *many]
    gone = Source("gone", tmp_path / "gone")
    assert long_ones_first([gone, *some], 2)[-3:] == [gone, some[0], some[3]]


def test_one_worker_a_core_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "available_cores", lambda: 6)
    monkeypatch.setattr(run_module, "gpus", lambda: ["0", "1", "2"])
    assert run_module.usual_workers(Device.OPENVINO, None) == 6
    assert run_module.usual_workers(Device.CUDA, None) == 3
    assert run_module.usual_workers(Device.TENSORRT, "local") == 1
    monkeypatch.setattr(run_module, "gpus", list)  # no nvidia-smi to ask
    assert run_module.usual_workers(Device.CUDA, None) == 1


def test_a_pool_that_gives_up_is_replaced(
    videos: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pebble's does when a worker is killed at the wrong moment."""
    real, calls = pebble.ProcessPool.schedule, []

    def schedule(self: pebble.ProcessPool, *args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("Unexpected error within the Pool")
        return real(self, *args, **options)

    monkeypatch.setattr(pebble.ProcessPool, "schedule", schedule)
    sources = find_clips([videos])
    setup = WorkerSetup(str(small_pack), Device.CPU, Recipe())
    found = [record.clip for record, _ in run_clips(sources, setup, 1, 60.0)]
    assert len(sources) > 2 and sorted(found) == [source.clip for source in sources]
