from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fit.fit_clips import make_store, write_labels


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums come out in another order with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of 36 labelled clips of 12 persons, and its label file. Not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    labels = make_store(folder / "features.store")
    return folder / "features.store", write_labels(folder / "labels.csv", labels)
