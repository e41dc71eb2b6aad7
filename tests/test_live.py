"""A stream scored as it comes: the same rows and the same score as offline, nothing read ahead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import store
from stages.extract import packs
from stages.extract.device import Device
from stages.extract.inputs import InputError
from stages.extract.live import LiveExtractor, LiveFace
from stages.extract.nets import Nets, open_nets
from stages.extract.overlay import OverlayError
from stages.extract.recipe import Recipe
from stages.extract.run import ExtractOptions, extract
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.prediction_interval import half_width
from stages.fit.run import fit, load_run
from stages.live import LiveOptions, RunningScore, live
from stages.score import score
from store.schema import ClipRecord, Status
from tests.testing import command
from tests.testing.clips import moving_square, picture, write_video
from tests.testing.command import pipeline
from tests.testing.runs import QUICK, labelled_videos


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> LiveOptions:
    """A causal model, and the clip that it is to score."""
    home = tmp_path_factory.mktemp("live")
    videos = labelled_videos(home / "videos")
    extract(ExtractOptions([videos], home / "f.store", str(small_pack), Device.CPU, 1))
    settings = [*QUICK, "model.causal=true", "refit=false"]
    config = apply_overrides(FitConfig(), settings)
    fit(home / "f.store", videos / "labels.csv", home / "run", config)
    clip = moving_square(home / "clip.mp4", frames=30)
    return LiveOptions(
        str(clip), home / "run", home / "out.mp4", str(small_pack), Device.CPU, store=home / "kept"
    )


@pytest.fixture(scope="module")
def nets(small_pack: Path) -> Nets:
    pack = packs.resolve(str(small_pack))
    recipe = Recipe(
        detector_sizes=tuple(pack.detection.sizes), detector_threshold=pack.detection.threshold
    )
    return open_nets(pack, Device.CPU, recipe)


def frames_of(path: str | Path) -> list[np.ndarray]:
    capture, images = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        images.append(np.asarray(got[1], np.uint8))
    return images


def test_the_last_score_is_the_offline_score_of_the_rows_that_are_kept(
    options: LiveOptions,
) -> None:
    result = live(options)
    assert (result.frames, result.valid_frames) == (30, 30)
    assert len(result.latency_ms) == 30 and min(result.latency_ms) > 0
    offline = load_run(options.run).predict(options.store)  # type: ignore[arg-type]
    assert offline["clip"].tolist() == ["clip.mp4"]
    assert result.score == pytest.approx(offline["score"].item(), abs=1e-5)
    assert result.out == options.out and len(frames_of(options.out)) == 30  # type: ignore[arg-type]
    drawn, plain = frames_of(options.out)[9], frames_of(options.source)[9]  # type: ignore[arg-type]
    assert np.abs(drawn.astype(int) - plain).max() > 100
    assert not list(Path(options.out).parent.glob(".*partial*"))  # type: ignore[arg-type]


def test_the_score_is_near_that_of_pipeline_score(options: LiveOptions, tmp_path: Path) -> None:
    """Rows found with a look ahead are others; what that does to a causal model's score is told."""
    run = load_run(options.run)
    assert run.config.model_options["causal"] is True
    result = live(replace(options, out=tmp_path / "seen.mp4", store=None))
    offline = ExtractOptions(
        [Path(options.source)], tmp_path / "s", device=options.device, workers=1
    )
    scored = score(offline, options.run, tmp_path / "scores.csv", False, options.pack).table
    assert result.score is not None
    off = abs(scored["score"].item() - result.score)
    print(f"score {result.score} live, off by {off} from pipeline score")  # pytest -rP shows it
    assert off < 0.25 * result.half_width


def test_the_interval_is_that_of_the_held_out_errors(options: LiveOptions, tmp_path: Path) -> None:
    result = live(replace(options, out=tmp_path / "seen.mp4", store=None))
    table = pd.read_csv(options.run / "predictions.csv")
    held = table[table["part"] == "test"]
    off = (held["prediction"] - held["target"]).to_numpy()
    low, high = result.interval
    assert result.score is not None and low == pytest.approx(result.score - half_width(off))
    assert result.to_dict()["score_low"] == low < result.to_dict()["score_high"] == high


def test_the_half_width_holds_95_of_100() -> None:
    rng = np.random.default_rng(0)
    assert half_width(np.array([-3.0, 4.0])) == pytest.approx(1.96 * 12.5**0.5)  # few: as if normal
    assert half_width(np.arange(19.0)) == 18.0 and half_width(np.arange(1.0, 100.0)) == 95.0
    assert np.isnan(half_width(np.array([np.nan])))
    held = rng.standard_t(3, size=(4000, 60))
    new = rng.standard_t(3, size=4000)
    assert 0.94 < np.mean([abs(y) <= half_width(x) for x, y in zip(held, new, strict=True)]) < 0.97


def test_every_running_score_is_the_offline_score_of_the_frames_so_far(
    options: LiveOptions, nets: Nets, tmp_path: Path
) -> None:
    run = load_run(options.run)
    extractor, running = LiveExtractor(nets, 1), RunningScore(run)
    images = frames_of(options.source)
    images[6:9] = [np.full_like(images[0], 20)] * 3  # nobody is there
    scores = []
    for k, image in enumerate(images):
        scores.append(running.add(k / 25, extractor.look(image)))
        if k in (0, 4, 8, 20, 29):
            rows = running.rows()
            valid = int(rows.valid.sum())
            assert valid == (k + 1 if k < 6 else k - 2)
            record = ClipRecord("a.mp4", Status.OK, frames=k + 1, valid_frames=valid)
            with store.Writer(tmp_path / f"{k}.store", run.provenance["store"]) as writer:
                writer.append(record, rows)
                writer.flush()
            offline = run.predict(tmp_path / f"{k}.store")["score"].item()
            assert scores[-1] == pytest.approx(offline, abs=1e-5)
    assert len(set(scores)) > 10
    assert scores[8] == pytest.approx(scores[5], abs=1e-5)  # frames without a face change nothing


def test_what_comes_later_changes_nothing(options: LiveOptions, nets: Nets) -> None:
    images = frames_of(options.source)
    other = [*images[:12], *(picture([(220, 60, 60)]) for _ in range(8))]
    told = []
    for clip in (images, other):
        extractor, running = LiveExtractor(nets, 5), RunningScore(load_run(options.run))
        told.append([running.add(k / 25, extractor.look(image)) for k, image in enumerate(clip)])
    assert told[0][:12] == told[1][:12] and told[0][14] != told[1][14]


def test_the_detector_looks_at_every_fifth_frame_and_where_the_face_is_lost(
    options: LiveOptions, nets: Nets, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    detect = nets.detector.detect_many
    monkeypatch.setattr(nets.detector, "detect_many", lambda x: calls.append(len(x)) or detect(x))
    extractor = LiveExtractor(nets, 5)
    images = [picture([(90 + k, 110, 80)]) for k in range(12)]
    images += [np.full_like(images[0], 20)] * 5 + [picture([(200, 150, 80)])] * 4
    faces, looked = [], []
    for k, image in enumerate(images):
        before = len(calls)
        faces.append(extractor.look(image))
        looked += [k] * (len(calls) - before)
    # At every fifth (the tiny net sees a face in any crop), then until there is one again.
    assert looked == [0, 5, 10, 15, 16, 17]
    assert [face is not None for face in faces] == [True] * 15 + [False] * 2 + [True] * 4
    for k, face in enumerate(faces[:12]):
        assert face is not None
        middle = (face.box[:2] + face.box[2:]) / 2
        np.testing.assert_allclose(middle, [90 + k, 110], atol=6)
    once = LiveExtractor(nets, 5, follows=False)
    calls.clear()
    for image in images[:4]:
        once.look(image)
    assert calls == [1] * 4


def _face(rng: np.random.Generator, new: bool = False) -> LiveFace:
    landmark = rng.normal(size=(68, 2)).astype(np.float32) * 20 + 100
    vectors = rng.normal(size=(2, 512)).astype(np.float32)
    return LiveFace(np.array([80, 80, 120, 120], np.float32), 0.9, landmark, *vectors, new)


def test_another_person_and_a_window_begin_anew(options: LiveOptions) -> None:
    run, rng = load_run(options.run), np.random.default_rng(0)
    running = RunningScore(run)
    assert running.add(0.0, None) is None
    faces = [_face(rng) for _ in range(4)] + [_face(rng, new=True)] + [_face(rng)]
    scores = [running.add(0.1 * (k + 1), face) for k, face in enumerate(faces)]
    assert len(running.rows()) == 2
    alone = RunningScore(run)
    assert [alone.add(0.5, faces[4]), alone.add(0.6, faces[5])] == scores[4:]

    short = RunningScore(run, window_s=1.0)
    for k in range(20):
        last = short.add(k / 5, faces[k % 6] if k % 6 != 4 else None)
    assert short.rows().timestamp.tolist() == [k / 5 for k in range(14, 20)]
    assert last is not None
    assert [short.add(10 + k, None) for k in range(3)][-1] is None


def test_a_long_clip_is_scored_less_often_and_settled_at_the_end(
    options: LiveOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rng = load_run(options.run), np.random.default_rng(1)
    running = RunningScore(run)
    lengths: list[int] = []
    monkeypatch.setattr(type(run), "predict_rows", lambda _, rows: lengths.append(len(rows)) or 1.0)
    face = _face(rng)
    for k in range(1003):
        running.add(k / 25, face)
    assert sum(lengths) < 55 * 1003 and len(lengths) < 260
    assert max(b / a for a, b in zip(lengths[50:-1], lengths[51:], strict=True)) < 1.03
    running.settle()
    assert lengths[-1] == 1003


def test_sources_that_are_none_are_one_clear_error(options: LiveOptions, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("text")
    for source in (str(tmp_path / "none.mp4"), str(tmp_path / "text.mp4"), "97"):
        with pytest.raises(InputError, match="none.mp4|text.mp4|camera 97"):
            live(replace(options, source=source, out=tmp_path / "out.mp4", store=None))
    assert [p.name for p in tmp_path.iterdir()] == ["text.mp4"]


def test_the_file_that_is_played_is_never_written_over(options: LiveOptions) -> None:
    before = Path(options.source).read_bytes()
    with pytest.raises(OverlayError, match="the clip itself"):
        live(replace(options, out=Path(options.source), store=None))
    assert Path(options.source).read_bytes() == before


def test_the_command_writes_a_video_where_there_is_no_screen(
    options: LiveOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delitem(command.ENV, name, raising=False)
    write_video(tmp_path / "short.mp4", [picture([(90, 110, 80)])] * 4)
    args = ["live", "--source", "short.mp4", "--run", str(options.run), "--pack", str(options.pack)]
    done = pipeline(tmp_path, *args, "--device", "cpu", "--json")
    told = json.loads(done.stdout)
    assert told["frames"] == told["valid_frames"] == 4 and told["out"] == "live.mp4"
    assert (
        told["frames_per_s"] > 0 and 0 < told["latency_ms"]["median"] <= told["latency_ms"]["p95"]
    )
    assert len(frames_of(tmp_path / "live.mp4")) == 4
    gone = pipeline(tmp_path, "live", "--source", "gone.mp4", *args[3:], code=2)
    assert "gone.mp4" in gone.stderr
