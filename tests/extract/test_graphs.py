from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stages.extract import graphs
from stages.extract.errors import PackError
from tests.testing import packs as tiny

node = helper.make_node


def run(model, data, outputs=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(outputs, {session.get_inputs()[0].name: data})


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def build(nodes, weights, input_shape, output_shape, opset=17):
    tensors = [numpy_helper.from_array(a, name) for name, a in weights.items()]
    graph = helper.make_graph(
        nodes, "g", [value("x", input_shape)], [value("y", output_shape)], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def floats(rng, *shape):
    return rng.normal(0, 1, shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["tensor", "axis", "block"]),
    signed=st.booleans(),
    zero=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_folded_constants_equal_onnx_own_evaluation(kind, signed, zero, seed):
    rng = np.random.default_rng(seed)
    integer = np.int8 if signed else np.uint8
    low, high = np.iinfo(integer).min, np.iinfo(integer).max
    quantised = rng.integers(low, high, (6, 8), integer, endpoint=True)
    shape = {"tensor": (), "axis": (6,), "block": (6, 2)}[kind]
    weights = {"q": quantised, "s": rng.uniform(0.01, 1, shape).astype(np.float32)}
    if zero:
        weights["z"] = rng.integers(low, high, shape, integer, endpoint=True)
    options = {"axis": {"axis": 0}, "block": {"axis": 1, "block_size": 4}}.get(kind, {})
    model = build(
        [
            node("DequantizeLinear", list(weights), ["w"], **options),
            node("Reshape", ["w", "shape"], ["w2"]),
            node("MatMul", ["x", "w2"], ["y"]),
        ],
        {**weights, "shape": np.array([8, -1], np.int64)},
        ["N", 8],
        ["N", 6],
        opset=21,
    )
    folded = graphs.fold_constants(model)
    assert [n.op_type for n in folded.graph.node] == ["MatMul"]
    assert [(t.name, t.data_type) for t in folded.graph.initializer] == [("w2", TensorProto.FLOAT)]
    data = floats(rng, 3, 8)
    expected = ReferenceEvaluator(model).run(None, {"x": data})[0]
    np.testing.assert_allclose(run(folded, data)[0], expected, rtol=1e-4, atol=1e-4)


def test_folding_leaves_data_and_the_model_it_was_given_alone():
    model = build(
        [
            node("Reshape", ["x", "shape"], ["flat"]),
            node("DequantizeLinear", ["q", "s"], ["w"]),
            node("MatMul", ["flat", "w"], ["y"]),
        ],
        {"shape": np.array([0, -1]), "q": np.ones((4, 2), np.int8), "s": np.float32(0.5)},
        ["N", 2, 2],
        ["N", 2],
    )
    before = model.SerializeToString(deterministic=True)
    folded = graphs.fold_constants(model)
    assert [n.op_type for n in folded.graph.node] == ["Reshape", "MatMul"]
    assert model.SerializeToString(deterministic=True) == before
    assert run(folded, np.ones((3, 2, 2), np.float32))[0].tolist() == [[2.0, 2.0]] * 3


def test_a_graph_exported_for_one_takes_many_with_equal_results():
    rng = np.random.default_rng(0)
    model = build(
        [node("Conv", ["x", "w"], ["map"]), node("Reshape", ["map", "shape"], ["y"])],
        {"w": floats(rng, 4, 3, 2, 2), "shape": np.array([1, -1])},
        [1, 3, 2, 2],
        [1, 4],
    )
    many = graphs.symbolic_batch(model)
    data = floats(rng, 8, 3, 2, 2)
    singly = np.concatenate([run(model, data[i : i + 1])[0] for i in range(8)])
    together = run(many, data)[0]
    assert together.shape == (8, 4)
    np.testing.assert_array_equal(together, singly)
    assert graphs.dims(many.graph.input[0]) == (None, 3, 2, 2)
    assert graphs.dims(model.graph.input[0]) == (1, 3, 2, 2)


def test_appearance_of_a_resnet_is_the_mean_of_its_last_map():
    model = tiny.recognition_net()
    both = graphs.with_appearance(model)
    onnx.checker.check_model(both)
    data = floats(np.random.default_rng(1), 5, 3, 112, 112)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(value("map", [None, 512, 2, 2]))
    last_map = run(probe, data, ["map"])[0]
    embedding, appearance = run(both, data)
    np.testing.assert_allclose(appearance, last_map.mean((2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(embedding, run(model, data)[0])
    assert [v.name for v in both.graph.output] == ["embedding", "appearance"]
    # The export promised a batch of one for its output; now both follow the input.
    assert [graphs.dims(v) for v in both.graph.output] == [(None, 512), (None, 512)]
    assert len(model.graph.output) == 1


def tail(kind, rng, channels=512):
    """A net (n, c, 3, 3) whose last linear layer is of some kind, and the expected appearance."""
    square = floats(rng, channels, 512)
    pooled = {"dw": floats(rng, channels, 1, 3, 3)}
    pool = node("Conv", ["x", "dw"], ["p"], group=channels)
    if kind == "1x1 Conv, Reshape":
        nodes = [pool, node("Conv", ["p", "w"], ["l"]), node("Reshape", ["l", "shape"], ["y"])]
        weights = {"w": square.T[:, :, None, None], "shape": np.array([-1, 512])}
    elif kind == "3x3 Conv over the map":
        nodes = [node("Conv", ["x", "w"], ["l"]), node("Flatten", ["l"], ["y"])]
        return nodes, {"w": floats(rng, 512, channels, 3, 3)}, None
    elif kind == "Flatten, Gemm, BatchNormalization":
        nodes = [
            pool,
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w"], ["l"]),
            node("BatchNormalization", ["l", "s", "b", "m", "v"], ["y"]),
        ]
        norm = {k: rng.uniform(0.5, 1, 512).astype(np.float32) for k in "sbmv"}
        weights = {"w": square, **norm}
    elif kind == "MatMul, Add, LpNormalization":
        nodes = [
            pool,
            node("Squeeze", ["p", "axes"], ["f"]),
            node("MatMul", ["f", "w"], ["l"]),
            node("Add", ["b", "l"], ["a"]),
            node("LpNormalization", ["a"], ["y"]),
        ]
        weights = {"w": square, "b": floats(rng, 512), "axes": np.array([2, 3])}
    else:  # the shape is computed, the vector divided by its own norm
        nodes = [
            pool,
            node("Shape", ["p"], ["all"]),
            node("Gather", ["all", "zero"], ["n"]),
            node("Concat", ["n", "rest"], ["shape"], axis=0),
            node("Reshape", ["p", "shape"], ["f"]),
            node("Gemm", ["f", "w"], ["l"]),
            node("ReduceL2", ["l"], ["norm"], axes=[1]),
            node("Div", ["l", "norm"], ["y"]),
        ]
        weights = {"w": square, "zero": np.array([0]), "rest": np.array([-1])}
    return nodes, {**weights, **pooled}, "p"


@pytest.mark.parametrize(
    "kind",
    [
        "1x1 Conv, Reshape",
        "3x3 Conv over the map",
        "Flatten, Gemm, BatchNormalization",
        "MatMul, Add, LpNormalization",
        "computed Reshape, Gemm, Div",
    ],
)
def test_the_last_linear_layer_is_found_behind_every_common_tail(kind):
    rng = np.random.default_rng(2)
    nodes, weights, pooled = tail(kind, rng)
    model = build(nodes, weights, ["N", 512, 3, 3], ["N", 512])
    both = graphs.with_appearance(model)
    onnx.checker.check_model(both)
    data = floats(rng, 4, 512, 3, 3)
    embedding, appearance = run(both, data)
    assert appearance.shape == embedding.shape == (4, 512)
    np.testing.assert_array_equal(embedding, run(model, data)[0])
    if pooled is None:
        expected = data.mean((2, 3))
    else:
        dw = weights["dw"][:, 0]
        expected = np.einsum("nchw,chw->nc", data, dw)
    np.testing.assert_allclose(appearance, expected, rtol=1e-4, atol=1e-4)


def test_other_than_512_channels_are_refused_with_what_was_found():
    with pytest.raises(PackError, match=r"Gemm .* reads \(n, 256, 2, 2\), expected 512 channels"):
        graphs.with_appearance(tiny.recognition_net(channels=256))


def test_a_net_without_a_linear_layer_is_refused():
    flat = build([node("Flatten", ["x"], ["y"])], {}, ["N", 512], ["N", 512])
    with pytest.raises(PackError, match="expected a linear layer .* found none"):
        graphs.with_appearance(flat)
    relu = build(
        [node("Relu", ["x"], ["r"]), node("Flatten", ["r"], ["y"])], {}, ["N", 512], ["N", 512]
    )
    with pytest.raises(PackError, match="found Relu 'r' .after Flatten."):
        graphs.with_appearance(relu)


def test_a_net_of_several_outputs_is_refused_and_a_finished_one_stays():
    both = graphs.with_appearance(tiny.recognition_net())
    assert graphs.with_appearance(both) is both
    both.graph.output[1].name = "map"
    with pytest.raises(PackError, match="one output, found 2"):
        graphs.with_appearance(both)


def test_lite_appearance_has_full_rank_and_the_embedding_is_its_affine_image(lite_pack):
    model = graphs.load(lite_pack.recognition)
    both = graphs.with_appearance(model)
    weights = graphs.constants(model)
    last = [n for n in model.graph.node if n.op_type == "Conv"][-1]
    matrix, bias = weights[last.input[1]][:, :, 0, 0], weights[last.input[2]]
    rng = np.random.default_rng(3)
    data = rng.uniform(-1, 1, (8, 3, 112, 112)).astype(np.float32)
    embedding, appearance = run(both, data)
    image = appearance @ matrix.T + bias
    assert np.abs(image - embedding).max() / np.abs(embedding).max() < 1e-3
    # Full rank: the matrix loses nothing, and the channels are not copies of one another.
    assert np.linalg.matrix_rank(matrix.astype(np.float64)) == 512
    assert np.linalg.matrix_rank(appearance - appearance.mean(0)) == 7


def test_lite_recognition_gives_one_face_the_same_numbers_in_any_batch(lite_pack):
    both = graphs.with_appearance(graphs.load(lite_pack.recognition))
    data = np.random.default_rng(4).uniform(-1, 1, (8, 3, 112, 112)).astype(np.float32)
    together = run(both, data)
    for output in range(2):
        singly = np.concatenate([run(both, data[i : i + 1])[output] for i in range(8)])
        np.testing.assert_array_equal(together[output], singly)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256)) * 40])
def test_files_that_are_no_model_are_named(tmp_path, content):
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    with pytest.raises(PackError, match=r"net\.onnx: expected an ONNX model") as error:
        graphs.load(file)
    assert "damaged" in error.value.hint


def test_tiny_weights_become_zero_and_the_rest_stays():
    weight = np.array([[1e-30, 0.5, -1e-13, 0.0], [-2.0, 1e-39, 1e-11, 3.0]], np.float32)
    model = build([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ["N", 2], ["N", 4])
    (tensor,) = graphs.without_tiny_weights(model).graph.initializer
    expected = np.array([[0, 0.5, 0, 0], [-2.0, 0, 1e-11, 3.0]], np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), weight)
