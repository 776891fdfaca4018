"""Memory and speed of a device, from the vendor's data sheet or measured here."""
import math

import attrs

from common.machine.context import on_gpu
from common.out_of_core.device import device_memory
from out_of_core_training.planning.link import CudaCopies, HostCopies, measure_link

# Shares of the data sheet's rates that training code is assumed to reach: about those that cuDNN's convolutions, its
# normalizations and pinned copies are known for. A measured device needs none.
ARITHMETIC_SHARE, MEMORY_SHARE, LINK_SHARE = 0.6, 0.8, 0.8
# Bytes of the inputs per second, from numpy through pageable memory to the device: measured on the machine of an H100.
INPUT_RATE = 3.8e9
# Seconds for each chunk of virtual memory that is mapped to an address, of whatever size. It is the only constant that
# was fitted to swapped iterations: those of `out_of_core_training.planning.h100` with chunks of 2, 8 and 20 MiB.
MAPPING = 120e-6


@attrs.frozen
class Device:
    """A device.

    Attributes
    ----------
    memory
        Bytes.
    flops, bandwidth
        float32 operations per second, and bytes per second of its memory.
    to_device, to_host
        Bytes per second of asynchronous copies from and to pinned memory, while those of the other direction run.
    input_rate
        Bytes per second at which inputs come from the host before anything is computed.
    mapping
        Seconds for a chunk of virtual memory to be mapped.
    """

    name: str
    source: str
    memory: float
    to_device: float
    to_host: float
    flops: float = math.inf
    bandwidth: float = math.inf
    input_rate: float = INPUT_RATE
    mapping: float = MAPPING

    def calibrated(self, predicted: float, measured: float) -> "Device":
        """The device with the arithmetic and the memory that an iteration in-core was measured to have.

        Parameters
        ----------
        predicted, measured
            Seconds of that iteration: by the rates as they are, and as it was.
        """
        return attrs.evolve(self, flops=self.flops * predicted / measured,
                            bandwidth=self.bandwidth * predicted / measured)


def _data_sheet(name, source, memory, tera_flops, memory_rate, link_rate):
    """A device from the numbers of its data sheet: GB, 10^12 operations per second, GB/s, GB/s each way."""
    link = link_rate * 1e9 * LINK_SHARE
    return Device(name, source, memory * 1e9, link, link, tera_flops * 1e12 * ARITHMETIC_SHARE,
                  memory_rate * 1e9 * MEMORY_SHARE)


DEVICES = {device.name: device for device in (
    _data_sheet("V100-16GB", "NVIDIA's V100 data sheet, V100 PCIe", 16, 14, 900, 16),        # PCIe 3.0 x16
    _data_sheet("A100-40GB", "NVIDIA's A100 data sheet, A100 40GB PCIe", 40, 19.5, 1555, 32),    # PCIe 4.0 x16
    _data_sheet("H100-80GB", "NVIDIA's H100 data sheet, H100 SXM", 80, 67, 3350, 64),        # PCIe 5.0 x16
)}


def measured_device(device_id: str = "0") -> Device:
    """Measure the memory and the link of the device of the current context.

    Its arithmetic is measured with the functions of a network, by `out_of_core_training.planning.profile`.
    """
    copies = CudaCopies(device_id) if on_gpu() else HostCopies()
    try:
        link = measure_link(copies)
    finally:
        copies.close()
    rates = ", ".join(f"{rate / 1e9:.3g}" for rate in (link.to_device_alone, link.to_host_alone, link.to_device,
                                                       link.to_host))
    return Device("mine", f"measured here: link {rates} GB/s (to the device, to the host; both at a time)",
                  device_memory()[1], link.to_device, link.to_host)
