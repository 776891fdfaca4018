import contextlib
import zlib

import nnabla as nn
import numpy as np
import pytest

from common.context import native_functions


@pytest.fixture(params=["compiled", "native"])
def functions(request):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    with native_functions() if request.param == "native" else contextlib.nullcontext():
        yield request.param


def _reference_value(name, shape, seed):
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
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
    """Set all parameters to those of a reference case, which follow from their names and a seed, and return them."""
    def fill(seed):
        parameters = nn.get_parameters(grad_only=False)
        for name, parameter in parameters.items():
            parameter.d = _reference_value(name, parameter.shape, seed).astype(np.float32)
        return parameters
    return fill
