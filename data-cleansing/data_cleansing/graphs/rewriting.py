"""Rewriting of nnabla graphs: faster functions, and tangents of what a network computes.

A network is any function `network(image, train)` that returns logits. Its graph is built with nnabla's own functions,
walked through, and made again of the fastest ones. Where parameters move along given directions, the tangents of all
values are made beside them: tangents of losses are scores, and the gradients of tangents are products with a Hessian.
"""
from collections.abc import Callable, Mapping
from typing import Any

import nnabla as nn
import nnabla.function
import nnabla.functions as F
from nnabla.backward_function.max_pooling_backward import MaxPoolingBackwardDataGrad
from nnabla.backward_functions import registry

from common.cpu.channels import BatchNormalization
from common.cpu.convolution import Convolution
from common.cpu.elements import ReLU
from common.layers.constants import zeros
from common.machine.context import native_functions, wants_native
from common.machine.errors import UserError
from common.machine.reshaping import reshape
from data_cleansing.graphs import tangent_functions

Network = Callable[[nn.Variable, bool], nn.Variable]    # network(image, train) -> logits (batch, classes)

# Functions of one input whose every output element depends on the input element at its place.
ELEMENTWISE = ("Abs", "CELU", "Cos", "ELU", "Erf", "Exp", "GELU", "HardSigmoid", "HardTanh", "Identity", "LeakyReLU",
               "Log", "LogSigmoid", "Mish", "PowScalar", "ReLU", "ReLU6", "SELU", "Sigmoid", "Sin", "SoftPlus",
               "SoftSign", "Swish", "Tanh", "TanhShrink")
# Functions that are linear in all their inputs together.
LINEAR = ("Add2", "AddN", "AveragePooling", "BcAdd2", "Broadcast", "Concatenate", "GlobalAveragePooling", "Mean",
          "MulScalar", "Reshape", "Slice", "Split", "Stack", "Sub2", "Sum", "SumPooling", "Transpose")
# Functions that are linear in the first input, and in the weights and bias that follow.
LAYERS = ("Affine", "Convolution", "Deconvolution", "DepthwiseConvolution")
# Functions that treat the images of a batch one by one, whatever their arguments.
SAMPLEWISE = (*ELEMENTWISE, "Add2", "AddScalar", "AveragePooling", "Convolution", "DepthwiseConvolution",
              "GlobalAveragePooling", "MaxPooling", "Mul2", "MulScalar", "Reshape", "Sub2", "SumPooling")
# Functions that do so if their arguments say it.
SAMPLEWISE_IF: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "Affine": lambda args: args["base_axis"] == 1,
    **dict.fromkeys(("Concatenate", "LogSoftmax", "Softmax"), lambda args: args["axis"] != 0),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), lambda args: 0 not in args["axes"]),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "LayerNormalization"),
                    lambda args: list(args["batch_axis"]) == [0]),
    "Transpose": lambda args: args["axes"][0] == 0,
}


def build(network: Network, image: nn.Variable, train: bool,
          directions: Mapping[nn.Variable, nn.Variable] | None = None,
          per_image: bool = False) -> tuple[nn.Variable, nn.Variable | None]:
    """Build the graph of a network, of compiled functions where there are any for the current context.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits; makes the parameters in the current scope that are missing.
    image : nn.Variable (batch, channels, height, width)
    directions : dict of nn.Variable to nn.Variable, optional
        Along what each parameter moves.
    per_image : bool
        Normalize every image by its own statistics, as if it were a batch of one.

    Returns
    -------
    (logits, tangent) : nn.Variable (batch, classes) each
        Tangent is None without `directions`.
    """
    logits = trace(network, image, train)
    moving = {} if directions is None else directions
    values = {}    # variable of the traced graph -> (value, tangent or None)

    def visit(function):
        inputs = [values.get(variable, (variable, moving.get(variable))) for variable in function.inputs]
        results = _rewrite(function, inputs, per_image, in_order=directions is not None)
        values.update(zip(function.outputs, results, strict=True))

    logits.visit(visit)
    return values[logits]


def trace(network: Network, image: nn.Variable, train: bool) -> nn.Variable:
    """Return the logits of a network, (batch, classes), made of nnabla's own functions.

    Raises
    ------
    UserError
        The network returns something else.
    """
    with native_functions(), nn.auto_forward(False):
        logits = network(image, train)
    if not isinstance(logits, nn.Variable) or logits.ndim != 2 or logits.shape[0] != image.shape[0]:
        raise UserError(f"the network must return logits (batch, classes) for a batch of {image.shape[0]}, "
                        f"returns {getattr(logits, 'shape', type(logits).__name__)}")
    return logits


def is_samplewise(network: Network, image: nn.Variable) -> bool:
    """Whether the only functions of a network that mix the images of a batch are batch normalizations.

    Parameters
    ----------
    image : nn.Variable (batch, channels, height, width)
        With a batch of two or more.

    Returns
    -------
    bool
        False if it is not certain.
    """
    batch, found = image.shape[0], []
    trace(network, image, train=True).visit(lambda function: found.append(_treats_images_alone(function, batch)))
    return all(found)


def _treats_images_alone(function, batch):
    name, args = function.info.type_name, function.info.args
    keeps_batch = all(variable.shape[:1] == (batch,) for variable in (function.inputs[0], *function.outputs))
    if name in SAMPLEWISE_IF:
        return keeps_batch and SAMPLEWISE_IF[name](args)
    return keeps_batch and (name in SAMPLEWISE or _is_normalization_of_maps(function))


def _is_normalization_of_maps(function):
    args = function.info.args
    return (function.info.type_name == "BatchNormalization" and list(args["axes"]) == [1] and len(function.inputs) == 5
            and not args["no_scale"] and not args["no_bias"])


def _rewrite(function, inputs, per_image, in_order):
    """Make a function again; returns a list of (value, tangent or None), one for each output.

    Parameters
    ----------
    function : nnabla function
    inputs : list of (nn.Variable, nn.Variable or None)
    in_order : bool
        Of sums in convolutions. For the score of a single image it matters on which side of a ReLU a pixel falls.
    """
    if _is_normalization_of_maps(function):
        return [_normalize(function.info.args, inputs, per_image)]
    values, tangents = zip(*inputs, strict=True) if inputs else ((), ())
    outputs = _apply(function, values, in_order)
    if all(tangent is None for tangent in tangents):
        return [(output, None) for output in outputs]
    return list(zip(outputs, _tangents(function, values, tangents, outputs), strict=True))


def _apply(function, values, in_order=False):
    """Apply a function to other inputs, compiled if possible."""
    name, args = function.info.type_name, dict(function.info.args)
    if name == "Convolution" and _is_compiled_convolution(function):
        return [Convolution(args["pad"][0], args["stride"][0], in_order=in_order)(*values)]
    if name == "ReLU" and not wants_native():
        return [ReLU()(*values)]
    if name != "Reshape" and "inplace" in args:
        args["inplace"] = False    # the input is needed for the tangent
    try:
        make = getattr(nnabla.function, name)
    except AttributeError:
        raise UserError(f"the network uses '{name}', which is no function of nnabla's; influence scores need "
                        "networks of nnabla's own functions") from None
    outputs = make(nn.get_current_context(), *args.values())(*values, n_outputs=len(function.outputs))
    return [outputs] if isinstance(outputs, nn.Variable) else list(outputs)


def _is_compiled_convolution(function):
    args, kernel = function.info.args, function.inputs[1].shape[2:]
    return (not wants_native() and len(kernel) == 2 and kernel[0] == kernel[1] and set(args["dilation"]) == {1}
            and len(set(args["pad"])) == len(set(args["stride"])) == 1 and args["base_axis"] == args["group"] == 1
            and not args["channel_last"])


def _tangents(function, values, tangents, outputs):
    """Tangents of the outputs of a function, of which at least one input has a tangent."""
    name, args = function.info.type_name, function.info.args
    if name == "Convolution" and _is_compiled_convolution(function):
        return [_tangent_of_convolution(args, values, tangents)]
    if name == "ReLU" and not wants_native():
        return [tangent_functions.TangentReLU()(outputs[0], tangents[0])]
    if name == "MaxPooling":
        return [_tangent_of_max_pooling(args, values[0], tangents[0], outputs[0])]
    if name in LINEAR:
        return _apply(function, [_or_zero(tangent, value) for value, tangent in zip(values, tangents, strict=True)])
    if name == "AddScalar":
        return [tangents[0]]
    if name in LAYERS:
        return [_tangent_of_layer(function, values, tangents)]
    if name in ELEMENTWISE and name in registry:
        x, y = values[0], outputs[0]
        return [registry[name]([tangents[0]], [x], [x.shape], [y], [y.shape], **args)]
    return _tangents_of_anything(name, values, tangents, outputs)


def _or_zero(tangent, value):
    return zeros(value.shape) if tangent is None else tangent


def _tangent_of_convolution(args, values, tangents):
    (x, w, *_), (dx, dw, *db) = values, tangents
    db = db[0] if db and db[0] is not None else zeros(w.shape[:1])
    moving = () if dx is None else (dx,)
    return tangent_functions.TangentConvolution(args["pad"][0], args["stride"][0])(x, w, _or_zero(dw, w), db, *moving)


def _tangent_of_layer(function, values, tangents):
    """Product rule: f(dx, w) + f(x, dw, db)."""
    (x, w, *_), (dx, dw, *db) = values, tangents
    parts = [] if dx is None else _apply(function, (dx, w))
    if dw is not None or db:
        bias = [_or_zero(tangent, value) for tangent, value in zip(db, values[2:], strict=True)]
        parts += _apply(function, (x, _or_zero(dw, w), *bias))
    return sum(parts[1:], parts[0])


def _tangent_of_max_pooling(args, x, dx, y):
    if not wants_native() and len(args["kernel"]) == 2 and not any(args["pad"]) and not args["channel_last"]:
        return tangent_functions.TangentMaxPooling(args["kernel"], args["stride"], y.shape)(x, dx)
    take = MaxPoolingBackwardDataGrad(nn.get_current_context(), **args)
    take.yshape = y.shape
    return take(dx, F.unlink(x).apply(need_grad=False))    # its gradient leaves that of x unset


def _tangents_of_anything(name, values, tangents, outputs):
    """Differentiate a gradient: with g the gradient of <w, f(x)> for x, that of <g, dx> for w is the tangent of f."""
    moving = [(value, tangent) for value, tangent in zip(values, tangents, strict=True) if tangent is not None]
    weights = [nn.Variable(output.shape, need_grad=True) for output in outputs]
    for weight in weights:
        weight.data.zero()
    try:
        gradients = nn.grad(outputs, [value for value, _ in moving], grad_outputs=weights)
        return nn.grad(gradients, weights, grad_outputs=[tangent for _, tangent in moving])
    except (ValueError, NotImplementedError) as error:    # as nnabla says that it has no such gradient
        raise UserError(f"the network uses '{name}', which nnabla cannot differentiate twice ({error})") from error


def _normalize(args, inputs, per_image):
    """Batch normalization of maps; returns (value, tangent or None)."""
    (x, dx), (beta, dbeta), (gamma, dgamma), (mean, _), (var, _) = inputs
    shape, batch_stat = x.shape, args["batch_stat"]
    per_image = per_image and batch_stat
    if per_image:
        # A batch of one with all maps of all images: each map has statistics of its own.
        maps = (1, shape[0] * shape[1], *shape[2:]) if len(shape) > 2 else (1, shape[0] * shape[1], 1)
        x, dx = (_reshape(variable, maps) for variable in (x, dx))
        beta, dbeta, gamma, dgamma = (
            _repeat(variable, shape[0], len(maps)) for variable in (beta, dbeta, gamma, dgamma))
        # Nobody needs the running statistics.
        mean, var = (nn.Variable((1, maps[1], *[1] * (len(maps) - 2))) for _ in range(2))
    y = _batch_normalization(x, beta, gamma, mean, var, args["decay_rate"], args["eps"], batch_stat)
    dy = None
    if any(tangent is not None for tangent in (dx, dbeta, dgamma)):
        dy = _tangent_of_normalization(x, _or_zero(dx, x), gamma, _or_zero(dgamma, gamma), _or_zero(dbeta, beta), mean,
                                       var, args["eps"], batch_stat)
    return (_reshape(y, shape), _reshape(dy, shape)) if per_image else (y, dy)


def _reshape(variable, shape):
    return None if variable is None else reshape(variable, shape)


def _repeat(variable, batch, ndim):
    """Repeat (1, channels, 1, ...) for every image of a batch, to `ndim` axes."""
    if variable is None:
        return None
    repeated = F.concatenate(*[variable] * batch, axis=1) if batch > 1 else variable    # it takes two at least
    return _reshape(repeated, (1, repeated.shape[1], *[1] * (ndim - 2)))


def _batch_normalization(x, beta, gamma, mean, var, decay_rate, eps, batch_stat):
    if wants_native():
        return F.batch_normalization(x, beta, gamma, mean, var, decay_rate=decay_rate, eps=eps, batch_stat=batch_stat)
    return BatchNormalization(decay_rate, eps, batch_stat)(x, beta, gamma, mean, var)


def _tangent_of_normalization(x, dx, gamma, dgamma, dbeta, mean, var, eps, batch_stat):
    if not wants_native():
        return tangent_functions.TangentBatchNormalization(eps, batch_stat)(x, dx, gamma, dgamma, dbeta, mean, var)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    if batch_stat:
        mean = F.mean(x, axes, keepdims=True)
        var = F.mean((x - mean) ** 2, axes, keepdims=True)
    scale = (var + eps) ** -0.5
    normalized = (x - mean) * scale
    if batch_stat:
        dx = dx - F.mean(dx, axes, keepdims=True) - normalized * F.mean(normalized * dx, axes, keepdims=True)
    return gamma * scale * dx + dgamma * normalized + dbeta
