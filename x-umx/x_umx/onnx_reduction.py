"""ONNX models with an axis of any length, and with weights of fewer bits."""
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_LARGE = 256    # elements from which on constants are weights


def free_axis(model: onnx.ModelProto, size: int, name: str) -> None:
    """Let the axis of length `size`, the first one of inputs and outputs and of no constant, have any length."""
    for described in (*model.graph.input, *model.graph.output):
        axis = described.type.tensor_type.shape.dim[0]
        assert axis.dim_value == size, axis
        axis.dim_param = name
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for constant in model.graph.initializer:
        assert constant.name in shapes or size not in constant.dims, constant.name
        if constant.name in shapes:
            shape = numpy_helper.to_array(constant).copy()
            if size in shape:
                assert -1 not in shape, shape
                shape[shape == size] = -1
                constant.CopyFrom(numpy_helper.from_array(shape, constant.name))


def reduce(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a model whose weights have fewer bits: float16, which are converted to float32 to compute, or int8."""
    if precision == "float32":
        return model
    if precision == "int8":
        return _quantized(model)
    reduced = onnx.ModelProto()
    reduced.CopyFrom(model)
    casts = []
    for constant in reduced.graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype == np.float32 and values.size >= _LARGE and np.abs(values).max() < np.finfo(np.float16).max:
            name = constant.name
            constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
            casts.append(helper.make_node("Cast", [constant.name], [name], f"{name}/cast", to=TensorProto.FLOAT))
    nodes = [*casts, *reduced.graph.node]
    del reduced.graph.node[:]
    reduced.graph.node.extend(nodes)
    return reduced


def _quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / name for name in ("source.onnx", "target.onnx"))
        onnx.save(model, str(source))
        logging.disable(logging.WARNING)    # advice, and a line for every tensor
        try:
            quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(str(target))


def distance(model: onnx.ModelProto, other: onnx.ModelProto, frames: int = 100) -> float:
    """Return how far the outputs of two models are from each other for noise, as a ratio of signal and error in dB."""
    import onnxruntime

    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    noise = np.abs(np.random.default_rng(0).standard_normal((frames, *shape[1:]))).astype(np.float32)
    one, two = (onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {model.graph.input[0].name: noise})[0].astype(np.float64) for each in (model, other))
    return float(10 * np.log10((one ** 2).sum() / ((one - two) ** 2).sum()))
