from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stages.extract import batches, detector, engine, faces, landmarks
from stages.extract import clip as clip_module
from stages.extract.clip import Result
from stages.extract.device import Device
from stages.extract.engine import Engine
from stages.extract.inputs import Source
from stages.extract.nets import Nets, open_nets
from stages.extract.packs import resolve
from stages.extract.recipe import Recipe
from stages.extract.requests import Answer, Request
from store import ClipRecord, ClipRows, Status
from tests.testing.clips import moving_square, picture, write_video


@pytest.fixture(scope="module")
def nets(small_pack: Path) -> Nets:
    return open_nets(resolve(small_pack), Device.CPU, Recipe())


def extract(path: Path, nets: Nets, every: int = 5) -> tuple[ClipRecord, ClipRows]:
    ((source, ((record, rows),)),) = Engine(nets, Recipe(every=every)).run([Source("a", path)])
    assert record.clip == source.clip == "a"
    assert rows is not None
    return record, rows


def test_every_frame_has_a_row(tmp_path: Path, nets: Nets) -> None:
    record, rows = extract(moving_square(tmp_path / "a.mp4", frames=23), nets)
    assert record.status is Status.OK
    assert (record.frames, record.valid_frames, len(rows)) == (23, 23, 23)
    assert rows.valid.all()
    assert rows.embedding.shape == rows.appearance.shape == (23, 512)
    assert rows.landmark.shape == (23, 136)
    centre = (rows.box[:, :2] + rows.box[:, 2:]) / 2
    expected = np.stack([90 + 3 * np.arange(23), 110 + np.arange(23)], axis=1)
    np.testing.assert_allclose(centre, expected, atol=6)
    assert record.details == {}
    assert len(record.content_sha256) == 64


def test_boxes_between_key_frames_serve_as_well(tmp_path: Path, nets: Nets) -> None:
    path = moving_square(tmp_path / "a.mp4", frames=23)
    dense, sparse = extract(path, nets, every=1)[1], extract(path, nets, every=5)[1]
    eyes = np.linalg.norm(dense.landmark[:, 72:74] - dense.landmark[:, 90:92], axis=1).mean()
    moved = np.linalg.norm((dense.landmark - sparse.landmark).reshape(-1, 68, 2), axis=2)
    assert np.median(moved) < 0.05 * eyes


def test_frames_without_a_face_keep_their_rows(tmp_path: Path, nets: Nets) -> None:
    there, gone = picture([(150, 110, 80)]), picture([])
    path = write_video(tmp_path / "a.mp4", [there] * 7 + [gone] * 6 + [there] * 8)
    record, rows = extract(path, nets)
    np.testing.assert_array_equal(rows.valid, [True] * 7 + [False] * 6 + [True] * 8)
    assert record.valid_frames == 15
    for name, array in rows.as_dict().items():
        if name not in ("timestamp", "valid"):
            assert np.isnan(array[7:13]).all(), name
            assert np.isfinite(array[rows.valid]).all(), name
    np.testing.assert_allclose(rows.timestamp, np.arange(21) / 25, atol=1e-3)


def test_the_main_face_is_the_one_with_most_area(tmp_path: Path, nets: Nets) -> None:
    frames = [picture([(70, 120, 50), (220, 120, 90 if i >= 4 else 40)]) for i in range(20)]
    _, rows = extract(write_video(tmp_path / "a.mp4", frames), nets)
    assert rows.valid.sum() >= 16
    assert (rows.box[rows.valid][:, 0] > 150).all()


def test_no_face(tmp_path: Path, nets: Nets) -> None:
    path = write_video(tmp_path / "a.mp4", [picture([])] * 9)
    record, rows = extract(path, nets)
    assert record.status is Status.NO_FACE
    assert record.message == "no face in any frame"
    assert (record.frames, record.valid_frames) == (9, 0)
    assert not rows.valid.any()
    assert np.isnan(rows.embedding).all()


def test_unreadable(tmp_path: Path, nets: Nets) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("text")
    ((_, ((record, rows),)),) = Engine(nets, Recipe()).run([Source("a.mp4", path)])
    assert rows is None
    assert record.status is Status.UNREADABLE
    assert "plain text" in record.message
    assert (record.frames, record.size_bytes) == (0, 4)


def test_a_still(tmp_path: Path, nets: Nets) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture([(150, 110, 80)]))
    record, rows = extract(path, nets)
    assert (record.status, record.frames, record.valid_frames) == (Status.OK, 1, 1)
    assert rows.timestamp.tolist() == [0.0]


def test_long_clips_in_bounded_memory_give_the_same_rows(
    tmp_path: Path, nets: Nets, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [picture([(70 + i, 120, 50), (220, 120, 80)]) for i in range(30)]
    path = write_video(tmp_path / "a.mp4", frames)
    _, expected = extract(path, nets)
    monkeypatch.setattr(clip_module, "HELD_CROPS", 7)
    _, rows = extract(path, nets)
    for name, array in rows.as_dict().items():
        np.testing.assert_array_equal(array, expected.as_dict()[name], err_msg=name)


def test_few_frames_are_in_memory_at_a_time(
    tmp_path: Path, nets: Nets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of 5, the key frame before it and the one being handed out; of 4k each is 25 MB."""
    alive: list[weakref.ref[Any]] = []
    counts: list[int] = []
    read = clip_module.ClipReader.__iter__

    def watched(reader: clip_module.ClipReader) -> Generator[Any]:
        for frame in read(reader):
            alive.append(weakref.ref(frame.image))
            counts.append(sum(ref() is not None for ref in alive))
            yield frame

    monkeypatch.setattr(clip_module.ClipReader, "__iter__", watched)
    extract(moving_square(tmp_path / "a.mp4", frames=23), nets)
    assert len(counts) == 23
    assert max(counts) <= 7


def test_landmarks_that_are_no_face_make_their_frame_invalid(
    tmp_path: Path, nets: Nets, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(nets.landmark).__call__

    def astray(self: object, images: list, crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        landmark, better = real(self, images, crop)
        landmark[landmark[:, :, 0].mean(1) > 120] = np.nan
        return landmark, better

    path = moving_square(tmp_path / "a.mp4", frames=20)
    _, whole = extract(path, nets)
    monkeypatch.setattr(type(nets.landmark), "__call__", astray)
    _, rows = extract(path, nets)
    middle = whole.landmark.reshape(-1, 68, 2)[:, :, 0].mean(1)
    np.testing.assert_array_equal(rows.valid, middle <= 120)
    assert 0 < rows.valid.sum() < 20


def test_it_is_deterministic(tmp_path: Path, nets: Nets, small_pack: Path) -> None:
    path = moving_square(tmp_path / "a.mp4")
    _, first = extract(path, nets)
    _, again = extract(path, open_nets(resolve(small_pack), Device.CPU, Recipe()))
    for name, array in first.as_dict().items():
        np.testing.assert_array_equal(array, again.as_dict()[name], err_msg=name)


@pytest.mark.parametrize("sizes", [(8, 2, 1), (3, 1)])
def test_batches_of_other_sizes_give_the_same_bits(
    tmp_path: Path, nets: Nets, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    frames = [picture([(70 + 5 * i, 120, 50), (220, 120, 80)]) for i in range(23)]
    path = write_video(tmp_path / "a.mp4", frames)
    _, expected = extract(path, nets)
    seen: set[int] = set()

    def in_those(run: Callable[..., Any], blob: np.ndarray, given: object = None) -> list[Any]:
        seen.update(n for n in sizes if n <= len(blob))
        return batches.in_batches(run, blob, sizes)

    for module in (detector, faces, landmarks):
        monkeypatch.setattr(module, "in_batches", in_those)
    monkeypatch.setattr(nets.recognition, "_batches", sizes)
    _, rows = extract(path, nets)
    assert seen == set(sizes)
    same(rows, expected)


def same(a: ClipRows, b: ClipRows) -> None:
    for name, array in a.as_dict().items():
        np.testing.assert_array_equal(array, b.as_dict()[name], err_msg=name)


@pytest.mark.parametrize("threads", [False, True])
def test_clips_that_share_batches_get_the_rows_they_get_alone(
    tmp_path: Path, nets: Nets, threads: bool
) -> None:
    paths = [moving_square(tmp_path / f"{i}.mp4", frames=9 + 4 * i) for i in range(5)]
    paths.append(write_video(tmp_path / "nobody.mp4", [picture([], size=(160, 200))] * 7))
    (tmp_path / "broken.mp4").write_text("text")
    paths.append(tmp_path / "broken.mp4")
    sources = [Source(path.name, path) for path in paths]
    together = dict(Engine(nets, Recipe(), clips=3, threads=threads).run(sources))
    assert set(together) == set(sources)
    for source in sources:
        ((_, ((alone, expected),)),) = Engine(nets, Recipe()).run([source])
        ((record, rows),) = together[source]
        assert record == alone
        if expected is None:
            assert rows is None
        else:
            same(rows, expected)


@pytest.mark.parametrize("clips", [1, 3])
def test_no_more_clips_are_open_than_asked_for(
    tmp_path: Path, nets: Nets, monkeypatch: pytest.MonkeyPatch, clips: int
) -> None:
    begun, most = 0, 0

    class Counted(engine.ClipTask):
        def run(self) -> Generator[Request, Answer, list[Result]]:
            nonlocal begun, most
            begun += 1
            most = max(most, begun)
            results = yield from super().run()
            begun -= 1
            return results

    monkeypatch.setattr(engine, "ClipTask", Counted)
    paths = [moving_square(tmp_path / f"{i}.mp4", frames=9 + 4 * i) for i in range(5)]
    sources = [Source(path.name, path) for path in paths]
    assert len(list(Engine(nets, Recipe(), clips=clips).run(sources))) == 5
    assert most == clips


def test_all_faces_are_tracks_of_their_own(tmp_path: Path, nets: Nets) -> None:
    frames = [picture([(70, 120, 50), (220, 120, 90)] if i < 15 else [(220, 120, 90)])
              for i in range(20)]  # fmt: skip
    path = write_video(tmp_path / "a.mp4", frames)
    ((_, results),) = Engine(nets, Recipe(faces="all")).run([Source("a", path)])
    assert [record.track for record, _ in results] == [1, 0]
    (small, small_rows), (large, large_rows) = results
    assert (large.valid_frames, small.valid_frames) == (20, 15)
    assert small.frames == large.frames == 20
    assert (small_rows.box[:15, 0] < 100).all()
    _, main = extract(path, nets)
    same(main, large_rows)


def test_a_decoder_that_fails_in_its_thread_fails_its_clip(tmp_path: Path, nets: Nets) -> None:
    path = moving_square(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    good = moving_square(tmp_path / "b.mp4")
    sources = [Source("a", path), Source("b", good)]
    found = dict(Engine(nets, Recipe(), clips=2, threads=True).run(sources))
    assert found[sources[0]][0][0].status is Status.UNREADABLE
    assert found[sources[1]][0][0].status is Status.OK


@pytest.mark.parametrize("where", ["net", "clip"])
def test_an_error_leaves_no_thread_reading_from_a_closed_clip(
    where: str, tmp_path: Path, nets: Nets, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = moving_square(tmp_path / "a.mp4", frames=60)  # more than are decoded ahead
    decoding: list[int] = []
    close = clip_module.ClipReader.__exit__

    def closed(reader: clip_module.ClipReader, *error: Any) -> None:
        decoding.append(sum("(decode)" in thread.name for thread in threading.enumerate()))
        close(reader, *error)

    def fails(*args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(clip_module.ClipReader, "__exit__", closed)
    if where == "net":
        monkeypatch.setattr(type(nets.landmark), "__call__", fails)
    else:
        monkeypatch.setattr(clip_module, "align", fails)
    with pytest.raises(RuntimeError, match="broken"):
        list(Engine(nets, Recipe(), clips=2, threads=True).run([Source("a", path)]))
    gc.collect()  # the traceback held the clip
    assert decoding == [0]


@pytest.mark.parametrize(("clips", "sizes"), [(1, batches.CPU_BATCHES), (16, batches.BATCHES)])
def test_warming_up_meets_every_batch_size(
    nets: Nets, monkeypatch: pytest.MonkeyPatch, clips: int, sizes: tuple[int, ...]
) -> None:
    met: dict[tuple[int, ...], set[int]] = {}

    def watched(run: Callable[..., Any], blob: np.ndarray, sizes: Any = batches.BATCHES) -> Any:
        def run_one(part: np.ndarray) -> Any:
            met.setdefault(part.shape[1:], set()).add(len(part))
            return run(part)

        return batches.in_batches(run_one, blob, sizes)

    for module in (detector, faces, landmarks):
        monkeypatch.setattr(module, "in_batches", watched)
    for net in (nets.landmark, nets.recognition):  # on a GPU those of a GPU
        assert net._batches == batches.CPU_BATCHES
        monkeypatch.setattr(net, "_batches", sizes)
    Engine(nets, Recipe(), clips).warm_up()
    inputs = (net._session.get_inputs()[0].shape for net in (nets.landmark, nets.recognition))
    of_faces = {tuple(shape[1:]): met.pop(tuple(shape[1:])) for shape in inputs}
    assert all(found == set(sizes) for found in of_faces.values())
    assert met  # the detector: a CPU looks for faces in one picture at a time
    assert all(found == (set(sizes) if clips > 1 else {1}) for found in met.values())
