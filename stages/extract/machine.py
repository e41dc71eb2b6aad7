"""What this machine and this environment have: packages by name, the NVIDIA driver.

Read from metadata and from /proc, never by importing: of two packages that share one import name,
importing shows only the one that was installed last.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path

# Distributions that all bring the import name ``onnxruntime``, and those that bring ``cv2``. pip
# lets them overwrite each other file by file.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-training",
)
OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)

DRIVER_FILE = Path("/proc/driver/nvidia/version")
# The oldest driver that runs each CUDA release (NVIDIA, CUDA compatibility, table 1).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


def installed(names: Sequence[str]) -> dict[str, str]:
    """Return the version of each of some distributions that is installed, by name."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def nvidia_driver() -> str | None:
    """Return the version of the loaded NVIDIA driver, such as ``535.104.05``; None without one."""
    try:
        text = DRIVER_FILE.read_text()
    except OSError:
        return None
    match = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else None


def driver_problem(cuda: str | None) -> str | None:
    """Say in a line why the driver cannot run CUDA.

    Parameters
    ----------
    cuda : str or None
        The CUDA release that onnxruntime was built for, such as ``12.8``; None if not known.

    Returns
    -------
    str or None
        None if the driver is new enough, as far as can be told.
    """
    driver = nvidia_driver()
    if driver is None:
        return f"no NVIDIA driver is loaded ({DRIVER_FILE} is missing)"
    needed = OLDEST_DRIVER.get(int(cuda.split(".")[0])) if cuda else None
    if needed and int(driver.split(".")[0]) < needed:
        return f"the NVIDIA driver is {driver}, CUDA {cuda} needs {needed} or newer"
    return None


def onnxruntime_mend() -> str:
    """Say how to get to one onnxruntime that has CUDA."""
    return (
        f"in an environment for the GPU only: pip uninstall {' '.join(installed(ONNXRUNTIMES))}, "
        "then pip install onnxruntime-gpu"
    )
