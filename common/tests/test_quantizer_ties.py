"""The quantizers at the borders of their levels, float by float, against the graphs of the published code.

All other tests choose values that are clear of borders; there a difference in the last bit is a whole level.
"""
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.cpu.powers_of_two import SMALLEST_EXPONENT, borders, to_power_of_two
from common.quantizers import DEFAULT_LIMITS, POWER_OF_TWO, QUANTIZERS

REACH = 64    # floats to both sides of a border
WIDE = {"d": (2.0 ** -8, 1.0), "xmin": (2.0 ** -14, 255.0), "xmax": (2.0 ** -8, 255.0), "n": (1.0, 8.0)}
CASES = [(name, sign, with_zero) for name, quantizer in QUANTIZERS.items() for sign in (True, False)
         for with_zero in ((False, True) if quantizer.grid is POWER_OF_TWO else (None,))]
# Of each pair of scalars: between the limits, at ties of their own rounding, at the limits, and beyond.
SCALARS = {"d": (0.3, 2.0 ** -2.5, 1.0, 2.0 ** -9), "xmin": (0.02, 2.0 ** -3.5, 2.0 ** -16, 300.0),
           "xmax": (1.4, 2.0 ** 0.5, 127.0, 2.0 ** -8), "n": (4.0, 2.5, 8.0, 0.5)}
PAIRS = ((0, 0), (1, 1), (2, 2), (3, 0), (0, 3), (2, 1))


def broadcast(scalar, shape):
    return F.broadcast(F.reshape(scalar, (1,) * len(shape), inplace=False), shape)


def published_range(name, scalars, limits, reserved):
    """The scalars as step size or smallest magnitude, and largest one."""
    value = {s: F.minimum_scalar(F.maximum_scalar(v, limits[s][0]), limits[s][1]) for s, v in scalars.items()}
    rounded = {s: 2 ** F.round(F.log(v) / np.log(2.)) for s, v in value.items()}
    count = 2 ** (F.round(value["n"]) - reserved) if "n" in value else nn.Variable(())
    return {"parametric_fp_d_xmax": lambda: (rounded["d"], value["xmax"]),
            "parametric_fp_d_b": lambda: (rounded["d"], rounded["d"] * (count - 1)),
            "parametric_fp_b_xmax": lambda: (2 ** F.round(F.log(value["xmax"] / (count - 1)) / np.log(2.)),
                                             value["xmax"]),
            "parametric_pow2_xmin_xmax": lambda: (rounded["xmin"], rounded["xmax"]),
            "parametric_pow2_b_xmax": lambda: (2 ** (1 - count) * rounded["xmax"], rounded["xmax"]),
            "parametric_pow2_b_xmin": lambda: (rounded["xmin"], 2 ** (count - 1) * rounded["xmin"])}[name]()


def published(name, x, scalars, limits, sign, with_zero):
    """The quantizer from nnabla's functions, as the published script puts them together; and the ends of its range."""
    ends = published_range(name, dict(zip(QUANTIZERS[name].scalars, scalars, strict=True)), limits,
                           sign + bool(with_zero))
    low, high = (broadcast(end, x.shape) for end in ends)
    if with_zero is None:
        least = -high if sign else F.constant(0, x.shape)
        return low * F.round(F.minimum2(F.maximum2(x, least), high) / low), ends
    magnitude = F.abs(x if sign else F.relu(x))
    below, above = F.less(magnitude, low), F.greater_equal(magnitude, high)
    between = (1 - below) * (1 - above)
    if with_zero:
        below = below * F.greater_equal(magnitude, low / np.sqrt(2))
    masks = [mask.apply(need_grad=False) for mask in (below, between, above, F.sign(x if sign else F.relu(x)))]
    rounded = 2 ** F.round(F.log(magnitude) / np.log(2.))
    return masks[3] * (low * masks[0] + rounded * masks[1] + high * masks[2]), ends


def around(values):
    """All floats >= 0 up to REACH away from `values`."""
    values = np.asarray(values, np.float64)
    centres = values[(values >= 0) & (values < 1e38)].astype(np.float32).view(np.int32)
    bits = (centres[:, None] + np.arange(-REACH, REACH + 1)).ravel()
    return bits[bits >= 0].view(np.float32)


def borders_of(low, high, grid):
    """Magnitudes at which a quantizer, or its gradient, changes."""
    low, high = float(low), float(high)
    if grid is POWER_OF_TWO:
        first = np.clip(np.floor(np.log2(max(low, 2.0 ** -149))), -149, 100)
        octaves = first + np.concatenate([np.arange(-2, 20), np.arange(60, 66), np.arange(120, 130)])
        return [*2.0 ** (octaves[octaves < 126] + 0.5), low, high, low / np.sqrt(2), 0]
    steps = np.arange(60) + np.array([[0.5], [max(0, np.floor(high / low) - 30)]])
    return [*(steps * low).ravel(), low, high, 0] if np.isfinite(low) else [high]


def results(y, x, scalars, gradient):
    for variable in (x, *scalars):
        variable.g = 0
    y.forward()
    y.backward(gradient)
    return y.d.copy(), x.g.copy(), [float(variable.g) for variable in scalars]


def variables(arrays):
    return [nn.Variable.from_numpy_array(np.asarray(array, np.float32)).apply(need_grad=True) for array in arrays]


def compare(name, sign, with_zero, limits, values):
    """The same bits and, up to the order of sums, the same gradients."""
    scalars = variables(values)
    ends = published(name, nn.Variable((1,)), scalars, limits, sign, with_zero)[1]
    nn.forward_all(list(ends))
    near = around(borders_of(*(end.d for end in ends), QUANTIZERS[name].grid))
    x, *scalars = variables([np.concatenate([near, -near]), *values])
    gradient = np.random.RandomState(0).randint(-8, 9, x.shape).astype(np.float32)    # sums of them are exact
    settings = {} if with_zero is None else {"with_zero": with_zero}
    ours = QUANTIZERS[name].quantize(x, *scalars, sign=sign, limits=limits, **settings)
    y, dx, to_scalars = results(ours, x, scalars, gradient)
    wanted_y, wanted_dx, wanted = results(published(name, x, scalars, limits, sign, with_zero)[0], x, scalars, gradient)
    known = ~np.isnan(wanted_y)    # a range that is no number has no levels
    np.testing.assert_array_equal(y.view(np.int32)[known], wanted_y.view(np.int32)[known])
    known &= ~np.isnan(wanted_dx) & (np.abs(x.d) > 2.0 ** -149)    # of a logarithm of 0, and next to it
    np.testing.assert_array_equal(dx[known], wanted_dx[known])
    scale = np.abs(gradient).sum()
    for found, value in zip(to_scalars, wanted, strict=True):
        # The published sums lose digits where levels are thousands of steps away; one wrong element is 0.1 of its size.
        assert not np.isfinite(value) or np.isclose(found, value, rtol=1e-3, atol=1e-5 * scale), values


@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, WIDE], ids=["default", "wide"])
@pytest.mark.parametrize("name, sign, with_zero", CASES)
def test_quantizers_have_the_published_bits_around_all_borders(name, sign, with_zero, limits, engine):
    limits = {**limits, "n": (max(limits["n"][0], sign + bool(with_zero)), limits["n"][1])}    # none has fewer bits
    first, second = (SCALARS[scalar] for scalar in QUANTIZERS[name].scalars)
    for i, j in PAIRS:
        compare(name, sign, with_zero, limits, (first[i], second[j]))


def test_borders_are_those_of_nnablas_rounding():
    table, octaves = borders(), np.arange(1, 254)
    first = (octaves << 23) + (1 << 23) - table.carries[octaves]
    for bits, above in ((first, octaves - 126), (table.subnormal[1:], SMALLEST_EXPONENT + np.arange(1, 24))):
        x, = variables([np.stack([bits - 1, bits]).astype(np.int32).view(np.float32)])
        y = to_power_of_two(x)
        y.forward()
        np.testing.assert_array_equal(np.log2(y.d), [above - 1, above])
    mantissas = (1 << 23) - table.carries[octaves]
    assert (table.lowest, table.highest) == (mantissas.min(), mantissas.max())
