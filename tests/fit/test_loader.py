from __future__ import annotations

import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from stages.fit import loader as loading
from stages.fit.batches import Batch, ClipData, middle
from stages.fit.landmarks import normalise_landmarks
from stages.fit.loader import BLOCKS_AHEAD, HELD_BLOCKS, Budget, ClipLoader
from stages.fit.spans import Stream, clip_spans
from store.layout import Layout
from tests.fit.fit_clips import clip_rows, record

Made = tuple[Path, Path]


@pytest.mark.parametrize("stream", ["appearance", "embedding"])
def test_batches_hold_what_the_store_holds(made: Made, stream: Stream) -> None:
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
    assert seen == sorted(spans)  # so few blocks go by name


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


def same(a: Batch, b: Batch) -> bool:
    names = ("appearance", "landmark", "mask", "timestamp", "score")
    return a.clips == b.clips and all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    reads: list[int] = []
    compute = loading.dask.compute
    monkeypatch.setattr(
        loading.dask, "compute", lambda *a, **k: (reads.append(1), compute(*a, **k))[1]
    )
    return reads


def test_budget_changes_what_is_read_and_never_what_is_given(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    scores = {s.clip: k / 7 for k, s in enumerate(spans)}
    whole = sum(c.nbytes for c in ClipLoader(source, spans).iter_clips())
    reads = count_reads(monkeypatch)
    given: list[list[Batch]] = []
    for budget in (whole, whole // 4, 0):
        loader = ClipLoader(source, spans, scores, budget=Budget(budget), block_rows=60)
        blocks = len(loader.blocks)
        assert blocks > HELD_BLOCKS
        reads.clear()
        given.append(
            [b for e in (1, 2, 3) for b in loader.batches(4, shuffle=True, epoch=e, bucket=2)]
        )
        # What fits is read once, what does not in every epoch; all that a quarter holds is used.
        low, high = {0: (3, 3), whole: (1, 1)}.get(budget, (2.4, 2.7))
        assert low * blocks <= len(reads) <= high * blocks
    for other in given[1:]:
        assert len(other) == len(given[0])
        assert all(same(a, b) for a, b in zip(given[0], other, strict=True))


def test_order_does_not_depend_on_how_long_reading_takes(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())

    def order(pause: float) -> list[tuple[str, ...]]:
        loader = ClipLoader(source, spans, budget=Budget(0), block_rows=60)
        read = loader._read

        def slow(block: int) -> list[object]:
            time.sleep(pause * (block % 3))
            return read(block)

        monkeypatch.setattr(loader, "_read", slow)
        return [b.clips for b in loader.batches(4, shuffle=True, seed=5)]

    assert order(0.0) == order(0.01)


def test_clips_of_far_blocks_meet_in_a_batch(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    loader = ClipLoader(source, spans, block_rows=40)
    block = {s.clip: k for k, b in enumerate(loader.blocks) for s in b}
    met = [len({block[c] for c in b.clips}) for b in loader.batches(4, shuffle=True)]
    assert np.mean(met) > 3


def test_every_batch_is_whole_but_the_last(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    for rows, size in ((40, 5), (100, 8), (10**6, 7)):
        loader = ClipLoader(source, spans, block_rows=rows)
        batches = [b.clips for b in loader.batches(size, shuffle=True, epoch=2)]
        assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
        assert len(batches) == -(-len(spans) // size)
        assert sorted(c for b in batches for c in b) == sorted(s.clip for s in spans)


def test_memory_stays_within_the_budget_and_the_blocks_at_work(tmp_path: Path) -> None:
    """40 blocks of a few clips; holding them all would take far more than the bound."""
    rng = np.random.default_rng(0)
    layout = Layout(chunk_rows=64, shard_rows=2048)  # whole chunks are decoded
    with store.Writer(
        tmp_path / "s.store", {"pack": {"fingerprint": "x"}}, layout=layout
    ) as writer:
        for k in range(160):
            rows = clip_rows(rng, 75, 1.0)
            writer.append(record(f"{k:03d}.mp4", rows), rows)
    source = store.open(tmp_path / "s.store")
    spans = list(clip_spans(source).values())
    size = sum(c.nbytes for c in ClipLoader(source, spans).iter_clips())
    kept = size // 8
    loader = ClipLoader(source, spans, budget=Budget(kept), block_rows=300)
    assert len(loader.blocks) == 40
    batch_bytes = 4 * 75 * (2048 + 544 + 1 + 8)
    bound = kept + (HELD_BLOCKS + BLOCKS_AHEAD + 2) * size / 40 + 2 * batch_bytes
    next(loader.batches(4, shuffle=True))  # for what is imported and opened
    loader.release()
    tracemalloc.start()
    try:
        for epoch in (1, 2):
            for batch in loader.batches(4, shuffle=True, epoch=epoch):
                del batch
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept < peak < bound < 0.6 * size


def test_a_reader_that_fails_is_heard_and_no_thread_is_left(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    loader = ClipLoader(source, spans, block_rows=60)
    for _ in loader.batches(4, shuffle=True):
        break  # the rest is not wanted

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(loading.dask, "compute", broken)
    loader.release()
    with pytest.raises(OSError, match="the disk is gone"):
        list(loader.batches(4, shuffle=True))
    ours = ("facepipe-loader", "facepipe-batch")
    assert not [t for t in threading.enumerate() if t.name.startswith(ours)]


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


@pytest.mark.filterwarnings("error")
def test_statistics_of_clips_of_which_no_frame_is_read(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    loader = ClipLoader(source, spans[:3])
    expected = loader.statistics()

    def blank(clip: ClipData) -> ClipData:
        return replace(clip, valid=clip.valid & (clip.clip in {s.clip for s in spans[:3]}))

    found = ClipLoader(source, spans[:6], change=blank).statistics()
    np.testing.assert_allclose(found.appearance_mean, expected.appearance_mean, rtol=1e-5)
    np.testing.assert_allclose(found.appearance_within, expected.appearance_within, rtol=1e-5)
    none = ClipLoader(source, spans[3:6], change=blank).statistics()
    assert bool((none.appearance_sd == 1).all()) and not none.landmark_mean.any()


def test_cropping_keeps_the_middle_and_longest_knows(made: Made) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())
    whole, cut = ClipLoader(source, spans), ClipLoader(source, spans, max_frames=10)
    assert whole.longest() == max(s.frames for s in spans) and cut.longest() == 10
    for a, b in zip(whole.iter_clips(), cut.iter_clips(), strict=True):
        np.testing.assert_array_equal(b.landmark, a.landmark[middle(a.valid, 10)])
    half = ClipLoader(source, spans, fps=12.5)
    assert half.longest() == (whole.longest() + 1) // 2
