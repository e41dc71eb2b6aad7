"""Clips on a real Dask cluster of two worker processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, KilledWorker, LocalCluster

import store
from stages.extract import cluster, packs
from stages.extract.cluster import ClusterError, ClusterLostError
from stages.extract.device import Device
from stages.extract.inputs import Source
from stages.extract.kind import Kind
from stages.extract.recipe import Recipe
from stages.extract.run import Summary, extract
from stages.extract.workers import Result, WorkerSetup
from store import ClipRecord, Status
from tests.testing.runs import mixed_videos, options
from tests.testing.spoilt import Spoilt
from tests.testing.stuck import stuck


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_videos(tmp_path_factory.mktemp("videos"), 8)


@pytest.fixture(scope="module")
def expected(
    videos: Path, small_pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Digest of a run in worker processes of our own."""
    home = tmp_path_factory.mktemp("pebble")
    extract(options(videos, home, small_pack))
    return dict(store.digest(home / "f.store"))


def start() -> LocalCluster:
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        return LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        )


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalCluster]:
    """A cluster that was there before and outlives every run."""
    with start() as running, Client(running) as client:
        client.register_plugin(Spoilt())
        yield running


def test_a_cluster_of_our_own_gives_the_same_digest(
    videos: Path, small_pack: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    told: list[str] = []
    summary = extract(options(videos, tmp_path, small_pack, scheduler="local"), told.append)
    assert summary.statuses == {"ok": 8, "no_face": 1, "unreadable": 1}
    assert summary.workers == 2
    assert store.verify(tmp_path / "f.store").ok
    assert dict(store.digest(tmp_path / "f.store")) == expected
    assert any(line.startswith("dashboard: http://127.0.0.1:") for line in told)


def test_a_killed_worker_costs_nothing_and_relative_paths_do(
    shared: LocalCluster,
    videos: Path,
    small_pack: Path,
    tmp_path: Path,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(videos.parent)  # the workers are somewhere else
    shutil.copytree(small_pack, tmp_path / "pack")
    pack = Path(os.path.relpath(tmp_path / "pack"))
    with Client(shared) as client:
        client.wait_for_workers(2, timeout=30)
        pids = client.run(os.getpid)
    done: list[str] = []

    def finished(record: ClipRecord, summary: Summary) -> None:
        done.append(record.clip)
        if len(done) == 2:
            os.kill(min(pids.values()), signal.SIGKILL)

    given = options(Path(videos.name), tmp_path, pack, scheduler=shared.scheduler_address)
    summary = extract(given, finished=finished)
    assert summary.statuses == {"ok": 8, "no_face": 1, "unreadable": 1}
    assert dict(store.digest(tmp_path / "f.store")) == expected
    replaced(shared, set(pids.values()))


def replaced(shared: LocalCluster, before: set[int]) -> None:
    """Wait until there are two workers, not all of them those from before."""
    deadline = time.monotonic() + 30
    with Client(shared) as client:
        while time.monotonic() < deadline:
            # One that is ending may close the line in the middle of the question.
            now = set(client.run(os.getpid, on_error="ignore").values())
            if len(now) == 2 and now != before:
                return
            time.sleep(0.2)
    raise AssertionError(f"workers were {before}, are {now}")


def run(
    shared: LocalCluster, sources: list[Source], pack: Path, limit: float = 60.0, **changes: str
) -> Iterator[Result]:
    setup = WorkerSetup(str(pack), Device.CPU, Recipe())
    fingerprint = changes.get("fingerprint") or packs.resolve(pack).fingerprint
    return cluster.run_clips(
        sources,
        setup,
        2,
        limit,
        scheduler=shared.scheduler_address,
        fingerprint=fingerprint,
    )


def test_only_the_clip_that_kills_workers_is_given_up(
    shared: LocalCluster, videos: Path, small_pack: Path
) -> None:
    """Also clips that wait behind it on a dying worker get through."""
    sources = [Source(f"clip{i}", videos / f"clip{i}.mp4") for i in range(6)]
    sources.insert(2, Source("poison.mp4", videos / "clip0.mp4"))
    records = {record.clip: record for record, _ in run(shared, sources, small_pack)}
    assert len(records) == 7
    poison = records.pop("poison.mp4")
    assert poison.status is Status.FAILED
    assert poison.message == "the worker process died"
    assert poison.size_bytes == (videos / "clip0.mp4").stat().st_size
    assert {record.status for record in records.values()} == {Status.OK}


def test_a_result_that_dies_with_its_worker_is_made_again(
    shared: LocalCluster, videos: Path, small_pack: Path
) -> None:
    sources = [Source(f"{i}", videos / f"clip{i % 8}.mp4") for i in range(8)]
    with Client(shared) as client:
        client.wait_for_workers(2, timeout=30)
        results = run(shared, sources, small_pack)
        records = [next(results)[0]]
        deadline = time.monotonic() + 30
        while sum(map(len, client.has_what().values())) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)  # every clip in flight is finished, and none of them fetched
        held = client.has_what()
        assert sum(map(len, held.values())) == 4
        pids = client.run(os.getpid)
        victim = max(held, key=lambda address: len(held[address]))
        os.kill(pids[victim], signal.SIGKILL)
        while victim in client.nthreads() and time.monotonic() < deadline:
            time.sleep(0.01)
        records += [record for record, _ in results]
    assert sorted(record.clip for record in records) == [str(i) for i in range(8)]
    assert {record.status for record in records} == {Status.OK}
    replaced(shared, set(pids.values()))


def test_a_clip_that_hangs_is_cut_off(
    shared: LocalCluster, videos: Path, small_pack: Path, tmp_path: Path
) -> None:
    sources = [Source(f"clip{i}", videos / f"clip{i}.mp4") for i in range(4)]
    sources.insert(1, Source("stuck.mp4", stuck(tmp_path / "stuck.mp4")))
    with Client(shared) as client:
        client.wait_for_workers(2, timeout=30)
        before = set(client.run(os.getpid).values())
    records = {record.clip: record for record, _ in run(shared, sources, small_pack, limit=5.0)}
    assert records.pop("stuck.mp4").message == "gave no result within its time limit, cut off"
    assert {record.status for record in records.values()} == {Status.OK}
    assert len(records) == 4
    replaced(shared, before)  # the process that hung has ended itself


def test_a_file_that_workers_do_not_see_fails_and_says_so(
    shared: LocalCluster, videos: Path, small_pack: Path, tmp_path: Path
) -> None:
    hidden = shutil.copy(videos / "clip0.mp4", tmp_path / "elsewhere.mp4")
    sources = [
        Source("a", videos / "clip0.mp4"),
        Source("hidden", Path(hidden)),
        Source("gone", tmp_path / "gone.mp4"),
    ]
    records = {record.clip: record for record, _ in run(shared, sources, small_pack)}
    assert records["a"].status is Status.OK
    assert records["hidden"].status is Status.FAILED
    assert f"does not see {hidden}" in records["hidden"].message
    assert "share" in records["hidden"].message
    assert records["gone"].status is Status.UNREADABLE  # by nobody: no fault of the cluster


def test_workers_with_another_pack_or_facepipe_are_refused(
    shared: LocalCluster, videos: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [Source("a", videos / "clip0.mp4")]
    with pytest.raises(ClusterError, match="pack is .* this client's 000000"):
        list(run(shared, sources, small_pack, fingerprint="0" * 64))
    with pytest.raises(ClusterError, match="does not see the pack's folder /no/pack"):
        list(run(shared, sources, Path("/no/pack"), fingerprint="0" * 64))
    real = Kind.here
    for changed, match in (
        ({"version": "9.9"}, "runs facepipe .*, this client 9.9"),
        ({"code": "f" * 64}, "its code .* is not this client's"),
    ):
        monkeypatch.setattr(Kind, "here", lambda pack, c=changed: Kind(**{**vars(real(pack)), **c}))
        with pytest.raises(ClusterError, match=match) as caught:
            list(run(shared, sources, small_pack))
        assert caught.value.exit_code == 2
        assert caught.value.hint


def test_no_more_than_two_clips_a_worker_are_in_flight_and_none_is_kept(
    shared: LocalCluster, videos: Path, small_pack: Path
) -> None:
    sent = 0

    def sources() -> Iterator[Source]:
        nonlocal sent
        for i in range(14):
            sent += 1
            yield Source(f"{i}", videos / f"clip{i % 8}.mp4")

    with Client(shared) as client:
        client.wait_for_workers(2, timeout=30)
    most = got = 0
    for record, rows in run(shared, sources(), small_pack):  # type: ignore[arg-type]
        assert record.status is Status.OK and rows is not None
        got += 1
        most = max(most, sent - got)
    assert got == 14
    assert most <= 4
    with Client(shared) as client:
        assert not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["silent", "closed", "worker", "nonsense", "foo://bar"])
def test_no_scheduler_at_the_address_is_told_before_anything_is_written(
    kind: str,
    request: pytest.FixtureRequest,
    shared: LocalCluster,
    videos: Path,
    small_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 1.0)
    address = request.getfixturevalue(kind) if kind in ("silent", "closed") else kind
    if kind == "worker":
        with Client(shared) as client:
            address = next(iter(client.nthreads()))
    with pytest.raises(ClusterError, match="no Dask scheduler answers") as caught:
        extract(options(videos, tmp_path, small_pack, scheduler=address))
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "f.store").exists()


def test_a_scheduler_that_goes_away_ends_the_run_and_what_was_finished_is_kept(
    videos: Path, small_pack: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    own = start()
    done: list[str] = []

    def finished(record: ClipRecord, summary: Summary) -> None:
        done.append(record.clip)
        if len(done) == 2:
            own.close()

    given = options(videos, tmp_path, small_pack, scheduler=own.scheduler_address)
    with pytest.raises(ClusterLostError):
        extract(given, finished=finished)
    assert store.verify(tmp_path / "f.store").ok
    summary = extract(options(videos, tmp_path, small_pack))
    assert len(summary.plan.done) >= 2
    assert dict(store.digest(tmp_path / "f.store")) == expected


class Told:
    """A future that tells the next of some statuses each time it is asked."""

    def __init__(self, key: str, *statuses: str) -> None:
        self.key, self._statuses = key, list(statuses)

    @property
    def status(self) -> str:
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]

    def result(self) -> list[Result]:
        if self._statuses[0] == "error":
            raise KilledWorker("a", None, 0)
        if self._statuses[0] == "lost":
            raise asyncio.CancelledError
        return [(ClipRecord("a", Status.NO_FACE), None)]

    def release(self) -> None: ...


class Completed(list[Told]):
    """What is used of ``as_completed``, in which everything is completed at once."""

    add = list.append

    def __iter__(self) -> Iterator[Told]:
        while self:
            yield next(self)

    def __next__(self) -> Told:
        return self.pop(0)


def test_a_suspects_result_that_is_lost_is_made_again(
    small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = iter([Told("1", "error"), Told("2", "lost", "finished")])

    class FakeClient:
        def submit(self, *args: object, **options: object) -> Told:
            return next(futures)

        def nthreads(self) -> dict[str, int]:
            return {"tcp://10.0.0.1:1": 1}

    monkeypatch.setattr("distributed.as_completed", Completed)
    job = cluster._Job(WorkerSetup(str(small_pack), Device.CPU, Recipe()), Kind.here("0"), None)
    run = cluster._Run(FakeClient(), job, lambda line: None)
    ((record, _),) = run.results(iter([Source("a", Path("a.mp4"))]))
    assert record.status is Status.NO_FACE
