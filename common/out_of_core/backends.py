"""What computes an iteration, a CPU or a GPU through cuDNN, and which arrays its functions touch.

A graph that was built on a CPU can be recorded for a GPU, which need not be there: the functions have other buffers on
it, and may compute in float16. What stands here of cuDNN follows the sources of nnabla's CUDA extension.
"""
from collections.abc import Callable
from typing import Any

import attrs
import nnabla as nn

from common.machine.errors import UsageError
from common.out_of_core.accesses import FUNCTIONS, REAL, Accesses, Buffer, by_properties, is_python, maps

BACKENDS = ("cpu", "cpu:half", "cudnn", "cudnn:half")


@attrs.frozen
class Backend:
    """What computes.

    Attributes
    ----------
    name
        `cpu` or `cudnn`.
    half
        Whether functions compute in float16. Parameters, their statistics and the states of solvers are float32 even
        then, and a gradient is converted for its solver.
    workspace
        Bytes that cuDNN takes for each pass of a convolution: one forward, and two at a time backward, for the weights
        and for the input. Which algorithm cuDNN takes, and so how much, is known on the device alone;
        `common.out_of_core.device.workspace_limit` bounds it.
    """

    name: str = "cpu"
    half: bool = False
    workspace: int = 0

    @property
    def real(self) -> str:
        """Type of the numbers that functions compute in."""
        return "float16" if self.half else "float32"

    def dtype(self, name: str | None) -> str:
        """Type of the numbers of an array, for an entry of the tables."""
        return self.real if name in (None, REAL) else name


def backend_named(name: str | None = None, workspace: int = 0) -> Backend:
    """Return the backend of a name.

    Parameters
    ----------
    name
        One of `BACKENDS`, as nnabla's contexts call them; None: what the current context computes with.
    workspace
        Bytes of a workspace of cuDNN.

    Raises
    ------
    UsageError
        There is no such backend.
    """
    if name is None:
        kind, _, numbers = nn.get_current_context().backend[0].partition(":")
        name = ("cpu" if kind == "cpu" else "cudnn") + (":half" if numbers == "half" else "")
    kind, _, numbers = name.partition(":")
    if name.removesuffix(":float") not in BACKENDS:
        raise UsageError(f"backend {name!r}: choose one of {', '.join(BACKENDS)}")
    return Backend(kind, numbers == "half", 0 if kind == "cpu" else workspace)


def accesses_of(f: Any, backend: Backend) -> Accesses:
    """What an nnabla function touches: its entry, or what its properties say where it has none."""
    if is_python(f):
        return by_properties(f)
    name = f.info.type_name
    if backend.name == "cudnn" and name in CUDNN:
        return CUDNN[name](f, backend.workspace)
    entry = FUNCTIONS.get(name, by_properties)
    return entry if isinstance(entry, Accesses) else entry(f)


def is_known(f: Any, backend: Backend) -> bool:
    """Whether what a function touches is known exactly; on a GPU the workspaces never are, nor all in float16."""
    return backend == Backend() and not is_python(f) and f.info.type_name in FUNCTIONS


def needed_inputs(f: Any, backend: Backend) -> list[int]:
    """Indices of the inputs whose data nnabla keeps for the backward of `f`, also for gradients that are not wanted."""
    num = range(len(f.inputs))
    return [j for j in num if f.need_grad and (
        any(f.grad_depends_input_data(i, j) for i in num) or _is_pooled(f, backend))]


def needed_outputs(f: Any, backend: Backend) -> list[int]:
    """Indices of the outputs whose data nnabla keeps for the backward of `f`."""
    return [o for o in range(len(f.outputs)) if f.need_grad and (
        any(f.grad_depends_output_data(i, o) for i in range(len(f.inputs))) or _is_pooled(f, backend))]


def _is_pooled(f, backend):
    """cuDNN asks for the data of both sides to go back through a pooling."""
    return backend.name == "cudnn" and not is_python(f) and f.info.type_name in _POOLINGS


def _bytes(workspace):
    return Buffer(lambda f: workspace, "uint8", held=False)


def _convolution(f, workspace):
    forward, backward = "x0 x1 >y0 x2", "dy0 0?x1 dx0 1?x0 dx1 dx2"
    if not workspace:
        return Accesses(forward, backward)
    return Accesses(f"{forward} >forward", f"{backward} >weights >data",
                    dict.fromkeys(("forward", "weights", "data"), _bytes(workspace)))


def _deconvolution(f, workspace):
    forward, backward = "x0 x1 >y0 x2", "dy0 0?x1 dx0 1?x0 dx1 dx2"
    if not workspace:
        return Accesses(forward, backward)
    return Accesses(f"{forward} >forward", f"{backward} >back", dict.fromkeys(("forward", "back"), _bytes(workspace)))


def _batch_normalization(f, workspace):
    """Statistics and what belongs to a channel are float32; a gradient of the input that is not wanted has a buffer."""
    beta = None if f.info.args.get("no_bias") else 1
    gamma = None if f.info.args.get("no_scale") else 1 + (beta or 0)
    mean = 1 + sum(i is not None for i in (beta, gamma))
    scales = "".join(f" x{i}:float32" for i in (beta, gamma) if i)
    if not f.info.args["batch_stat"]:
        statistics = f"x{mean}:float32 x{mean + 1}:float32"
        return Accesses(f"x0{scales} {statistics} >y0", f"{statistics} dy0 x0 dx*")
    channels = Buffer(lambda f: f.inputs[mean].size, "float32")
    gradients = "".join(f" dx{i}:float32" for i in (beta, gamma) if i)
    unwanted = "" if f.inputs[0].need_grad else " >unwanted"
    return Accesses(f"x0{scales} >y0 >mean >variance +x{mean}:float32 +x{mean + 1}:float32",
                    f"dy0 mean variance x0{unwanted} dx0{scales}{gradients}",
                    {"mean": channels, "variance": channels,
                     "unwanted": Buffer(lambda f: f.inputs[0].size, "float32", held=False)})


def _pooling(f, workspace):
    return Accesses("x0 >y0", "dx0 dy0 y0 x0")


def _dropout(f, workspace):
    return Accesses("x0 >y0 >mask", "dx0 dy0 mask ~mask", {"mask": Buffer(lambda f: f.inputs[0].size, "float32")})


def _instance_normalization(f, workspace):
    """Sums and factors for each map of each image, without copies of the input."""
    held, passing = Buffer(maps), Buffer(maps, held=False)
    return Accesses("x0 >mean >variance x1 x2 +y0", "x0 dy0 +a +b x2 mean variance >c >d dx0 dx1 dx2",
                    {"mean": held, "variance": held, **dict.fromkeys("abcd", passing)})


def _by_properties(f, workspace):
    return by_properties(f)


_POOLINGS = ("MaxPooling", "AveragePooling", "SumPooling")
# Functions that touch other arrays on a GPU than on a CPU: entry of (function, bytes of a workspace).
CUDNN: dict[str, Callable[[Any, int], Accesses]] = {
    "BatchNormalization": _batch_normalization, "Convolution": _convolution, "Deconvolution": _deconvolution,
    "DepthwiseConvolution": _by_properties, "Dropout": _dropout, "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _by_properties,
    **dict.fromkeys(_POOLINGS, _pooling),
}
