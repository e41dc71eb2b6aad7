"""What computes: the GPU's driver, the devices that nets can run on, torch, threads."""

from __future__ import annotations

import importlib.util
import os

from pipeline.doctor.finding import Finding, fail, ok, warn
from stages.extract.machine import driver_problem, installed, nvidia_driver, onnxruntime_mend


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
        live.append("not installed: openvino, about 1.5 times as fast as cpu (facepipe[openvino])")
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
