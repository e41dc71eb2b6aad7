"""Makers of tiny model packs: real ONNX graphs with insightface's interfaces, seeds fixed.

The detector finds bright squares on dark ground, the landmark net draws a face into the box that it
is given, the recognition net has the tail of insightface's ResNets. All run in a few milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 4  # pixels of the detector's input in which it measures
REACH = 8  # it looks 2**8 - 1 cells far for the edge of a square

node = helper.make_node


def tiny_pack(
    folder: Path,
    *,
    variant: str = "lite",
    landmarks: int | None = None,
    embedding: int = 512,
    channels: int = 512,
    batched: bool | None = None,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Write a pack of three tiny nets into ``folder`` (made if need be) and return it.

    Parameters
    ----------
    folder : Path
    variant : {"lite", "buffalo"}
        ``buffalo``: insightface's file names, 3309 landmark outputs, a detector for one picture at
        a time with outputs (rows, width), and two nets that no one asked for (106 landmarks, age).
    landmarks, embedding, channels : int
        Widths of the landmark output, of the recognition output and of the map before its last
        linear layer; for tests of wrong ones.
    batched : bool
        Whether the detector takes several pictures, outputs (n, rows, width).
    manifest : dict
        Written as pack.json.
    """
    buffalo = variant == "buffalo"
    names = ("det_10g", "1k3d68", "w600k_r50") if buffalo else ("det", "lmk", "rec")
    folder.mkdir(parents=True, exist_ok=True)
    nets = {
        names[0]: detector(batched=not buffalo if batched is None else batched),
        names[1]: landmark_net(landmarks or (3309 if buffalo else 136)),
        names[2]: recognition_net(embedding, channels),
    }
    if buffalo:
        nets |= {"2d106det": pooled_net(192, 212), "genderage": pooled_net(96, 3)}
    for name, model in nets.items():
        onnx.save(model, str(folder / f"{name}.onnx"))
    if manifest is not None:
        (folder / "pack.json").write_text(json.dumps(manifest))
    return folder


def detector(batched: bool = True, strides: tuple[int, ...] = (8, 16, 32)) -> Any:
    """Return a net of the SCRFD protocol that boxes bright (> 127) squares on dark ground.

    From each cell of 4 px it measures the run of bright cells to the left, right, top and bottom;
    an anchor's box is those four, its score falls from 1 in the middle of a square to 0 at its edge
    and with the longer side of oblongs. The five points lie where ArcFace's template has them.
    """
    c = _Constants()
    ones = c.floats("cell", np.full((1, 3, CELL, CELL), 1 / (3 * CELL * CELL)))
    nodes = [
        node("Conv", ["input", ones], ["grey"], strides=[CELL, CELL]),
        node("Greater", ["grey", c.floats("zero", 0.0)], ["is_bright"]),
        node("Cast", ["is_bright"], ["bright"], to=TensorProto.FLOAT),
        node("Sub", [c.floats("one", 1.0), "bright"], ["dark"]),
        node("Add", ["bright", "dark"], ["ones"]),
    ]
    runs = []
    for side, axis, back in (("left", 3, 0), ("top", 2, 0), ("right", 3, 1), ("bottom", 2, 1)):
        # Cells are counted from the border on that side, which is dark: the nearest dark cell on
        # the way there is the largest number among the dark ones.
        nodes += [
            node("CumSum", ["ones", c.ints(f"axis{axis}", axis)], [f"{side}_n"], reverse=back),
            node("Mul", [f"{side}_n", "dark"], [f"{side}_max0"]),
        ]
        for step in range(REACH):  # running maximum, twice as far with each step
            far, kernel, pads = [1, 1], [1, 1], [0] * 8
            far[axis - 2], kernel[axis - 2], pads[axis + 4 * back] = 2**step, 2, 2**step
            wide, here = f"{side}_wide{step}", f"{side}_max{step}"
            nodes += [
                node("Pad", [here, c.ints(f"pads{axis}{back}{step}", pads)], [wide]),
                node(
                    "MaxPool", [wide], [f"{side}_max{step + 1}"], dilations=far, kernel_shape=kernel
                ),
            ]
        nodes.append(node("Sub", [f"{side}_n", f"{side}_max{REACH}"], [f"{side}_run"]))
        runs.append(f"{side}_run")
    # Anchors lie on the upper left corners of cells: to the left and up one cell less.
    less = np.array([1, 1, 0, 0]).reshape(1, 4, 1, 1)
    nodes += [
        node("Concat", runs, ["runs"], axis=1),
        node("Sub", ["runs", c.floats("less", less)], ["whole"]),
        node("Mul", ["whole", c.floats("px", float(CELL))], ["sides"]),
    ]
    outputs: list[list[Any]] = [[], [], []]
    rank = [0] if batched else []
    for s in strides:
        nodes += [
            node(
                "Slice",
                ["sides", c.ints("start", [0, 0]), c.ints("end", [2**31 - 1] * 2),
                 c.ints("hw", [2, 3]), c.ints(f"step{s}", [s // CELL] * 2)],
                [f"here{s}"],
            ),
            node("Slice", ["bright", "start", "end", "hw", f"step{s}"], [f"lit{s}"]),
            node("Split", [f"here{s}"], [f"{p}{s}" for p in "ltrb"], axis=1),
            node("Add", [f"l{s}", f"r{s}"], [f"w{s}"]),
            node("Add", [f"t{s}", f"b{s}"], [f"h{s}"]),
            *_ratio(f"l{s}", f"r{s}", f"x{s}"),
            *_ratio(f"t{s}", f"b{s}", f"y{s}"),
            *_ratio(f"w{s}", f"h{s}", f"aspect{s}"),
            node("Mul", [f"x{s}", f"y{s}"], [f"xy{s}"]),
            node("Sqrt", [f"xy{s}"], [f"central{s}"]),
            node("Mul", [f"central{s}", f"aspect{s}"], [f"shape{s}"]),
            node("Mul", [f"shape{s}", f"lit{s}"], [f"score{s}"]),
            node("Mul", [f"score{s}", "zero"], [f"none{s}"]),
            node("Concat", [f"score{s}", f"none{s}"], [f"pair{s}"], axis=1),
            node("Div", [f"here{s}", c.floats(f"stride{s}", float(s))], [f"box{s}"]),
            node("Conv", [f"box{s}", c.floats("points", _five_points())], [f"kps{s}"]),
            node("Concat", [f"box{s}"] * 2, [f"box2{s}"], axis=1),
            node("Concat", [f"kps{s}"] * 2, [f"kps2{s}"], axis=1),
        ]  # fmt: skip
        for group, made, width in zip(
            outputs, (f"pair{s}", f"box2{s}", f"kps2{s}"), (1, 4, 10), strict=True
        ):
            name = f"{('score', 'bbox', 'kps')[(1, 4, 10).index(width)]}_{s}"
            shape = c.ints(f"rows{width}", [*rank, -1, width])
            nodes += [
                node("Transpose", [made], [f"{made}_last"], perm=[0, 2, 3, 1]),
                node("Reshape", [f"{made}_last", shape], [name]),
            ]
            group.append(_value(name, [*(["N"] if batched else []), f"rows_{s}", width]))
    return _model(
        nodes,
        [_value("input", ["N" if batched else 1, 3, "height", "width"])],
        [value for group in outputs for value in group],
        c,
    )


def landmark_net(width: int = 136) -> Any:
    """Return a net (n, 3, 192, 192) -> (n, width) that places a face in the middle 128 px.

    The points are `face_template` plus up to a few hundredths that follow the pixels. With 3309
    outputs they are the last 68 of 1103 points of three values, as in 1k3d68.
    """
    c = _Constants()
    rng = np.random.default_rng(68)
    template = (32 + 128 * face_template()) / 96 - 1
    bias, weight = np.zeros(width), np.zeros((108, width))
    stride = 3 if width == 3309 else 2
    where = np.arange(width)[-68 * stride :].reshape(-1, stride)[:, :2].reshape(-1)
    bias[where] = template.reshape(-1)[: len(where)]
    weight[:, where] = rng.normal(0, 0.003, (108, len(where)))
    nodes = [
        node("AveragePool", ["input"], ["cells"], kernel_shape=[32, 32], strides=[32, 32]),
        node("Flatten", ["cells"], ["flat"]),
        node("Gemm", ["flat", c.floats("w", weight), c.floats("b", bias)], ["landmarks"]),
    ]
    return _model(
        nodes, [_value("input", ["N", 3, 192, 192])], [_value("landmarks", ["N", width])], c
    )


def recognition_net(width: int = 512, channels: int = 512, map_side: int = 2) -> Any:
    """Return a net (n, 3, 112, 112) -> (n, width) with the tail of insightface's ResNets.

    Convolution, PReLU, a map (n, channels, map_side, map_side), BatchNormalization, Dropout,
    Flatten, Gemm, BatchNormalization. The declared batch of the output is 1, as in w600k_r50.
    """
    c = _Constants()
    rng = np.random.default_rng(112)
    window = 14 // map_side
    read = channels * map_side**2

    def norm(name: str, data: str, size: int) -> Any:
        parts = (
            c.floats(f"{name}_scale", rng.uniform(0.5, 1.5, size)),
            c.floats(f"{name}_bias", rng.normal(0, 0.1, size)),
            c.floats(f"{name}_mean", rng.normal(0, 0.1, size)),
            c.floats(f"{name}_var", rng.uniform(0.5, 1.5, size)),
        )
        return node("BatchNormalization", [data, *parts], [name])

    first, second = rng.normal(0, 0.3, (16, 3, 8, 8)), rng.normal(0, 0.5, (channels, 16, 1, 1))
    last = rng.normal(0, read**-0.5, (read, width))
    nodes = [
        node("Conv", ["input", c.floats("c1", first)], ["f1"], strides=[8, 8]),
        node("PRelu", ["f1", c.floats("slope", np.full((16, 1, 1), 0.25))], ["f2"]),
        node("AveragePool", ["f2"], ["f3"], kernel_shape=[window] * 2, strides=[window] * 2),
        node("Conv", ["f3", c.floats("c2", second)], ["f4"]),
        norm("map", "f4", channels),
        node("Dropout", ["map"], ["kept"]),
        node("Flatten", ["kept"], ["flat"]),
        node("Gemm", ["flat", c.floats("fc", last), c.floats("fb", np.zeros(width))], ["linear"]),
        norm("embedding", "linear", width),
    ]
    return _model(
        nodes, [_value("input", ["N", 3, 112, 112])], [_value("embedding", [1, width])], c
    )


def pooled_net(side: int, width: int) -> Any:
    """Return a net (n, 3, side, side) -> (n, width): a linear image of the mean colour."""
    c = _Constants()
    weight = np.random.default_rng(side).normal(0, 1, (3, width))
    nodes = [
        node("GlobalAveragePool", ["input"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", c.floats("w", weight), c.floats("b", np.zeros(width))], ["out"]),
    ]
    return _model(nodes, [_value("input", ["N", 3, side, side])], [_value("out", ["N", width])], c)


def face_template() -> np.ndarray:
    """Return 68 points (68, 2) in iBUG order, x and y in 0..1 of the box: a plain frontal face."""

    def arc(cx: float, cy: float, rx: float, ry: float, degrees: list[float]) -> np.ndarray:
        t = np.radians(degrees)
        return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], axis=1)

    def line(start: tuple[float, float], end: tuple[float, float], n: int) -> np.ndarray:
        return np.linspace(start, end, n)

    eye = [180.0, 240.0, 300.0, 0.0, 60.0, 120.0]
    return np.concatenate(
        [
            arc(0.5, 0.40, 0.45, 0.57, list(np.linspace(175, 5, 17))),  # jaw
            arc(0.30, 0.33, 0.14, 0.08, list(np.linspace(190, 340, 5))),  # brows
            arc(0.70, 0.33, 0.14, 0.08, list(np.linspace(200, 350, 5))),
            line((0.50, 0.40), (0.50, 0.58), 4),  # nose
            line((0.42, 0.63), (0.58, 0.63), 5),
            arc(0.32, 0.42, 0.07, 0.03, eye),
            arc(0.68, 0.42, 0.07, 0.03, eye),
            arc(0.5, 0.78, 0.16, 0.07, list(np.arange(180.0, 540.0, 30.0))),  # lips
            arc(0.5, 0.78, 0.12, 0.03, list(np.arange(180.0, 540.0, 45.0))),
        ]
    )


class _Constants:
    """Initialisers of a graph under construction; each method returns the name it was given."""

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}

    def floats(self, name: str, value: Any) -> str:
        return self._add(name, np.asarray(value, np.float32))

    def ints(self, name: str, value: Any) -> str:
        return self._add(name, np.asarray(value, np.int64))

    def _add(self, name: str, array: np.ndarray) -> str:
        self.tensors.setdefault(name, numpy_helper.from_array(array, name))
        return name


def _ratio(a: str, b: str, out: str) -> list[Any]:
    """Return nodes for min(a, b) / max(a, b), and 0 where both are."""
    return [
        node("Min", [a, b], [f"{out}_min"]),
        node("Max", [a, b], [f"{out}_max"]),
        node("Max", [f"{out}_max", "one"], [f"{out}_safe"]),
        node("Div", [f"{out}_min", f"{out}_safe"], [out]),
    ]


def _five_points() -> np.ndarray:
    """Return the 1x1 convolution (10, 4, 1, 1) from left, top, right, bottom to five points."""
    x, y = [0.32, 0.68, 0.5, 0.36, 0.64], [0.42, 0.42, 0.6, 0.78, 0.78]
    weight = np.zeros((10, 4))
    for i in range(5):
        weight[2 * i, [0, 2]] = x[i] - 1, x[i]
        weight[2 * i + 1, [1, 3]] = y[i] - 1, y[i]
    return weight[:, :, None, None]


def _value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: _Constants) -> Any:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(constants.tensors.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model
