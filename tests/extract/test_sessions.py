from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from stages.extract import bound_session, machine, sessions
from stages.extract.bound_session import BoundSession
from stages.extract.device import Device, DeviceError, Precision
from stages.extract.packs import resolve
from stages.extract.sessions import open_session, resolve_device, tensorrt_options
from tests.testing.packs import pooled_net, tiny_pack

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
    with pytest.raises(DeviceError, match="no TensorRT provider"):
        resolve_device(Device.TENSORRT, probe)


def test_two_wheels_are_named_as_the_reason(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"}
    monkeypatch.setattr(sessions, "installed", lambda names: both)
    monkeypatch.setattr(machine, "installed", lambda names: both)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="onnxruntime and onnxruntime-gpu are both") as caught:
        open_session(probe, Device.CUDA)
    assert "pip uninstall onnxruntime onnxruntime-gpu" in caught.value.hint


@pytest.fixture
def dead_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A wheel that lists GPU providers but whose session comes up on the CPU; no driver."""
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, options, providers: real(
            source, options, providers=["CPUExecutionProvider"]
        ),
    )
    monkeypatch.setenv("FACEPIPE_HOME", str(tmp_path))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    driver = tmp_path / "version"
    monkeypatch.setattr(machine, "DRIVER_FILE", driver)
    return driver


@pytest.mark.parametrize("device, name", [(Device.CUDA, "CUDA"), (Device.TENSORRT, "TensorRT")])
def test_a_gpu_that_falls_back_is_an_error(
    device: Device, name: str, probe: Path, dead_gpu: Path
) -> None:
    with pytest.raises(
        DeviceError, match=f"the {name} provider did not start.* fell back to CPUExecutionProvider"
    ) as caught:
        open_session(probe, device)
    assert "no NVIDIA driver is loaded" in str(caught.value)


def test_an_old_driver_is_named_as_the_reason(
    probe: Path, dead_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_gpu.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.8", raising=False)
    with pytest.raises(DeviceError, match="driver is 470.256.02, CUDA 12.8 needs 525 or newer"):
        open_session(probe, Device.CUDA)
    monkeypatch.setattr(onnxruntime, "cuda_version", "11.8")
    with pytest.raises(DeviceError, match="fell back") as caught:
        open_session(probe, Device.CUDA)
    assert "needs" not in str(caught.value)


def test_what_the_preload_misses_is_the_reason(
    probe: Path, dead_gpu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead_gpu.write_text("NVRM version: NVIDIA UNIX Open Kernel Module  580.65.06  Release Build\n")
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), raising=False
    )
    with pytest.raises(DeviceError, match=r"fell back .*Failed to load libcudnn\.so\.9"):
        open_session(probe, Device.CUDA)
    assert capsys.readouterr().out == ""  # stdout is for results


def test_a_gpu_session_that_raises_is_an_error_in_one_line(
    probe: Path, dead_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA failure 35: driver version is insufficient\nfile=cuda_call.cc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    with pytest.raises(DeviceError, match="CUDA failure 35: driver version is insufficient$"):
        open_session(probe, Device.CUDA)


def test_precisions_that_a_device_lacks_are_refused(probe: Path) -> None:
    for device, precision, hint in [
        (Device.CPU, Precision.BF16, "bf16 needs --device openvino"),
        (Device.CPU, Precision.INT8, "leave --precision out"),  # no device has it
        (Device.CUDA, Precision.INT8, "leave --precision out"),
    ]:
        with pytest.raises(DeviceError, match=f"--precision {precision}: .* f32 only") as caught:
            resolve_device(device, probe, precision)
        assert caught.value.hint == hint


def test_auto_refuses_a_precision_that_what_it_takes_lacks(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="--device cpu computes in f32 only") as caught:
        resolve_device(Device.AUTO, probe, Precision.BF16)
    assert "--device openvino" in caught.value.hint


def test_bound_buffers_give_what_a_plain_run_gives(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter that CUDA runs through, with its buffers on the host."""
    monkeypatch.setattr(bound_session, "SHAPES_KEPT", 2)
    plain = open_session(pooled_net(8, 5).SerializeToString(), Device.CPU)
    bound = BoundSession(plain, "cpu")
    assert bound.get_providers() == plain.get_providers()
    assert bound.get_inputs()[0].name == "input"
    rng = np.random.default_rng(0)
    blobs = [rng.normal(size=(n, 3, 8, 8)).astype(np.float32) for n in (4, 1, 2, 3, 4, 4, 1)]
    got = [bound.run(None, {"input": blob}) for blob in blobs]
    for blob, (ours,) in zip(blobs, got, strict=True):
        np.testing.assert_array_equal(ours, plain.run(None, {"input": blob})[0])
    assert len(bound._bound) == 2


def test_bound_outputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    plain = open_session(resolve(tiny_pack(tmp_path / "p")).detector, Device.CPU)
    names = [output.name for output in plain.get_outputs()][::-2]
    feed = {"input": np.random.default_rng(0).random((1, 3, 64, 64)).astype(np.float32)}
    pairs = zip(BoundSession(plain, "cpu").run(names, feed), plain.run(names, feed), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_engines_are_cached_in_full_precision(tmp_path: Path) -> None:
    options = tensorrt_options(tmp_path)
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert (options["trt_engine_cache_enable"], options["trt_fp16_enable"]) == ("1", "0")


def test_auto_says_why_it_took_the_cpu(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    device, reason = resolve_device(Device.AUTO, probe)
    assert device is Device.CPU
    assert "no CUDA provider" in reason
    monkeypatch.setattr(sessions, "installed", lambda names: {"openvino": "2026.1.0"})
    device, reason = resolve_device(Device.AUTO, probe)
    assert device is Device.CPU  # the same features on every machine
    assert "openvino is installed and may be faster: --device openvino" in reason
    monkeypatch.setattr(sessions, "installed", lambda names: {})
    assert "--device openvino" not in resolve_device(Device.AUTO, probe)[1]


@pytest.mark.gpu
def test_auto_takes_a_live_gpu(probe: Path) -> None:
    assert HAS_CUDA, "make test-gpu needs onnxruntime-gpu"
    device, reason = resolve_device(Device.AUTO, probe)
    assert device is Device.CUDA
    assert "live" in reason


@pytest.mark.gpu
@pytest.mark.parametrize("device", [Device.CUDA, Device.TENSORRT])
def test_a_gpu_gives_what_the_cpu_gives(device: Device, probe: Path) -> None:
    gpu, cpu = open_session(probe, device), open_session(probe, Device.CPU)
    rng = np.random.default_rng(0)
    for n in (16, 4, 1, 16):
        blob = rng.normal(size=(n, 3, 192, 192)).astype(np.float32)
        (ours,), (theirs,) = (s.run(None, {"input": blob}) for s in (gpu, cpu))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
