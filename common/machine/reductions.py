"""Whether a GPU can reduce over the lanes of a warp, as nnabla's own kernels do: one that is not able traps.

`common.machine.fatbin` says why the library of nnabla's wheel is wrong for some GPUs.
"""
import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

from common.machine.cache import remembered
from common.machine.cuda_extension import COMMAND, can_be_corrected, corrected_library, digest_of, installed_library

SECONDS = 300    # for the trial, with the start of the extension
_DRIVER = Path("/proc/driver/nvidia/version")
_TRAPPED = "illegal instruction"


class BrokenReductionsError(RuntimeError):
    """A GPU that computes, but not reductions. The message says in one line what is wrong and what to do."""


def check_reductions(device_id: str) -> None:
    """Try reductions on a GPU once for each driver, kind of GPU and library, and remember how it went.

    Raises
    ------
    BrokenReductionsError
        They trap, or did so before.
    RuntimeError
        The trial failed for another reason, which is not remembered.
    """
    library = corrected_library() or installed_library()
    key = " | ".join((_driver(), _device(device_id), digest_of(library) if library else "no library"))
    reason = remembered("cuda/trials.json", key, lambda: _outcome(device_id))
    if reason:
        raise BrokenReductionsError(_advice(reason))


def reason_of(error: BaseException) -> str:
    """Return the reason in an error of nnabla's: it begins with the place in its sources, and may name the call."""
    last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
    return re.sub(r'^\(.*\) failed with "(.*)".*', r"\1", last_line)


def _outcome(device_id):
    """Run the trial; returns "" or why reductions trap.

    Raises
    ------
    RuntimeError
        It failed for another reason, which may be gone next time.
    """
    paths = [path for path in (*sys.path, os.environ.get("PYTHONPATH")) if path]
    command = [sys.executable, "-m", "common.machine.gpu_trial", device_id]
    try:
        trial = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                               capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"a trial did not end in {SECONDS} seconds") from error
    if trial.returncode == 0:
        return ""
    lines = trial.stdout.strip().splitlines() or trial.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"a trial ended with status {trial.returncode}"
    if _TRAPPED in reason:
        return reason
    raise RuntimeError(reason)


def _advice(reason):
    """Say in one line that reductions fail and what to do."""
    first = f"run '{COMMAND}' once, or " if can_be_corrected() else ""
    return f"nnabla's reductions fail on this GPU ({reason}): {first}use -c cpu"


def _driver():
    return _DRIVER.read_text().partition("\n")[0] if _DRIVER.is_file() else "driver of unknown version"


def _device(device_id):
    """Name and compute capability of a GPU, by CUDA's driver, which the extension has loaded."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "unknown GPU"
    device, major, minor, version = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    driver.cuInit(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGet(ctypes.byref(device), int(device_id))
    driver.cuDeviceGetName(name, len(name), device)
    for attribute, value in ((75, major), (76, minor)):    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return f"{name.value.decode(errors='replace')}, {major.value}.{minor.value}, CUDA {version.value}"
