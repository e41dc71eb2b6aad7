"""How nets are run: in batches of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

# A GPU searches kernels for each new shape, so it should meet few; and little is wasted on padding.
BATCHES = (16, 4, 1)


def in_batches(
    run: Callable[[F32], Sequence[F32]], blob: F32, sizes: Sequence[int] = BATCHES
) -> list[F32]:
    """Run a net over (n, ...) rows in batches of some sizes, the largest that fit first.

    Where a device has no memory for a batch, it is tried in halves; one row that does not fit is an
    error.
    """
    parts: list[Sequence[F32]] = []
    start = 0
    while start < len(blob):
        size = next(size for size in sizes if size <= len(blob) - start)
        parts += _run(run, blob[start : start + size])
        start += size
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _run(run: Callable[[F32], Sequence[F32]], part: F32) -> list[Sequence[F32]]:
    try:
        return [run(part)]
    except Exception as error:
        if len(part) == 1 or not _out_of_memory(error):
            raise
        half = len(part) // 2
        return _run(run, part[:half]) + _run(run, part[half:])


def _out_of_memory(error: Exception) -> bool:
    """Recognise what CUDA, cuDNN and ONNX Runtime's arena say when memory is short."""
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "failed to allocate", "alloc_failed"))
