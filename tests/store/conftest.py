from __future__ import annotations

import pytest

from store import durable


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(durable.os, "fsync", lambda fd: None)
