"""Memory and speed of a device, from the vendor's data sheet or measured here."""
import time

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.machine.context import on_gpu
from common.out_of_core.device import device_memory, synchronize

# Shares of the data sheet's rates that training code is assumed to reach: about those that cuDNN's convolutions, its
# normalizations and pinned copies are known for. A measured device needs none.
ARITHMETIC_SHARE, MEMORY_SHARE, LINK_SHARE = 0.6, 0.8, 0.8


@attrs.frozen
class Device:
    """A device.

    Attributes
    ----------
    memory
        Bytes.
    flops
        float32 operations per second.
    bandwidth
        Bytes per second of its memory.
    link
        Bytes per second to and from the host, each way.
    """

    name: str
    source: str
    memory: float
    flops: float
    bandwidth: float
    link: float


def _data_sheet(name, source, memory, tera_flops, memory_rate, link_rate):
    """A device from the numbers of its data sheet: GB, 10^12 operations per second, GB/s, GB/s each way."""
    return Device(name, source, memory * 1e9, tera_flops * 1e12 * ARITHMETIC_SHARE, memory_rate * 1e9 * MEMORY_SHARE,
                  link_rate * 1e9 * LINK_SHARE)


DEVICES = {device.name: device for device in (
    _data_sheet("V100-16GB", "NVIDIA's V100 data sheet, V100 PCIe", 16, 14, 900, 16),        # PCIe 3.0 x16
    _data_sheet("A100-40GB", "NVIDIA's A100 data sheet, A100 40GB PCIe", 40, 19.5, 1555, 32),    # PCIe 4.0 x16
    _data_sheet("H100-80GB", "NVIDIA's H100 data sheet, H100 SXM", 80, 67, 3350, 64),        # PCIe 5.0 x16
)}


def measured_device() -> Device:
    """Measure the device of the current context: a matrix product, an elementwise function, and copies."""
    a = nn.Variable.from_numpy_array(np.ones((1024, 1024), np.float32))
    product = F.affine(a, nn.Variable.from_numpy_array(np.ones((1024, 1024), np.float32)))
    large = nn.Variable.from_numpy_array(np.ones(1 << 24, np.float32))    # 64 MiB
    scaled = F.mul_scalar(large, 2)
    return Device("mine", "measured here", device_memory()[1], 2 * 1024**3 / _seconds(product.forward),
                  2 * large.size * 4 / _seconds(scaled.forward), large.size * 4 / _seconds(_copy(large)))


def _copy(variable):
    """A function that copies an array to the device, or in memory where the host is the device."""
    values = np.ones(variable.shape, np.float32)

    def copy():
        variable.d = values
        if on_gpu():
            variable.data.cast(np.float32, nn.get_current_context())
    return copy


def _seconds(compute, times=3):
    """Least seconds of a few calls, after one that does not count."""
    compute()
    synchronize()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        compute()
        synchronize()
        best = min(best, time.perf_counter() - start)
    return best
