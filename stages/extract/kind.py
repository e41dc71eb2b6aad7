"""Whether two processes would make the same features of a clip: version, code and pack."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """What must be the same on client and worker for features to be the same.

    ``code`` is a hash over the source files of stage one: two checkouts of one version differ in
    it. ``pack`` is the pack's fingerprint, from the files where the process sees them.
    """

    version: str
    code: str
    pack: str

    @classmethod
    def here(cls, pack: str) -> Kind:
        """Return the kind of this process with the pack of that fingerprint."""
        try:
            version = importlib.metadata.version("facepipe")
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            version = "unknown"
        code = hashlib.sha256()
        for file in sorted(Path(__file__).parent.glob("*.py")):
            code.update(file.name.encode() + b"\0" + file.read_bytes())
        return cls(version, code.hexdigest(), pack)

    def differs(self, worker: Kind) -> str:
        """Say in which way a worker is of another kind; empty if it is not."""
        if self.version != worker.version:
            return f"it runs facepipe {worker.version}, this client {self.version}"
        if self.code != worker.code:
            return (
                f"both say facepipe {self.version}, but its code ({worker.code[:12]}) is not this "
                f"client's ({self.code[:12]})"
            )
        if self.pack != worker.pack:
            return f"its pack is {worker.pack[:12]}, this client's {self.pack[:12]}"
        return ""
