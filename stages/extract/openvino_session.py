"""A net on OpenVINO's own runtime, behind the part of onnxruntime's interface that is used here.

The ``openvino`` package, not ``onnxruntime-openvino``: that one shares its import name with the
onnxruntime that insightface needs. Why at all: on one core of a CPU with AVX-512, lite's
recognition net takes 3.5 ms a face and 1.3 in bf16; in ONNX Runtime 8.9 as its file is, and 4.1
rewritten (rewrites.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.extract.device import Device, DeviceError, Precision
from stages.extract.machine import installed

Array = npt.NDArray[np.generic]

OLDEST = 2025  # releases before it name some properties otherwise

# A model compiled for one shape is 10-25 % faster than one for any shape, and gives the same bits
# in f32 (measured on lite's nets). Each costs about 0.3 s and, beside its buffers, a copy of the
# weights: few are kept, and nets with large weights, which gain little, are compiled once.
SHAPES_KEPT = 8
STATIC_BELOW_BYTES = 32 << 20

# FTZ is not asked for (CPU_DENORMALS_OPTIMIZATION): these kernels lose nothing to denormals on
# lite's recognition net, 3.77 ms a face without it and 3.73 with.
_SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # workers would all pin themselves to the first core
    "PERFORMANCE_HINT": "LATENCY",
}
_TYPES = {Precision.F32: "f32", Precision.BF16: "bf16"}


@dataclass(frozen=True)
class Port:
    """An input or output of a net: its name, and its shape with None where any size will do."""

    name: str
    shape: list[int | None]


class OpenVinoSession:
    """One net on the CPU, in one thread.

    Whether the same input gives the same bits whatever else is in its batch depends on the CPU:
    with AVX-512 it did (lite's nets in f32 and bf16), with AVX2 it did not. Run it a row at a time
    where that matters; it is as fast.

    Parameters
    ----------
    model : Path or bytes
        An ONNX file or a serialised model.
    precision : Precision
        ``f32`` or ``bf16``.
    threads : int
        Threads inside one operator.

    Raises
    ------
    DeviceError
        If OpenVINO is not installed, too old, has no CPU plugin, cannot read the model, or this CPU
        does not compute in that precision. On the first run of a shape: if OpenVINO cannot compile
        the model or chose another precision.
    """

    def __init__(
        self, model: Path | bytes, precision: Precision = Precision.F32, threads: int = 1
    ) -> None:
        self._core = _core()
        self._type = _type(self._core, precision)
        self._settings = {**_SETTINGS, "INFERENCE_NUM_THREADS": threads}
        self._name = "the model" if isinstance(model, bytes) else str(model)
        try:
            if isinstance(model, bytes):
                self._model = self._core.read_model(model, b"")
            else:
                self._model = self._core.read_model(str(model))
        except RuntimeError as error:
            raise self._failed("read", error) from error
        size = len(model) if isinstance(model, bytes) else model.stat().st_size
        self._inputs = [_port(port) for port in self._model.inputs]
        self._outputs = [_port(port) for port in self._model.outputs]
        any_size = any(None in port.shape for port in self._inputs)
        self._one_a_shape = any_size and size < STATIC_BELOW_BYTES
        self._requests: OrderedDict[Any, Any] = OrderedDict()

    def get_inputs(self) -> list[Port]:
        """Return the net's inputs."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """Return the net's outputs in the model's order."""
        return self._outputs

    def get_providers(self) -> list[str]:
        """Return what runs it."""
        return [Device.OPENVINO.provider]

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """Run the net; return the outputs asked for, all for None, as arrays of their own."""
        blobs = {name: np.ascontiguousarray(blob) for name, blob in feed.items()}
        request = self._request({name: blob.shape for name, blob in blobs.items()})
        request.infer(blobs, share_inputs=True)
        every = [port.name for port in self._outputs]
        wanted = every if names is None else names
        # Copied: the request writes its next results into the same memory.
        return [np.array(request.get_output_tensor(every.index(name)).data) for name in wanted]

    def _request(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        key = tuple(sorted(shapes.items())) if self._one_a_shape else None
        if key in self._requests:
            self._requests.move_to_end(key)
            return self._requests[key]
        if len(self._requests) >= SHAPES_KEPT:
            self._requests.popitem(last=False)
        model = self._model.clone()
        try:
            if self._one_a_shape:
                model.reshape({name: list(shape) for name, shape in shapes.items()})
            settings = {**self._settings, "INFERENCE_PRECISION_HINT": self._type}
            compiled = self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise self._failed("compile", error) from error
        live = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if live != self._type:
            raise DeviceError(
                f"--device openvino: asked to compute {self._name} in {self._type}, it took {live}",
                "run with --precision f32",
            )
        self._requests[key] = compiled.create_infer_request()
        return self._requests[key]

    def _failed(self, verb: str, error: RuntimeError) -> DeviceError:
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        return DeviceError(
            f"--device openvino: OpenVINO could not {verb} {self._name}: {lines[-1].strip()}",
            "run this pack with --device cpu",
        )


def _core() -> Any:
    """Start OpenVINO, or say what is missing."""
    try:
        import openvino
    except ImportError as error:
        there = installed(["openvino"])
        reason = f"openvino does not load: {error}" if there else "openvino is not installed"
        raise DeviceError(
            f"--device openvino: the package {reason}", "pip install 'facepipe[openvino]'"
        ) from error
    version = installed(["openvino"]).get("openvino", "0")
    if int(version.split(".")[0]) < OLDEST:
        raise DeviceError(
            f"--device openvino: expected openvino {OLDEST} or newer, found {version}",
            "pip install --upgrade 'facepipe[openvino]'",
        )
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise DeviceError(
            f"--device openvino: its CPU plugin is missing (found {core.available_devices})",
            "pip install --force-reinstall openvino",
        )
    return core


def _type(core: Any, precision: Precision) -> str:
    """Return OpenVINO's word for a precision that this CPU has."""
    name = _TYPES.get(precision)
    if name is None:
        raise DeviceError(
            f"--precision {precision}: nets in integers need calibrating on faces first, which "
            "no pack here brings",
            f"take one of {', '.join(_TYPES)}",
        )
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision is Precision.BF16 and "BF16" not in able:
        raise DeviceError(
            "--precision bf16: this CPU does not compute in bfloat16 "
            f"(OpenVINO finds {', '.join(able)})",
            "run with --precision f32",
        )
    return name


def _port(port: Any) -> Port:
    shape = [size.get_length() if size.is_static else None for size in port.partial_shape]
    return Port(port.get_any_name(), shape)
