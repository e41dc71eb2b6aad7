"""ONNX Runtime sessions on a chosen device, and the proof that the device is the one in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from stages.extract.device import Device, DeviceError

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def open_session(
    model: Path | bytes, device: Device, threads: int = 1, flush_denormals: bool = False
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
    flush_denormals : bool
        Take denormal numbers for 0: small trained weights make denormal activations, which x86
        computes 20 times slower (lite's recognition net as shipped: 65 ms a face, 9 with this).
        ONNX Runtime heeds it in the first session of a process, and sets it for the whole calling
        thread: for worker processes only.

    Raises
    ------
    DeviceError
        If the session came up on another provider than the one asked for: ONNX Runtime falls back
        to the CPU without an error, which would cost a night.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    wanted: list[Any] = [_CPU]
    if device is Device.CUDA:
        # HEURISTIC: an exhaustive search of kernels costs half a second for each new shape.
        wanted = [(_CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}), _CPU]
        if _CUDA not in onnxruntime.get_available_providers():
            raise DeviceError(
                "--device cuda: this onnxruntime has no CUDA provider "
                f"(it has {', '.join(onnxruntime.get_available_providers())})",
                "install the gpu extra in an environment without the CPU wheel: "
                "pip uninstall onnxruntime && pip install onnxruntime-gpu",
            )
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=wanted)
    live = session.get_providers()[0]
    if device is Device.CUDA and live != _CUDA:
        raise DeviceError(
            f"--device cuda: the CUDA provider did not start, onnxruntime fell back to {live}",
            "check the driver with nvidia-smi and that CUDA and cuDNN match this onnxruntime-gpu",
        )
    return session


def resolve_device(device: Device, probe: Path) -> tuple[Device, str]:
    """Turn ``auto`` into the device that is live, with a word on why.

    Parameters
    ----------
    device : Device
    probe : Path
        A small ONNX file on which CUDA is tried.

    Returns
    -------
    tuple of Device and str
        The device, and the reason to print.
    """
    if device is Device.CPU:
        return device, "as asked"
    try:
        open_session(probe, Device.CUDA)
    except DeviceError as error:
        if device is Device.CUDA:
            raise
        return Device.CPU, f"no live CUDA: {str(error).removeprefix('--device cuda: ')}"
    return Device.CUDA, "as asked" if device is Device.CUDA else "a CUDA session is live"
