"""Worker processes that hang, die and are slow to start."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pebble
import pytest

from stages.extract import machine, workers
from stages.extract.device import Device
from stages.extract.inputs import Source
from stages.extract.packs import PackError
from stages.extract.recipe import Recipe
from stages.extract.workers import WorkerSetup, WorkersLostError, run_clips
from store import ClipRecord, Status
from tests.testing.children import children
from tests.testing.clips import moving_square
from tests.testing.setups import OPENING_S, Grouped, SlowToOpen, visible
from tests.testing.stuck import stuck


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("videos")
    return [Source(f"{i}", moving_square(folder / f"{i}.mp4", frames=9 + i)) for i in range(5)]


@contextmanager
def killing_starters(most: int) -> Iterator[list[int]]:
    """Kill worker processes as soon as they appear, at most so many; yields those killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < most and not over.is_set():
            for pid in set(children()).difference(killed):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_opening_the_nets_is_no_part_of_a_clips_time(
    sources: list[Source], small_pack: Path
) -> None:
    setup = SlowToOpen(str(small_pack), Device.CPU, Recipe())
    records = [record for record, _ in run_clips(sources, setup, 1, 0.75 * OPENING_S)]
    assert [record.status for record in records] == [Status.OK] * 5


def test_nets_that_do_not_open_end_the_run(sources: list[Source], tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no_pack"):
        list(run_clips(sources, WorkerSetup(str(tmp_path / "no_pack"), Device.CPU, Recipe()), 1, 9))


def test_workers_that_are_killed_at_their_start_cost_no_clip(
    sources: list[Source], small_pack: Path
) -> None:
    setup = WorkerSetup(str(small_pack), Device.CPU, Recipe())
    with killing_starters(3) as killed:
        records = [record for record, _ in run_clips(sources, setup, 1, 60.0)]
    assert len(killed) == 3
    assert {record.clip: record.status for record in records} == {
        source.clip: Status.OK for source in sources
    }


def test_workers_that_never_live_end_the_run_in_one_line(
    sources: list[Source], small_pack: Path
) -> None:
    setup = WorkerSetup(str(small_pack), Device.CPU, Recipe())
    with (
        killing_starters(1000),
        pytest.raises(WorkersLostError, match="died 5 times in a row") as caught,
    ):
        list(run_clips(sources, setup, 1, 60.0))
    assert caught.value.exit_code == 1
    assert "--workers" in caught.value.hint


def test_a_pool_that_breaks_in_silence_is_replaced(
    sources: list[Source], small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the thread that takes results ends, and no future ever hears of it."""
    real, pools = workers._new_pool, []

    def mute(setup: WorkerSetup, n: int) -> object:
        pools.append(real(setup, n))
        if len(pools) == 1:
            pools[0]._pool_manager.process_next_message = lambda timeout: 1 / 0
        return pools[-1]

    monkeypatch.setattr(workers, "_new_pool", mute)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    setup = WorkerSetup(str(small_pack), Device.CPU, Recipe())
    records = [record for record, _ in run_clips(sources[:1], setup, 1, 60.0)]
    assert [record.status for record in records] == [Status.OK]
    assert len(pools) == 2


def test_a_clip_that_hangs_holds_up_its_group_for_its_own_limit(
    sources: list[Source], small_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, limits = pebble.ProcessPool.schedule, []

    def schedule(self: pebble.ProcessPool, *args: object, timeout: float, **more: object) -> object:
        limits.append(timeout)
        return real(self, *args, timeout=timeout, **more)

    monkeypatch.setattr(pebble.ProcessPool, "schedule", schedule)
    group = [*sources[:3], Source("stuck", stuck(tmp_path / "stuck.mp4"))]
    setup = Grouped(str(small_pack), Device.CPU, Recipe())
    records: dict[str, ClipRecord] = {r.clip: r for r, _ in run_clips(group, setup, 1, 3.0)}
    assert "time limit" in records.pop("stuck").message
    assert {record.status for record in records.values()} == {Status.OK}
    assert len(records) == 3
    assert limits == [3.0] * 5  # the group, then each of its clips


def test_workers_share_out_the_gpus_and_a_new_one_takes_over_its_predecessors(
    small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "gpus", lambda: ["2", "GPU-5e1f"])
    pool = workers._new_pool(WorkerSetup(str(small_pack), Device.CUDA, Recipe()), 2)

    def seen() -> dict[str | None, int]:
        futures = [pool.schedule(visible, args=(1.0,)) for _ in range(2)]
        return dict(future.result(60) for future in futures)

    try:
        first = seen()
        assert set(first) == {"2", "GPU-5e1f"}
        busy = [pool.schedule(visible, args=(30.0,)) for _ in range(2)]
        while not all(future.running() for future in busy):
            time.sleep(0.05)
        os.kill(first["GPU-5e1f"], signal.SIGKILL)
        again, pid = pool.schedule(visible, args=(0.0,)).result(60)
        assert again == "GPU-5e1f" and pid != first["GPU-5e1f"]
    finally:
        pool.stop()
        pool.join()


def test_a_single_gpu_is_left_as_it_is(small_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "gpus", lambda: ["0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    pool = workers._new_pool(WorkerSetup(str(small_pack), Device.CUDA, Recipe()), 1)
    try:
        assert pool.schedule(visible, args=(0.0,)).result(60)[0] == "as it was"
    finally:
        pool.stop()
        pool.join()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("GPU-1, GPU-2", ["GPU-1", "GPU-2"]),
        ("0,-1,2", ["0"]),
        ("", []),
    ],
)
def test_gpus_are_those_of_the_variable_else_those_of_nvidia_smi(
    variable: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus() == []  # no nvidia-smi
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA A30 (UUID: GPU-a)'\n"
        "echo '  MIG 1g.6gb Device 0: (UUID: MIG-b)'\n"
        "echo 'GPU 1: NVIDIA A30 (UUID: GPU-c)'\n"
    )
    smi.chmod(0o755)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert machine.gpus() == expected
