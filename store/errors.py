"""Every error that facepipe raises on purpose.

One base class; each error is also the built-in that a caller would catch. The command line prints
``str(error)`` as one line, ``hint`` as the next, and leaves with ``exit_code``: 2 when the user can
mend it by asking differently, 1 when the machine or this program failed. Errors of the two stages
derive from the same base, in the module that raises them.
"""

from __future__ import annotations


class FacepipeError(Exception):
    """Base of all expected errors.

    Parameters
    ----------
    message : str
        One line: names the file, what was expected and what was found.
    hint : str
        What to do next, one line; may be empty.
    """

    exit_code: int = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class StoreError(FacepipeError, ValueError):
    """Something about a feature store is not as it must be."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no feature store at that path."""

    __str__ = Exception.__str__  # OSError's own __str__ would need (errno, text) arguments


class StoreFormatError(StoreError):
    """The store is of a newer format, or what lies there is not a whole store."""


class StoreLockedError(StoreError, RuntimeError):
    """Another process is writing this store."""


class StoreMismatchError(StoreError):
    """The store was made with another pack or other extraction settings."""


class StoreDamagedError(StoreError):
    """What the store holds cannot be read."""


class CompactedError(StoreError):
    """Row numbers of an older generation were used."""


class ClipIdError(StoreError):
    """A clip id is empty, absolute, climbs out of the store, or holds control characters."""


class ClipNotFoundError(StoreError, KeyError):
    """The store holds no such clip or track."""

    __str__ = Exception.__str__  # KeyError's own __str__ would print the repr


class ClipExistsError(StoreError):
    """The store holds that clip already."""


class StoreWriteError(FacepipeError, OSError):
    """The disk is full or refused a write. What was committed before is kept."""

    exit_code = 1
    __str__ = Exception.__str__
