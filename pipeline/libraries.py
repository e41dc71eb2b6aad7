"""Shared libraries of the system that wheels expect and a slim system lacks."""

from __future__ import annotations

import re

_MISSING = re.compile(r"(lib[^\s/:]+\.so[.\d]*): cannot open shared object file")
# What opencv-python links to and does not bring, and Debian's and Ubuntu's packages of it.
_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libxcb.so.1": "libxcb1",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libgomp.so.1": "libgomp1",
}


def mend_for(error: BaseException) -> str | None:
    """Say how to get the shared library for whose lack an import failed; None if none lacks."""
    found = _MISSING.search(str(error)) if isinstance(error, ImportError) else None
    if found is None:
        return None
    library = found[1]
    if library not in _PACKAGES:
        return f"install the system's package that holds {library} (apt-file search {library})"
    install = f"apt-get install {_PACKAGES[library]}"
    return f"install the system's library {library}; on Debian and Ubuntu: {install}"
