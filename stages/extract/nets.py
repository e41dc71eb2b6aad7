"""The three nets of a pack, opened on one device."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from stages.extract.detector import Detector
from stages.extract.device import Device, Precision
from stages.extract.faces import LandmarkNet, RecognitionNet
from stages.extract.graphs import with_appearance
from stages.extract.packs import Pack
from stages.extract.recipe import Recipe
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
    detector = open_session(pack.detector, device, threads, flush_denormals=flush_denormals)
    landmark = open_session(pack.landmark, device, threads, flush_denormals=flush_denormals)
    recognition = open_recognition(
        pack, device, Precision(recipe.precision), threads, flush_denormals
    )
    return Nets(
        Detector(detector, recipe.detector_sizes, recipe.detector_threshold),
        LandmarkNet(landmark, *_scaling(onnx.load(str(pack.landmark)), 128.0), pack.refine),
        recognition,
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
    model = with_appearance(onnx.load(str(pack.recognition)))
    session = open_session(model.SerializeToString(), device, threads, precision, flush_denormals)
    return RecognitionNet(session, *_scaling(model, 127.5))


def _scaling(model: onnx.ModelProto, std: float) -> tuple[float, float]:
    """Mean and divisor of a net's input; nets that begin with a Sub and a Mul scale it themselves.

    The rule, and its looking at node names, is insightface's (model_zoo/arcface_onnx.py).
    """
    head = [node.name for node in model.graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in head)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in head)
    if (subtracts and multiplies) or "bn_data" in head[:3]:
        return 0.0, 1.0
    return 127.5, std
