"""Sessions on a chosen device, and the proof that the device is the one in use."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import onnxruntime

from stages.extract import registry
from stages.extract.bound_session import BoundSession
from stages.extract.device import Device, DeviceError, Precision
from stages.extract.machine import ONNXRUNTIMES, driver_problem, installed, onnxruntime_mend
from stages.extract.openvino_session import OpenVinoSession

_CPU, _CUDA, _TENSORRT = (d.provider for d in (Device.CPU, Device.CUDA, Device.TENSORRT))


def open_session(
    model: Path | bytes,
    device: Device,
    threads: int = 1,
    precision: Precision = Precision.F32,
    flush_denormals: bool = False,
) -> Any:
    """Open a session for one model and verify its provider.

    Parameters
    ----------
    model : Path or bytes
        An ONNX file or a serialised model.
    device : Device
        ``auto`` must have been resolved before (`resolve_device`).
    threads : int
        Threads inside one operator. One per worker process is fastest for nets this small.
    precision : Precision
        Other than f32 only on OpenVINO.
    flush_denormals : bool
        Take denormal numbers for 0: small trained weights make denormal activations, which x86
        computes 20 times slower (lite's recognition net as shipped: 65 ms a face, 9 with this).
        ONNX Runtime heeds it in the first session of a process, and sets it for the whole calling
        thread: for worker processes only.

    Returns
    -------
    onnxruntime.InferenceSession, OpenVinoSession or BoundSession
        All have ``get_inputs``, ``get_outputs``, ``get_providers`` and ``run``.

    Raises
    ------
    DeviceError
        If the session came up on another provider than the one asked for (ONNX Runtime falls back
        to the CPU without an error, which would cost a night), or the device lacks the precision.
    """
    if device is Device.OPENVINO:
        return OpenVinoSession(model, precision, threads)
    if precision is not Precision.F32:
        elsewhere = device.on_cpu and precision is Precision.BF16
        raise DeviceError(
            f"--precision {precision}: --device {device} computes in f32 only",
            "bf16 needs --device openvino" if elsewhere else "leave --precision out",
        )
    if device is Device.CPU:
        return _session(model, threads, [_CPU], flush_denormals)
    return BoundSession(_on_gpu(model, device, threads), "cuda")


def resolve_device(
    device: Device, probe: Path, precision: Precision = Precision.F32
) -> tuple[Device, str]:
    """Turn ``auto`` into the device that is live, with a word on why.

    Parameters
    ----------
    device : Device
    probe : Path
        A small ONNX file on which the device is tried.
    precision : Precision
        What will be asked of it.

    Returns
    -------
    tuple of Device and str
        The device, and the reason to print.

    Raises
    ------
    DeviceError
        If the device that was asked for is not live, or does not offer the precision.
    """
    if device is Device.CPU and precision is Precision.F32:
        return device, "as asked"  # always live, and a session here would leave its mark (_session)
    if device is not Device.AUTO:
        open_session(probe, device, precision=precision)
        return device, "as asked"
    try:
        open_session(probe, Device.CUDA)
        chosen, reason = Device.CUDA, "a CUDA session is live"
    except DeviceError as error:
        chosen, reason = Device.CPU, f"no live CUDA: {str(error).removeprefix('--device cuda: ')}"
        if installed(["openvino"]):
            reason += "; openvino is installed and may be faster: --device openvino"
    if precision is not Precision.F32:
        open_session(probe, chosen, precision=precision)
    return chosen, reason


def _session(
    model: Path | bytes, threads: int, providers: list[Any], flush_denormals: bool = False
) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=providers)


def _on_gpu(model: Path | bytes, device: Device, threads: int) -> Any:
    """Open a session on CUDA or TensorRT; DeviceError, with the reason, if it is not live there."""
    wanted = device.provider
    available = onnxruntime.get_available_providers()
    name = device.name if device is Device.CUDA else "TensorRT"
    if wanted not in available:
        raise DeviceError(
            f"--device {device}: this onnxruntime has no {name} provider (it has "
            f"{', '.join(available)}{_shadowed()})",
            onnxruntime_mend(),
        )
    providers = [(_CUDA, _CUDA_OPTIONS), _CPU]
    if device is Device.TENSORRT:
        # Read by NVIDIA's libraries: TensorRT rounds f32 to TF32's 10 bits unless told not to.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        cache = registry.home() / "tensorrt"
        cache.mkdir(parents=True, exist_ok=True)
        providers.insert(0, (wanted, tensorrt_options(cache)))
    missed = _load_libraries()
    try:
        session = _session(model, threads, providers)
    except Exception as error:  # onnxruntime raises bare classes of its own for a broken CUDA
        raise DeviceError(
            f"--device {device}: {_first_line(error)}",
            f"{_driver_note() or 'check CUDA and cuDNN'}; see: pipeline doctor",
        ) from error
    live = session.get_providers()[0]
    if live != wanted:
        libraries = "TensorRT, CUDA and cuDNN" if device is Device.TENSORRT else "CUDA and cuDNN"
        raise DeviceError(
            f"--device {device}: the {name} provider did not start, onnxruntime fell back to "
            f"{live}{_driver_note('; ') or missed}",
            f"check the driver with nvidia-smi and that {libraries} match this onnxruntime-gpu",
        )
    return session


# HEURISTIC: an exhaustive search of kernels costs half a second for each new shape. TF32 rounds
# inputs to 10 bits, which f32 on a CPU does not: a store may be continued on another device.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


def tensorrt_options(cache: Path) -> dict[str, str]:
    """Return TensorRT's options: engines, which take minutes to build, are kept in a folder."""
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": "0",
    }


def _load_libraries() -> str:
    """Let onnxruntime find CUDA libraries that came as wheels; return the first that it misses."""
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21 on; it prints
    if preload is None:
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        preload()
    return f"; {lines[0]}" if (lines := said.getvalue().splitlines()) else ""


def _driver_note(before: str = "") -> str:
    problem = driver_problem(getattr(onnxruntime, "cuda_version", None) or None)
    return before + problem if problem else ""


def _shadowed() -> str:
    """Say that two wheels of onnxruntime are installed, where they are."""
    there = installed(ONNXRUNTIMES)
    if len(there) < 2:
        return ""
    return f"; {' and '.join(there)} are both installed and overwrite each other"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
