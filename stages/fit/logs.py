"""What a training writes down after every epoch: a CSV, and TensorBoard's events if asked for."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from stages.fit.config import ConfigError
from stages.fit.learner import EpochRow
from store.durable import write_file

EPOCHS, TENSORBOARD = "epochs.csv", "tensorboard"


def check_tensorboard() -> None:
    """Raise ConfigError, which names the package, where TensorBoard's writer is missing."""
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "train.tensorboard=true needs the package tensorboard, which is not installed",
            "pip install 'facepipe[tensorboard]'",
        )


class EpochLogs:
    """Writes each epoch's row to ``epochs.csv``, and its values to ``tensorboard/``.

    Both are made anew: a fit that goes on gives the rows that were done before once more, and an
    epoch that was logged but not saved is not there twice.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._csv = folder / EPOCHS
        self._rows: list[EpochRow] = []
        self._writer: Any = None
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        if tensorboard:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / TENSORBOARD))

    def epoch(self, row: EpochRow) -> None:
        """Log one epoch of the training that is validated."""
        self._rows.append(row)
        text = pd.DataFrame(self._rows).to_csv(index=False)
        write_file(self._csv, text.encode())
        self._events(row, "train")

    def refit(self, row: EpochRow) -> None:
        """Log one epoch of the training on train and val together; to TensorBoard only."""
        self._events(row, "refit")

    def _events(self, row: EpochRow, group: str) -> None:
        if self._writer is None:
            return
        step = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
