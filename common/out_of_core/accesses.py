"""Which arrays each of nnabla's functions and solvers touches, in which order, as nnabla 1.39 does on a CPU.

`common.out_of_core.backends` has what differs on a GPU.

An entry of the tables is a line of words:

- `x0` `y0` `dy0` read the data of input 0, the data of output 0, the gradient of output 0; `x*` those of all inputs;
- `>y0` writes it, `+y0` reads and writes it, `~y0` clears it;
- `dx0` writes the gradient of input 0, or adds to it, where that gradient is wanted; `~dx0` clears it if it is written;
- any other name is a buffer of the function, listed beside the line;
- a word after `0?` stands where the gradient of input 0 is wanted;
- `:int32` behind a word is the type of number it is asked for in; without it, the one that the backend computes in.

A word for an input or output that the function does not have stands for nothing.
"""
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

REAL = "real"


@attrs.frozen
class Buffer:
    """An array of a function's own: its number of elements (of the function), and whether it outlives a call.

    The type `REAL` is the one that the backend computes in.
    """

    size: Callable[[Any], int]
    dtype: str = REAL
    held: bool = True
    ready: bool = False    # filled when the function is made


@attrs.frozen
class Accesses:
    """What a function touches, forward and backward."""

    forward: str
    backward: str
    buffers: Mapping[str, Buffer] = attrs.field(factory=dict)


def is_python(f: Any) -> bool:
    """Whether a function is written in Python: it may touch any array, whatever its name says."""
    return f.name == "Callback"


def wanted_gradients(f: Any) -> list[int]:
    """Indices of the inputs of `f` that need a gradient."""
    return [i for i, v in enumerate(f.inputs) if v.need_grad]


def by_properties(f: Any) -> Accesses:
    """What a function touches by what it says of itself: what is taken of those that no table has.

    It reads all inputs and writes all outputs; its backward reads the gradients of the outputs and the data that
    gradients depend on, and writes the gradients that are wanted.
    """
    inputs, outputs = range(len(f.inputs)), range(len(f.outputs))
    needed = [f"x{j}" for j in inputs if any(f.grad_depends_input_data(i, j) for i in inputs)]
    needed += [f"y{o}" for o in outputs if any(f.grad_depends_output_data(i, o) for i in inputs)]
    return Accesses("x* >y*", " ".join(["dy*", *(needed if f.need_grad else ()), "dx*"]))


def _patches(image: str, group_of: Callable[[Any], int]) -> dict[str, Buffer]:
    """Elements of the matrix of patches of one image, as convolutions by matrix products make it.

    `image` tells which variable has the positions, as (which list, index).
    """
    def size(f):
        positions = getattr(f, image)[0].shape[f.info.args["base_axis"] + 1:]
        return math.prod(f.inputs[1].shape[1:]) * group_of(f) * math.prod(positions)
    return {"patches": Buffer(size)}


def _group(f):
    return f.info.args["group"]


def _input_size(f):
    return f.inputs[0].size


def _output_size(f):
    return f.outputs[0].size


def _merged_dimensions(f):
    """Length of the lists of shapes and strides of a broadcasting function: dimensions that behave alike are one."""
    lengths = zip(f.inputs[0].shape, f.inputs[1].shape, strict=True)
    ways = [(a == 1, b == 1) for a, b in lengths if (a, b) != (1, 1)]
    return max(3, 1 + sum(a != b for a, b in itertools.pairwise(ways)))


def _strided(f):
    return Accesses("x0 x1 >y0 s0 s1 s2 s3", "x0 x1 y0 dy0 s0 s1 s2 s3 ~dx0 dx0 ~dx1 dx1",
                    {f"s{i}": Buffer(_merged_dimensions, "int64", ready=True) for i in range(4)})


def _add(f):
    same = f.inputs[0].shape == f.inputs[1].shape
    return Accesses("x0 x1 >y0", "dy0 dx0 dx1") if same else _strided(f)


def _needs_move(f):
    """Whether the axes of a reduction are not the last ones; then they are brought there first."""
    ndim = len(f.inputs[0].shape)
    axes = sorted(axis % ndim for axis in f.info.args["axes"])
    return axes != list(range(ndim - len(axes), ndim))


def _reduction(f):
    if not _needs_move(f):
        return Accesses(">y0 x0", "dy0 dx0")
    return Accesses(">y0 x0 >moved moved", "dy0 dx0 +moved ~dx0 moved dx0", {"moved": Buffer(_input_size, held=False)})


def _extremum(f):
    """Maximum or minimum over axes, which keeps where it was."""
    where = {"where": Buffer(_output_size, "int32")}
    if not _needs_move(f):
        return Accesses(">y0 x0 >where", "dy0 dx0 where", where)
    return Accesses(">y0 x0 >moved moved >where", "dy0 dx0 +moved where ~dx0 moved dx0",
                    {"moved": Buffer(_input_size, held=False), **where})


def _product(f):
    if not _needs_move(f):
        return Accesses(">y0 x0", "y0 dx0 dy0 x0")
    moved = Buffer(_input_size, held=False)
    return Accesses(">y0 x0 >moved moved", "y0 dx0 dy0 x0 >moved moved +back ~dx0 back dx0",
                    {"moved": moved, "back": moved})


def _batch_normalization(f):
    """Inputs are x, then beta and gamma where there are such, mean and variance."""
    beta = "1" if not f.info.args.get("no_bias") else None
    gamma = str(1 + bool(beta)) if not f.info.args.get("no_scale") else None
    mean = 1 + bool(beta) + bool(gamma)
    shift = "".join(f" x{i}" for i in (beta, gamma) if i)
    if not f.info.args["batch_stat"]:
        return Accesses(f"x0{shift} x{mean} x{mean + 1} >y0", *_backward_with_fixed_statistics(f, beta, gamma, mean))
    statistics = Buffer(lambda f: f.inputs[-1].size if len(f.inputs) == mean + 2 else f.inputs[mean].size)
    scale = (f" 0?x{gamma}" if gamma else "") + "".join(f" dx{i}" for i in (beta, gamma) if i)
    return Accesses(f"x0{shift} >y0 >mean >variance +x{mean} +x{mean + 1}", f"dy0 mean variance x0 dx0{scale}",
                    {"mean": statistics, "variance": statistics})


def _backward_with_fixed_statistics(f, beta, gamma, mean):
    """Composed of broadcasting functions with lists of strides; the last ones of each are kept."""
    def strides(name):
        return "".join(f" >{name}{i}" for i in range(4)), "".join(f" {name}{i}" for i in range(4))

    (new_s, s), (new_h, h), (new_n, n) = map(strides, "shn")
    new_m, m = strides("m" if gamma and f.inputs[int(gamma)].need_grad else "q")
    words = f"x{mean + 1} >a a >a a >a"
    to_input = f"{new_s} x{gamma} a >b{s}{new_m} dy0 b >w{m} w dx0" if gamma else f"{new_m} dy0 a >w{m} w dx0"
    to_beta = f" >c dy0 >v v c dx{beta}"
    to_gamma = f"{new_h} x0 x{mean} >u{h}{new_m} u a >u{m}{new_n} dy0 u >u{n} >e u >t t e dx{gamma}"
    for index, part in ((0, to_input), (beta, to_beta), (gamma, to_gamma)):
        if index is not None:
            words += "".join(f" {index}?{word}" for word in part.split())
    part = Buffer(lambda f: f.inputs[mean].size, held=False)
    return words, {**dict.fromkeys("abce", part), **dict.fromkeys("tuvw", Buffer(_input_size, held=False)),
                   **{f"{name}{i}": Buffer(lambda f: 3, "int64", held=name in "hnq") for name in "shnmq"
                      for i in range(4)}}


def _fused_batch_normalization(f):
    plain = _batch_normalization(f)
    add = " y0 x5 >y0" if len(f.inputs) == 6 else ""
    backward = plain.backward.removeprefix("dy0")
    return Accesses(f"{plain.forward}{add} y0 >y0", f"y0 +inner dy0 dx5 ~dx0 ~dx1 ~dx2 inner{backward}",
                    {**plain.buffers, "inner": Buffer(_output_size, held=False)})


def _instance_normalization(f):
    """Inputs are x, or x, beta and gamma, which are broadcast to all images first."""
    if len(f.inputs) == 2:
        return by_properties(f)
    whole, part = Buffer(_input_size, held=False), Buffer(maps, held=False)
    shape = Buffer(lambda f: len(f.inputs[0].shape), "int32")
    buffers = {"mean": Buffer(maps), "variance": Buffer(maps), **dict.fromkeys("tuvw", whole),
               **dict.fromkeys("abcdefghklmn", part), **dict.fromkeys(("i0", "i1", "j0", "j1"), shape)}
    if len(f.inputs) == 1:
        return Accesses("x0 >t a >b c >d t >u >mean >variance +b +d u >y0",
                        "~dx0 x0 >t a >b c >d y0 >u ~v dy0 >v ~w v mean variance t >w ~dx0 w dx0", buffers)
    spread = ">i0 >i1 x1 >e i0 i1 >j0 >j1 x2 >f j0 j1"
    return Accesses(
        f"{spread} x0 >t e >g f >h a >b c >d t g h >u >mean >variance +b +d u >y0",
        f"{spread} ~dx0 1?~k 2?~l x0 >t e >g f >h a >b c >d y0 >u ~v dy0 >v ~w 1?~m 2?~n v mean variance t >w h 1?>m "
        "2?>n ~dx0 w dx0 1?~k 1?m 1?>k 2?~l 2?n 2?>l ~dx1 1?k dx1 1?i0 1?i1 ~dx2 2?l dx2 2?j0 2?j1", buffers)


def maps(f: Any) -> int:
    """Images times channels."""
    axes = {*f.info.args["batch_axis"], f.info.args["channel_axis"]}
    return math.prod(f.inputs[0].shape[axis] for axis in axes)


def _layer_normalization(f):
    """Inputs are x, beta and gamma; composed of broadcasting functions, each with its lists of strides."""
    if len(f.inputs) != 3 or wanted_gradients(f) != [0, 1, 2]:
        return by_properties(f)
    whole = Buffer(_input_size, held=False)
    kept, part = (Buffer(lambda f: math.prod(f.inputs[0].shape[axis] for axis in f.info.args["batch_axis"]), held=held)
                  for held in (True, False))
    return Accesses(
        "x0 >y0 >mean >variance +p +q >s0 >s1 >s2 >s3 y0 x2 >y0 s0 s1 s2 s3 >r0 >r1 >r2 >r3 y0 x1 >y0 r0 r1 r2 r3",
        "x0 >t >mean >variance +p +q >s0 >s1 >s2 >s3 t x2 >u s0 s1 s2 s3 ~v ~dx1 u x1 y0 dy0 r0 r1 r2 r3 ~v +v ~dx1 "
        "dx1 ~w ~dx2 t x2 u v s0 s1 s2 s3 ~w +w ~dx2 dx2 ~dx0 ~dx0 w mean variance x0 dx0",
        {"mean": kept, "variance": kept, "p": part, "q": part, **dict.fromkeys("tuvw", whole),
         **{f"{name}{i}": Buffer(lambda f: 3, "int64") for name in "rs" for i in range(4)}})


def _pad(f):
    return Accesses("x0 >y0", "dy0 dx0" if f.info.args["mode"] == "constant" else "dy0 ~dx0 dx0")


def _constant(f):
    return Accesses("~y0", "")


UNARY = Accesses("x0 >y0", "dy0 x0 y0 dx0")    # made of nnabla's template, which reads everything
BY_OUTPUT = Accesses("x0 >y0", "y0 dx0 dy0")
BY_INPUT = Accesses("x0 >y0", "x0 dx0 dy0")
MOVE = Accesses("x0 >y0", "dy0 dx0")
SCATTER = Accesses("x0 >y0", "~dx0 dy0 dx0")
COPY = Accesses("x0 >y0", "dx0 dy0")
POOL = Accesses("x0 >y0", "~dx0 dx0 dy0")

_GROUPS = (
    (UNARY, "Tanh Sigmoid Exp Log Abs ELU GELU Swish SoftPlus Sin Cos Tan Sinh Cosh ASin ACos ATan ASinh ACosh ATanh"),
    (UNARY, "ReLU6 SoftSign HardSigmoid HardTanh Mish Round Ceil Floor Sign LogSigmoid TanhShrink BinarySigmoid Erf"),
    (UNARY, "BinaryTanh AddScalar MulScalar PowScalar RSubScalar RDivScalar RPowScalar MaximumScalar MinimumScalar"),
    (BY_OUTPUT, "ReLU LeakyReLU"),
    (BY_INPUT, "SELU CReLU CELU FixedPointQuantize"),
    (MOVE, "Transpose Flip Interpolate RandomFlip CumSum"),
    (SCATTER, "Slice Shift RandomCrop RandomShift"),
    (POOL, "AveragePooling SumPooling Unpooling"),
    (COPY, "Identity"),
    (_strided, "Sub2 Mul2 Div2 Pow2 Maximum2 Minimum2 SquaredError AbsoluteError HuberLoss EpsilonInsensitiveLoss"),
    (_strided, "Greater GreaterEqual Less LessEqual Equal NotEqual LogicalAnd LogicalOr LogicalXor"),
    (_constant, "Constant"),
)

FUNCTIONS = {name: entry for entry, names in _GROUPS for name in names.split()} | {
    "Add2": _add,
    "Affine": Accesses("x0 x1 >y0 x2", "dy0 dx0 0?x1 1?x0 dx1 dx2"),
    "AddN": Accesses("+y0 x*", "dy0 dx*"),
    "BatchMatmul": Accesses("x0 x1 >y0", "dy0 0?x1 dx0 1?x0 dx1"),
    "BatchNormalization": _batch_normalization,
    "BinaryCrossEntropy": Accesses("x0 x1 >y0", "dy0 x0 x1 dx0 dx1"),
    "Broadcast": Accesses("x0 >y0 strides shape", "dy0 dx0 strides shape", {
        name: Buffer(lambda f: len(f.outputs[0].shape), "int32", ready=True) for name in ("strides", "shape")}),
    "CategoricalCrossEntropy": Accesses("x0 x1:int32 >y0", "x0 dy0 x1:int32 dx0"),
    "ClipGradByValue": Accesses("x0 >y0", "dx0 dy0 x1 x2"),
    "Concatenate": Accesses(">y0 x*", "dy0 dx*"),
    "Convolution": Accesses("x0 x1 >patches >y0 x2 ~patches",
                            "dy0 >patches ~dx0 0?x1 dx0 ~dx1 1?x0 dx1 ~dx2 dx2 ~patches", _patches("outputs", _group)),
    "Deconvolution": Accesses("x0 x1 >patches >y0 x2 ~patches", "dy0 >patches 0?x1 dx0 ~dx1 1?x0 dx1 ~dx2 dx2 ~patches",
                              _patches("inputs", _group)),
    "DepthwiseConvolution": Accesses("x0 >y0 x1 x2 >patches", "dy0 >patches ~dx0 dx0 0?x1 ~dx1 dx1 1?x0 ~dx2 dx2",
                                     _patches("outputs", lambda f: f.inputs[1].shape[0])),
    "Dropout": Accesses("x0 >y0 >mask", "dx0 dy0 mask ~mask", {"mask": Buffer(_input_size)}),
    "Embed": Accesses("x0:int32 x1 >y0", "~dx1 x0:int32 dx1 dy0"),
    "FusedBatchNormalization": _fused_batch_normalization,
    "Gather": Accesses("x0 x1:int64 >y0", "dx0 x1:int64 dy0"),
    "GlobalAveragePooling": Accesses("x0 +y0", "dx0 dy0"),
    "InstanceNormalization": _instance_normalization,
    "KLMultinomial": Accesses("x0 x1 >y0", "x0 x1 dy0 dx0 dx1"),
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": Accesses("x0 >y0", "y0 dy0 dx0"),
    "Max": _extremum,
    "MaxPooling": Accesses("x0 >y0 >where", "~dx0 dx0 dy0 where", {"where": Buffer(_output_size, "int32")}),
    "Mean": _reduction,
    "Min": _extremum,
    "OneHot": Accesses("x0:int32 ~y0 >y0", ""),
    "PReLU": Accesses("x0 x1 >y0", "x0 x1 dy0 dx0 dx1"),
    "Pad": _pad,
    "Pow2Quantize": Accesses("x0 >y0", "+x0 dx0 dy0"),
    "Prod": _product,
    "Rand": Accesses(">y0", ""),
    "Randn": Accesses(">y0", ""),
    "Reshape": lambda f: Accesses("", "dx0 dy0") if f.inplace_data(0) else COPY,
    "SigmoidCrossEntropy": Accesses("x0 x1:int32 >y0", "dy0 x0 x1:int32 dx0"),
    "Softmax": Accesses("x0 >y0", "y0 dy0 dx0"),
    "SoftmaxCrossEntropy": Accesses("x0 >log_softmax log_softmax x1:int32 >y0", "log_softmax dy0 x1:int32 dx0",
                                    {"log_softmax": Buffer(_input_size)}),
    "Split": Accesses("x0 >y*", "dx0 dy*"),
    "Stack": Accesses(">y0 x*", "dy0 dx*"),
    "Sum": _reduction,
    "Tile": Accesses("x0 >y0 where", "~dx0 dy0 dx0 where", {"where": Buffer(_output_size, "int32", ready=True)}),
    "WarpByGrid": Accesses("x0 x1 +y0", "x0 dx0 dx1 x1 dy0"),
    "Where": Accesses("x0 x1 x2 >y0", "dy0 x0 dx1 dx2"),
}

# `p` the parameter, `g` its gradient, `s0` `s1` ... the states of the solver, `t` a buffer of the call.
_ADAM, _MOMENTUM = "g +s0 +s1 +p", "+s0 g +p"
UPDATES = {
    "Sgd": "g +p", "SgdW": _MOMENTUM, "Momentum": _MOMENTUM, "Nesterov": _MOMENTUM, "Adagrad": _MOMENTUM,
    "RMSprop": _MOMENTUM, "RMSpropGraves": "+s0 +s1 +s2 g +p", "Adadelta": "+s0 +s1 g +p", "Adam": _ADAM,
    "AdamW": _ADAM, "Adamax": _ADAM, "AdaBelief": _ADAM, "AdaBound": _ADAM, "AMSGRAD": "g +s0 +s1 +s2 +p",
    "AMSBound": "g +s0 +s1 +s2 +p", "Lamb": "+s0 +s1 g +p +t", "Lion": "g +p +s0", "Lars": "+s0 +g +p p +g",
}
GRADIENT_CALLS = {
    "weight_decay": "p +g", "clip_grad_by_norm": "+g", "scale_grad": "p +g", "check_inf_grad": "g",
    "check_nan_grad": "g", "check_inf_or_nan_grad": "g",
}


def solver_accesses(solver: Any, call: str) -> str:
    """What a call of a solver touches for each parameter: `update`, `weight_decay`, `scale_grad` and the like.

    A solver that is not in the table is taken to read and write the parameter, its gradient and two states.
    """
    if call == "update":
        return UPDATES.get(solver.name, _ADAM)
    return "" if call == "weight_decay" and solver.weight_decay_is_fused() else GRADIENT_CALLS[call]
