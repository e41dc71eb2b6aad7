"""A folder of results that appears when all is done, of fits that are not gone on with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stages.fit.run_files import RunError, RunWriteError
from store.errors import FacepipeError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary sibling to write into; it becomes ``folder`` if the block succeeds.

    Raises
    ------
    RunError
        ``folder`` exists, or cannot be made.
    RunWriteError
        The disk gave out.
    """
    check_absent(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror})") from None
    try:
        yield partial
        partial.chmod(0o755)
        os.replace(partial, folder)
    except FacepipeError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RunWriteError(
            f"{folder}: cannot be written ({reason})", "make room, then run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_absent(folder: Path) -> None:
    """Raise RunError unless nothing, or an empty folder, is there; costs nothing to ask early."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} exists already", "give another --run, or remove that folder")
