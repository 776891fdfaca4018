"""Where nnabla computes: on the CPU, or on a GPU through nnabla's CUDA extension and cuDNN."""
import contextlib
import contextvars
import ctypes
import importlib
import importlib.util
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.machine.cuda_extension import load_corrected_library
from common.machine.errors import UsageError
from common.machine.reductions import BrokenReductionsError, check_reductions, reason_of
from common.machine.streams import say

CONTEXTS = ("auto", "cpu", "cudnn")
INSTALL = "run 'pip install -r requirements-cuda.txt', or use -c cpu"
_native = contextvars.ContextVar("native functions", default=False)
_fast_gradients = contextvars.ContextVar("fast gradients", default=False)

# Where NVIDIA's wheels keep what the extension links to, each after what it needs itself. NCCL serves several GPUs.
LIBRARIES = (
    "cuda_runtime/lib/libcudart.so.12",
    "nvjitlink/lib/libnvJitLink.so.12",
    "cuda_nvrtc/lib/libnvrtc.so.12",
    "cublas/lib/libcublasLt.so.12",
    "cublas/lib/libcublas.so.12",
    "cufft/lib/libcufft.so.11",
    "curand/lib/libcurand.so.10",
    "cusolver/lib/libcusolver.so.11",
    "cudnn/lib/libcudnn.so.8",
    "nccl/lib/libnccl.so.2",
)


def use_context(name: str = "auto", device_id: str | int = "0") -> str:
    """Make nnabla compute on the CPU or on a GPU from here on.

    Parameters
    ----------
    name
        `cpu`, `cudnn` (a GPU), or `auto`: a GPU if there is a working one, otherwise the CPU. With `auto`, a line on
        stderr says why the CPU computes if the extension is installed and does not work.
    device_id
        Which GPU, counted from 0.

    Returns
    -------
    str
        What was chosen: `cpu` or `cudnn, GPU 0`.

    Raises
    ------
    UsageError
        An unknown name; a device id that is no number or that no GPU has; `cudnn` where no GPU works.
    """
    if name not in CONTEXTS:
        raise UsageError(f"--context {name!r}: choose one of {', '.join(CONTEXTS)}")
    device_id = _checked_device_id(device_id)
    installed = importlib.util.find_spec("nnabla_ext.cudnn") is not None
    if name == "cudnn" and not installed:
        raise UsageError(f"-c cudnn: nnabla's CUDA extension is not installed: {INSTALL}")
    if name == "cpu" or not installed:
        return _use_cpu()
    try:
        _load_extension(device_id)
        check_reductions(device_id)    # before this process has the GPU: it may be one for a single process
        context = tried_context(device_id)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if name == "cudnn":
            raise UsageError(f"-c cudnn: {_explain(error)}") from error
        say(f"warning: computing on the CPU: {_explain(error)}")
        return _use_cpu()
    nn.set_default_context(context)
    return f"cudnn, GPU {device_id}"


def on_gpu() -> bool:
    """Tell whether the current nnabla context computes on a GPU."""
    return any(backend.split(":")[0] in ("cudnn", "cuda") for backend in nn.get_current_context().backend)


@contextlib.contextmanager
def native_functions() -> Iterator[None]:
    """Within this block, layers are made of nnabla's own functions on a CPU, too.

    Exports of a graph need them, and comparisons with them. It holds for the current thread.
    """
    token = _native.set(True)
    try:
        yield
    finally:
        _native.reset(token)


def wants_native() -> bool:
    """Tell whether layers are to be made of nnabla's own functions: on a GPU, and inside `native_functions`.

    Otherwise compiled ones (`common.cpu`) are faster.
    """
    return _native.get() or on_gpu()


def wants_gpu_kernels() -> bool:
    """Tell whether kernels of this repository may take the place of nnabla's functions: on a GPU, unless inside
    `native_functions`.
    """
    return on_gpu() and not _native.get()


@contextlib.contextmanager
def fast_gradients(wanted: bool = True) -> Iterator[None]:
    """Within this block, convolutions on a CPU are built to sum their gradients in the fastest order, if `wanted`.

    Outputs keep their bits; gradients agree with those of other orders to rounding. It holds for the current thread.

    Raises
    ------
    UsageError
        A GPU computes, whose gradients this does not change.
    """
    if wanted and on_gpu():
        raise UsageError("--fast-gradients is for a CPU: leave it out on a GPU, or add -c cpu")
    token = _fast_gradients.set(wanted)
    try:
        yield
    finally:
        _fast_gradients.reset(token)


def wants_fast_gradients() -> bool:
    """Tell whether convolutions are to be built inside `fast_gradients`."""
    return _fast_gradients.get()


def find_library(name: str) -> Path | None:
    """Path of a library of NVIDIA's wheels, one of `LIBRARIES`; None where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for path in (Path(folder) / name for folder in folders) if path.exists()), None)


def _checked_device_id(device_id: str | int) -> str:
    text = str(device_id)
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise UsageError(f"--device-id {text!r}: not the number of a GPU (0, 1, ...)")
    return str(int(text))


def _use_cpu():
    nn.set_default_context(nn.Context(["cpu:float"], "CpuCachedArray", "0"))
    return "cpu"


def tried_context(device_id: str) -> nn.Context:
    """Load the extension and make a context that has been seen to work, reductions aside (`check_reductions`).

    Raises
    ------
    ImportError, OSError, RuntimeError, ValueError
        The extension, a library, the driver or the GPU does not work.
    UsageError
        There are GPUs, and none with this number.
    """
    extension = _load_extension(device_id)
    # The extension's own context() also asks for the GPU's name, through a library that not every container has.
    context = nn.Context(["cudnn:float", "cuda:float", "cpu:float"], extension.array_classes()[0], device_id)
    _try_out(context)
    return context


def _load_extension(device_id):
    """Return the module of the extension; raises as `tried_context` does."""
    with _muted_nnabla():
        _load_libraries()
        load_corrected_library()
        extension = importlib.import_module("nnabla_ext.cudnn")
    count = extension.get_device_count()
    if int(device_id) >= count > 0:
        raise UsageError(f"--device-id {device_id}: no such GPU, the highest number here is {count - 1}")
    return extension


@contextlib.contextmanager
def _muted_nnabla():
    """Keep what the extension prints and logs when it fails off the terminal: the caller says it in one line."""
    logger = logging.getLogger("nnabla")
    disabled, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.disabled = disabled


def _load_libraries():
    """Load the libraries of the NVIDIA wheels, where there are any, so that the loader need not search for them.

    Raises
    ------
    OSError
        A library is damaged or does not fit this machine.
    """
    for path in map(find_library, LIBRARIES):
        if path is not None:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _try_out(context):
    """Compute something small with a kernel of cuDNN and one of nnabla.

    Raises
    ------
    RuntimeError
        It failed, came out wrong, or was not computed on the GPU.
    """
    with nn.context_scope(context), nn.auto_forward(False):
        image, kernel = (nn.Variable.from_numpy_array(np.ones((1, 1, 3, 3))) for _ in range(2))
        nine = F.convolution(image, kernel)
        # After a failed start the extension stays silent, and nnabla takes the functions of the CPU.
        if "Cudnn" not in nine.parent.name:
            raise RuntimeError("cuDNN could not be started")
        y = F.log(nine)
        y.forward()
        if not np.allclose(y.d, np.log(9), rtol=1e-2):
            raise RuntimeError(f"the GPU computes log(9) as {float(y.d.ravel()[0])}")


def _explain(error):
    """Say in one line why the GPU does not work and what to do."""
    if isinstance(error, BrokenReductionsError):
        return str(error)
    reason = reason_of(error)
    if "libcuda.so" in reason:
        return f"no NVIDIA driver ({reason}): install one, or use -c cpu"
    if isinstance(error, (ImportError, OSError)):
        return f"nnabla's CUDA extension cannot be loaded ({reason}): {INSTALL}"
    return f"no working GPU ({reason}): check what nvidia-smi says, or use -c cpu"
