from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import store
from stages.fit import data
from stages.fit.data import Budget, ClipLoader, clip_spans, resample_indices
from stages.fit.landmarks import normalise_landmarks
from tests.fit.fit_clips import clip_rows, record

Made = tuple[Path, Path]


def test_spans_are_the_clips_with_a_face(made: Made) -> None:
    spans = clip_spans(store.open(made[0]))
    assert len(spans) == 36 and not any(c.startswith("none/") for c in spans)
    starts = [s.start for s in spans.values()]
    assert starts == sorted(starts)


@pytest.mark.parametrize("stream", ["appearance", "embedding"])
def test_batches_hold_what_the_store_holds(made: Made, stream: data.Stream) -> None:
    source = store.open(made[0])
    spans = clip_spans(source)
    labels = {c: k / 7 for k, c in enumerate(spans)}
    del labels[next(iter(spans))]
    loader = ClipLoader(source, list(spans.values()), labels, stream=stream)
    seen: list[str] = []
    for batch in loader.batches(5):
        b, t = batch.mask.shape
        assert batch.appearance.shape == (b, t, 512) and batch.appearance.dtype == torch.float32
        assert batch.landmark.shape == (b, t, 136) and batch.landmark.dtype == torch.float32
        assert batch.timestamp.dtype == torch.float64 and batch.mask.dtype == torch.bool
        for row, clip in enumerate(batch.clips):
            held = source.clip(clip)
            n, valid = len(held["valid"]), held["valid"]
            mask = batch.mask[row].numpy()
            np.testing.assert_array_equal(mask[:n], valid)
            assert not mask[n:].any()
            np.testing.assert_array_equal(
                batch.appearance[row].numpy()[mask], held[stream][valid].astype(np.float32)
            )
            np.testing.assert_array_equal(
                batch.landmark[row].numpy()[mask],
                normalise_landmarks(held["landmark"], valid)[valid],
            )
            np.testing.assert_array_equal(batch.timestamp[row].numpy()[:n], held["timestamp"])
            assert not batch.appearance[row].numpy()[~mask].any()
            assert not batch.landmark[row].numpy()[~mask].any()
            want = np.float32(labels[clip]) if clip in labels else np.nan
            np.testing.assert_equal(batch.score[row].item(), float(want))
        seen += batch.clips
    assert seen == list(spans)


def test_order_depends_on_seed_and_epoch_alone(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())

    def order(seed: int, epoch: int, rows: int = 100) -> list[str]:
        loader = ClipLoader(source, spans[::-1], block_rows=rows)
        batches = loader.batches(4, shuffle=True, seed=seed, epoch=epoch)
        return [c for batch in batches for c in batch.clips]

    first = order(0, 1)
    assert sorted(first) == sorted(s.clip for s in spans)
    assert order(0, 1) == first
    assert order(0, 2) != first and order(1, 1) != first
    assert first != sorted(first)


@pytest.mark.parametrize("budget", [0, 200_000, 2**31])
def test_budget_changes_what_is_read_and_never_what_is_given(
    made: Made, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    loader = ClipLoader(source, spans, budget=Budget(budget), block_rows=60)
    assert len(loader.blocks) > 5
    reads = []
    compute = data.dask.compute
    monkeypatch.setattr(
        data.dask, "compute", lambda *a, **k: (reads.append(1), compute(*a, **k))[1]
    )
    sums = [
        sum(float(b.appearance.double().sum()) for b in loader.batches(8, shuffle=True, epoch=e))
        for e in (1, 2)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-9)
    blocks = len(loader.blocks)
    if budget == 0:
        assert len(reads) == 2 * blocks
    elif budget == 2**31:
        assert len(reads) == blocks
    else:
        assert blocks < len(reads) < 2 * blocks


def test_loaders_share_a_budget_and_give_it_back(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    shared = Budget(10**8)
    first, second = (ClipLoader(source, s, budget=shared) for s in (spans[:18], spans[18:]))
    before = [c.landmark.sum() for c in first.iter_clips()]
    one = 10**8 - shared.left
    assert one > 0
    list(second.iter_clips())
    assert 10**8 - shared.left > one
    first.release()
    second.release()
    assert shared.left == 10**8
    assert [c.landmark.sum() for c in first.iter_clips()] == before


def test_statistics_are_those_of_the_valid_frames(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())[:7]
    loader = ClipLoader(source, spans)
    clips = list(loader.iter_clips())
    frames = [c.landmark[c.valid].astype(np.float64) for c in clips]
    every = np.concatenate(frames)
    apart = np.concatenate([f - f.mean(axis=0) for f in frames])
    found = loader.statistics()
    np.testing.assert_allclose(found.landmark_mean, every.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.landmark_sd, every.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.landmark_within, np.sqrt((apart**2).mean(axis=0)), rtol=1e-4)


def test_stills_have_statistics_without_zeros(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with store.Writer(tmp_path / "s.store", {"pack": {"fingerprint": "x"}}) as writer:
        for k in range(4):
            rows = clip_rows(rng, 1, 0.0)
            writer.append(record(f"{k}.jpg", rows), rows)
        writer.flush()
    source = store.open(tmp_path / "s.store")
    loader = ClipLoader(source, list(clip_spans(source).values()))
    found = loader.statistics()
    assert bool((found.appearance_within == 1).all()) and bool((found.appearance_sd > 0).all())
    assert loader.longest() == 1


def test_resampling_takes_the_nearest_frames() -> None:
    times = np.arange(10) / 30
    np.testing.assert_array_equal(resample_indices(times, 30), np.arange(10))
    np.testing.assert_array_equal(resample_indices(times, 15), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(resample_indices(times[:3], 90), [0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(resample_indices(np.array([0.4]), 25), [0])
    uneven = np.array([0.0, 0.1, 0.5, 0.6])
    np.testing.assert_array_equal(resample_indices(uneven, 5), [0, 1, 2, 3])


def test_cropping_keeps_the_middle_and_longest_knows(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    whole, cut = ClipLoader(source, spans), ClipLoader(source, spans, max_frames=10)
    assert whole.longest() == max(s.frames for s in spans) and cut.longest() == 10
    for a, b in zip(whole.iter_clips(), cut.iter_clips(), strict=True):
        first = (len(a.valid) - 10) // 2
        np.testing.assert_array_equal(b.landmark, a.landmark[first : first + 10])
    half = ClipLoader(source, spans, fps=12.5)
    assert half.longest() == (whole.longest() + 1) // 2
