import ast
import json
from pathlib import Path

import nnabla as nn
import numpy as np
import pytest

import common.quantizers
from common.quantizers import (
    GRIDS,
    QUANTIZER_NAMES,
    QUANTIZERS,
    SCALARS,
    grid_of,
    parametric_quantize,
    parametrizations,
)

TOP = Path(__file__).resolve().parents[2]
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


# The table ------------------------------------------------------------------------------------------------------------


def texts_in(path):
    """All string constants of a module, docstrings and pieces of f-strings among them."""
    return [node.value for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def modules():
    """The modules of the repository but for tests and the one with the table."""
    return [path for folder in ("common", "mixed-precision-dnns") for path in (TOP / folder).rglob("*.py")
            if "tests" not in path.parts and path != Path(parametrizations.__file__)]


def test_no_other_module_spells_the_name_of_a_quantizer():
    assert len(modules()) > 80
    # "fp" and "pow2" are parts of other words, and "pow2" also names a grid.
    spelled = [(path.name, name) for path in modules() for text in texts_in(path) for name in QUANTIZER_NAMES
               if (name in text if name in QUANTIZERS else text in (name, f"{name}_relu") and text not in GRIDS)]
    assert not spelled


def test_rows_fit_their_tables():
    for name, quantizer in QUANTIZERS.items():
        assert set(quantizer.scalars) <= set(SCALARS), name
        assert all(scalar in quantizer.grid.scalars_for(0.125, 4, True) for scalar in quantizer.scalars), name
        assert 1 <= quantizer.min_weight_bits <= quantizer.grid.max_bits, name
    assert len({quantizer.label for quantizer in QUANTIZERS.values()}) == len(QUANTIZERS)
    for grid in GRIDS.values():
        rows = [quantizer for quantizer in QUANTIZERS.values() if quantizer.grid is grid]
        assert len({quantizer.colour for quantizer in rows}) == len(rows)
        assert sum(quantizer.is_range for quantizer in rows) == 1    # `range_quantizer` is the one
        assert grid in [grid_of(name) for name in QUANTIZER_NAMES]


PARAMETRIC = {name: getattr(common.quantizers, f"parametric_{row.quantize.__name__}")
              for name, row in QUANTIZERS.items()}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_names_the_argument_that_is_wrong(name):
    row, x = QUANTIZERS[name], nn.Variable((3,))
    first, second = row.scalars
    scalars = [nn.Variable.from_numpy_array(np.float32(1)) for _ in row.scalars]
    for given, message in (([1.0, scalars[1]], f"{first} must be"), ([scalars[0], None], f"{second} must be")):
        with pytest.raises(ValueError, match=message):
            row.quantize(x, *given)
    for limits, message in (({"step": (1, 2)}, "limits of 'step'"), ({second: (2, 1)}, f"limits of {second}: the low")):
        with pytest.raises(ValueError, match=message):
            row.quantize(x, *scalars, limits=limits)
    with pytest.raises(ValueError, match=f"values of {first} and {second} are wanted, got 1"):
        PARAMETRIC[name](x, 1.0)
    with pytest.raises(ValueError, match=f"no initial value of {second}"):
        parametric_quantize(name, x, {first: 1.0})


def test_unknown_quantizers_are_told():
    for look_up in (grid_of, lambda name: parametric_quantize(name, nn.Variable((3,)), {})):
        with pytest.raises(ValueError, match="quantizer 'fp8': choose one of"):
            look_up("fp8")
