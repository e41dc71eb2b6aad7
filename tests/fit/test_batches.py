from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.fit.batches import ClipData, TimesError, collate, draw, middle, prepare, resample


def test_resampling_takes_the_nearest_frames() -> None:
    def index(times: np.ndarray, fps: float) -> list[int]:
        found, kept = resample(times, np.ones(len(times), bool), fps)
        assert kept.all()
        return found.tolist()

    times = np.arange(10) / 30
    assert index(times, 30) == list(range(10))
    assert index(times, 15) == [0, 2, 4, 6, 8]
    assert index(times[:3], 90) == [0, 0, 1, 1, 1, 2, 2]
    assert index(np.array([0.4]), 25) == [0]
    assert index(np.array([0.0, 0.1, 0.5, 0.6]), 5) == [0, 1, 2, 3]


def test_gaps_do_not_become_frames_and_what_is_valid_stays() -> None:
    times = np.array([0, 1, 2, 3, 20, 21, 23, 24]) / 10  # one frame of 22 is no gap
    valid = np.ones(8, bool)
    index, kept = resample(times, valid, 10)
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 3, 4, 19, 20, 21, 22, 23, 24]
    made = prepare("a", np.ones((8, 4)), np.ones((8, 136), np.float32), valid, times, fps=10.0)
    assert made.valid.tolist() == kept.tolist() and len(index) == 25
    assert not made.appearance[~kept].any() and not made.landmark[~kept].any()
    # The only valid frame lies between two ticks.
    index, kept = resample(np.arange(20) / 20, np.arange(20) == 6, 5)
    assert (index.tolist(), np.flatnonzero(kept).tolist()) == ([0, 6, 8, 12, 16], [1])


@pytest.mark.parametrize("times", [np.arange(5) * 40.0, np.array([0, 0.04, 0.08, 0.12, 1e8])])
def test_times_that_the_frames_do_not_justify_are_refused(times: np.ndarray) -> None:
    rows = np.ones((5, 4)), np.ones((5, 136), np.float32), np.ones(5, bool), times
    with pytest.raises(TimesError, match=r"clip 'd/a': 5 frames over .* 30 times as many"):
        prepare("d/a", *rows, fps=25.0)
    assert len(prepare("d/a", *rows)) == 5


@pytest.mark.parametrize("frames", [1, 2, 3, 10, 99])
def test_what_is_cut_out_holds_a_valid_frame(frames: int) -> None:
    n = 100
    for seen in ([0], [99], [97, 98], [0, 99], [0, 1, 99], [40, 50, 60], list(range(n))):
        valid = np.isin(np.arange(n), seen)
        appearance = np.where(valid[:, None], 1.0, np.nan)
        made = prepare(
            "a", appearance, np.ones((n, 136), np.float32), valid, np.arange(n) / 25,
            max_frames=frames,
        )  # fmt: skip
        assert len(made) == frames and made.valid.any()
        if len(seen) == n:
            assert made.timestamp[0] == (n - frames) // 2 / 25


def clip(n: int, dtype: type = np.float16, seed: int = 0) -> ClipData:
    rng = np.random.default_rng(seed)
    valid = rng.random(n) > 0.2
    appearance = np.where(valid[:, None], rng.normal(size=(n, 512)), 0).astype(dtype)
    landmark = rng.normal(size=(n, 136)).astype(np.float32)
    return ClipData(f"{seed}.mp4", appearance, landmark, valid, np.arange(n) / 30)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_collate_pads_with_zeros_and_casts_without_loss(dtype: type) -> None:
    clips = [clip(n, dtype, seed) for seed, n in enumerate((3, 9, 1))]
    batch = collate(clips, {"1.mp4": 2.5})
    assert batch.appearance.shape == (3, 9, 512) and batch.appearance.dtype == torch.float32
    assert batch.timestamp.dtype == torch.float64 and batch.mask.dtype == torch.bool
    for row, c in enumerate(clips):
        n = len(c)
        np.testing.assert_array_equal(batch.appearance[row, :n], c.appearance.astype(np.float32))
        np.testing.assert_array_equal(batch.landmark[row, :n], c.landmark)
        np.testing.assert_array_equal(batch.mask[row, :n], c.valid)
        np.testing.assert_array_equal(batch.timestamp[row, :n], c.timestamp)
        for padded in (batch.appearance, batch.landmark, batch.mask, batch.timestamp):
            assert not padded[row, n:].any()
    assert batch.score[1] == 2.5 and bool(batch.score[[0, 2]].isnan().all())


@pytest.mark.parametrize(("fps", "max_frames"), [(None, None), (None, 4), (15.0, None), (15.0, 4)])
def test_a_prepared_clip_keeps_its_dtype_and_nothing_else_alive(
    fps: float | None, max_frames: int | None
) -> None:
    made = clip(20)
    appearance = np.where(made.valid[:, None], made.appearance, np.float16(np.nan))
    found = prepare(
        "a", appearance, made.landmark, made.valid, made.timestamp, fps=fps, max_frames=max_frames
    )
    step = 1 if fps is None else 2
    times, valid = made.timestamp[::step], made.valid[::step]
    window = slice(None) if max_frames is None else middle(valid, max_frames)
    np.testing.assert_array_equal(found.timestamp, times[window])
    np.testing.assert_array_equal(found.valid, valid[window])
    assert len(found) == (max_frames or len(times)) and found.appearance.dtype == np.float16
    assert not found.appearance[~found.valid].any() and not np.isnan(found.appearance).any()
    for array in (found.appearance, found.landmark, found.valid, found.timestamp):
        assert array.base is None
    assert found.nbytes == len(found) * (1024 + 544 + 1 + 8)


def drawn(lengths: np.ndarray, size: int, bucket: int, seed: int) -> list[np.ndarray]:
    """Draw until nothing is left; places in ``lengths``."""
    rng = np.random.default_rng(seed)
    left = np.arange(len(lengths))
    batches = []
    while len(left):
        places = draw([range(n) for n in lengths[left]], size, bucket, rng)
        batches.append(left[places])
        left = np.delete(left, places)
    return batches


@pytest.mark.parametrize(("n", "size"), [(1, 4), (16, 4), (70, 8), (37, 16)])
@pytest.mark.parametrize("bucket", [1, 4])
def test_draws_come_to_every_clip_once(n: int, size: int, bucket: int) -> None:
    lengths = np.random.default_rng(n).integers(10, 900, n)
    batches = drawn(lengths, size, bucket, 3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    again = drawn(lengths, size, bucket, 3)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_buckets_save_padding_and_no_length_comes_first() -> None:
    lengths = np.random.default_rng(0).lognormal(5.7, 0.5, 800).astype(int)

    def padding(bucket: int) -> float:
        batches = drawn(lengths, 16, bucket, 1)
        return sum(len(b) * lengths[b].max() for b in batches) / lengths.sum() - 1

    assert padding(1) > 1.0 and padding(4) < 0.45 * padding(1)
    early = [np.concatenate(drawn(lengths, 16, 4, seed)[:12]) for seed in range(20)]
    share = np.mean(lengths[np.concatenate(early)] > np.median(lengths))
    assert share == pytest.approx(0.5, abs=0.05)


def test_batches_of_few_clips_differ_between_epochs() -> None:
    """Sorting all of them by length would make the same batches every time."""
    lengths = np.arange(100, 148)
    pairs = [
        {frozenset((a, b)) for batch in drawn(lengths, 8, 4, seed) for a in batch for b in batch}
        for seed in range(2)
    ]
    assert len(pairs[0] & pairs[1]) < 0.7 * len(pairs[0])
