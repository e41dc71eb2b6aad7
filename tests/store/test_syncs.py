"""SQLite's own fsync: refused by the system, and a kill in the middle of a commit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.sync_victim import PASSED_OVER, REFUSED
from tests.store.test_faults import OLD, all_states, base, check  # noqa: F401

HERE = Path(__file__).parent
CC = shutil.which("gcc") or shutil.which("cc")
pytestmark = [
    pytest.mark.skipif(CC is None or sys.platform != "linux", reason="no C compiler, or no Linux"),
    pytest.mark.usefixtures("no_waiting_for_the_disk"),
]


def test_nothing_that_was_finished_is_lost(base, memory, tmp_path):  # noqa: F811
    shim = tmp_path / "failing_sync.so"
    subprocess.run([CC, "-shared", "-fPIC", "-o", shim, HERE / "failing_sync.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.sync_victim", shim, base, memory],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parents[1])},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    ended = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    refused = [status for kills, _, status in ended if not kills]
    assert {*refused} <= {REFUSED, PASSED_OVER}, done.stderr
    assert refused.count(REFUSED) > 15
    assert [status for kills, _, status in ended if kills] == [9] * len(refused)
    states = [dict.fromkeys("abc", OLD), *all_states()]
    for kills, at, _ in ended:
        path = memory / f"{kills}-{at}.store"
        steps = path.with_suffix(".done").stat().st_size
        check(path, states[steps : steps + 2], (kills, at))
