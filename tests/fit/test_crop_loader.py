from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import store
from stages.fit import crops
from stages.fit.crops import CropLoader
from stages.fit.loader import Budget
from stages.fit.pictures import Pictures
from stages.fit.spans import MissingFeaturesError, clip_spans
from tests.fit.crop_clips import SIDE, make_pictures

ASKED = Pictures(64, margin=SIDE / 64 - 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def loader(pictures: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> CropLoader:
    monkeypatch.setattr(crops, "BLOCK_CROPS", 7)
    return opened(pictures[0])


def opened(path: Path, budget: Budget | None = None) -> CropLoader:
    source = store.open(path)
    spans = list(clip_spans(source).values())
    words = {span.clip: {"frame": span.clip[:2]} for span in spans}
    return CropLoader(source, spans, ASKED, {}, budget, words)


def test_in_order_every_clip_gives_all_its_crops_as_stored(
    loader: CropLoader, pictures: tuple[Path, Path]
) -> None:
    source = store.open(pictures[0])
    seen = []
    for batch in loader.batches(5):
        assert batch.appearance.dtype == torch.uint8
        for b, clip in enumerate(batch.clips):
            _, want = source.crops(clip)
            k = int(batch.mask[b].sum())
            assert k == len(want) and bool(batch.mask[b, :k].all())
            assert np.array_equal(batch.appearance[b, :k].numpy(), want)
            assert bool((batch.appearance[b, k:] == 0).all())
            assert batch.attributes[b] == {"frame": clip[:2]}
        seen += batch.clips
    assert seen == [span.clip for span in loader.clips] and len(set(seen)) == 24
    assert len(loader.blocks) > 5 and loader.longest() == 3


def epoch(loader: CropLoader, number: int) -> dict[str, np.ndarray]:
    found = {}
    for batch in loader.batches(4, shuffle=True, seed=1, epoch=number):
        assert batch.appearance.shape[1:] == (1, 64, 64, 3) and bool(batch.mask.all())
        found |= {c: x.numpy() for c, x in zip(batch.clips, batch.appearance, strict=True)}
    assert len(found) == 24
    return found


def test_training_draws_one_crop_a_clip_anew_in_every_epoch(
    loader: CropLoader, pictures: tuple[Path, Path]
) -> None:
    first, again, later = epoch(loader, 1), epoch(loader, 1), epoch(loader, 2)
    lean = epoch(opened(pictures[0], Budget(0)), 1)  # nothing stays in memory
    for clip, image in first.items():
        assert np.array_equal(image, again[clip]) and np.array_equal(image, lean[clip])
        assert not np.array_equal(image, later[clip])
    assert list(first) != list(later)


def test_clips_without_crops_are_named(
    made: tuple[Path, Path], pictures: tuple[Path, Path], loader: CropLoader
) -> None:
    source = store.open(made[0])
    with pytest.raises(MissingFeaturesError, match="holds no crops") as told:
        CropLoader(source, list(clip_spans(source).values()), ASKED)
    assert "--crops" in told.value.hint
    stranger = loader.clips[0]._replace(clip="other.mp4")
    with pytest.raises(MissingFeaturesError, match=r"1 of 1 clips .* 'other\.mp4'"):
        crops.crop_spans(store.open(pictures[0]), [stranger])
