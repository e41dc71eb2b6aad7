"""Surgery on ONNX graphs: constants folded, a symbolic batch, and the ``appearance`` output.

Nothing here runs a net; shapes come from ONNX's own shape inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from stages.extract.errors import PackError

APPEARANCE = "appearance"
APPEARANCE_DIM = 512

# Between the last linear layer and the net's output: per-channel or shape-only steps.
_AFTER_LINEAR = {
    "BatchNormalization", "Cast", "Dropout", "Flatten", "Identity", "LpNormalization", "Reshape",
    "Squeeze", "Unsqueeze",
}  # fmt: skip
# The same with a second operand: bias, scale, or the norm that the vector is divided by.
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
# Between the last feature map and the linear layer: values untouched.
_BEFORE_LINEAR = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_LINEAR = {"Conv", "Gemm", "MatMul"}

_DAMAGED = "the file is damaged: install or copy the pack again"


def load(file: Path, weights: bool = True) -> Any:
    """Read an ONNX file that has an input and an output.

    Parameters
    ----------
    file : Path
    weights : bool
        Read weights kept in files beside it, too.

    Raises
    ------
    PackError
        If the file cannot be read or is no ONNX model.
    """
    try:
        model = onnx.load(str(file), load_external_data=weights)
    except Exception as error:  # protobuf's own errors have no base that onnx exports
        raise PackError(
            f"{file}: expected an ONNX model, could not read one: {_first_line(error)}", _DAMAGED
        ) from error
    if not real_inputs(model) or not model.graph.output:
        raise PackError(
            f"{file}: expected an ONNX model, found {file.stat().st_size} bytes without a graph",
            _DAMAGED,
        )
    return model


def dims(value: Any) -> tuple[int | None, ...]:
    """Return the shape of a graph's input or output, None for each symbolic dimension."""
    shape = value.type.tensor_type.shape
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in shape.dim)


def real_inputs(model: Any) -> list[Any]:
    """Return the inputs that a caller feeds: old graphs list their weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def constants(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Return every constant tensor of a graph by name: initialisers and Constant nodes."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def fold_constants(model: Any) -> Any:
    """Return a copy in which dequantised and reshaped constants are plain float32 initialisers.

    Block-quantised weights (``DequantizeLinear`` with ``block_size``, opset 21) are what ONNX
    Runtime's CPU provider refuses in OpenCV's ``*_int8bq`` nets. The values are those of the ONNX
    specification: ``(x - zero_point) * scale``, each scale repeated over its block.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = constants(result)
    kept = []
    for node in graph.node:
        fold = _FOLDS.get(node.op_type)
        if fold is None or any(name not in known for name in node.input):
            kept.append(node)
            continue
        known[node.output[0]] = fold(node, *(known[name] for name in node.input))
        graph.initializer.append(_tensor(known[node.output[0]], node.output[0]))
    _replace(graph.node, kept)
    used = {name for node in graph.node for name in node.input}
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used])
    _replace(graph.input, [v for v in real_inputs(result) if v.name in used])
    del graph.value_info[:]
    return result


def without_tiny_weights(model: Any, below: float = 1e-12) -> Any:
    """Return a copy in which float32 weights smaller than ``below`` are 0.

    Such weights are left over from weight decay. They change no output by more than its own
    rounding, but their products are denormal numbers, which CPUs multiply many times slower.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            weight = numpy_helper.to_array(tensor)
            tiny = np.abs(weight) < below
            if (weight[tiny] != 0).any():
                tensor.CopyFrom(_tensor(np.where(tiny, np.float32(0), weight), tensor.name))
    return result


def symbolic_batch(model: Any) -> Any:
    """Return a copy that takes any number of items where the graph was exported for one.

    The first dimension of inputs and outputs becomes ``N``, and each ``Reshape`` of data to a
    constant shape ``[1, ...]`` copies that dimension from its input instead.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = constants(result)
    shapes = {
        node.input[1]
        for node in graph.node
        if node.op_type == "Reshape" and node.input[0] not in known and node.input[1] in known
    }
    for tensor in graph.initializer:
        shape = known[tensor.name]
        if tensor.name in shapes and shape[0] == 1:
            # 0 copies the dimension at the same place of the input, which is the batch here.
            tensor.CopyFrom(_tensor(np.concatenate([[0], shape[1:]]).astype(np.int64), tensor.name))
    for value in (*real_inputs(result), *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]
    return result


def with_appearance(model: Any) -> Any:
    """Return a copy of a recognition net with a second output, ``appearance`` (n, 512) float32.

    ``appearance`` is what the last linear layer reads, one value a channel: the pooled tensor where
    the net pools (MobileFaceNet, lite), the global average of the last 512-channel map where the
    layer reads the whole map (insightface's ResNets). The first output is untouched.

    Parameters
    ----------
    model : onnx.ModelProto
        One output (n, 512).

    Returns
    -------
    onnx.ModelProto
        Outputs: the embedding under its old name, then ``appearance``, both of the input's batch.

    Raises
    ------
    PackError
        If there is not exactly one output, no linear layer lies behind it, or that layer does not
        read 512 channels.
    """
    names = [value.name for value in model.graph.output]
    if names[1:] == [APPEARANCE]:
        return model
    if len(names) != 1:
        raise PackError(f"expected a recognition net with one output, found {len(names)}: {names}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    fixed = {t.name for t in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == "Constant"
    }
    producer = {name: node for node in graph.node for name in node.output}
    shape_of = shapes(model)

    linear = _last_linear(graph.output[0].name, producer, fixed)
    data = next(name for name in linear.input if name and name not in fixed)
    source = data
    while source in producer and producer[source].op_type in _BEFORE_LINEAR:
        source = producer[source].input[0]
    # The layer's own input serves when it is one value a channel; else the map it was made from.
    tensor = next(
        (t for t in (data, source) if len(s := shape_of(t)) in (2, 4) and s[1] == APPEARANCE_DIM),
        None,
    )
    if tensor is None:
        raise PackError(
            f"the last linear layer ({linear.op_type} {linear.output[0]!r}) reads "
            f"{_text(shape_of(source))}, expected {APPEARANCE_DIM} channels",
            "this recognition net cannot give the 512 values of the appearance array",
        )
    if len(shape_of(tensor)) == 2:
        graph.node.append(helper.make_node("Identity", [tensor], [APPEARANCE]))
    else:
        pooled = f"{APPEARANCE}_pooled"
        graph.node.append(helper.make_node("GlobalAveragePool", [tensor], [pooled]))
        graph.node.append(helper.make_node("Flatten", [pooled], [APPEARANCE], axis=1))
    output = helper.make_tensor_value_info(
        APPEARANCE, onnx.TensorProto.FLOAT, [None, APPEARANCE_DIM]
    )
    graph.output.append(output)
    # Exports often promise a batch of one for an output that follows the input's batch.
    batch = real_inputs(result)[0].type.tensor_type.shape.dim[0]
    for value in graph.output:
        value.type.tensor_type.shape.dim[0].CopyFrom(batch)
    return result


def output_width(model: Any) -> int | None:
    """Return the second dimension of the first output, inferred where the graph leaves it open."""
    declared = dims(model.graph.output[0])
    if len(declared) == 2 and declared[1] is not None:
        return declared[1]
    inferred = shapes(model)(model.graph.output[0].name)
    return inferred[1] if len(inferred) == 2 else None


def with_output(model: Any, tensor: str) -> Any:
    """Return a copy of a graph with one of its tensors as a further output, the last one."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    name = f"{tensor}_output"
    result.graph.node.append(helper.make_node("Identity", [tensor], [name]))
    result.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    batch = real_inputs(result)[0].type.tensor_type.shape.dim[0]
    result.graph.output[0].type.tensor_type.shape.dim[0].CopyFrom(batch)
    return result


def _last_linear(name: str, producer: dict[str, Any], fixed: set[str]) -> Any:
    """Walk back from an output to the linear layer that made it."""
    passed: list[str] = []
    while name in producer:
        node = producer[name]
        if node.op_type in _LINEAR:
            return node
        data = [i for i in node.input if i and i not in fixed]
        # x / |x| has two operands that are not constant; the vector is the first.
        arithmetic = node.op_type in _ARITHMETIC and (len(data) == 1 or node.op_type == "Div")
        if node.op_type not in _AFTER_LINEAR and not arithmetic:
            raise PackError(
                f"expected a linear layer behind the recognition net's output, found "
                f"{node.op_type} {node.output[0]!r}"
                + (f" (after {', '.join(passed)})" if passed else "")
            )
        passed.append(node.op_type)
        name = data[0] if data else ""
    raise PackError("expected a linear layer behind the recognition net's output, found none")


def shapes(model: Any) -> Callable[[str], tuple[int | None, ...]]:
    """Return a look-up of inferred shapes by tensor name; () where a shape is not known."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    # What an exporter wrote down may promise a batch of one and contradict what is inferred.
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    known = {v.name: dims(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    return lambda name: known.get(name, ())


def _dequantised(
    node: Any, x: npt.NDArray[Any], scale: npt.NDArray[Any], *zero: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Compute DequantizeLinear (ONNX operators, opset 21) per tensor, per axis or per block."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)

    def spread(part: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        part = part.astype(np.float32)
        if part.size == 1:
            return part.reshape(())
        if block:
            return np.repeat(part, block, axis=axis).take(range(x.shape[axis]), axis=axis)
        return part.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])

    shifted = x.astype(np.float32) - (spread(zero[0]) if zero else np.float32(0))
    return np.asarray(shifted * spread(scale), np.float32)


def _reshaped(node: Any, x: npt.NDArray[Any], shape: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return x.reshape([x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_FOLDS: dict[str, Callable[..., npt.NDArray[Any]]] = {
    "DequantizeLinear": _dequantised,
    "Reshape": _reshaped,
}


def _tensor(array: npt.NDArray[Any], name: str) -> Any:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def _replace(field: Any, items: list[Any]) -> None:
    del field[:]
    field.extend(items)


def _text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('n' if d is None else str(d) for d in shape)})" if shape else "(unknown)"


def renamed(model: Any, names: dict[str, str]) -> Iterator[Any]:
    """Yield the nodes of a graph with some of their tensors renamed."""
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for field in (copy.input, copy.output):
            for i, name in enumerate(field):
                field[i] = names.get(name, name)
        yield copy
