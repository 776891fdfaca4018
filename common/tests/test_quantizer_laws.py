"""What quantizers do whatever their numbers: levels, symmetry, rounding to the nearest, gradients that pass or not."""
import math

import nnabla as nn
import numpy as np
import pytest

from common import quantizers
from common.cpu.elements import Pow2Quantize
from common.cpu.kernels.elements import BLOCK
from common.quantizers import DEFAULT_LIMITS, POWER_OF_TWO, QUANTIZERS, STATIC_QUANTIZERS, parametrizations

SCALARS = {"d": 0.3, "xmin": 0.1, "xmax": 2.0, "n": 3.4}    # d is used as 0.25, xmin as 0.125, n as 3
# Distinct values of signed and of unsigned quantizers with these scalars.
LEVELS = {
    "parametric_fp_d_xmax": (2 * 8 + 1, 8 + 1),
    "parametric_fp_d_b": (2 ** 3 - 1, 2 ** 3),
    "parametric_fp_b_xmax": (2 * 4 + 1, 8 + 1),    # d = 2 / 3 and 2 / 7, used as 0.5 and 0.25
    "parametric_pow2_xmin_xmax": (2 * 5, 5 + 1),    # 1/8 to 2
    "parametric_pow2_b_xmax": (2 ** 3, 2 ** 2 + 1),
    "parametric_pow2_b_xmin": (2 ** 3, 2 ** 2 + 1),
}
UNIFORM = [name for name in QUANTIZERS if QUANTIZERS[name].grid is quantizers.UNIFORM]
POW2 = [name for name in QUANTIZERS if QUANTIZERS[name].grid is POWER_OF_TWO]
GRID = np.linspace(-4, 4, 4001, dtype=np.float32)    # odd: 0 is among them

every_quantizer = pytest.mark.parametrize("name", QUANTIZERS)
signed_or_not = pytest.mark.parametrize("sign", [True, False], ids=["signed", "unsigned"])


def evaluate(name, x, sign, scalars=SCALARS, limits=None, g=None):
    """Return y, dx and the gradients of the scalars by name; weights are signed, activations keep a zero."""
    x = nn.Variable.from_numpy_array(np.asarray(x, np.float32)).apply(need_grad=True)
    inputs = {s: nn.Variable.from_numpy_array(np.float32(scalars[s])).apply(need_grad=True)
              for s in QUANTIZERS[name].scalars}
    for variable in (x, *inputs.values()):
        variable.g = 0
    y = QUANTIZERS[name].quantize(x, *inputs.values(), limits=limits, **QUANTIZERS[name].grid.settings(sign))
    y.forward()
    y.backward(np.ones(x.shape) if g is None else g)
    return y.d.copy(), x.g.copy(), {s: float(v.g) for s, v in inputs.items()}


def range_of(name, sign):
    """The two numbers that a tensor is quantized with, for `SCALARS`: step size or smallest magnitude, and largest."""
    scalars = (nn.Variable.from_numpy_array(np.float32(SCALARS[s])) for s in QUANTIZERS[name].scalars)
    ends = QUANTIZERS[name].range(*scalars, None, QUANTIZERS[name].grid.reserved_bits(sign))
    nn.forward_all(ends)
    return tuple(float(end.d) for end in ends)


@signed_or_not
@every_quantizer
def test_number_of_levels(name, sign, engine):
    assert set(LEVELS) == set(QUANTIZERS)
    y, _, _ = evaluate(name, GRID, sign)
    assert len(np.unique(y)) == LEVELS[name][0 if sign else 1]


@pytest.mark.parametrize("bits", range(2, 9))
@signed_or_not
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if "n" in QUANTIZERS[name].scalars])
def test_levels_need_no_more_bits_than_asked_for(name, sign, bits):
    # Near d's rounding to a power of two the range may take one bit more (see `fixed_point_quantize_b_xmax`).
    extra = 1 if name == "parametric_fp_b_xmax" else 0
    scalars = {"d": 2.0 ** -5, "xmin": 2.0 ** -10, "xmax": 1.0, "n": bits}
    x = np.concatenate([np.linspace(-8, 8, 4001), 2.0 ** np.arange(-130, 10), -2.0 ** np.arange(-130, 10)])
    y, _, _ = evaluate(name, x, sign, scalars)
    assert 1 < len(np.unique(y)) <= 2 ** (bits + extra)


@every_quantizer
def test_signed_quantizers_are_odd(name, engine):
    x = GRID[GRID > 0]
    np.testing.assert_array_equal(evaluate(name, -x, True)[0], -evaluate(name, x, True)[0])


@every_quantizer
def test_unsigned_quantizers_map_negative_values_to_zero(name, engine):
    y, dx, _ = evaluate(name, GRID[GRID <= 0], False)
    assert not y.any()
    assert not dx.any()


@signed_or_not
@every_quantizer
def test_quantizing_twice_changes_nothing(name, sign, engine):
    y, _, _ = evaluate(name, GRID, sign)
    np.testing.assert_array_equal(evaluate(name, y, sign)[0], y)


@signed_or_not
@every_quantizer
def test_order_is_kept(name, sign, engine):
    assert (np.diff(evaluate(name, GRID, sign)[0]) >= 0).all()


@signed_or_not
@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_levels_are_the_nearest_multiples(name, sign, engine):
    d, xmax = range_of(name, sign)
    y, _, _ = evaluate(name, GRID, sign)
    clipped = np.clip(GRID, -xmax if sign else 0, xmax)
    np.testing.assert_array_equal(y / d, np.round(y / d))
    assert np.abs(y - clipped).max() <= d / 2


@signed_or_not
@pytest.mark.parametrize("name", UNIFORM)
def test_ties_go_away_from_zero(name, sign, engine):
    d, _ = range_of(name, sign)
    y, _, _ = evaluate(name, [d / 2, 3 * d / 2, -d / 2, -3 * d / 2], sign)
    np.testing.assert_array_equal(y, [d, 2 * d, -d, -2 * d] if sign else [d, 2 * d, 0, 0])


@signed_or_not
@pytest.mark.parametrize("name", POW2)
def test_pow2_levels_are_the_nearest_powers_in_the_log_domain(name, sign, engine):
    xmin, xmax = range_of(name, sign)
    x = GRID[(GRID if not sign else np.abs(GRID)) >= xmin / math.sqrt(2)]
    y, _, _ = evaluate(name, x, sign)
    exponent = np.log2(np.abs(y))
    np.testing.assert_array_equal(exponent, np.round(exponent))
    assert np.abs(exponent - np.log2(np.clip(np.abs(x), xmin, xmax))).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(np.sign(y), np.sign(x))


@pytest.mark.parametrize("name", POW2)
def test_values_near_zero_become_xmin_or_zero(name, engine):
    x = [0, 1e-30, -1e-30]
    xmin, _ = range_of(name, True)
    np.testing.assert_array_equal(evaluate(name, x, True)[0], np.asarray([xmin, xmin, -xmin], np.float32))
    assert not evaluate(name, x, False)[0].any()


@signed_or_not
@pytest.mark.parametrize("name", UNIFORM)
def test_gradient_passes_unchanged_strictly_inside_of_the_range(name, sign, engine):
    _, xmax = range_of(name, sign)
    x = np.concatenate([GRID, [xmax, -xmax, np.nextafter(np.float32(xmax), 0)]]).astype(np.float32)
    g = np.random.RandomState(0).randn(x.size).astype(np.float32)
    _, dx, _ = evaluate(name, x, sign, g=g)
    np.testing.assert_array_equal(dx, np.where((x > (-xmax if sign else 0)) & (x < xmax), g, 0))


@signed_or_not
@pytest.mark.parametrize("name", POW2)
def test_gradient_is_scaled_by_the_rounding_inside_of_the_range(name, sign, engine):
    xmin, xmax = range_of(name, sign)
    g = np.random.RandomState(0).randn(GRID.size).astype(np.float32)
    y, dx, _ = evaluate(name, GRID, sign, g=g)
    magnitude = np.abs(GRID) if sign else GRID
    inside = (magnitude >= xmin) & (magnitude < xmax)
    np.testing.assert_allclose(dx[inside], (g * y)[inside] / GRID[inside], rtol=1e-5)
    assert not dx[~inside].any()


@signed_or_not
@every_quantizer
def test_gradients_are_finite_at_zero(name, sign, engine):
    _, dx, to_scalars = evaluate(name, [0, -0.0, 1e-42, -1e-42], sign)
    assert np.isfinite(list(to_scalars.values())).all()
    if name in POW2:
        np.testing.assert_array_equal(dx, 0)
    assert np.isfinite(dx).all()


@signed_or_not
@every_quantizer
def test_nan_is_not_hidden(name, sign, engine):
    # Of either sign: what a processor makes of 0 * inf can be negative.
    y, _, _ = evaluate(name, [np.nan, -np.nan, 1], sign)
    assert np.isnan(y).tolist() == [True, True, False]


@signed_or_not
@pytest.mark.parametrize("with_zero", [False, True])
@pytest.mark.parametrize("x, xmax", [([0.01, -0.3, 5, 1e30, -1e38], np.inf), ([0.3, -3e38, np.inf, -np.inf], 2),
                                     ([0, 0.3, 1e38], 2.0 ** 127)])
def test_infinite_ranges_and_values_do_not_become_nan(sign, with_zero, x, xmax):
    results = []
    for quantize in (Pow2Quantize(sign, with_zero),
                     lambda *inputs: quantizers.compose_pow2(*inputs, sign, with_zero)):
        inputs = [nn.Variable.from_numpy_array(np.asarray(v, np.float32)).apply(need_grad=True)
                  for v in (x, 0.125, xmax)]
        for variable in inputs:
            variable.g = 0
        y = quantize(*inputs)
        y.forward()
        y.backward(np.ones(y.shape))
        results.append([y.d, *(v.g for v in inputs)])
    assert np.isfinite(results[0][0]).all()
    for compiled, composed in zip(*results, strict=True):
        np.testing.assert_allclose(composed, compiled, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (2, 3), (BLOCK + 1,), (2, 3, 4, 5, 6)])
@every_quantizer
def test_every_shape_and_size(name, shape, engine):
    x = np.random.RandomState(0).randn(*shape).astype(np.float32)
    y, dx, _ = evaluate(name, x, True)
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal(y.ravel()[:5], evaluate(name, x.ravel()[:5], True)[0])


def definition_of(name):
    """The two numbers that a tensor with a sign is quantized with, from scalars: section 2 of the paper."""
    def power_of_two(value):
        return 2.0 ** math.floor(math.log2(value) + 0.5)

    def count(n):    # of the levels of a sign and 0, or of the exponents
        return 2.0 ** (math.floor(n + 0.5) - 1)

    return {
        "parametric_fp_d_xmax": lambda d, xmax: (power_of_two(d), xmax),
        "parametric_fp_d_b": lambda d, n: (power_of_two(d), power_of_two(d) * (count(n) - 1)),
        "parametric_fp_b_xmax": lambda n, xmax: (power_of_two(xmax / (count(n) - 1)), xmax),
        "parametric_pow2_xmin_xmax": lambda xmin, xmax: (power_of_two(xmin), power_of_two(xmax)),
        "parametric_pow2_b_xmax": lambda n, xmax: (power_of_two(xmax) * 2 ** (1 - count(n)), power_of_two(xmax)),
        "parametric_pow2_b_xmin": lambda n, xmin: (power_of_two(xmin), power_of_two(xmin) * 2 ** (count(n) - 1)),
    }[name]


@every_quantizer
def test_ranges_are_those_of_the_definitions(name):
    rng = np.random.default_rng(0)
    for _ in range(30):
        scalars = {s: SCALARS[s] * math.exp(rng.uniform(-0.4, 0.4)) for s in QUANTIZERS[name].scalars}
        ends = QUANTIZERS[name].range(*map(nn.Variable.from_numpy_array, scalars.values()), None, 1)
        nn.forward_all(ends)
        assert [float(end.d) for end in ends] == pytest.approx(definition_of(name)(**scalars), rel=1e-6), scalars


# Limits -------------------------------------------------------------------------------------------------------------

LIMITS = {"d": (0.2, 0.6), "xmin": (0.06, 0.3), "xmax": (1.2, 3.0), "n": (2.0, 5.0)}
WITH_LIMIT = [(name, scalar) for name in QUANTIZERS for scalar in QUANTIZERS[name].scalars]


@pytest.mark.parametrize("limits", [LIMITS, None], ids=["given", "default"])
@pytest.mark.parametrize("name, scalar", WITH_LIMIT)
def test_scalars_are_clipped_and_get_no_gradient_at_and_beyond_limits(name, scalar, limits, engine):
    lowest, highest = (limits or DEFAULT_LIMITS)[scalar]
    x = np.random.RandomState(0).randn(300).astype(np.float32) * 3
    g = 1 + np.arange(300, dtype=np.float32) / 300

    def at(value):
        return evaluate(name, x, True, {**SCALARS, scalar: value}, limits, g)

    assert at(SCALARS[scalar])[2][scalar] != 0
    for limit, beyond in ((lowest, lowest / 2), (highest, highest * 2)):
        assert at(limit)[2][scalar] == at(beyond)[2][scalar] == 0
        np.testing.assert_array_equal(at(beyond)[0], at(limit)[0])


@pytest.mark.parametrize("sign, with_zero", [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("name", [name for name in POW2 if "n" in QUANTIZERS[name].scalars])
def test_ranges_beyond_float32_give_numbers(name, sign, with_zero, engine):
    x = np.float32([-3, 0, 0.01, 0.3, 5])
    for n in (7, 7.4, 8, 9):
        inputs = [nn.Variable.from_numpy_array(np.float32(v)).apply(need_grad=True)
                  for v in (x, *({**SCALARS, "n": n}[s] for s in QUANTIZERS[name].scalars))]
        for variable in inputs:
            variable.g = 0
        y = QUANTIZERS[name].quantize(*inputs, sign=sign, with_zero=with_zero, limits={"n": (2, 10)})
        y.forward()
        y.backward(np.ones(x.shape))
        assert np.isfinite([*y.d, *inputs[0].g, *(v.g for v in inputs[1:])]).all(), n


def test_limits_that_are_not_named_are_the_default_ones():
    x = np.linspace(-1, 1, 1001)
    y, _, _ = evaluate("parametric_fp_d_xmax", x, True, {"d": 1e-9, "xmax": 0.5}, {"xmax": (0.1, 1)})
    assert len(np.unique(y)) == 2 * 0.5 / DEFAULT_LIMITS["d"][0] + 1


@pytest.mark.parametrize("name, scalar", WITH_LIMIT)
def test_a_scalar_of_another_shape_is_refused(name, scalar, engine):
    shapes = {s: (1,) if s == scalar else () for s in QUANTIZERS[name].scalars}
    scalars = [nn.Variable.from_numpy_array(np.full(shape, SCALARS[s], np.float32)) for s, shape in shapes.items()]
    with pytest.raises(ValueError, match="must be a scalar"):
        QUANTIZERS[name].quantize(nn.Variable((4,)), *scalars)


@pytest.mark.parametrize("quantize", [quantizers.quantize_uniform, quantizers.quantize_pow2])
@pytest.mark.parametrize("shapes", [((1,), ()), ((), (1,)), ((2, 2), (2, 2))])
def test_ends_of_a_range_of_another_shape_are_refused(quantize, shapes, engine):
    with pytest.raises(ValueError, match="must be a scalar of shape"):
        quantize(nn.Variable((4,)), *(nn.Variable(shape) for shape in shapes))


# With parameters ----------------------------------------------------------------------------------------------------


def parametric(name):
    return getattr(parametrizations, f"parametric_{QUANTIZERS[name].quantize.__name__}")


@every_quantizer
def test_parametric_functions_make_trainable_scalars_in_the_published_scopes(name):
    initial = [SCALARS[s] for s in QUANTIZERS[name].scalars]
    parametric(name)(nn.Variable((4,)), *initial)
    parameters = nn.get_parameters(grad_only=False)
    assert list(parameters) == [f"{name}/{s}" for s in QUANTIZERS[name].scalars]
    for parameter, value in zip(parameters.values(), initial, strict=True):
        assert parameter.shape == ()
        assert parameter.need_grad
        assert parameter.d == np.float32(value)


@every_quantizer
def test_parametric_functions_compute_what_the_others_do(name):
    x = nn.Variable.from_numpy_array(GRID)
    initial = [SCALARS[s] for s in QUANTIZERS[name].scalars]
    y = parametric(name)(x, *initial, limits=LIMITS, **QUANTIZERS[name].grid.settings(sign=False))
    y.forward()
    np.testing.assert_array_equal(y.d, evaluate(name, GRID, False, limits=LIMITS)[0])


@every_quantizer
def test_scalars_that_exist_keep_their_values(name):
    x = nn.Variable.from_numpy_array(GRID)
    parametric(name)(x, *(SCALARS[s] for s in QUANTIZERS[name].scalars))
    y = parametric(name)(x, *(10 * SCALARS[s] for s in QUANTIZERS[name].scalars))
    y.forward()
    assert [float(p.d) for p in nn.get_parameters().values()] == [np.float32(SCALARS[s])
                                                                 for s in QUANTIZERS[name].scalars]
    assert len(np.unique(y.d)) == LEVELS[name][0]


@every_quantizer
def test_first_values_can_be_given_by_name(name):
    first, second = QUANTIZERS[name].scalars
    x = nn.Variable.from_numpy_array(GRID)
    results = []
    for initial, named in (([SCALARS[first], SCALARS[second]], {}), ([SCALARS[first]], {second: SCALARS[second]}),
                           ([], {second: SCALARS[second], first: SCALARS[first]})):
        nn.clear_parameters()
        y = parametric(name)(x, *initial, sign=False, limits=LIMITS, **named)
        y.forward()
        results.append([y.d.copy(), *(p.d.copy() for p in nn.get_parameters().values())])
    for result in results[1:]:
        for value, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(value, expected)


@every_quantizer
def test_every_first_value_must_be_given(name):
    with pytest.raises(ValueError, match="the first values of .* are wanted, got"):
        parametric(name)(nn.Variable((4,)), 1.0)


# Fixed quantizers ---------------------------------------------------------------------------------------------------


def static(name, step_size, bitwidth, sign):
    x = nn.Variable.from_numpy_array(np.concatenate([GRID, GRID * 100]))
    quantizer = STATIC_QUANTIZERS[name]
    y = quantizer.quantize(x, *quantizer.grid.range_for(step_size, bitwidth, sign), bitwidth, sign)
    y.forward()
    return np.unique(y.d)


@pytest.mark.parametrize("bits", range(2, 9))
def test_static_uniform_levels(bits):
    top = 2 ** (bits - 1) - 1
    np.testing.assert_array_equal(static("fp", 0.25, bits, True), np.arange(-top, top + 1) * 0.25)
    np.testing.assert_array_equal(static("fp", 0.25, bits, False), np.arange(2 ** bits) * 0.25)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_static_pow2_levels(bits):
    # As many magnitudes as the sign or the zero leaves bits for, below the power of two nearest to the uniform range.
    for sign in (True, False):
        top = round(math.log2(0.25 * (2 ** (bits - sign) - 1)))
        powers = 2.0 ** np.arange(top - 2 ** (bits - 1) + 1, top + 1)
        expected = np.concatenate([-powers[::-1], powers]) if sign else np.concatenate([[0], powers])
        levels = static("pow2", 0.25, bits, sign)
        np.testing.assert_array_equal(levels, expected)


# Bit widths ---------------------------------------------------------------------------------------------------------


def bit_width(name, sign, lowest=1, limits=None):
    """Return a function from values of the scalars to bits; the graph is built once."""
    variables = {s: nn.Variable(()) for s in QUANTIZERS[name].scalars}
    result = QUANTIZERS[name].bits(variables, limits, sign, lowest)
    assert result.shape == ()

    def bits(**scalars):
        for s, variable in variables.items():
            variable.d = scalars[s]
        result.forward()
        return float(result.d)

    return bits


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("exponent", range(9))
def test_bits_of_step_and_range_count_the_levels(sign, exponent):
    # Levels k d with |k| <= r: r fits into r.bit_length() bits, and the sign takes one more.
    bits = bit_width("parametric_fp_d_xmax", sign, limits={"d": (2.0 ** -9, 2), "xmax": (2.0 ** -9, 128)})
    edges = {2 ** k + e for k in range(exponent + 7) for e in (-2, -1, 0, 1)} | {100, 77, 11}
    for r in (r for r in edges if 1 <= r <= 126 * 2 ** exponent):
        assert bits(d=2.0 ** -exponent, xmax=r * 2.0 ** -exponent) == r.bit_length() + sign, r


@pytest.mark.parametrize("sign", [True, False])
def test_bits_of_magnitudes_count_the_exponents(sign):
    bits = bit_width("parametric_pow2_xmin_xmax", sign)
    for low in range(-15, 6):
        for high in range(max(low, -7), 7):
            assert bits(xmin=2.0 ** low, xmax=2.0 ** high) == (high - low).bit_length() + 1, (low, high)


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if "n" in QUANTIZERS[name].scalars])
def test_bits_of_a_bit_width_are_the_rounded_one(name):
    bits, limited = bit_width(name, True), bit_width(name, True, limits={"n": (3, 6)})
    for n in np.arange(2, 8.01, 0.1):
        assert bits(**SCALARS | {"n": n}) == math.floor(np.float32(n) + 0.5)
    assert [limited(**SCALARS | {"n": n}) for n in (0.1, 7)] == [3, 6]


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if QUANTIZERS[name].is_range])
def test_bits_are_at_least_the_lowest(name):
    narrow = dict.fromkeys(QUANTIZERS[name].scalars, 0.5)
    assert bit_width(name, True, lowest=5)(**narrow) == 5
    assert bit_width(name, True)(**narrow) < 5
