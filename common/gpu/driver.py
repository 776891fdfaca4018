"""Load kernels into a GPU and start them, through the driver that nnabla's extension uses, too (CUDA driver API).

Kernels run in the primary context of the device and on its default stream, where nnabla's own do: they wait for what
was started before, and what is started later waits for them. Nothing here waits itself.
"""
import ctypes
from typing import Any

LIBRARY = "libcuda.so.1"    # of the driver, not of a package
_MAJOR, _MINOR = 75, 76    # attributes of a device: its compute capability
_PROCESSORS, _COOPERATIVE, _MOST_SHARED = 16, 95, 97    # multiprocessors; whether blocks may wait for each other; bytes
_DYNAMIC_SHARED = 8    # attribute of a kernel: bytes of shared memory that a launch may ask for


class DeviceError(RuntimeError):
    """The driver reports an error."""


class Device:
    """A GPU as the driver sees it.

    Parameters
    ----------
    number
        As nnabla counts them, from 0.

    Raises
    ------
    OSError
        There is no driver.
    DeviceError
        It does not work, or has no such device.
    """

    def __init__(self, number: int) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._call("cuInit", 0)
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), number)
        self.capability = self._attribute(_MAJOR), self._attribute(_MINOR)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def _attribute(self, attribute):
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def load(self, image: bytes) -> ctypes.c_void_p:
        """Load what `common.gpu.nvrtc.compile_source` returns; the result is a module."""
        module = ctypes.c_void_p()
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuModuleLoadData", ctypes.byref(module), image)
        return module

    def kernel(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """Find a kernel of a module."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def launch(self, kernel: ctypes.c_void_p, blocks: int, threads: int, argument: ctypes.Structure) -> None:
        """Start a kernel whose one argument is a structure; it is copied, and can be changed at once."""
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        self._call("cuCtxSetCurrent", self._context)    # another thread may have none, or that of another GPU
        self._call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, None, parameters, None)

    def launch_together(self, kernel: ctypes.c_void_p, blocks: int, threads: int, shared_bytes: int,
                        argument: ctypes.Structure) -> None:
        """Start a kernel, as `launch` does, whose blocks wait for each other: no more than `resident_blocks`."""
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuLaunchCooperativeKernel", kernel, blocks, 1, 1, threads, 1, 1, shared_bytes, None, parameters)

    def resident_blocks(self, kernel: ctypes.c_void_p, threads: int, shared_bytes: int) -> int:
        """How many blocks of `launch_together` run at once, each with so many bytes of shared memory; 0: none can."""
        most_shared = self._attribute(_MOST_SHARED)
        if not self._attribute(_COOPERATIVE) or shared_bytes > most_shared:
            return 0
        blocks = ctypes.c_int()
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuFuncSetAttribute", kernel, _DYNAMIC_SHARED, most_shared)    # for this launch, and larger ones
        self._call("cuOccupancyMaxActiveBlocksPerMultiprocessor", ctypes.byref(blocks), kernel, threads,
                   ctypes.c_size_t(shared_bytes))
        return blocks.value * self._attribute(_PROCESSORS)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise DeviceError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")
