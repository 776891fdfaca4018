"""ONNX models whose quantizers are QuantizeLinear and DequantizeLinear, for `common.inference.onnx_export`.

Weights of uniform levels of up to 8 bits are stored as integers with a scale for each channel, into which batch
normalization goes. Everything else (powers of two, more bits) keeps its form: weights are constants with their
quantized values, activations are computed as nnabla computes them.
"""
import attrs
import nnabla as nn
import numpy as np
from onnx import TensorProto

from common.inference import onnx_export
from common.inference.onnx_functions import CONVERTERS
from common.machine.context import native_functions
from common.machine.cores import num_threads
from common.machine.errors import UsageError, UserError
from mixed_precision_dnns import network

LARGEST_WEIGHT, LARGEST_ACTIVATION = 127, 255    # levels that 8 bits hold, with and without a sign
INPUT, OUTPUT = "image", "logits"


@attrs.frozen
class Grid:
    """Uniform levels: `source` is what is rounded to multiples of `step_size`, at most `levels` on either side."""

    source: nn.Variable
    step_size: float
    levels: int


def grid_of(variable):
    """Return the `Grid` that a uniform quantizer has put `variable` on, None if there is no such quantizer."""
    function = variable.parent
    kind = function.info.type_name if function else None
    if kind == "FixedPointQuantize":
        args = function.info.args
        return Grid(function.inputs[0], args["delta"], 2 ** (args["n"] - args["sign"]) - 1)
    if kind != "Where":
        return None
    # The functions of common.quantizers.compose_uniform, from the last to the first.
    product = _parent(function.inputs[2], "Mul2")
    rounded = product and _parent(product.inputs[1], "Round")
    ratio = rounded and _parent(rounded.inputs[0], "Div2")
    below = ratio and _parent(ratio.inputs[0], "Minimum2")
    above = below and _parent(below.inputs[0], "Maximum2")
    if not above:
        return None
    step_size, largest = (_scalar(variable) for variable in (ratio.inputs[1], below.inputs[1]))
    return Grid(above.inputs[0], float(step_size), int(np.floor(largest / step_size + np.float32(0.5))))


def _parent(variable, kind):
    return variable.parent if variable.parent and variable.parent.info.type_name == kind else None


def _scalar(variable):
    if variable.parent is not None:
        variable.forward()
    return np.float32(variable.d.item())


def _activation(kind):
    """Quantizer of activations, in place of the function of type `kind` that ends it."""
    def convert(writer, function):
        grid = grid_of(function.outputs[0])
        if grid is None or grid.levels > LARGEST_ACTIVATION:
            return CONVERTERS[kind](writer, function)
        x, scale = writer.name(grid.source), writer.constant(grid.step_size)
        # Integers end at 255; fewer levels need a limit of their own.
        x = writer.node("Clip", x, writer.constant(0), writer.constant(grid.levels * grid.step_size))
        zero = writer.constant(0, np.uint8)
        return writer.node("DequantizeLinear", writer.node("QuantizeLinear", x, scale, zero), scale, zero)
    return convert


def _integer_weights(writer, weights, grid, scale, axis):
    """Store weights as integers with a scale for each channel on `axis`; returns the name of what they stand for.

    `scale` float64 (channels,) multiplies the channels. Negative scales turn the integers around.
    """
    shape = [-1 if k == axis else 1 for k in range(weights.ndim)]
    integers = np.rint(weights / grid.step_size) * np.sign(scale).reshape(shape)
    return writer.node("DequantizeLinear", writer.constant(integers, np.int8),
                       writer.constant(np.abs(scale) * grid.step_size), writer.constant(np.zeros(len(scale)), np.int8),
                       axis=axis)


def _weights_grid(function):
    grid = grid_of(function.inputs[1])
    return grid if grid and grid.levels <= LARGEST_WEIGHT else None


def _convolution(writer, function):
    grid = _weights_grid(function)
    if grid is None:
        return CONVERTERS["Convolution"](writer, function)
    args, weights = function.info.args, writer.values(function.inputs[1])
    scale, shift, _ = writer.absorb(function.outputs[0], 1, 2)
    return writer.node("Conv", writer.name(function.inputs[0]), _integer_weights(writer, weights, grid, scale, 0),
                       writer.constant(shift), pads=2 * args["pad"], strides=args["stride"],
                       dilations=args["dilation"], group=args["group"])


def _affine(writer, function):
    grid = _weights_grid(function)
    if grid is None:
        return CONVERTERS["Affine"](writer, function)
    x, weights, bias = function.inputs
    scale, shift, result = writer.absorb(function.outputs[0], 1, 2)
    matrix = writer.values(weights).reshape(-1, len(scale))
    rows = writer.reshape(writer.name(x), (-1, len(matrix)))
    total = writer.constant(writer.values(bias).ravel().astype(np.float64) * scale + shift)
    product = writer.node("Gemm", rows, _integer_weights(writer, matrix, grid, scale, 1), total)
    return writer.reshape(product, result.shape)


QUANTIZED_CONVERTERS = {"Convolution": _convolution, "Affine": _affine, "Where": _activation("Where"),
                        "FixedPointQuantize": _activation("FixedPointQuantize")}


def export_network(cfg, batch_size, settings):
    """Export the test-mode network of the current parameter scope.

    Parameters
    ----------
    cfg : mixed_precision_dnns.config.QuantizationConfig
    batch_size : int
    settings : tuple
        From `mixed_precision_dnns.trained.load_trained`.

    Returns
    -------
    onnx.ModelProto
        From `image`, float32 (batch_size, channels, height, width), to `logits`, float32 (batch_size, classes).
    """
    with native_functions():
        built = network.build_network(cfg, batch_size, False, *settings)
    return onnx_export.export({INPUT: built.image}, {OUTPUT: built.logits}, converters=QUANTIZED_CONVERTERS)


def integer_share(model):
    """Share of the elements of a model's constants that are stored as integers of 8 bits."""
    sizes = {kind: sum(np.prod(constant.dims, dtype=int) for constant in model.graph.initializer
                       if constant.data_type == kind) for kind in (TensorProto.INT8, TensorProto.FLOAT)}
    return sizes[TensorProto.INT8] / max(1, sum(sizes.values()))


class OnnxNetwork:
    """An exported network in onnxruntime.

    Parameters
    ----------
    model : path, or bytes

    Attributes
    ----------
    shape : tuple of int
        Of the input, (batch, channels, height, width).

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It is no network that export.py wrote.
    """

    def __init__(self, model):
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads()
        options.log_severity_level = 3    # errors only
        # Kernels for integers would round biases, and sums once more: activations near a border would change level.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options,
                                                         providers=["CPUExecutionProvider"])
        except errors.NoSuchFile as error:
            raise UsageError(f"{model}: no such file; export.py makes it") from error
        except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument,
                errors.NotImplemented) as error:
            raise UserError(f"{model}: damaged, or not an ONNX model; run export.py again") from error
        inputs = self._session.get_inputs()
        if [x.name for x in inputs] != [INPUT] or [y.name for y in self._session.get_outputs()] != [OUTPUT]:
            raise UserError(f"{model}: not a network that export.py wrote")
        self.shape = tuple(inputs[0].shape)

    def predict(self, image):
        """Logits float32 (n, classes) of images (n, channels, height, width), any number of them."""
        batch, parts = self.shape[0], []
        for start in range(0, len(image), batch):
            part = np.zeros(self.shape, np.float32)
            num = min(batch, len(image) - start)
            part[:num] = image[start:start + num]
            parts.append(self._session.run([OUTPUT], {INPUT: part})[0][:num])
        return np.concatenate(parts)
