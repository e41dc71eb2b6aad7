from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.reports import MadeRun, make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> MadeRun:
    """A fitted run, its store and its videos, with hostile names; nobody changes it."""
    return make_run(tmp_path_factory.mktemp("report"), small_pack)
