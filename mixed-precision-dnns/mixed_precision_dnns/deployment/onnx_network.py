"""An exported network in onnxruntime or openvino, with the settings that these have by default."""
import collections
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from common.inference.engines import PRECISIONS, check_engine, openvino_core
from common.inference.forks import check_process, left_alone_by_forks
from common.machine.cores import num_threads
from common.machine.errors import UsageError, UserError
from common.machine.files import temporary_folder
from common.reading.files import decoding
from common.reading.onnx_models import read_onnx

INPUT, OUTPUT = "image", "logits"    # names in the model
_ENGINES = "onnxruntime", "openvino"
_INTEGER_KERNELS = {"QLinearConv": True, "Conv": False, "FusedConv": False}    # of onnxruntime, for convolutions


@attrs.frozen
class Kernels:
    """Convolutions of a network: those that a kernel for integers computes, and all."""

    integer: int
    all: int


class OnnxNetwork:
    """An exported network. Threads may share it.

    Parameters
    ----------
    model : path, or bytes
    engine
        `onnxruntime` or `openvino`.
    precision
        A key of `common.inference.engines.PRECISIONS`, for openvino; the default of the engine if not given. openvino
        computes what is float in bfloat16 then, on a CPU that has it.

    Attributes
    ----------
    shape : tuple of int
        Of the input, (batch, channels, height, width).
    num_classes : int

    Raises
    ------
    UsageError
        There is no such file; the engine is not installed.
    UserError
        It is no network that export.py wrote; as `common.inference.forks.check_process`.
    """

    def __init__(self, model: str | Path | bytes, engine: str = "onnxruntime", precision: str | None = None) -> None:
        if engine not in _ENGINES:
            raise UsageError(f"--engine {engine}: exported networks run on {' or '.join(_ENGINES)}")
        check_engine(engine, precision or "float32")
        check_process(engine)
        self._engine = engine
        name, what, remedy = _name(model), "an ONNX model", "run export.py again"
        self._content = model if isinstance(model, bytes) else read_onnx(
            model, what, remedy, missing=f"{model}: no such file; export.py makes it")
        with decoding(name, what, remedy):
            inputs, outputs, compute = (
                _onnxruntime(self._content) if engine == "onnxruntime" else _openvino(self._content, precision))
        self._compute = left_alone_by_forks(compute)
        if [*inputs] != [INPUT] or outputs != [OUTPUT]:
            raise UserError(f"{name}: not a network that export.py wrote")
        kind, self.shape = inputs[INPUT]
        if kind != "float" or len(self.shape) != 4:
            raise UserError(f"{name}: takes {kind} of shape {self.shape}, no batch of images; {remedy}")
        with decoding(name, what, remedy):
            # A damaged network may fail only now.
            self.num_classes = self.predict(np.zeros((1, *self.shape[1:]), np.float32)).shape[1]

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of images (n, channels, height, width), any number of them."""
        check_process(self._engine)
        batch, parts = self.shape[0], []
        for start in range(0, len(image), batch):
            part = np.zeros(self.shape, np.float32)
            num = min(batch, len(image) - start)
            part[:num] = image[start:start + num]
            parts.append(self._compute(part)[:num])
        return np.concatenate(parts)

    def kernels(self) -> Kernels:
        """Count the convolutions that the engine computes with integers, in the graph that it makes of the model."""
        count = _onnxruntime_kernels if self._engine == "onnxruntime" else _openvino_kernels
        return count(self._content)


Opened = tuple[dict[str, tuple[str, tuple[int, ...]]], list[str], Callable[[np.ndarray], Any]]


def _onnxruntime_session(content: bytes, **options):
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads()
    settings.log_severity_level = 3    # errors only
    for key, value in options.items():
        setattr(settings, key, value)
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def _onnxruntime(content: bytes) -> Opened:
    """Types and shapes of inputs, names of outputs, and what computes the only output of the only input."""
    session = _onnxruntime_session(content)
    inputs = {x.name: (x.type.removeprefix("tensor(").removesuffix(")"), tuple(x.shape)) for x in session.get_inputs()}
    return inputs, [y.name for y in session.get_outputs()], lambda image: session.run(None, {INPUT: image})[0]


def optimized(content: bytes) -> Any:
    """Return the model that a session of onnxruntime with default settings makes of a model, an `onnx.ModelProto`."""
    import onnx

    with temporary_folder(room=2 * len(content)) as folder:
        path = folder / "optimized.onnx"
        _onnxruntime_session(content, optimized_model_filepath=str(path))
        return onnx.load(path)


def _onnxruntime_kernels(content: bytes) -> Kernels:
    nodes = optimized(content).graph.node
    found = [_INTEGER_KERNELS[node.op_type] for node in nodes if node.op_type in _INTEGER_KERNELS]
    return Kernels(sum(found), len(found))


def _openvino_network(content: bytes, precision: str | None):
    settings = {"INFERENCE_NUM_THREADS": num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = PRECISIONS[precision]
    core = openvino_core()
    return core.compile_model(core.read_model(content), "CPU", settings)


def _openvino(content: bytes, precision: str | None) -> Opened:
    network = _openvino_network(content, precision)
    request, alone = network.create_infer_request(), threading.Lock()

    def compute(image):
        with alone:    # a request computes one result at a time; it uses all cores
            return request.infer([image])[0].copy()

    inputs = {x.any_name: ("float" if x.element_type.get_type_name() == "f32" else x.element_type.get_type_name(),
                           tuple(x.shape)) for x in network.inputs}
    return inputs, [y.any_name for y in network.outputs], compute


def runtime_precisions(content: bytes) -> list[tuple[str, str]]:
    """List the operations that openvino with default settings computes of a model: kind and precision, such as u8."""
    graph = _openvino_network(content, None).get_runtime_model()
    details = [operation.get_rt_info() for operation in graph.get_ordered_ops()]
    return [(detail["layerType"].value, detail["runtimePrecision"].value) for detail in details]


def _openvino_kernels(content: bytes) -> Kernels:
    precisions = collections.Counter(precision for kind, precision in runtime_precisions(content)
                                     if kind == "Convolution")
    return Kernels(precisions["u8"] + precisions["i8"], precisions.total())


@functools.cache
def openvino_default_precision() -> str:
    """Return what openvino computes in by default on this CPU, a key of `PRECISIONS`."""
    hint = openvino_core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    return "bf16" if hint == "bf16" else "float32"


def _name(model: str | Path | bytes) -> str:
    """What messages call a model."""
    return f"a model of {len(model)} bytes" if isinstance(model, bytes) else str(model)
