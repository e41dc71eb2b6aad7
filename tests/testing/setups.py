"""Setups of workers that meet what a test cannot arrange from outside; importable in a worker."""

from __future__ import annotations

import multiprocessing
import os
import time

from stages.extract.workers import WorkerSetup

OPENING_S = 4.0


class SlowToOpen(WorkerSetup):
    """Its nets take `OPENING_S` to open, as where TensorRT builds engines first."""

    @property
    def clips(self) -> int:
        if multiprocessing.parent_process() is not None:
            time.sleep(OPENING_S / 2)  # asked for twice
        return 1


class Grouped(WorkerSetup):
    """Takes clips by four and decodes in threads, as on a GPU."""

    @property
    def clips(self) -> int:
        return 4


def visible(seconds: float) -> tuple[str | None, int]:
    """Return the GPUs that this process may use and its number, after a while."""
    time.sleep(seconds)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()
