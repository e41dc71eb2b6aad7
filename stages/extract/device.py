"""The devices that nets can run on, by the names that users give them."""

from __future__ import annotations

from enum import StrEnum

from store.errors import FacepipeError


class Device(StrEnum):
    """Where the nets run. ``auto`` takes CUDA where a session on it is live, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class DeviceError(FacepipeError, RuntimeError):
    """The device that was asked for is not there."""
