"""Sessions in which SQLite's n-th fsync fails, or ends the process: each in one of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import traceback
from pathlib import Path

import store
from store.errors import FacepipeError
from tests.store import store_clips as clips
from tests.store.test_faults import SMALL, steps

NOT_REACHED, REFUSED, PASSED_OVER = 0, 3, 4


def session(shim: ctypes.CDLL, path: Path, at: int, kills: int) -> int:
    """Run a session; a byte a step goes into a file beside the store."""
    os.fsync = lambda fd: None  # Python's own are stopped at in test_faults.py
    with path.with_suffix(".done").open("wb", buffering=0) as done:
        shim.arm(at, kills)
        try:
            for _ in steps(store.Writer(path, clips.PROVENANCE, layout=SMALL)):
                done.write(b"x")
        except FacepipeError as error:
            return REFUSED if "\n" not in str(error) else 1
        return NOT_REACHED if shim.syncs() <= at else PASSED_OVER


def main(library: str, base: str, out: str) -> None:
    """Print how each ended: the fsync, whether it kills, and the status of the process."""
    shim = ctypes.CDLL(library)
    for kills in (0, 1):
        for at in range(1000):
            path = Path(out) / f"{kills}-{at}.store"
            shutil.copytree(base, path)
            child = os.fork()  # before Zarr has started its thread
            if child == 0:
                code = 1
                try:
                    code = session(shim, path, at, kills)
                except BaseException:
                    traceback.print_exc()
                os._exit(code)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == NOT_REACHED:
                break
            print(kills, at, status, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
