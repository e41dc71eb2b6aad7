from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import durable

MEMORY = Path("/dev/shm")
ENOUGH = 256 * 2**20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: for tests that make and delete many stores."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ENOUGH:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="facepipe-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(durable.os, "fsync", lambda fd: None)
