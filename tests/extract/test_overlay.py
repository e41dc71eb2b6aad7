from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.extract.device import Device
from stages.extract.overlay import OverlayError, overlay
from stages.extract.recipe import WhichFaces
from stages.extract.run import ExtractOptions, extract
from stages.extract.video import ClipReader
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


def test_a_place_where_nothing_can_be_written(home: Path) -> None:
    with pytest.raises(OverlayError, match="cannot write"):
        overlay("a.mp4", home / "videos/a.mp4", home / "f.store", home / "no/where.mp4")
