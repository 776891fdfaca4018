"""What out-of-core training needs of the device: how much memory it has, and nnabla's classes of arrays."""
import importlib
import math
import os
import re

import nnabla as nn

from common.machine.context import on_gpu
from common.machine.errors import UsageError
from common.machine.memory import machine_memory

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
LEAST_CHUNK = 2 << 20       # bytes of a piece of virtual memory: the least that a GPU maps
CHUNKS_OF_BUDGET = 1024     # about as many pieces have room in a budget
LARGEST = 2**60    # bytes, far beyond what any machine has
WORKSPACE_LIMIT = "NNABLA_CUDNN_WORKSPACE_LIMIT"    # environment variable of nnabla; bytes, no limit below 0
MARGIN = 0.1    # of the free memory, which the allocator, fragments and buffers of libraries may take
_AMOUNT = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)


def device_memory() -> tuple[int, int]:
    """Free and total memory in bytes of the GPU that computes, or of this machine where none does."""
    if on_gpu():
        return tuple(_cuda().get_device_memory_size())
    return machine_memory()


def parse_bytes(value: str | float, what: str = "budget") -> int:
    """Convert `12GB`, `1.5 GiB` or a number of bytes to an integer, at least 1.

    Raises
    ------
    UsageError
        It is none of these.
    """
    match = _AMOUNT.fullmatch(str(value).strip())
    if not match or match[2].lower() not in UNITS:
        raise UsageError(f"{what} {value!r}: not an amount of memory such as 12GB, 800MiB or a number of bytes")
    number = float(match[1]) * UNITS[match[2].lower()]
    if not 1 <= number <= LARGEST:
        raise UsageError(f"{what} {value!r}: choose an amount from 1 byte to {format_bytes(LARGEST)}")
    return int(match[0]) if match[0].isdigit() else int(number)


def parse_budget(value: str | float, free: int, total: int) -> int:
    """Bytes of the device that arrays may take.

    Parameters
    ----------
    value
        `auto`: what is free, less a tenth. A fraction of the total up to 1.0, as a float or its text. Otherwise an
        amount as for `parse_bytes`.
    free, total
        Memory of the device in bytes.

    Raises
    ------
    UsageError
        It is none of these, not positive, or more than the device has.
    """
    if isinstance(value, str) and value.strip().lower() == "auto":
        budget = int(free * (1 - MARGIN))
    elif _is_fraction(value):
        budget = int(float(value) * total)
    else:
        budget = parse_bytes(value)
    if budget < 1:
        raise UsageError(f"budget {value!r}: less than a byte of the device, which has {format_bytes(total)}, "
                         f"{format_bytes(free)} of them free")
    if budget > total:
        raise UsageError(f"budget {value!r}: the device has {format_bytes(total)} ({total} bytes)")
    return budget


def _is_fraction(value):
    text = str(value).strip()
    try:
        return 0 < float(text) <= 1 and not text.isdigit()    # 1 is a byte, 1.0 all that there is
    except ValueError:
        return False


def format_bytes(num_bytes: float) -> str:
    """Bytes as a short text with a decimal unit."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.4g} {unit}"
    return f"{num_bytes} B"


def chunk_for(budget: int) -> int:
    """Bytes of a piece of virtual memory, a power of two: about a thousandth of a budget.

    Mapping a piece takes as long for a large one as for a small one, so that large ones are fast. But each array, and
    most are small, wastes up to one: a network such as ResNet-50 has 500 of them.
    """
    return max(LEAST_CHUNK, 2 ** round(math.log2(budget / CHUNKS_OF_BUDGET)))


def workspace_limit(budget: int) -> int | None:
    """Most bytes that cuDNN may take for a workspace: what the user chose, or an eighth of a budget; None: no limit.

    nnabla holds the limit in a signed word of 32 bits, and refuses more.
    """
    chosen = os.environ.get(WORKSPACE_LIMIT)
    if chosen is None:
        return min(budget // 8, 2**31 - 1)
    return int(chosen) if chosen.isascii() and chosen.isdigit() else None


def limit_workspaces(budget: int) -> None:
    """Let cuDNN take at most an eighth of a budget for the workspace of a convolution, unless the user chose a limit.

    nnabla reads the limit when it uses cuDNN for the first time.
    """
    os.environ.setdefault(WORKSPACE_LIMIT, str(workspace_limit(budget)))


def prepare_contexts(virtual: bool, chunk: int) -> tuple[nn.Context, nn.Context]:
    """Choose classes of arrays and make them nnabla's from here on.

    On a GPU: pinned memory on the host, whose copies run beside the computation; on the device, with `virtual`, chunks
    of `chunk` bytes mapped to virtual addresses, which swapping does not fragment.

    Returns
    -------
    host, device
        The device's is the default context from now on; what was built before keeps its own.
    """
    if not on_gpu():
        host, current = nn.Context(["cpu:float"], "CpuCachedArray", "0"), nn.get_current_context()
        # nnabla's first context has no class, and that of its extension for a CPU no device; the scheduler needs both.
        device = nn.Context(current.backend, current.array_class or host.array_class,
                            current.device_id or host.device_id)
        if not current.array_class:
            nn.set_default_context(device)
        return host, device
    cuda, current = _cuda(), nn.get_current_context()
    # A context stores the name of its class, so the preferences come first.
    cuda.prefer_cpu_pinned_array()
    if virtual:
        cuda.set_cuda_virtual_memory_chunk_size(chunk)
        cuda.prefer_cuda_virtual_array()
    else:
        cuda.prefer_cuda_cached_array()
    host = nn.Context(["cpu:float"], importlib.import_module("nnabla._init").array_classes()[0], "")
    device = nn.Context(current.backend, cuda.array_classes()[0], current.device_id)
    nn.set_default_context(device)
    return host, device


def free_caches(virtual: bool) -> None:
    """Give unused blocks of nnabla's allocators back to the device."""
    if on_gpu():
        _cuda().clear_memory_cache()
        if virtual:
            _cuda().clear_virtual_memory_cache()


def synchronize() -> None:
    """Wait until the GPU has done what it was told; on a CPU there is nothing to wait for."""
    if on_gpu():
        _cuda().device_synchronize(nn.get_current_context().device_id)


def _cuda():
    return importlib.import_module("nnabla_ext.cuda.init")
