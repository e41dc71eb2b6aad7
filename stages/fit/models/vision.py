"""torchvision's networks without weights from the net, and weights from a local file."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stages.fit.models.base import ModelError

# What networks are called here, and there.
NAMES = {
    "alexnet": "alexnet",
    "resnet18": "resnet18",
    "resnext50": "resnext50_32x4d",
    "mobilenet": "mobilenet_v2",
}
HEADS = ("fc.", "classifier.")
_OPERATORS = ("torchvision::nms", "torchvision::qnms")


def torchvision_models() -> ModuleType:
    """Import torchvision.models, also beside a torch for which its own operators do not load.

    The registries have torchvision with operators built against CUDA; beside a torch without CUDA
    they cannot be loaded, and torchvision then fails on describing two of them. Networks use none
    of them, so these two are declared here, without an implementation: calling them stays an error.

    Raises
    ------
    ModelError
        torchvision is not installed, or does not fit torch.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        if error.name not in ("torchvision", "torchvision.models"):
            raise
        raise ModelError(
            "this model needs the package torchvision, which is not installed",
            "pip install 'facepipe[image]'",
        ) from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in _OPERATORS:
        torch.library.define(name, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        raise ModelError(
            f"torchvision does not fit torch {torch.__version__}: {str(error).splitlines()[0]}",
            "install the release of torchvision that goes with this torch (its pair)",
        ) from None


def build(name: str) -> nn.Module:
    """Build a network of torchvision with random weights; ``name`` is one of NAMES."""
    network: nn.Module = getattr(torchvision_models(), NAMES[name])(weights=None)
    return network


def load_weights(network: nn.Module, path: str) -> None:
    """Fill a network from a safetensors file with torchvision's names; its last layers may lack.

    Raises
    ------
    ModelError
        The file cannot be read, or is of another network.
    """
    file = Path(path)
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: not a safetensors file that can be read ({str(error).splitlines()[0]})",
            "model.weights takes a local file with torchvision's names of the weights",
        ) from None
    wanted = network.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    fitting = {k: v for k, v in found.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in fitting and k not in counters]
    missing = [k for k in missing if not k.startswith(HEADS)]
    if missing:
        raise ModelError(
            f"{file}: {missing[0]} of shape {tuple(wanted[missing[0]].shape)} expected, found "
            + (f"{tuple(found[missing[0]].shape)}" if missing[0] in found else "none")
            + f"; {len(missing)} of {len(wanted)} weights do not fit",
            "give the weights of the same network, or none",
        )
    network.load_state_dict({k: v for k, v in fitting.items()}, strict=False)
