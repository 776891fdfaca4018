"""Run a test-mode network on nnabla, onnxruntime, openvino or our own loops, with the same float32 numbers.

Which is fastest depends on the network: seconds on two cores at the published sizes, and memory that compiling and
running take beside the parameters,

    X-UMX, 6 s of stereo        onnxruntime 0.20, 330 MB    openvino 0.21, 660 MB    nnabla 0.47 (compiled functions)
    X-UMX, 4 times 20 s         onnxruntime 2.4, 740 MB     openvino 2.9, 1330 MB    nnabla 5.6 (compiled functions)
    D3Net, one target of 6 s    onnxruntime 3.9, 780 MB     openvino 2.6, 550 MB     nnabla 54 (its own functions)
    the same, on idle cores     onnxruntime 2.2             openvino 1.6             winograd 1.0, 380 MB

`auto` chooses accordingly.
"""
import functools
import importlib.util
import io
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.inference import graph, network_cache, winograd
from common.inference.forks import check_process, left_alone_by_forks
from common.machine.context import native_functions, on_gpu
from common.machine.cores import num_threads
from common.machine.errors import UsageError
from common.machine.threads import NNABLA

REQUIREMENTS = {"onnxruntime": "requirements.txt", "openvino": "requirements-openvino.txt"}
ENGINES = ("nnabla", *REQUIREMENTS, "winograd")
PRECISIONS = {"float32": "f32", "bf16": "bf16"}    # names of openvino


@attrs.frozen
class CompiledNetwork:
    """A compiled network: called with float32 arrays of the shapes `shapes`, it returns a tuple of new ones.

    `engine` is the name of what runs it. Threads may share it: each gets the numbers that it would get alone.

    Raises
    ------
    UserError
        As `common.inference.forks.check_process`.
    """

    engine: str
    shapes: list[tuple[int, ...]]
    _compute: Callable[[list[np.ndarray]], list]

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        contiguous = [np.ascontiguousarray(array, np.float32) for array in arrays]
        shapes = [array.shape for array in contiguous]
        assert shapes == self.shapes, (shapes, self.shapes)
        check_process(self.engine)
        return tuple(self._compute(contiguous))


def compile_network(build: Callable[..., nn.Variable | Sequence[nn.Variable]], shapes: Sequence[Sequence[int]],
                    engine: str = "auto", precision: str = "float32") -> CompiledNetwork:
    """Prepare a network for inputs of fixed shapes.

    Parameters
    ----------
    build
        Takes an nn.Variable for each input and returns the output, or a tuple of outputs, of a test-mode graph.
    shapes
        Of the inputs.
    engine
        `nnabla`, `onnxruntime`, `openvino`, `winograd` (see `common.inference.winograd`); or `auto`: nnabla on a GPU;
        otherwise winograd for a network that it can run, openvino if it is installed and the network has no LSTM, else
        onnxruntime.
    precision
        `float32`, or `bf16` (openvino only): products of numbers with 8 significant bits.

    Returns
    -------
    CompiledNetwork
        It has a copy of the parameters as they are now, except on nnabla, where it shares them.

    Raises
    ------
    UsageError
        An engine that is unknown, not installed or without a function of the network; a precision that it, or this
        CPU, does not have.
    UserError
        As `common.inference.forks.check_process`.
    """
    check_engine(engine, precision)
    with NNABLA:
        return _compile(build, [tuple(shape) for shape in shapes], engine, precision)


def _compile(build, shapes, engine, precision):
    if engine == "nnabla" or (engine == "auto" and on_gpu()):
        check_process("nnabla")
        return CompiledNetwork("nnabla", shapes, _nnabla(*_build_graph(build, shapes)))
    with native_functions():
        inputs, outputs = _build_graph(build, shapes)
    inputs = {f"x{k}": variable for k, variable in enumerate(inputs)}
    outputs = {f"y{k}": variable for k, variable in enumerate(outputs)}
    if engine == "winograd" or (engine == "auto" and graph.function_types(outputs) <= winograd.FUNCTIONS):
        try:
            return CompiledNetwork("winograd", shapes, left_alone_by_forks(_winograd(build, shapes)))
        except ValueError as error:
            if engine == "winograd":
                raise UsageError(f"--engine winograd: it cannot run this network ({error}); choose another") from error
    if engine == "auto":
        has_lstm = "LSTM" in graph.function_types(outputs)
        engine = "openvino" if not has_lstm and is_installed("openvino") else "onnxruntime"
    check_process(engine)
    compute = _openvino(inputs, outputs, precision) if engine == "openvino" else _onnxruntime(inputs, outputs)
    return CompiledNetwork(engine, shapes, left_alone_by_forks(compute))


def check_engine(engine: str, precision: str) -> None:
    """Raise the UsageError of `compile_network` for an engine that is missing here, or that lacks the precision."""
    if engine not in ("auto", *ENGINES):
        raise UsageError(f"--engine {engine!r}: choose one of {', '.join(('auto', *ENGINES))}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "float32" and engine != "openvino":
        raise UsageError(f"--precision {precision}: only openvino computes with it; add --engine openvino")
    if engine in REQUIREMENTS and not is_installed(engine):
        other = "onnxruntime" if engine == "openvino" else "nnabla"
        raise UsageError(f"{engine} is not installed: run 'pip install -r {REQUIREMENTS[engine]}' or choose "
                         f"--engine {other}")


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is there."""
    return importlib.util.find_spec(engine) is not None


def _build_graph(build, shapes):
    """Return lists of the inputs and the outputs of a new graph."""
    inputs = [nn.Variable(shape) for shape in shapes]
    with nn.auto_forward(False):
        outputs = build(*inputs)
    return inputs, [outputs] if isinstance(outputs, nn.Variable) else list(outputs)


# Engines: each returns a function from a list of arrays to those of the outputs.


def _nnabla(inputs, outputs):
    def compute(arrays):
        with NNABLA:    # the variables hold one input at a time, and share the parameters with other graphs
            for variable, array in zip(inputs, arrays, strict=True):
                variable.d = array
            nn.forward_all(outputs, clear_no_need_grad=True)
            return [variable.d.copy() for variable in outputs]
    return compute


def _winograd(build, shapes):
    with native_functions():
        graphs = _build_graph(build, [(1, *shape[1:]) for shape in shapes])    # one picture at a time
    return winograd.Program(*({str(k): variable for k, variable in enumerate(variables)} for variables in graphs))


def _onnx_model(inputs, outputs):
    from common.inference import onnx_export

    return onnx_export.export(inputs, outputs).SerializeToString()


def _onnxruntime(inputs, outputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    options.log_severity_level = 3    # errors only
    # Planning the memory of a run ahead makes no run faster here, and peaks 10 % (X-UMX) to 70 % (D3Net) higher.
    options.enable_mem_pattern = False
    key = f"onnx-{graph.fingerprint(inputs, outputs)}"
    model = network_cache.find(key)
    if model is None:
        content = _onnx_model(inputs, outputs)
        model = network_cache.store(key, content) or content
        del content    # 140 MB for X-UMX, which the session reads from the file
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda arrays: list(session.run(list(outputs), dict(zip(inputs, arrays, strict=True))))


@functools.cache
def openvino_core() -> Any:
    """Return the Core of this process, which stays.

    openvino gives the thread that makes a Core a stack for signals, and unmaps it with the Core. Where another thread
    does that, as garbage is collected in any, the next signal, such as Ctrl-C, would be a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _openvino(inputs, outputs, precision):
    import openvino

    core = openvino_core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        # Without such instructions it would be several times slower than in float32.
        raise UsageError("--precision bf16: this CPU has no instructions for it; leave it out")
    settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "INFERENCE_NUM_THREADS": num_threads(),
                "PERFORMANCE_HINT": "LATENCY"}
    made_for = openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"), capabilities, precision
    key = f"openvino-{zlib.crc32(repr(made_for).encode()):08x}-{graph.fingerprint(inputs, outputs)}"
    path, weights = network_cache.find(key), None
    if path is not None:
        weights = np.memmap(path, np.uint8, "c")    # the network uses them in place
        network = core.import_model(openvino.Tensor(weights, shared_memory=True), "CPU", settings)
    else:
        model = core.read_model(_onnx_model(inputs, outputs))
        network = core.compile_model(model, "CPU", settings)
        network.export_model(content := io.BytesIO())
        network_cache.store(key, content.getbuffer())
    request, alone = network.create_infer_request(), threading.Lock()

    def compute(arrays, _weights=weights):    # the network reads them as long as it exists
        with alone:    # a request computes one result at a time; it uses all cores
            results = request.infer(dict(enumerate(arrays)), share_inputs=True)
            return [results[k] for k in range(len(outputs))]
    return compute
