"""What this machine and this environment have: packages by name, the NVIDIA driver and its GPUs.

Packages are read from metadata, never by importing: of two packages that share one import name,
importing shows only the one that was installed last.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import re
import subprocess
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


def gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, by what CUDA_VISIBLE_DEVICES calls them.

    Empty if there are none, or nvidia-smi, which knows, does not answer.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:  # CUDA itself reads it up to the first that is not there
        names = (name.strip() for name in chosen.split(","))
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", told.stdout, re.MULTILINE)


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
