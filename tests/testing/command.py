"""The command line in a process of its own, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def pipeline(folder: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `pipeline` in a folder; it must leave with ``code`` and never with a traceback."""
    command = [sys.executable, "-m", "pipeline", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENV)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done
