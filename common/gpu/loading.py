"""Which kernels the current GPU can run: compiled when first asked for, once in a process."""
import functools
from pathlib import Path

import nnabla as nn

from common.gpu.driver import Device
from common.gpu.nvrtc import compile_source
from common.machine.context import wants_gpu_kernels
from common.machine.streams import say


class Kernels:
    """The kernels of a file in `common/gpu/kernels`, loaded into a GPU."""

    def __init__(self, source: str, device_number: int) -> None:
        self.device = Device(device_number)
        path = Path(__file__).parent / "kernels" / source
        self._module = self.device.load(compile_source(path, self.device.capability))
        self._found = {}

    def launch(self, name: str, blocks: int, threads: int, argument) -> None:
        """Start the kernel `name`; see `common.gpu.driver.Device.launch`."""
        self.device.launch(self._find(name), blocks, threads, argument)

    def launch_together(self, name: str, blocks: int, threads: int, shared_bytes: int, argument) -> None:
        """Start the kernel `name`; see `common.gpu.driver.Device.launch_together`."""
        self.device.launch_together(self._find(name), blocks, threads, shared_bytes, argument)

    def resident_blocks(self, name: str, threads: int, shared_bytes: int) -> int:
        """How many blocks of the kernel `name` run at once; see `common.gpu.driver.Device.resident_blocks`."""
        return self.device.resident_blocks(self._find(name), threads, shared_bytes)

    def _find(self, name):
        if name not in self._found:
            self._found[name] = self.device.kernel(self._module, name)
        return self._found[name]


def load(source: str) -> Kernels | None:
    """Return the kernels of a file for the current GPU.

    Returns
    -------
    Kernels or None
        None where nnabla's own functions are to compute: on a CPU, inside `native_functions`, and where NVRTC or the
        driver does not work, which one line on stderr says.
    """
    if not wants_gpu_kernels():
        return None
    return _load(source, int(nn.get_current_context().device_id))


@functools.cache
def _load(source, device_number):
    try:
        return Kernels(source, device_number)
    except (OSError, RuntimeError) as error:
        say(f"warning: computing with nnabla's functions, which is slower: no kernels of {source}: {error}; run "
            "'pip install -r requirements-cuda.txt'")
        return None
