"""ONNX models with axes of any length, and with weights of fewer bits."""
import logging
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common.machine.files import temporary_folder

_LARGE = 256    # elements from which on constants are weights


def free_axes(model: onnx.ModelProto, names: Mapping[int, str]) -> None:
    """Let axes of inputs and outputs have any length: those of the lengths that are the keys of `names`.

    The lengths are to be such that nothing else in the model has them by chance.
    """
    sizes = set(names)
    for described in (*model.graph.input, *model.graph.output):
        for axis in described.type.tensor_type.shape.dim:
            if axis.dim_value in sizes:
                axis.dim_param = names[axis.dim_value]
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for constant in model.graph.initializer:
        assert not sizes.intersection(constant.dims), (constant.name, constant.dims)
        if constant.data_type == TensorProto.INT64:
            values = numpy_helper.to_array(constant).copy()
            if sizes.intersection(values.ravel().tolist()):
                assert constant.name in shapes and -1 not in values, (constant.name, values)
                values[np.isin(values, [*sizes])] = -1
                assert np.sum(values == -1) == 1, (constant.name, values)
                constant.CopyFrom(numpy_helper.from_array(values, constant.name))


def reduce(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a model whose weights have the bits of a name of `exporting.PRECISIONS`.

    Those of float16 are converted to float32 to compute. With int8, affine layers, convolutions and LSTMs multiply
    integers; what they multiply the weights by is rounded to 256 levels between its extremes in each run.
    """
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

    has_convolutions = any(node.op_type == "Conv" for node in model.graph.node)
    weight_type = QuantType.QUInt8 if has_convolutions else QuantType.QInt8    # ConvInteger has no signed weights
    # onnxruntime keeps a copy beside what it reads and what it writes, with the shapes of all arrays.
    with temporary_folder(room=4 * model.ByteSize()) as folder:
        source, target = (folder / name for name in ("source.onnx", "target.onnx"))
        onnx.save(model, str(source))
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)    # advice, and a line for every tensor
        try:
            quantize_dynamic(str(source), str(target), weight_type=weight_type)
        finally:
            logging.disable(disabled)
        return onnx.load(str(target))


def output_of(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    """Return the first output of a model for values of its input, as onnxruntime computes it; int8 exactly."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")    # or x86 CPUs without VNNI cut sums off
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {model.graph.input[0].name: values})[0])


def distance(model: onnx.ModelProto, other: onnx.ModelProto, values: np.ndarray) -> float:
    """Return how far the outputs of two models are from each other, as a ratio of signal and error in dB."""
    one, two = (output_of(each, values).astype(np.float64) for each in (model, other))
    return float(10 * np.log10((one ** 2).sum() / ((one - two) ** 2).sum()))
