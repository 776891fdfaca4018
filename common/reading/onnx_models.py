"""ONNX models of convolutional networks, of sizes that their bytes bear out."""
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.machine.errors import UserError
from common.reading.files import REMEDY, decoding, read_bytes

LIMIT = 1 << 31    # bytes; protobuf takes no more
# What may make of its inputs no more values than they have, or as many as a weight says.
OPERATORS = frozenset((
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv",
    "DequantizeLinear", "Div", "Exp", "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool", "Greater",
    "GreaterOrEqual", "Identity", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "Max", "MaxPool",
    "Min", "Mul", "Neg", "Not", "Pow", "QuantizeLinear", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape",
    "Round", "Sigmoid", "Sign", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose",
    "Unsqueeze", "Where"))
LARGEST_ATTRIBUTE = 1 << 12    # of integers: kernels, strides, axes, groups
LARGEST_PAD = 64
LARGEST_INPUT = 1 << 26    # values
DEEPEST = 32    # messages in messages
_HALF_BYTES = (21, 22)    # data types UINT4 and INT4
_SIZES = {0: None, 1: 8, 2: None, 5: 4}    # bytes of each kind of field of protobuf; None: a number says it


def read_onnx(path: str | Path, what: str = "an ONNX model", remedy: str = REMEDY, missing: str | None = None) -> bytes:
    """Read a model that onnxruntime can be given.

    Parameters and errors are those of `common.reading.files.reading`; refused are models with weights in other files,
    with operators that are none of `OPERATORS`, and with sizes beyond what is in the file.
    """
    import onnx

    content = read_bytes(path, what, LIMIT, remedy, missing)
    with decoding(path, what, remedy):
        _check_texts(memoryview(content), onnx.ModelProto.DESCRIPTOR)    # protobuf would print lines about them
        model = onnx.load_model_from_string(content)
        if complaint := next(_complaints(model), None):
            raise UserError(f"{path}: cannot be read as {what} ({complaint}); {remedy}")
    return content


def _complaints(model: Any) -> Iterator[str]:
    """Yield what is wrong with a model."""
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        yield "it has functions, training or sparse weights"
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            yield f"the operator {node.op_type[:40]!r}"
        for attribute in node.attribute:
            yield from _attribute_complaints(attribute)
    for tensor in graph.initializer:
        yield from _tensor_complaints(tensor)
    for value in graph.input:
        sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if not all(side > 0 for side in sides) or math.prod(sides) > LARGEST_INPUT:
            yield f"an input of shape {sides[:8]}"


def _attribute_complaints(attribute: Any) -> Iterator[str]:
    most = LARGEST_PAD if attribute.name == "pads" else LARGEST_ATTRIBUTE
    if attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors or attribute.HasField("sparse_tensor"):
        yield f"the attribute {attribute.name[:40]!r} of an unusual kind"
    if any(abs(number) > most for number in (attribute.i, *attribute.ints)):
        yield f"the attribute {attribute.name[:40]!r} is beyond {most}"
    for tensor in (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])):
        yield from _tensor_complaints(tensor)


def _tensor_complaints(tensor: Any) -> Iterator[str]:
    name = tensor.name[:40]
    if tensor.data_location or tensor.external_data:
        yield f"the weights {name!r} lie in another file"
    present = max(len(tensor.raw_data), *(len(numbers) for numbers in (
        tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)))
    if tensor.data_type in _HALF_BYTES:
        present = 2 * len(tensor.raw_data)
    if any(side < 0 for side in tensor.dims) or math.prod(tensor.dims) > present:
        yield f"the weights {name!r} of shape {list(tensor.dims)[:8]} are not all there"


def _check_texts(content: memoryview, message: Any, depth: int = 0) -> None:
    """Raise a ValueError if a text in the encoded message is not in UTF-8, or messages are nested too deeply."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind not in _SIZES:
            raise ValueError("another format")
        size, at = _varint(content, at) if _SIZES[kind] is None else (_SIZES[kind], at)
        if kind == 0:
            continue
        if size > len(content) - at:
            raise ValueError("truncated")
        field = message.fields_by_number.get(tag >> 3)
        if kind == 2 and field is not None and field.type == field.TYPE_STRING:
            str(content[at:at + size], "utf-8")
        elif kind == 2 and field is not None and field.message_type is not None:
            _check_texts(content[at:at + size], field.message_type, depth + 1)
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte; returns it and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 10 bytes")
