"""The three nets of a pack, opened on one device."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from stages.extract import graphs
from stages.extract.batches import BATCHES, CPU_BATCHES
from stages.extract.detector import Detector
from stages.extract.device import Device, Precision
from stages.extract.faces import RecognitionNet
from stages.extract.feeds import Feed
from stages.extract.graphs import with_appearance
from stages.extract.landmarks import LandmarkNet
from stages.extract.packs import Pack
from stages.extract.recipe import Recipe
from stages.extract.rewrites import unwrapped, without_prelu
from stages.extract.sessions import open_session


@dataclass(frozen=True)
class Nets:
    """A pack's nets, ready to run, and the provider that runs them."""

    detector: Detector
    landmark: LandmarkNet
    recognition: RecognitionNet
    provider: str


def open_nets(
    pack: Pack, device: Device, recipe: Recipe, threads: int = 1, flush_denormals: bool = False
) -> Nets:
    """Open a pack's nets on a device that was resolved; parameters as for `sessions.open_session`.

    Raises
    ------
    DeviceError
        If a session is not live on that device.
    """
    # On the two small nets OpenVINO is slower (lite: 6.1 ms against 3.9, 0.28 against 0.25).
    small = Device.CPU if device is Device.OPENVINO else device
    detector, scan = prepared(graphs.load(pack.detector), 128.0, small)
    landmark = graphs.load(pack.landmark)
    side = graphs.dims(graphs.real_inputs(landmark)[0])[3] or 0
    points, feed = prepared(landmark, 128.0, small)
    batches = CPU_BATCHES if small is Device.CPU else BATCHES

    def session(model: bytes) -> Any:
        return open_session(model, small, threads, flush_denormals=flush_denormals)

    return Nets(
        Detector(session(detector), recipe.detector_sizes, recipe.detector_threshold, feed=scan),
        LandmarkNet(session(points), side, feed, pack.refine, batches),
        open_recognition(pack, device, Precision(recipe.precision), threads, flush_denormals),
        device.provider,
    )


def open_recognition(
    pack: Pack,
    device: Device,
    precision: Precision = Precision.F32,
    threads: int = 1,
    flush_denormals: bool = False,
) -> RecognitionNet:
    """Open a pack's recognition net, the one whose precision can be chosen.

    Raises
    ------
    DeviceError
        If the session is not live on that device, or the device does not offer the precision.
    """
    model, feed = prepared(with_appearance(graphs.load(pack.recognition)), 127.5, device)
    session = open_session(model, device, threads, precision, flush_denormals)
    batches = {Device.OPENVINO: (1,), Device.CPU: CPU_BATCHES}.get(device, BATCHES)
    return RecognitionNet(session, feed, batches)


def prepared(model: Any, std: float, device: Device) -> tuple[bytes, Feed]:
    """Return a net as it runs best on a device, and what its input looks like."""
    model, feed = unwrapped(model, Feed.normalised(*_scaling(model, std)))
    if device is Device.CPU and platform.machine().lower() in _BLOCKED_LAYOUT:
        model = without_prelu(model)
    return model.SerializeToString(), feed


_BLOCKED_LAYOUT = ("x86_64", "amd64")  # where ONNX Runtime has NCHWc kernels


def _scaling(model: Any, std: float) -> tuple[float, float]:
    """Mean and divisor of a net's input; nets that begin with a Sub and a Mul scale it themselves.

    The rule, and its looking at node names, is insightface's (model_zoo/arcface_onnx.py).
    """
    head = [node.name for node in model.graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in head)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in head)
    if (subtracts and multiplies) or "bn_data" in head[:3]:
        return 0.0, 1.0
    return 127.5, std
