"""From an exception to one clear line and the right exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline import console
from pipeline.libraries import mend_for
from store.errors import FacepipeError

TRACEBACK_VARIABLE = "FACEPIPE_TRACEBACK"
KEPT = "what was finished is kept, the same command goes on from there"
NOTHING_KEPT = "nothing was written; the same command begins anew"


@contextmanager
def interrupted(told: str) -> Iterator[None]:
    """Say this, and not that the same command goes on, where Ctrl-C ends what is within."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(told) from None


def run_reporting(app: Callable[[], object]) -> None:
    """Run the command line; leave with 2 for the user's mistake, 1 for ours, without a traceback.

    SIGTERM ends it as Ctrl-C does: what is finished is flushed, locks are given back.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except FacepipeError as error:
        console.error(str(error), error.hint)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        first = (str(error).splitlines() or [""])[0]
        console.error(
            f"{type(error).__name__}: {first}",
            mend_for(error)
            or f"this is a fault of facepipe: set {TRACEBACK_VARIABLE}=1 and report what it prints",
        )
        sys.exit(1)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
