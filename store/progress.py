"""How far a long pass over a store has come, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, of all): rows or bytes, as the pass counts


def unheard(done: int, total: int) -> None:
    """Tell nobody."""
