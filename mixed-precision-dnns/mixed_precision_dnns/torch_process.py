"""A process of another Python that takes training steps in PyTorch, see `torch_peer`."""
import contextlib
import subprocess
from collections.abc import Callable, Iterator

from common.machine.cores import num_threads
from common.machine.errors import UsageError
from mixed_precision_dnns import torch_peer

FORMATS = {"": "contiguous_format", ", channels last": "channels_last"}


class _Peer:
    def __init__(self, python: str, batch_size: int, memory_format: str) -> None:
        command = python, torch_peer.__file__, str(batch_size), str(num_threads()), memory_format
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            raise UsageError(f"--torch-python {python!r}: {error.strerror}") from None
        self.version = self._next_line()
        if not self.version:
            raise UsageError(f"--torch-python {python!r}: no Python that can import torch")

    def _next_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def step(self) -> None:
        """Take a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._next_line()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def torch_steps(python: str, batch_size: int) -> Iterator[dict[str, Callable[[], None]]]:
    """Functions that take a training step of ResNet-20 in PyTorch on all cores, by its version and memory format.

    Raises
    ------
    UsageError
        `python` is none, or has no PyTorch.
    """
    with contextlib.ExitStack() as stack:
        steps = {}
        for name, memory_format in FORMATS.items():
            peer = _Peer(python, batch_size, memory_format)
            stack.callback(peer.close)
            steps[f"PyTorch {peer.version}{name}"] = peer.step
        yield steps
