"""The worker processes of a run."""

from __future__ import annotations

import os
import subprocess


def children() -> list[int]:
    """Return the worker processes below this one (spawned Pythons, not resource trackers)."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
    )
    lines = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(pid) for pid, args in lines if "spawn_main" in args]
