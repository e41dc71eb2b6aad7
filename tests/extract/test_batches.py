from __future__ import annotations

import numpy as np
import pytest

from stages.extract.batches import BATCHES, in_batches


@pytest.mark.parametrize("n", [1, 3, 4, 5, 16, 23, 37])
def test_batches_have_few_sizes_and_lose_nothing(n: int) -> None:
    sizes = []

    def double(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(part))
        return [part * 2]

    blob = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    np.testing.assert_array_equal(in_batches(double, blob)[0], blob * 2)
    assert set(sizes) <= set(BATCHES)


def test_memory_that_is_short_halves_the_batch() -> None:
    sizes = []

    def small(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(part))
        if len(part) > 3:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        return [part + 1]

    blob = np.arange(21, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(in_batches(small, blob)[0], blob + 1)
    assert max(sizes) == 16
    assert sorted({s for s in sizes if s <= 3}) == [1, 2]


@pytest.mark.parametrize("message", ["out of memory", "invalid argument"])
def test_what_halving_cannot_mend_is_raised(message: str) -> None:
    def broken(part: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        in_batches(broken, np.zeros((5, 1), np.float32))
