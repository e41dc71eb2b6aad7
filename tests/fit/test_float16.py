"""What float16 costs, on features that real nets made of real faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import insightface
import numpy as np
import pytest
from scipy.stats import spearmanr

import store
from stages.extract.device import Device
from stages.extract.engine import Engine
from stages.extract.inputs import Source
from stages.extract.nets import open_nets
from stages.extract.packs import Pack
from stages.extract.recipe import Recipe
from stages.fit import models
from stages.fit.config import TrainConfig
from stages.fit.loader import ClipLoader
from stages.fit.reproducible import reproducible
from stages.fit.spans import clip_spans
from stages.fit.trainer import predict, train
from store import ClipRecord, ClipRows
from tests.testing.clips import write_video

PHOTO = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
FACES = ((111, 332), (519, 341))  # two of its six, x, y
FRAMES, CLIP, STEP = 66, 8, 2


def film(path: Path, at: tuple[int, int], seed: int) -> Path:
    """One face of the photo, nodding, coming nearer and changing its light."""
    photo = cv2.imread(str(PHOTO))
    rng = np.random.default_rng(seed)
    turn, size, light = (np.cumsum(rng.normal(0, s, FRAMES)) for s in (3, 0.03, 0.04))
    frames = []
    for t, s, b in zip(np.clip(turn, -25, 25), np.clip(size, -0.4, 0.4), light, strict=True):
        matrix = cv2.getRotationMatrix2D(at, float(t), float(1.6 * np.exp(s)))
        matrix[:, 2] += np.array([160, 120]) - at
        seen = cv2.warpAffine(photo, matrix, (320, 240))
        frames.append(np.clip(seen * np.clip(1 + b, 0.5, 1.5), 0, 255).astype(np.uint8))
    return write_video(path, frames)


def window(rows: ClipRows, first: int) -> ClipRows:
    arrays = {name: array[first : first + CLIP] for name, array in rows.as_dict().items()}
    return ClipRows(**arrays)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real(
    lite_pack: Pack, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, float]]]:
    """The same windows of real features in a store of either dtype, and the windows' scores."""
    folder = tmp_path_factory.mktemp("real")
    films = [film(folder / f"{k}.mp4", at, k) for k, at in enumerate(FACES)]
    engine = Engine(open_nets(lite_pack, Device.CPU, Recipe()), Recipe())
    made: list[tuple[ClipRecord, ClipRows]] = []
    scores: dict[str, float] = {}
    for source, ((record, rows),) in engine.run([Source(p.name, p) for p in films]):
        assert rows is not None and rows.embedding.dtype == np.float32 and rows.valid.mean() > 0.9
        for first in range(0, FRAMES - CLIP + 1, STEP):
            part = window(rows, first)
            valid = int(part.valid.sum())
            if valid == 0:
                continue
            clip = f"{source.clip}/{first:03d}.mp4"
            # The score is how near the face is.
            scores[clip] = float(np.nanmean(part.box[:, 2] - part.box[:, 0]))
            made.append((replace(record, clip=clip, frames=CLIP, valid_frames=valid), part))
    values = np.array(list(scores.values()))
    scores = {c: (s - values.mean()) / values.std() for c, s in scores.items()}
    found = {}
    for dtype in ("float16", "float32"):
        path = folder / f"{dtype}.store"
        with store.Writer(path, {"pack": {"fingerprint": "lite"}}, feature_dtype=dtype) as writer:
            for record, part in made:
                writer.append(record, part)
        found[dtype] = path, scores
    return found


@pytest.mark.parametrize("name", ["appearance", "embedding"])
def test_float16_hardly_turns_a_vector(real, name: str, record_property) -> None:  # type: ignore[no-untyped-def]
    half, full = (store.open(real[d][0]) for d in ("float16", "float32"))
    assert (half.feature_dtype, full.feature_dtype) == ("float16", "float32")
    worst = 0.0
    for record in full.records():
        x, y = (s.clip(record.clip, arrays=[name, "valid"]) for s in (half, full))
        a, b = (c[name][c["valid"]].astype(np.float64) for c in (x, y))
        assert not np.array_equal(a, b)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        worst = max(worst, float((1 - (a * b).sum(axis=1) / norms).max()))
    print(f"largest cosine error of {name} in float16: {worst:.1e}")
    record_property("largest_cosine_error", worst)
    assert 0 < worst < 1e-6


@pytest.mark.parametrize("trained_on", ["float16", "float32"])
def test_ranking_survives_float16(real, trained_on: str, record_property) -> None:  # type: ignore[no-untyped-def]
    """One model, trained once, scores both stores; landmarks are float32 in both."""

    def loader(dtype: str) -> ClipLoader:
        path, scores = real[dtype]
        source = store.open(path)
        return ClipLoader(source, list(clip_spans(source).values()), scores)

    with reproducible(0):
        clips = loader(trained_on)
        model = models.create("2stcn", channels=8, levels=2)
        model.set_statistics(clips.statistics())
        config = TrainConfig(epochs=10, batch_size=8, lr=5e-3)
        train(model, clips, clips, config, 0)
    src, predictions = {}, {}
    for dtype in ("float16", "float32"):
        _, p, g = predict(model, loader(dtype))
        src[dtype], predictions[dtype] = float(spearmanr(p, g).statistic), p.numpy()
    difference = abs(src["float16"] - src["float32"])
    print(f"SRC {src['float32']:.5f} on float32, {src['float16']:.5f} on float16")
    record_property("src_difference", difference)
    assert src["float32"] > 0.5  # there is a ranking to lose
    assert not np.array_equal(predictions["float16"], predictions["float32"])
    assert difference < 0.001
