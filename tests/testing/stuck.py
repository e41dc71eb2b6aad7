"""A file whose bytes never come, as on a network drive that went away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


class StuckPath(type(Path())):  # type: ignore[misc]
    """Path of a file that is there; whoever opens it waits for an hour."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Wait."""
        time.sleep(3600)
        return super().open(*args, **kwargs)


def stuck(path: Path) -> Path:
    """Make a file that cannot be read to its end, also in another process."""
    path.write_bytes(b"never comes")
    return StuckPath(path)
