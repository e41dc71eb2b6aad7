from __future__ import annotations

import numpy as np
import pytest

from stages.extract import batches
from stages.extract.batches import BATCHES, in_batches


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_most", {})


@pytest.mark.parametrize("n", [1, 3, 4, 5, 16, 23, 37])
def test_batches_have_few_sizes_and_lose_nothing(n: int) -> None:
    sizes = []

    def double(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(part))
        return [part * 2]

    blob = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    np.testing.assert_array_equal(in_batches(double, blob)[0], blob * 2)
    assert set(sizes) <= set(BATCHES)


@pytest.mark.parametrize("fits, most", [(15, 4), (3, 1)])
def test_memory_that_is_short_is_met_once_and_in_fixed_sizes(fits: int, most: int) -> None:
    sizes: list[int] = []

    def small(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(part))
        if len(part) > fits:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        return [part + 1]

    blob = np.arange(37, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(in_batches(small, blob)[0], blob + 1)
    assert set(sizes) == {n for n in BATCHES if n <= 16}
    sizes.clear()
    np.testing.assert_array_equal(in_batches(small, blob)[0], blob + 1)
    assert max(sizes) == most and set(sizes) <= set(BATCHES)
    wider = np.zeros((16, 2), np.float32)  # another net, which needs less
    in_batches(lambda part: [part], wider)
    sizes.clear()
    in_batches(lambda part: [sizes.append(len(part)) or part], wider)
    assert sizes == [16]


@pytest.mark.parametrize("message", ["out of memory", "invalid argument"])
def test_what_halving_cannot_mend_is_raised(message: str) -> None:
    def broken(part: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        in_batches(broken, np.zeros((5, 1), np.float32))
