"""What `extract` leaves with, and what is on stdout then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipeline.cli import app
from stages.extract import run as run_module
from stages.extract.inputs import Source
from stages.extract.workers import failed
from tests.testing.clips import moving_square


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(2):
        moving_square(folder / f"{i}.mp4", frames=6)
    return folder


def extract(videos: Path, pack: Path, *args: str) -> Result:
    common = ["--pack", str(pack), "--device", "cpu", "--workers", "1", "--json"]
    where = ["--store", str(videos.parent / "f.store")]
    return CliRunner().invoke(app, ["extract", str(videos), *common, *where, *args])


def test_1_if_every_clip_failed_with_the_object_on_stdout(
    videos: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(sources: list[Source], *args: object) -> Iterator[object]:
        for source in sources:
            yield failed(source, "the worker process died (exit code -9)"), None

    real = run_module.run_clips
    monkeypatch.setattr(run_module, "run_clips", die)
    done = extract(videos, small_pack)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["clips"] == {"failed": 2}
    assert "--retry-failed" in done.stderr
    assert extract(videos, small_pack).exit_code == 0  # nothing was to do

    def one_dies(sources: list[Source], *args: object) -> Iterator[object]:
        yield from die(sources[:1])
        yield from real(sources[1:], *args)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "run_clips", one_dies)
    done = extract(videos, small_pack, "--retry-failed")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["clips"] == {"failed": 1, "ok": 1}


def test_0_if_the_files_are_to_blame(videos: Path, small_pack: Path) -> None:
    for path in videos.iterdir():
        path.write_text("no video")
    done = extract(videos, small_pack)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["clips"] == {"unreadable": 2}


def test_2_if_changed_clips_were_left_alone_with_the_object_on_stdout(
    videos: Path, small_pack: Path
) -> None:
    assert extract(videos, small_pack).exit_code == 0
    moving_square(videos / "1.mp4", frames=9)
    moving_square(videos / "2.mp4", frames=6)
    done = extract(videos, small_pack)
    assert done.exit_code == 2
    told = json.loads(done.stdout)
    assert told["changed"] == ["1.mp4"]
    assert told["clips"] == {"ok": 1}  # the others were done
    assert "--overwrite" in done.stderr
