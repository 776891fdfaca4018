"""Compile the source of kernels for a GPU by NVRTC, NVIDIA's run-time compiler, which needs no GPU itself.

It comes with requirements-cuda.txt, as nnabla's extension does, or with CUDA. It is called through ctypes: CuPy or
numba-cuda would bring allocators, streams and pinned packages of their own for the three calls that are needed here.
"""
import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from common.machine.context import find_library

LIBRARY = "cuda_nvrtc/lib/libnvrtc.so.12"
# Products and sums are not fused: numbers are those of nnabla's single functions.
OPTIONS = ("--fmad=false", "--std=c++14")


class CompilationError(RuntimeError):
    """NVRTC refuses a source, or what is asked of it."""


def compile_source(path: Path, capability: tuple[int, int]) -> bytes:
    """Compile a file.

    Parameters
    ----------
    path
        CUDA C++ that includes nothing.
    capability
        Of the GPU: (9, 0) for an H100.

    Returns
    -------
    bytes
        Machine code, or PTX, which the driver compiles, where the GPU is newer than NVRTC.

    Raises
    ------
    OSError
        NVRTC is not installed.
    CompilationError
        The source has an error, or the GPU is older than NVRTC supports.
    """
    library = _load()
    supported = _architectures(library)
    wanted = 10 * capability[0] + capability[1]
    known = [architecture for architecture in supported if architecture <= wanted]
    if not known:
        raise CompilationError(f"NVRTC knows no GPU of compute capability {capability[0]}.{capability[1]}")
    kind, result = ("sm", "CUBIN") if known[-1] == wanted else ("compute", "PTX")
    return _compile(library, path, f"{kind}_{known[-1]}", result)


def _load():
    path = find_library(LIBRARY)
    return ctypes.CDLL(Path(LIBRARY).name if path is None else str(path))    # by name: where the loader searches


def _check(library, status, what):
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompilationError(f"NVRTC: {what}: {library.nvrtcGetErrorString(status).decode()}")


def _architectures(library):
    """Compute capabilities that NVRTC knows, ascending, as numbers of two digits and more."""
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "architectures")
    found = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(found), "architectures")
    return sorted(found)


def _compile(library, path, architecture, result):
    program, source = ctypes.c_void_p(), path.read_bytes()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source, path.name.encode(), 0, None, None),
           path.name)
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
        with _locale_kept():
            status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status:
            first_line = _read(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            _check(library, status, first_line.split("\n")[0] or path.name)
        return _read(library, program, result)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


@contextlib.contextmanager
def _locale_kept() -> Iterator[None]:
    """Keep the locale of this thread. NVRTC before 12.6.2 leaves it as "C", where Python takes all text for ASCII."""
    if os.name != "posix":
        yield
        return
    uselocale = ctypes.CDLL(None).uselocale
    uselocale.restype, uselocale.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = uselocale(None)
    try:
        yield
    finally:
        uselocale(before)


def _read(library, program, what):
    """Fetch a text or an image of a program."""
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer), what)
    return buffer.raw
