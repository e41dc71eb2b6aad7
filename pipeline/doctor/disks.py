"""Where things are written: free space, permissions, file systems."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from pipeline.doctor.finding import Finding, fail, ok, warn

MOUNTS = Path("/proc/mounts")

# File systems on which locks or syncs are not what SQLite and atomic renames rely on.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|9p|ceph|lustre|gpfs|beegfs|glusterfs|davfs|virtiofs|vboxsf|fuse(\..+)?"
)

LITTLE_SPACE, NO_SPACE = 5e9, 0.5e9  # bytes; an hour of video makes about 0.25e9 of features


def space(store: Path) -> list[Finding]:
    """Check the free space where features and packs go."""
    from stages.extract import registry

    findings = []
    places = (
        ("the store", store, "--store", LITTLE_SPACE),
        ("packs", registry.home(), "FACEPIPE_HOME", NO_SPACE),
    )
    for what, path, choice, enough in places:
        folder = existing(path)
        free = shutil.disk_usage(folder).free
        message = f"{free / 1e9:.1f} GB free for {what} in {folder}"
        mend = f"free some, or choose another disk with {choice}"
        if free < NO_SPACE:
            findings.append(fail("space", message, mend))
        elif free < enough:
            findings.append(warn("space", message, mend))
        else:
            findings.append(ok("space", message))
        if not os.access(folder, os.W_OK):
            findings.append(fail("space", f"{folder} cannot be written to", mend))
    return findings


def file_system(store: Path) -> list[Finding]:
    """Check that the store is not on a network file system."""
    try:
        kind, mount = _mounted(existing(store))
    except OSError:
        return [ok("file system", f"not known here ({MOUNTS} cannot be read)")]
    where = f"{store} is on {kind} ({mount})"
    if _NETWORK.fullmatch(kind):
        return [warn("file system", f"{where}: locks and syncs cannot be relied on there",
                     "extract to a local disk (--store), copy the finished store")]  # fmt: skip
    return [ok("file system", where)]


def existing(path: Path) -> Path:
    """Return the nearest folder above a path that exists, or the path itself."""
    path = path.expanduser().resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _mounted(path: Path) -> tuple[str, str]:
    """Return the file system's type and mount point for a path that exists."""
    best = ("unknown", "/")
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        _, point, kind, *_ = line.split(" ")
        # The kernel writes blanks and the like as \040.
        mount = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), point)
        # Later lines cover earlier ones that have the same mount point.
        if path.is_relative_to(mount) and (best[0] == "unknown" or len(mount) >= len(best[1])):
            best = (kind, mount)
    return best
