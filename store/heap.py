"""One heap for all threads of a process, where the C library is glibc."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def keep_one_heap() -> None:
    """Let all threads of this process allocate from one heap.

    glibc gives threads heaps of their own, which keep what was freed (40 MB where a store is
    written), and of which large arrays are given back and fetched anew, page by page (a tenth of
    the time of reading a store).
    """
    choose = glibc("mallopt")
    if choose is not None:
        choose(_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return freed pages to the system.

    The holes that large frames leave would stay: 100 MB a worker after one clip of 1080p.
    """
    trim = glibc("malloc_trim")
    if trim is not None:
        trim(0)


def glibc(name: str) -> Any:
    """Return a function of glibc; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
