from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.extract.device import Device
from stages.extract.overlay import OverlayError, VideoOut, overlay
from stages.extract.recipe import WhichFaces
from stages.extract.run import ExtractOptions, extract
from stages.extract.video import ClipReader
from tests.testing.av_clips import MARKS, frames, read
from tests.testing.clips import picture, write_video

SQUARES = [(70, 120, 50), (220, 120, 90)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> Path:
    folder = tmp_path_factory.mktemp("overlay")
    (folder / "videos").mkdir()
    frames = [picture(SQUARES)] * 6 + [picture([])] * 4
    write_video(folder / "videos/a.mp4", frames)
    options = ExtractOptions(
        [folder / "videos"], folder / "f.store", str(small_pack), Device.CPU, 1,
        faces=WhichFaces.ALL,
    )  # fmt: skip
    extract(options)
    return folder


def test_every_frame_is_drawn_where_the_store_says(home: Path) -> None:
    out = home / "drawn.mp4"
    assert overlay("a.mp4", home / "videos/a.mp4", home / "f.store", out) == 10
    with ClipReader(home / "videos/a.mp4") as plain, ClipReader(out) as drawn:
        pairs = list(zip(plain, drawn, strict=True))
    for i, (before, after) in enumerate(pairs):
        changed = np.abs(before.image.astype(int) - after.image).max(2) > 60
        for x, y, side in SQUARES:
            h = int(side / 2) + 4
            around = changed[int(y) - h : int(y) + h, int(x) - h : int(x) + h]
            assert (around.sum() > 100) == (i < 6), (i, x)


def test_a_clip_that_the_store_does_not_hold(home: Path) -> None:
    with pytest.raises(OverlayError, match=r"no rows of clip 'b\.mp4'"):
        overlay("b.mp4", home / "videos/a.mp4", home / "f.store", home / "x.mp4")


def test_another_file_than_the_one_that_was_extracted(home: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "a.mp4", [picture([])] * 5)
    with pytest.raises(OverlayError, match="5 frames, the store holds 10"):
        overlay("a.mp4", other, home / "f.store", tmp_path / "x.mp4")
    assert not (tmp_path / "x.mp4").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no/where.mp4", "cannot write a video there"),
        ("videos", "is a folder"),
        ("x.webm", "cannot write a video of that kind"),
        ("x.avi", "cannot write a video of that kind"),
    ],
)
def test_a_place_where_nothing_can_be_written(
    home: Path, name: str, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(home.rglob("*"))
    with pytest.raises(OverlayError, match=expected) as caught:
        overlay("a.mp4", home / "videos/a.mp4", home / "f.store", home / name)
    assert caught.value.exit_code == 2
    assert ".mp4" in caught.value.hint
    assert sorted(home.rglob("*")) == before
    assert capfd.readouterr().err == ""


def test_the_clip_itself_is_never_written_over(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    shutil.copy(home / "videos/a.mp4", path)
    (tmp_path / "link.mp4").symlink_to(path)
    (tmp_path / "hard.mp4").hardlink_to(path)
    for out in (path, tmp_path / "." / "a.mp4", tmp_path / "link.mp4", tmp_path / "hard.mp4"):
        with pytest.raises(OverlayError, match="the clip itself"):
            overlay("a.mp4", path, home / "f.store", out)
    assert path.read_bytes() == (home / "videos/a.mp4").read_bytes()


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a"])
def test_times_and_odd_sizes_are_kept(tmp_path: Path, name: str) -> None:
    images = [np.ascontiguousarray(image[:47, :63]) for image in frames()]
    video = VideoOut(tmp_path / name)
    for image, mark in zip(images, MARKS, strict=True):
        video.write(image, mark / 1000)
    video.finish()
    _, times, drawn = read(tmp_path / name)
    np.testing.assert_allclose(times, np.array(MARKS) / 1000, rtol=0, atol=1e-3)
    for before, after in zip(images, drawn, strict=True):
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).mean() < 8
