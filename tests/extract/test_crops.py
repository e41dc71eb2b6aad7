from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import store
from stages.extract import crops as crops_module
from stages.extract.crops import SPARE, Reservoir, bound, choose
from stages.extract.device import Device
from stages.extract.engine import Engine
from stages.extract.faces import TEMPLATE, align, similarity
from stages.extract.inputs import InputError, Source
from stages.extract.nets import Nets, open_nets
from stages.extract.packs import resolve
from stages.extract.recipe import Recipe
from stages.extract.run import ExtractOptions, extract
from stages.extract.video import ClipReader
from store import ClipRows, StoreMismatchError
from tests.testing.clips import moving_square, picture, write_video


@pytest.fixture(scope="module")
def nets(small_pack: Path) -> Nets:
    return open_nets(resolve(small_pack), Device.CPU, Recipe())


def rows_of(path: Path, nets: Nets, **recipe: int) -> ClipRows:
    ((_, ((_, rows),)),) = Engine(nets, Recipe(**recipe)).run([Source("a", path)])  # type: ignore[arg-type]
    assert rows is not None
    return rows


def filled(monkeypatch: pytest.MonkeyPatch, frames: range, wanted: int) -> Reservoir:
    """Return a reservoir of pictures of one pixel, which hold the number of their frame."""
    monkeypatch.setattr(crops_module, "align", lambda image, landmark, size: image)
    made = Reservoir(wanted, 1)
    for frame in frames:
        made.offer(frame, np.full((1, 1, 3), frame % 251, np.uint8), np.zeros((68, 2), np.float32))
    return made


@pytest.mark.parametrize("wanted", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 5, 8, 31, 32, 33, 100, 1000])
def test_crops_are_evenly_spaced_whatever_the_length(
    monkeypatch: pytest.MonkeyPatch, n: int, wanted: int
) -> None:
    reservoir = filled(monkeypatch, range(n), wanted)
    assert len(reservoir) <= SPARE * wanted
    found = choose([reservoir], np.arange(n), wanted)
    assert found is not None
    assert len(found.frames) == len(found.images) == min(n, wanted)
    if n <= wanted:
        assert found.frames.tolist() == list(range(n))
    ideal = (np.arange(len(found.frames)) + 0.5) * n / len(found.frames) - 0.5
    assert np.abs(found.frames - ideal).max() <= max(0.5, 0.25 * n / len(found.frames))
    assert (np.diff(found.frames) > 0).all()
    assert found.images[:, 0, 0, 0].tolist() == (found.frames % 251).tolist()


def test_a_track_of_several_pieces_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [range(40), range(50, 53), range(100, 400)]
    reservoirs = [filled(monkeypatch, piece, 4) for piece in pieces]
    valid = np.concatenate([list(piece) for piece in pieces])
    found = choose(reservoirs, valid, 4)
    assert found is not None
    at = np.searchsorted(valid, found.frames)
    assert np.abs(at - (np.arange(4) + 0.5) * len(valid) / 4).max() <= len(valid) / 16
    assert np.isin(found.frames, valid).all()


def test_fewer_held_than_wanted_are_all_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    reservoir = filled(monkeypatch, range(100), 8)
    while len(reservoir) > 3:
        reservoir.thin()
    found = choose([reservoir], np.arange(100), 8)
    assert found is not None
    assert found.frames.tolist() == reservoir.frames
    assert choose([], np.arange(3), 8) is None


def test_all_pictures_of_a_clip_stay_within_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "HELD_BYTES", 3 * 20)
    many = [filled(monkeypatch, range(n), 4) for n in (16, 16, 5, 1, 1)]
    bound(many, 1)
    assert sum(map(len, many)) <= 20
    assert all(len(reservoir) >= 1 for reservoir in many)
    assert len(many[2]) >= 4  # the long ones give first
    bound(ones := [filled(monkeypatch, range(1), 4) for _ in range(30)], 1)
    assert [len(one) for one in ones] == [1] * 30


def test_a_crop_is_the_aligned_face_at_another_scale() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    landmark = np.random.default_rng(1).uniform(80, 220, (68, 2)).astype(np.float32)
    assert align(image, landmark, 112).tobytes() == align(image, landmark).tobytes()
    assert align(image, landmark, 224).shape == (224, 224, 3)
    twice = similarity(TEMPLATE, TEMPLATE * 2)
    np.testing.assert_allclose(twice, [[2, 0, 0], [0, 2, 0]], atol=1e-9)


def test_pictures_are_those_of_their_frames_and_rgb(tmp_path: Path, nets: Nets) -> None:
    path = moving_square(tmp_path / "a.mp4", frames=30, start=(90, 110, 80), step=(2, 1))
    rows = rows_of(path, nets, crops=4, crop_size=160)
    assert rows.crops is not None
    assert rows.crops.images.shape == (4, 160, 160, 3)
    assert np.abs(rows.crops.frames - [3.25, 10.75, 18.25, 25.75]).max() <= 1.75
    with ClipReader(path) as reader:
        frames = [frame.image.copy() for frame in reader]
    for frame, crop in zip(rows.crops.frames, rows.crops.images, strict=True):
        expected = align(frames[int(frame)], rows.landmark[frame].reshape(68, 2), 160)
        np.testing.assert_array_equal(crop, expected[..., ::-1])
        red, _, blue = crop[80, 80].astype(int)  # squares are drawn with more red than blue
        assert red > blue


def test_features_do_not_depend_on_crops(tmp_path: Path, nets: Nets) -> None:
    path = moving_square(tmp_path / "a.mp4", frames=12)
    plain, with_crops = rows_of(path, nets), rows_of(path, nets, crops=3, crop_size=64)
    assert plain.crops is None
    for name, array in plain.as_dict().items():
        assert array.tobytes() == with_crops.as_dict()[name].tobytes(), name


def options(videos: Path, path: Path, pack: Path, **changes: object) -> ExtractOptions:
    given = {"device": Device.CPU, "workers": 1, **changes}
    return ExtractOptions([videos], path, str(pack), **given)  # type: ignore[arg-type]


def test_a_folder_becomes_a_store_with_crops(small_pack: Path, tmp_path: Path) -> None:
    videos, path = tmp_path / "videos", tmp_path / "f.store"
    videos.mkdir()
    moving_square(videos / "long.mp4", frames=14)
    moving_square(videos / "short.mp4", frames=2)
    write_video(videos / "nobody.mp4", [picture([])] * 5)
    given = options(videos, path, small_pack, crops=5, crop_size=48)
    assert extract(given).statuses == {"ok": 2, "no_face": 1}
    report = store.verify(path)
    assert report.ok, report.problems
    opened = store.open(path)
    counts = {r.clip: len(opened.crops(r.clip)[0]) for r in opened.records()}
    assert counts == {"long.mp4": 5, "short.mp4": 2, "nobody.mp4": 0}
    assert opened.dask("crop").shape == (7, 48, 48, 3)
    recipe = opened.provenance["recipe"]
    assert (recipe["crops"], recipe["crop_size"]) == (5, 48)

    moving_square(videos / "new.mp4", frames=7)
    assert extract(options(videos, path, small_pack)).statuses == {"ok": 1}  # as the store
    assert len(store.open(path).crops("new.mp4")[0]) == 5
    extract(options(videos, path, small_pack, overwrite=True))
    assert store.open(path).n_crops == 12
    assert store.verify(path).ok
    digest = dict(store.digest(path))
    extract(options(videos, tmp_path / "two.store", small_pack, crops=5, crop_size=48, workers=2))
    assert dict(store.digest(tmp_path / "two.store")) == digest
    for changes, told in (
        ({"crops": 6}, "crops=5; this run asks for crops=6"),
        ({"crop_size": 50}, "holds crops of 48 pixels, this run makes crops of 50"),
    ):
        with pytest.raises(StoreMismatchError, match=told):
            extract(options(videos, path, small_pack, **changes))


def test_a_store_without_crops_stays_one(small_pack: Path, tmp_path: Path) -> None:
    videos, path = tmp_path / "videos", tmp_path / "f.store"
    videos.mkdir()
    moving_square(videos / "a.mp4", frames=5)
    extract(options(videos, path, small_pack))
    assert "crops" not in store.open(path).provenance["recipe"]
    with pytest.raises(StoreMismatchError, match="holds no crops, this run makes crops of 224"):
        extract(options(videos, path, small_pack, crops=2))
    with pytest.raises(InputError, match="a crop size of 64 was asked for, and no crops"):
        extract(options(videos, path, small_pack, crop_size=64))


def test_every_track_has_its_own(small_pack: Path, tmp_path: Path) -> None:
    videos, path = tmp_path / "videos", tmp_path / "f.store"
    videos.mkdir()
    two = [picture([(80 + i, 120, 90), (240 - i, 120, 60)]) for i in range(12)]
    write_video(videos / "a.mp4", two)
    extract(options(videos, path, small_pack, crops=3, crop_size=32, faces="all"))
    opened = store.open(path)
    assert [r.track for r in opened.records()] == [0, 1]
    assert [len(opened.crops("a.mp4", track)[0]) for track in (0, 1)] == [3, 3]
    assert opened.crops("a.mp4", 0)[1].tobytes() != opened.crops("a.mp4", 1)[1].tobytes()
    assert store.verify(path).ok
