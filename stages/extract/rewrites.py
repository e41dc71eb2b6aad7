"""Graphs rewritten for speed at unchanged results; what a pack's files hold stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from stages.extract.feeds import Channels, Feed
from stages.extract.graphs import constants, dims, real_inputs

_LUMA = np.array([0.299, 0.587, 0.114])  # of R, G, B (ITU-R BT.601)
_CHANNEL_BLOCK = 16  # what ONNX Runtime's blocked layout holds at most, 8 without AVX-512
_LEAST_GAP = 1e-3  # slopes nearer to 1 than this, or above it, are not folded


def unwrapped(model: Any, feed: Feed) -> tuple[Any, Feed]:
    """Take the steps that only prepare the picture off a graph and let the feed do them.

    Wrappers like lite's undo insightface's scaling, swap channels, cut out the middle and turn it
    grey before the net itself begins: on float32 planes that costs a sixth of the detector's time
    and half of the landmark net's, on bytes next to nothing, and scaling and undoing it cancel.

    Parameters
    ----------
    model : onnx.ModelProto
        One input (n, 3, h, w).
    feed : Feed
        What the graph expects.

    Returns
    -------
    onnx.ModelProto, Feed
        The rest of the graph, and what that expects. Unchanged where nothing can be taken off.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = constants(result)
    (value,) = real_inputs(result)
    shape = list(dims(value))
    outputs = {v.name for v in graph.output}
    while True:
        users = [node for node in graph.node if value.name in node.input]
        if len(users) != 1 or users[0].output[0] in outputs:
            break
        taken = _absorbed(users[0], value.name, known, feed, shape)
        if taken is None:
            break
        feed, shape = taken
        (name,) = users[0].output
        graph.node.remove(users[0])
        batch = value.type.tensor_type.shape.dim[0].dim_param or shape[0]
        rest = [f"d{i}" if d is None else d for i, d in enumerate(shape)][1:]
        index = [v.name for v in graph.input].index(value.name)
        value.CopyFrom(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch or None, *rest])
        )
        graph.input[index].CopyFrom(value)
        value = graph.input[index]
    _drop_unused(graph)
    return result, feed


_Taken = tuple[Feed, list[int | None]]


def _absorbed(
    node: Any, name: str, known: dict[str, npt.NDArray[Any]], feed: Feed, shape: list[int | None]
) -> _Taken | None:
    """Return the feed and input shape with which a node is not needed, None if it is."""
    others = [known.get(other) for other in node.input if other != name]
    if any(other is None for other in others):
        return None
    values = [np.asarray(other) for other in others]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in ("Mul", "Add", "Sub") and values[0].size == 1 and node.input[0] == name:
        by = float(values[0].reshape(()))
        if node.op_type == "Mul":
            return replace(feed, scale=_near(feed.scale * by), shift=feed.shift * by), shape
        by = -by if node.op_type == "Sub" else by
        return replace(feed, shift=_near_zero(feed.shift + by)), shape
    if node.op_type == "Gather" and attributes.get("axis") == 1:
        swapped = {Channels.RGB: Channels.BGR, Channels.BGR: Channels.RGB}.get(feed.channels)
        if swapped and values[0].tolist() == [2, 1, 0]:
            return replace(feed, channels=swapped), shape
    if node.op_type == "Slice" and len(values) == 3:  # starts, ends, axes; steps are 1
        return _cut(values, feed, shape)
    if node.op_type == "Conv" and values[0].shape == (1, 3, 1, 1) and feed.channels != "grey":
        return _greyed(values, attributes, feed, shape)
    return None


def _cut(values: list[npt.NDArray[Any]], feed: Feed, shape: list[int | None]) -> _Taken | None:
    starts, ends, axes = (v.reshape(-1).tolist() for v in values)
    shape, begin = list(shape), {2: 0, 3: 0}
    for start, end, axis in zip(starts, ends, axes, strict=True):
        size = shape[axis] if axis in begin else None
        if size is None or not 0 <= start < end <= size:
            return None
        begin[axis], shape[axis] = start, end - start
    return replace(feed, top=feed.top + begin[2], left=feed.left + begin[3]), shape


def _greyed(
    values: list[npt.NDArray[Any]], attributes: dict[str, Any], feed: Feed, shape: list[int | None]
) -> _Taken | None:
    if any(attributes.get("pads", ())) or set(attributes.get("strides", (1,))) != {1}:
        return None
    weight = values[0].reshape(3).astype(np.float64)
    if feed.channels is Channels.BGR:
        weight = weight[::-1]
    total = float(weight.sum())
    if total <= 0 or np.abs(weight / total - _LUMA).max() > 1e-3:
        return None
    bias = float(values[1].reshape(())) if len(values) > 1 else 0.0
    grey = replace(
        feed,
        channels=Channels.GREY,
        scale=feed.scale * total,
        shift=_near_zero(feed.shift * total + bias),
    )
    return grey, [shape[0], 1, *shape[2:]]


def _near(scale: float) -> float:
    return 1.0 if abs(scale - 1) < 1e-6 else scale


def _near_zero(shift: float) -> float:
    return 0.0 if abs(shift) < 1e-6 else shift


def without_prelu(model: Any) -> Any:
    """Write PRelu as what ONNX Runtime's CPU provider computes fast; for that provider only.

    Its PRelu has no blocked (NCHWc) form, so that every one of them costs two changes of layout and
    a slow broadcast: of lite's recognition net 80 % of the time. With slope a and z = (1 - a) x,

        PRelu(x) = max(x, 0) + a min(x, 0) = Relu(z) + a / (1 - a) z   for a < 1,

    where 1 - a goes into the convolution that made x, and the second term is a 1x1 convolution of
    each channel, which has a blocked form and takes the sum along. Where a slope is 1 or more:
    (1 - a) Relu(x) + a x. On lite: 8.4 -> 4.0 ms a face, outputs equal to 1e-6.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = constants(result)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    uses: dict[str, int] = {v.name: 1 for v in graph.output}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    nodes: list[Any] = []
    for node in graph.node:
        slope = known.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or slope.size % _CHANNEL_BLOCK or slope.shape != (slope.size, 1, 1):
            nodes.append(node)
            continue
        a = slope.reshape(-1).astype(np.float64)
        x, y = node.input[0], node.output[0]
        conv = producer.get(x)
        folds = False
        if conv is not None and conv.op_type == "Conv" and uses[x] == 1:
            own = all(uses[name] == 1 and name in tensors for name in conv.input[1:])
            folds = own and bool(a.max() < 1 - _LEAST_GAP)
        if conv is not None and folds:
            for name in conv.input[1:]:
                weight = known[name]
                scaled = weight * (1 - a).reshape(-1, *[1] * (weight.ndim - 1))
                tensors[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
        rest = f"{y}_relu"
        nodes.append(helper.make_node("Relu", [x], [rest]))
        if not folds:
            nodes.append(_each_channel(graph, rest, f"{y}_above", 1 - a))
            rest = f"{y}_above"
        nodes.append(_each_channel(graph, x, f"{y}_all", a / (1 - a) if folds else a))
        nodes.append(helper.make_node("Add", [f"{y}_all", rest], [y]))
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    return result


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # shapes that may no longer hold


def _each_channel(graph: Any, x: str, y: str, factor: npt.NDArray[np.float64]) -> Any:
    """Return the node that multiplies each channel by its factor, as a convolution."""
    weight = factor.astype(np.float32).reshape(-1, 1, 1, 1)
    graph.initializer.append(numpy_helper.from_array(weight, f"{y}_factor"))
    return helper.make_node("Conv", [x, f"{y}_factor"], [y], group=len(factor), kernel_shape=[1, 1])
