import json
from pathlib import Path

import nnabla as nn
import numpy as np
import pytest

from common.quantizers import QUANTIZERS

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "quantizers.json").read_text())
VALUES = np.load(DATA / "quantizers.npz")


def variables(*arrays):
    return [nn.Variable.from_numpy_array(np.asarray(a, np.float32)).apply(need_grad=True) for a in arrays]


def run(function, x, g, scalars, **settings):
    """Return y, the gradient of x, and those of the scalars."""
    inputs = variables(x, *scalars)
    for variable in inputs:
        variable.g = 0
    y = function(*inputs, **settings)
    y.forward()
    y.backward(np.asarray(g, np.float32))
    return y.d.copy(), *(variable.g.copy() for variable in inputs)


@pytest.mark.parametrize("key", CASES)
def test_agrees_with_the_reference(key, engine):
    case, name = CASES[key], CASES[key]["quantizer"]
    x, g = VALUES[f"{key}/x"], VALUES[f"{key}/g"]
    settings = {} if case["with_zero"] is None else {"with_zero": case["with_zero"]}
    scalars = QUANTIZERS[name].scalars
    assert set(scalars) == set(case["params"])
    y, grad_x, *grads = run(QUANTIZERS[name].quantize, x, g, [VALUES[f"{key}/param_{p}"] for p in scalars],
                            sign=case["sign"], limits=case["limits"], **settings)
    np.testing.assert_allclose(y, VALUES[f"{key}/y"], rtol=1e-6, atol=0)
    np.testing.assert_allclose(grad_x, VALUES[f"{key}/grad_x"], rtol=0, atol=1e-5)
    for p, grad in zip(scalars, grads, strict=True):
        np.testing.assert_allclose(grad, VALUES[f"{key}/grad_{p}"], rtol=1e-4, atol=1e-5 * np.abs(g).sum())
