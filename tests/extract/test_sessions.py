from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from stages.extract.device import Device, DeviceError
from stages.extract.packs import resolve
from stages.extract.sessions import open_session, resolve_device
from tests.testing.packs import tiny_pack

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resolve(tiny_pack(tmp_path_factory.mktemp("pack") / "p")).landmark


def test_the_cpu_is_the_cpu(probe: Path) -> None:
    assert resolve_device(Device.CPU, probe)[0] is Device.CPU
    assert open_session(probe, Device.CPU).get_providers() == ["CPUExecutionProvider"]


def test_cuda_without_a_provider_is_an_error_not_a_cpu_run(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="no CUDA provider") as caught:
        resolve_device(Device.CUDA, probe)
    assert caught.value.exit_code == 2
    assert "onnxruntime-gpu" in caught.value.hint


def test_cuda_that_falls_back_is_an_error(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that lists CUDA but whose session comes up on the CPU, as without a driver."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, options, providers: real(
            source, options, providers=["CPUExecutionProvider"]
        ),
    )
    with pytest.raises(DeviceError, match="fell back to CPUExecutionProvider"):
        open_session(probe, Device.CUDA)


def test_auto_says_why_it_took_the_cpu(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    device, reason = resolve_device(Device.AUTO, probe)
    assert device is Device.CPU
    assert "no CUDA provider" in reason


@pytest.mark.gpu
def test_auto_takes_a_live_gpu(probe: Path) -> None:
    assert HAS_CUDA, "make test-gpu needs onnxruntime-gpu"
    device, reason = resolve_device(Device.AUTO, probe)
    assert device is Device.CUDA
    assert "live" in reason
