"""How nets are run: in batches of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

# A GPU searches kernels for each new shape, so it should meet few; and little is wasted on padding.
BATCHES = (16, 4, 1)
# A CPU takes one row after the other anyway: 16 at once are no faster (lite's recognition net on a
# core with AVX2: 15.5 to 16.7 ms a face in batches of 1 to 4, 17.4 of 16) and need 80 MB more.
CPU_BATCHES = (4, 1)

# By the shape of a row, which tells nets apart: one less than the batch for which the device had no
# memory last, once that happened. It would have none for the next batch either.
_most: dict[tuple[int, ...], int] = {}


def in_batches(
    run: Callable[[F32], Sequence[F32]], blob: F32, sizes: Sequence[int] = BATCHES
) -> list[F32]:
    """Run a net over (n, ...) rows in batches of some sizes, the largest that fit first.

    Where a device has no memory for a batch, it is tried in the next smaller size, and so are all
    batches from then on; one row that does not fit is an error.
    """
    parts: list[Sequence[F32]] = []
    start, shape = 0, blob.shape[1:]
    while start < len(blob):
        most = min(len(blob) - start, _most.get(shape, len(blob)))
        size = next(size for size in sizes if size <= most)
        try:
            parts.append(run(blob[start : start + size]))
        except Exception as error:
            if size == sizes[-1] or not _out_of_memory(error):
                raise
            _most[shape] = size - 1
        else:
            start += size
    if len(parts) == 1:
        return list(parts[0])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _out_of_memory(error: Exception) -> bool:
    """Recognise what CUDA, cuDNN and ONNX Runtime's arena say when memory is short."""
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "failed to allocate", "alloc_failed"))
