"""The command line: in a process of its own, as a user types it, or called in this one."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from pipeline import console
from pipeline.cli import main

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def pipeline(folder: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `pipeline` in a folder; it must leave with ``code`` and never with a traceback."""
    command = [sys.executable, "-m", "pipeline", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENV)
    return _checked(done, code)


def called(folder: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Do the same in this process, which spares seconds of imports.

    Not for what must hold of a process: signals, and that nothing else writes to stdout.
    """
    out, err, left = io.StringIO(), io.StringIO(), 0
    terminate = signal.getsignal(signal.SIGTERM)
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, ENV),
        mock.patch.object(sys, "argv", ["pipeline", *args]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leaving:
            left = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        finally:
            signal.signal(signal.SIGTERM, terminate)
            console.be_quiet(False)
    return _checked(subprocess.CompletedProcess(args, left, out.getvalue(), err.getvalue()), code)


def _checked(done: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done
