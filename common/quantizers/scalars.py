"""The scalars that describe quantizers, and how they are used: clipped to limits, and rounded to powers of two.

Each is an `nn.Variable` of shape () in the units of the tensor that is quantized, except n, which counts bits.
"""
import types
from collections.abc import Mapping

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np

Limits = Mapping[str, tuple[float, float]]    # of each scalar: the lowest and the highest value


@attrs.frozen
class Scalar:
    """What is known of a scalar, whatever its quantizer.

    `limits` are its lowest and highest value where a caller names none; `label` says what it is, for plots;
    `is_log` asks for a logarithmic axis there.
    """

    label: str
    limits: tuple[float, float]
    is_log: bool = True


SCALARS: Mapping[str, Scalar] = types.MappingProxyType({
    "d": Scalar("step size d", (2.0 ** -8, 1.0)),    # distance of two levels, used as 2^round(log2 d)
    "xmin": Scalar("smallest magnitude xmin", (2.0 ** -16, 127.0)),    # of powers of two, used as 2^round(log2 xmin)
    "xmax": Scalar("range xmax", (2.0 ** -8, 127.0)),    # largest magnitude, used as a power of two by those
    "n": Scalar("bit width n", (2.0, 8.0), is_log=False),    # used rounded
})
DEFAULT_LIMITS: Limits = types.MappingProxyType({name: scalar.limits for name, scalar in SCALARS.items()})


def clip(name: str, value: nn.Variable, limits: Limits | None) -> nn.Variable:
    """Clip the scalar `value` to its limits, the default ones where `limits` does not name it.

    The gradient is 0 at the limits and beyond them.
    """
    lowest, highest = (limits or {}).get(name, DEFAULT_LIMITS[name])
    return F.minimum_scalar(F.maximum_scalar(value, lowest), highest)


def log2(value: nn.Variable) -> nn.Variable:
    """Logarithm to base 2, in the two float32 operations of the published code: its ties decide roundings."""
    return F.log(value) / np.log(2.)


def to_power_of_two(value: nn.Variable) -> nn.Variable:
    """Round a positive scalar to the power of two that is nearest in the log domain, straight through."""
    return 2 ** F.round(log2(value))


def check_scalars(**scalars: nn.Variable) -> None:
    """Raise a ValueError if one of the variables is not of shape ()."""
    for name, value in scalars.items():
        if value.shape != ():
            raise ValueError(f"{name} must be a scalar of shape (), got shape {value.shape}")
