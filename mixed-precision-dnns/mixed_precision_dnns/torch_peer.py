"""Training steps of ResNet-20 in PyTorch, for the benchmark to compare with: the same network, batch and solver.

    PYTHON torch_peer.py BATCH THREADS FORMAT

PYTHON needs PyTorch and nothing of this repository. FORMAT is contiguous_format or channels_last. The first line of
output is PyTorch's version; then every line of input asks for a step, which a line of output ends.
"""
import itertools
import sys
from collections.abc import Callable
from typing import Any

CHANNELS, BLOCKS = (16, 32, 64), 3


def take_steps() -> None:
    """Take a training step for each line of input."""
    import torch  # pyright: ignore[reportMissingImports]

    batch, threads, memory_format = int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3])
    torch.set_num_threads(threads)
    step = make_step(torch, batch, memory_format)
    print(torch.__version__, flush=True)
    for _ in sys.stdin:
        step()
        print(flush=True)


def make_network(torch: Any) -> Any:
    """ResNet-20 whose shortcuts are without parameters, as `mixed_precision_dnns.resnet_cifar` builds it."""
    nn = torch.nn

    def convolution(inputs, outputs, stride=1):
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.stride, self.more = (1 if inputs == outputs else 2), outputs - inputs
            self.layers = nn.Sequential(*convolution(inputs, outputs, self.stride), nn.ReLU(),
                                        *convolution(outputs, outputs))

        def forward(self, x):
            h = self.layers(x)
            if self.more:
                x = nn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.more))
            return torch.relu(h + x)

    channels = [CHANNELS[0], *(c for c in CHANNELS for _ in range(BLOCKS))]
    return nn.Sequential(*convolution(3, channels[0]), nn.ReLU(),
                         *(Block(a, b) for a, b in itertools.pairwise(channels)),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


def make_step(torch: Any, batch: int, memory_format: Any) -> Callable[[], None]:
    """Return a function that takes a training step on random images."""
    network = make_network(torch).to(memory_format=memory_format)
    image = (2 * torch.rand(batch, 3, 32, 32) - 1).contiguous(memory_format=memory_format)
    label = torch.randint(0, 10, (batch,))
    solver = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)

    def step():
        solver.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        solver.step()

    return step


if __name__ == "__main__":
    take_steps()
