"""Run a test-mode network on nnabla, onnxruntime or openvino, with the same float32 numbers.

Which is fastest depends on the network: seconds on two cores at the published sizes, and memory that compiling and
running take beside the parameters,

    X-UMX, 6 s of stereo        onnxruntime 0.20, 330 MB    openvino 0.21, 660 MB    nnabla 0.47 (compiled functions)
    X-UMX, 4 times 20 s         onnxruntime 2.4, 740 MB     openvino 2.9, 1330 MB    nnabla 5.6 (compiled functions)
    D3Net, one target of 6 s    onnxruntime 3.9, 780 MB     openvino 2.6, 550 MB     nnabla 54 (its own functions)

hence the choice of `auto`.
"""
import contextlib
import functools
import importlib.util
import io
import os
import zlib
from collections.abc import Callable

import attrs
import nnabla as nn
import numpy as np

from common.downloads.fetch import cache_dir
from common.inference import onnx_export
from common.machine.context import native_functions, on_gpu
from common.machine.cores import num_threads
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, replacing

REQUIREMENTS = {"onnxruntime": "requirements.txt", "openvino": "requirements-openvino.txt"}
ENGINES = ("nnabla", *REQUIREMENTS)
PRECISIONS = {"float32": "f32", "bf16": "bf16"}    # names of openvino
CACHE_LIMIT = 1 << 30    # bytes of compiled networks that are kept, the last used ones


def add_engine_flags(arguments):
    """Add `--engine` and `--precision`, to be passed to `compile_network`."""
    arguments.add_argument("--engine", choices=("auto", *ENGINES), default="auto",
                           help="what runs the network; auto takes the fastest that is installed, and nnabla on a GPU "
                                "(default: %(default)s)")
    arguments.add_argument("--precision", choices=tuple(PRECISIONS), default="float32",
                           help="bf16 is faster and less exact, for --engine openvino on a CPU that has it "
                                "(default: %(default)s)")


@attrs.frozen
class Network:
    """A compiled network: called with float32 arrays of the shapes `shapes`, it returns a tuple of new ones.

    `engine` is the name of what runs it.
    """

    engine: str
    shapes: list
    _compute: Callable

    def __call__(self, *arrays):
        arrays = [np.ascontiguousarray(array, np.float32) for array in arrays]
        shapes = [array.shape for array in arrays]
        assert shapes == self.shapes, (shapes, self.shapes)
        return tuple(self._compute(arrays))


def compile_network(build, shapes, engine="auto", precision="float32"):
    """Prepare a network for inputs of fixed shapes.

    Parameters
    ----------
    build : callable
        Takes an nn.Variable for each input and returns the output, or a tuple of outputs, of a test-mode graph.
    shapes : sequence of tuple of int
        Of the inputs.
    engine : str
        `nnabla`, `onnxruntime`, `openvino`; or `auto`: nnabla on a GPU; otherwise openvino if it is installed and the
        network has no LSTM, else onnxruntime.
    precision : str
        `float32`, or `bf16` (openvino only): products of numbers with 8 significant bits.

    Returns
    -------
    Network
        It has a copy of the parameters as they are now, except on nnabla, where it shares them.

    Raises
    ------
    UsageError
        An engine that is unknown or not installed; a precision that it, or this CPU, does not have.
    """
    check_engine(engine, precision)
    shapes = [tuple(shape) for shape in shapes]
    if engine == "nnabla" or (engine == "auto" and on_gpu()):
        return Network("nnabla", shapes, _nnabla(*_graph(build, shapes)))
    with native_functions():
        inputs, outputs = _graph(build, shapes)
    inputs, outputs = ({f"{kind}{k}": v for k, v in enumerate(vs)} for kind, vs in (("x", inputs), ("y", outputs)))
    if engine == "auto":
        suits = "LSTM" not in onnx_export.function_types(outputs)
        engine = "openvino" if suits and _installed("openvino") else "onnxruntime"
    compute = _openvino(inputs, outputs, precision) if engine == "openvino" else _onnxruntime(inputs, outputs)
    return Network(engine, shapes, compute)


def check_engine(engine, precision):
    """Raise a UsageError if there is no such engine here, or it has no such precision; `compile_network` does, too."""
    if engine not in ("auto", *ENGINES):
        raise UsageError(f"--engine {engine!r}: choose one of {', '.join(('auto', *ENGINES))}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "float32" and engine != "openvino":
        raise UsageError(f"--precision {precision}: only openvino computes with it; add --engine openvino")
    if engine in REQUIREMENTS and not _installed(engine):
        other = "onnxruntime" if engine == "openvino" else "nnabla"
        raise UsageError(f"{engine} is not installed: run 'pip install -r {REQUIREMENTS[engine]}' or choose "
                         f"--engine {other}")


def _installed(engine):
    return importlib.util.find_spec(engine) is not None


def _graph(build, shapes):
    """Return lists of the inputs and the outputs of a new graph."""
    inputs = [nn.Variable(shape) for shape in shapes]
    with nn.auto_forward(False):
        outputs = build(*inputs)
    return inputs, [outputs] if isinstance(outputs, nn.Variable) else list(outputs)


# Engines: each returns a function from a list of arrays to those of the outputs.


def _nnabla(inputs, outputs):
    def compute(arrays):
        for variable, array in zip(inputs, arrays, strict=True):
            variable.d = array
        nn.forward_all(outputs, clear_no_need_grad=True)
        return [variable.d.copy() for variable in outputs]
    return compute


def _onnxruntime(inputs, outputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    options.log_severity_level = 3    # errors only
    # Planning the memory of a run ahead makes no run faster here, and peaks 10 % (X-UMX) to 70 % (D3Net) higher.
    options.enable_mem_pattern = False
    key = f"onnx-{onnx_export.fingerprint(inputs, outputs)}"
    model = _find(key)
    if model is None:
        content = onnx_export.export(inputs, outputs).SerializeToString()
        model = _store(key, content) or content
        del content    # 140 MB for X-UMX, that the session reads from the file
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(list(outputs), dict(zip(inputs, arrays, strict=True)))


@functools.cache
def _openvino_core():
    """Return the Core of this process, which stays.

    openvino gives the thread that makes a Core a stack for signals, and unmaps it with the Core. Where another thread
    does that, as garbage is collected in any, the next signal, such as Ctrl-C, would be a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _openvino(inputs, outputs, precision):
    import openvino

    core = _openvino_core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        # It would compute, several times slower than in float32.
        raise UsageError("--precision bf16: this CPU has no instructions for it; leave it out")
    settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "INFERENCE_NUM_THREADS": num_threads(),
                "PERFORMANCE_HINT": "LATENCY"}
    made_for = openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"), capabilities, precision
    key = f"openvino-{zlib.crc32(repr(made_for).encode()):08x}-{onnx_export.fingerprint(inputs, outputs)}"
    path, weights = _find(key), None
    if path is not None:
        weights = np.memmap(path, np.uint8, "c")    # which the network uses where they lie
        network = core.import_model(openvino.Tensor(weights, shared_memory=True), "CPU", settings)
    else:
        model = core.read_model(onnx_export.export(inputs, outputs).SerializeToString())
        network = core.compile_model(model, "CPU", settings)
        network.export_model(content := io.BytesIO())
        _store(key, content.getbuffer())
    request = network.create_infer_request()

    def compute(arrays):
        results = request.infer(dict(enumerate(arrays)), share_inputs=True)
        return [results[k] for k in range(len(outputs))]
    compute.weights = weights    # to be there as long as the network
    return compute


# Cache: files '<key>-<checksum of the content>' in one folder. Not being able to use it is no error.


def _folder():
    return cache_dir() / "engines"


def _find(key):
    """Return the path of what is stored under `key`, None if there is nothing; what is damaged is removed."""
    with contextlib.suppress(OSError):
        for path in _folder().glob(f"{key}-*"):
            if path.name == f"{key}-{_checksum(path):08x}":
                with contextlib.suppress(OSError):
                    os.utime(path)    # the files used last are kept
                return path
            path.unlink()
    return None


def _checksum(path):
    checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _store(key, content):
    """Store bytes under `key` and return their path; None if that is not possible."""
    with contextlib.suppress(OSError, UserError):
        path = make_folder(_folder()) / f"{key}-{zlib.crc32(content):08x}"
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        _remove_oldest(path)
        return path
    return None


def _remove_oldest(newest):
    """Remove the files beside `newest` that were used longest ago, until all together have `CACHE_LIMIT` bytes."""
    others = ((path, path.stat()) for path in newest.parent.iterdir() if path != newest)
    total = newest.stat().st_size
    for path, stat in sorted(others, key=lambda pair: pair[1].st_mtime, reverse=True):
        total += stat.st_size
        if total > CACHE_LIMIT:
            path.unlink(missing_ok=True)
