"""Load kernels into a GPU and start them, through the driver that nnabla's extension uses, too (CUDA driver API).

Kernels run in the primary context of the device and on its default stream, where nnabla's own do: they wait for what
was started before, and what is started later waits for them. Nothing here waits itself.
"""
import ctypes
from typing import Any

LIBRARY = "libcuda.so.1"    # of the driver, not of a package
_MAJOR, _MINOR = 75, 76    # attributes of a device: its compute capability


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
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        self.capability = self._attribute(device, _MAJOR), self._attribute(device, _MINOR)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def _attribute(self, device, attribute):
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
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

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise DeviceError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")
