"""What a check of `pipeline doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: ``fail`` stops commands from working, ``warn`` may."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found; ``mend`` says what to do, empty if there is nothing to."""

    check: str
    level: Level
    message: str
    mend: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON types."""
        return {"check": self.check, "level": str(self.level), "message": self.message,
                "mend": self.mend}  # fmt: skip


def ok(check: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, mend: str) -> Finding:
    """Return a finding about what may go wrong."""
    return Finding(check, Level.WARN, message, mend)


def fail(check: str, message: str, mend: str) -> Finding:
    """Return a finding about what does not work."""
    return Finding(check, Level.FAIL, message, mend)
