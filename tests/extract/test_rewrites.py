"""Rewritten graphs against the ones they were made from, run by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from stages.extract import graphs
from stages.extract.feeds import Channels, Feed
from stages.extract.packs import Pack
from stages.extract.rewrites import unwrapped, without_prelu

RNG = np.random.default_rng(0)
PICTURES = list(RNG.integers(0, 256, (3, 24, 20, 3), dtype=np.uint8))


def graph(nodes: list[Any], weights: dict[str, Any], shape: list[Any], out: str = "y") -> Any:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["N", "C", "P", "Q"])],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


def outputs(model: Any, blob: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: blob})


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


NODE = helper.make_node
SCALE = [NODE("Mul", ["x", "std"], ["a"]), NODE("Add", ["a", "mean"], ["b"])]
NUMBERS = {"std": f32(128.0), "mean": f32(127.5)}
WEIGHT = RNG.normal(size=(2, 3, 3, 3)).astype(np.float32)
CONV = {"w": WEIGHT}


def test_scaling_and_its_undoing_cancel() -> None:
    last = NODE("Conv", ["b", "w"], ["y"], pads=[1, 1, 1, 1])
    model = graph([*SCALE, last], {**NUMBERS, **CONV}, ["N", 3, "H", "W"])
    feed = Feed.normalised(127.5, 128)
    rest, bare = unwrapped(model, feed)
    assert [node.op_type for node in rest.graph.node] == ["Conv"]
    assert (bare.scale, bare.shift) == (1, 0)
    (expected,), (found,) = outputs(model, feed.blob(PICTURES)), outputs(rest, bare.blob(PICTURES))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_channels_swap_and_the_middle_is_cut_out() -> None:
    nodes = [
        NODE("Gather", ["x", "bgr"], ["a"], axis=1),
        NODE("Slice", ["a", "start", "end", "axes"], ["b"]),
        NODE("Conv", ["b", "w"], ["y"]),
    ]
    ints = {"bgr": [2, 1, 0], "start": [4, 6], "end": [20, 16], "axes": [2, 3]}
    weights = {k: np.array(v, np.int64) for k, v in ints.items()} | CONV
    model = graph(nodes, weights, ["N", 3, 24, 20])
    feed = Feed.normalised(10, 20)
    rest, bare = unwrapped(model, feed)
    assert [node.op_type for node in rest.graph.node] == ["Conv"]
    assert bare.channels is Channels.BGR
    assert (bare.top, bare.left) == (4, 6)
    assert graphs.dims(graphs.real_inputs(rest)[0]) == (None, 3, 16, 10)
    (expected,) = outputs(model, feed.blob(PICTURES))
    (found,) = outputs(rest, bare.blob([p[4:20, 6:16] for p in PICTURES]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_grey_is_made_of_bytes() -> None:
    luma = f32(0.299, 0.587, 0.114).reshape(1, 3, 1, 1) * 2
    model = graph(
        [NODE("Conv", ["x", "luma", "black"], ["a"]), NODE("Relu", ["a"], ["y"])],
        {"luma": luma, "black": f32(0.25)},
        ["N", 3, 24, 20],
    )
    feed = Feed.normalised(127.5, 128)
    rest, bare = unwrapped(model, feed)
    assert bare.channels is Channels.GREY
    (expected,), (found,) = outputs(model, feed.blob(PICTURES)), outputs(rest, bare.blob(PICTURES))
    np.testing.assert_allclose(found, expected, atol=2 / 128)  # half a grey level, twice


@pytest.mark.parametrize(
    "node",
    [
        NODE("Conv", ["x", "other"], ["y"]),  # a weighting that is no grey
        NODE("Mul", ["x", "each"], ["y"]),  # a factor a channel
        NODE("Gather", ["x", "rgb"], ["y"], axis=1),
        NODE("Relu", ["x"], ["y"]),
        NODE("Slice", ["x", "back", "end", "axis"], ["y"]),
    ],
    ids=lambda node: node.op_type,
)
def test_what_is_more_than_preparation_stays(node: Any) -> None:
    weights = {
        "other": f32(0.5, 0.3, 0.2).reshape(1, 3, 1, 1),
        "each": f32(1, 2, 3).reshape(1, 3, 1, 1),
        "rgb": np.array([0, 1, 2]),
        "back": np.array([-9]),
        "end": np.array([20]),
        "axis": np.array([2]),
    }
    used = {k: v for k, v in weights.items() if k in node.input}
    node = helper.make_node(
        node.op_type, node.input, ["a"], **{a.name: a.i for a in node.attribute}
    )
    model = graph([node, NODE("Sqrt", ["a"], ["y"])], used, ["N", 3, 24, 20])
    feed = Feed.normalised(0, 1)
    rest, bare = unwrapped(model, feed)
    assert bare == feed
    assert [n.op_type for n in rest.graph.node] == [node.op_type, "Sqrt"]


def test_an_input_that_is_used_twice_stays() -> None:
    model = graph(
        [NODE("Mul", ["x", "two"], ["a"]), NODE("Add", ["x", "a"], ["y"])],
        {"two": f32(2.0)},
        ["N", 3, 4, 4],
    )
    rest, bare = unwrapped(model, Feed.normalised(0, 1))
    assert len(rest.graph.node) == 2
    assert bare == Feed.normalised(0, 1)


@pytest.mark.parametrize("slopes", [(-1.5, 0.9), (0.5, 1.7), (1.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_prelu_as_convolutions_is_prelu(slopes: tuple[float, float], bias: bool) -> None:
    slope = np.linspace(*slopes, 16).astype(np.float32).reshape(16, 1, 1)
    weights = {"w": RNG.normal(size=(16, 3, 3, 3)).astype(np.float32), "slope": slope}
    inputs = ["x", "w"]
    if bias:
        weights["bias"] = RNG.normal(size=16).astype(np.float32)
        inputs.append("bias")
    model = graph(
        [NODE("Conv", inputs, ["a"]), NODE("PRelu", ["a", "slope"], ["y"])],
        weights,
        ["N", 3, 8, 8],
    )
    rewritten = without_prelu(model)
    assert "PRelu" not in {node.op_type for node in rewritten.graph.node}
    blob = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    (expected,), (found,) = outputs(model, blob), outputs(rewritten, blob)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_that_others_read_is_not_scaled() -> None:
    slope = np.full((16, 1, 1), 0.25, np.float32)
    model = graph(
        [
            NODE("Conv", ["x", "w"], ["a"]),
            NODE("PRelu", ["a", "slope"], ["b"]),
            NODE("Add", ["a", "b"], ["y"]),
        ],
        {"w": RNG.normal(size=(16, 3, 1, 1)).astype(np.float32), "slope": slope},
        ["N", 3, 4, 4],
    )
    blob = RNG.normal(size=(1, 3, 4, 4)).astype(np.float32)
    (expected,), (found,) = outputs(model, blob), outputs(without_prelu(model), blob)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_odd_channels_and_shared_slopes_stay() -> None:
    model = graph(
        [NODE("Conv", ["x", "w"], ["a"]), NODE("PRelu", ["a", "slope"], ["y"])],
        {"w": WEIGHT, "slope": f32(0.1)},
        ["N", 3, 8, 8],
    )
    assert [n.op_type for n in without_prelu(model).graph.node] == ["Conv", "PRelu"]


def test_lites_nets_give_what_their_files_give(lite_pack: Pack) -> None:
    noise = list(RNG.integers(0, 256, (2, 192, 192, 3), dtype=np.uint8))
    for file, std, side in (
        (lite_pack.detector, 128.0, 192),
        (lite_pack.landmark, 128.0, 192),
        (lite_pack.recognition, 127.5, 112),
    ):
        model, feed = graphs.load(file), Feed.normalised(127.5, std)
        rest, bare = unwrapped(model, feed)
        rest = without_prelu(rest)
        _, _, high, wide = graphs.dims(graphs.real_inputs(rest)[0])
        cut = [
            p[:side, :side][bare.top :, bare.left :][: high or side, : wide or side] for p in noise
        ]
        given = outputs(model, feed.blob([p[:side, :side] for p in noise]))
        for expected, found in zip(given, outputs(rest, bare.blob(cut)), strict=True):
            # 1e-3 of -1..1 is what grey in whole levels moves landmarks of pure noise
            np.testing.assert_allclose(found, expected, atol=2e-3)
