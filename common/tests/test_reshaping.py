"""Reshaping: the order of elements, and gradients in static and dynamic graphs."""
import ast
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

import common
from common.machine.reshaping import reshape

ROOT = Path(common.__file__).parents[1]


@pytest.mark.parametrize("dynamic", [False, True])
def test_gradients_see_what_was_reshaped(dynamic):
    x, weights = np.random.default_rng(0).standard_normal((2, 57, 4)).astype(np.float32)
    variable = nn.Variable.from_numpy_array(x).apply(need_grad=True)
    scale = nn.Variable.from_numpy_array(np.ones((1, 1, 2))).apply(need_grad=True)
    scale.g = 0
    with nn.auto_forward(dynamic):
        y = reshape(variable * 2, (57, 2, 2)) * scale
        loss = F.sum(y * nn.Variable.from_numpy_array(weights.reshape(57, 2, 2)))
    if not dynamic:
        loss.forward()
    loss.backward()
    np.testing.assert_allclose(scale.g.ravel(), (2 * x * weights).reshape(-1, 2).sum(0), rtol=1e-5)


@pytest.mark.parametrize("shape, wanted", [((6,), (6,)), ([3, 2], (3, 2)), ((1, -1, 3), (1, 2, 3))])
def test_elements_stay_in_their_order(shape, wanted):
    y = reshape(nn.Variable.from_numpy_array(np.arange(6).reshape(2, 3)), shape)
    y.forward()
    assert y.shape == wanted
    assert y.d.ravel().tolist() == [0, 1, 2, 3, 4, 5]


def _reshapes(path):
    """Yield calls of nnabla's function in a module that share memory."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "F.reshape" \
                and not any(word.arg == "inplace" for word in node.keywords):
            yield node.lineno


def test_nobody_shares_memory_in_another_way():
    paths = [path for folder in ("common", "*/*") for path in ROOT.glob(f"{folder}/**/*.py")
             if "tests" not in path.parts and not path.relative_to(ROOT).parts[0].startswith(".")]
    assert len(paths) > 100
    assert not [f"{path}:{line}" for path in paths for line in _reshapes(path)]
