"""Errors about model packs: what is in one, and fetching one."""

from __future__ import annotations

from store.errors import FacepipeError


class PackError(FacepipeError, ValueError):
    """A model pack is unknown, not installed, incomplete, damaged or of other widths than ours."""


class FetchError(PackError):
    """A package registry's client is missing, failed, or brought other bytes than the pinned ones.

    Attributes
    ----------
    output : str
        All that the client wrote to its standard error.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", output: str = "") -> None:
        super().__init__(message, hint)
        self.output = output
