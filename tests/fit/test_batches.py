from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.fit.batches import ClipData, collate, draw, prepare, resample_indices


def test_resampling_takes_the_nearest_frames() -> None:
    times = np.arange(10) / 30
    np.testing.assert_array_equal(resample_indices(times, 30), np.arange(10))
    np.testing.assert_array_equal(resample_indices(times, 15), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(resample_indices(times[:3], 90), [0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(resample_indices(np.array([0.4]), 25), [0])
    uneven = np.array([0.0, 0.1, 0.5, 0.6])
    np.testing.assert_array_equal(resample_indices(uneven, 5), [0, 1, 2, 3])


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
    times = made.timestamp if fps is None else made.timestamp[::2]
    first = 0 if max_frames is None else (len(times) - max_frames) // 2
    np.testing.assert_array_equal(found.timestamp, times[first : first + len(found)])
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
