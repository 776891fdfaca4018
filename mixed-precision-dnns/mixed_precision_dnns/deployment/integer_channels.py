"""Integers for a layer that multiplies, adds a bias and rounds, so that kernels for integers give the exact levels.

A layer computes s a + b for each channel: a is the accumulator, a sum of products of integers; s >= 0 and b are real.
Of that it makes the level floor((s a + b) / unit + 1/2). The kernels of onnxruntime (QLinearConv) add an integer to the
accumulator, multiply by a float32, and round half to even. A bias rounded to an integer would move the border of every
level. So all weights of a channel are multiplied by a factor first, for which there is room in 8 bits where they have
fewer: among factors, biases and neighbouring multipliers, those are chosen with which no level changes for any
accumulator.
"""
import itertools

import attrs
import numpy as np

LARGEST_WEIGHT = 127    # of 8 bits with a sign
_LARGEST_SUM = 32767    # CPUs without VNNI add two products in 16 bits
_LARGEST_BIAS = 1 << 30
_SAFE_MARGIN = 2.0 ** -12    # of a level: more than other orders of sums in float32 make of it
# Multipliers that are tried in this order: float32(s), and larger ones, which round halves up as nnabla does.
_STRETCHES = np.array([0, 1, 4, -1, 32, 256], np.float64) * 2.0 ** -23


@attrs.frozen
class Channels:
    """What the integers of a layer become, one of each for every channel.

    Attributes
    ----------
    factors : int32 (channels,)
        That multiply the integers of the weights.
    biases : int32 (channels,)
    scales : float32 (channels,)
        A product of the integers of an input and a weight stands for the step size of the input times these.
    inexact : int
        Borders of levels, of all channels together, that lie at another accumulator than they should.
    """

    factors: np.ndarray
    biases: np.ndarray
    scales: np.ndarray
    inexact: int


def fit_channels(integers: np.ndarray, scales: np.ndarray, biases: np.ndarray, step_size: float, levels: int,
                 unit: float, codes: tuple[int, int], lowest: int = 0, away: bool = False) -> Channels:
    """Find integers for the channels of a layer.

    Parameters
    ----------
    integers : int array (channels, terms)
        Weights, in steps.
    scales, biases : float64 array (channels,)
        A weight stands for its integer times the scale, >= 0, of its channel.
    step_size, levels
        Of the values that it reads: integers from `lowest` to `levels`.
    unit
        Of the results.
    codes
        Lowest and highest result; what lies beyond becomes these.
    lowest
        Of the values that it reads.
    away
        Round halves away from zero, not up. Results above 0 are the same.
    """
    found = [_fit(row, scale, bias, np.float32(step_size), (lowest, levels), np.float32(unit), codes, away)
             for row, scale, bias in zip(integers.astype(np.int64), scales, biases, strict=True)]
    factors, shifts, multipliers, inexact = zip(*found, strict=True)
    return Channels(np.array(factors, np.int32), np.array(shifts, np.int32), np.array(multipliers, np.float32),
                    int(sum(inexact)))


def _fit(weights, scale, bias, step_size, inputs, unit, codes, away):
    """Factor, bias, scale and number of inexact borders of one channel."""
    positive, negative = weights[weights > 0].sum(), weights[weights < 0].sum()
    low, high = (int(a * positive + b * negative) for a, b in (inputs, inputs[::-1]))    # of the accumulator
    # A result in units is ratio a + shift.
    ratio, shift = float(scale) * float(step_size) / float(unit), float(bias) / float(unit)
    if ratio == 0 or low == high or abs(shift) > _LARGEST_BIAS * ratio:
        return _constant(ratio, shift, low, high, step_size, unit, codes, away)
    numbers = np.arange(max(codes[0] + 1, np.floor(ratio * low + shift)),
                        min(codes[1], np.ceil(ratio * high + shift)) + 1)    # of levels whose borders can be met
    borders = (numbers - 0.5 - shift) / ratio
    reached = np.where(away & (numbers <= 0), np.floor(borders) + 1, np.ceil(borders))
    first = np.clip(reached, low, high + 1)    # accumulator that gives each, or more
    factors = np.arange(1, max_factor(weights, inputs[1] - inputs[0]) + 1)
    factors = factors[factors * abs(shift) <= _LARGEST_BIAS * ratio]
    best = None, ()
    for stretch, offset in itertools.product(_STRETCHES, (0, 1, -1)):
        candidates = (float(scale) / factors * (1 + stretch)).astype(np.float32)
        added = np.round(factors * (shift / ratio)) + offset
        wrong, margin = _judge(first, numbers, low, high, factors, added, candidates * step_size / unit)
        k = int(np.lexsort((-margin, wrong))[0])
        if best[0] is None or (wrong[k], -margin[k]) < best[0]:
            best = (wrong[k], -margin[k]), (factors[k], added[k], candidates[k], wrong[k])
        if wrong[k] == 0 and margin[k] > _SAFE_MARGIN:
            break
    return best[1]


def max_factor(weights: np.ndarray, levels: int) -> int:
    """Largest factor that leaves integers of weights in 8 bits; and, if 1 does, sums of two products in 16.

    `levels` is the largest code of the values.
    """
    largest = int(np.abs(weights).max())
    limit = LARGEST_WEIGHT if 2 * levels * LARGEST_WEIGHT <= _LARGEST_SUM else _LARGEST_SUM // (2 * levels)
    return max(1, limit // largest)


def leaves_16_bits(weights: np.ndarray, levels: int) -> bool:
    """Whether sums of two products may need more than 16 bits, to which CPUs without VNNI cut them off.

    Which products are neighbours, a kernel decides.

    Parameters
    ----------
    weights : int array (channels, terms)
        As kernels multiply them.
    levels
        Largest code of the values.
    """
    ordered = np.sort(weights.astype(np.int64), axis=1)
    largest, smallest = (np.abs(part).sum(1).max() for part in (ordered[:, -2:].clip(0), ordered[:, :2].clip(max=0)))
    return bool(levels * max(largest, smallest) > _LARGEST_SUM)


def _judge(first, numbers, low, high, factors, added, multipliers):
    """Number of borders that the kernels have elsewhere, and the distance of the results beside borders from them.

    Kernels of other libraries sum in another order: they find the same levels where the distance is not tiny.
    """
    def results(accumulators):
        sums = (accumulators * factors[:, None] + added[:, None]).astype(np.float32)    # exact up to here
        return sums * multipliers[:, None].astype(np.float32)

    above, below = results(first), results(first - 1)
    is_above, is_below = first <= high, first - 1 >= low    # what no input reaches is right
    wrong = (is_above & (np.rint(above) < numbers)) | (is_below & (np.rint(below) >= numbers))
    distances = np.concatenate([np.where(is_above, above - numbers + 0.5, 1),
                                np.where(is_below, numbers - 0.5 - below, 1)], axis=1)
    return wrong.sum(1), distances.min(1, initial=1)


def _constant(ratio, shift, low, high, step_size, unit, codes, away):
    """Of a channel whose accumulator has no part in the result: a factor of 0."""
    def level(value):
        return np.ceil(value - 0.5) if away and value < 0 else np.floor(value + 0.5)

    ends = [int(np.clip(level(ratio * a + shift), *codes)) for a in (low, high)]
    return 0, ends[0], unit / step_size, ends[1] - ends[0]
