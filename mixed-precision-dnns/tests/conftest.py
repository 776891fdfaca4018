import zlib

import nnabla as nn
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_parameters():
    """Every test starts and ends without parameters."""
    nn.clear_parameters()
    yield
    nn.clear_parameters()


def _value(name, shape, seed):
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2 ** 32)
    leaf = name.rsplit("/", 1)[-1]
    noise = rng.randn(*shape)
    if leaf == "var":
        return 0.5 + np.abs(noise)
    if leaf == "gamma" or "scale" in leaf:
        return 1 + 0.1 * noise
    if leaf not in ("mean", "beta") and len(shape) > 1:
        return noise / np.sqrt(np.prod(shape[1:]))
    return 0.1 * noise


@pytest.fixture
def fill():
    """Set all parameters but scalars to the values that the reference cases were computed with."""
    def fill(seed):
        for name, parameter in nn.get_parameters(grad_only=False).items():
            if name.rsplit("/", 1)[-1] not in ("d", "xmax", "xmin", "n", "Asize"):
                parameter.d = _value(name, parameter.shape, seed)
    return fill
