"""What a run keeps when a file, a track or the store itself is not as it should be."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import store
from stages.extract import run as run_module
from stages.extract.recipe import WhichFaces
from stages.extract.run import extract, plan
from store import Status, StoreError
from store.layout import Layout
from tests.testing.clips import moving_square, picture, write_video
from tests.testing.runs import options


def test_a_damaged_store_ends_the_run_and_costs_no_clip(
    tmp_path: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving_square(tmp_path / "a.mp4", frames=6)
    given = options(tmp_path, tmp_path, small_pack, workers=1)
    extract(given)
    for shard in (tmp_path / "f.store" / "arrays.zarr").glob("*/c/*"):
        for file in [shard] if shard.is_file() else (f for f in shard.rglob("*") if f.is_file()):
            file.write_bytes(b"the disk ate it")
    moving_square(tmp_path / "b.mp4", frames=6)
    small = functools.partial(store.Writer, layout=Layout(flush_rows=12))  # as b.mp4 comes
    monkeypatch.setattr(run_module.store, "Writer", small)
    with pytest.raises(StoreError, match="damaged"):
        extract(given)
    assert [r.clip for r in store.open(tmp_path / "f.store").records()] == ["a.mp4"]
    writer = small(tmp_path / "f.store", store.open(tmp_path / "f.store").provenance)
    assert {r.clip: r.status for r in writer.records()} == dict.fromkeys(
        ["a.mp4", "b.mp4"], Status.OK
    )  # what was extracted waits in the journal
    with pytest.raises(StoreError, match="damaged"):
        writer.close()


def test_a_clip_that_vanished_since_it_was_listed_keeps_its_rows(
    tmp_path: Path, small_pack: Path
) -> None:
    moving_square(tmp_path / "a.mp4", frames=6)
    moving_square(tmp_path / "b.mp4", frames=6)
    given = options(tmp_path, tmp_path, small_pack, workers=1)
    extract(given)
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "on a drive that is not mounted.mp4")
    found = plan(given)
    assert [[s.clip for s in part] for part in (found.todo, found.changed, found.done)] == [
        [], ["a.mp4"], ["b.mp4"],
    ]  # fmt: skip


def test_a_track_that_the_store_refuses_is_not_counted_as_a_clip(
    tmp_path: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", [picture([(70, 120, 50), (220, 120, 90)])] * 8)
    real = run_module.run_clips

    def spoilt(*args: object) -> object:
        for record, rows in real(*args):  # type: ignore[arg-type]
            if record.track:
                rows.landmark[3] = 1e6
            yield record, rows

    monkeypatch.setattr(run_module, "run_clips", spoilt)
    summary = extract(options(tmp_path, tmp_path, small_pack, workers=1, faces=WhichFaces.ALL))
    assert summary.statuses == {"ok": 1}
    records = {r.track: r for r in store.open(tmp_path / "f.store").records()}
    assert (records[0].status, records[1].status) == (Status.OK, Status.FAILED)
    assert "landmark" in records[1].message
