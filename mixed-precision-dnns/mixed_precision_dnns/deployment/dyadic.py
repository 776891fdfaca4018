"""Arrays of float32 as integers times a power of two."""
from fractions import Fraction

import numpy as np


def integers_of(array: np.ndarray) -> tuple[np.ndarray, Fraction]:
    """Integers int64 and the largest power of two of which all elements of an array are multiples.

    Raises
    ------
    ValueError
        They take more than 31 bits, as those of floats do.
    """
    mantissas, exponents = np.frexp(array[array != 0].astype(np.float64))
    wide = np.abs(np.ldexp(mantissas, 53)).astype(np.int64)
    lowest = exponents - 53 + np.log2((wide & -wide).astype(np.float64)).astype(int)    # bit that is set, of each
    scale = Fraction(2) ** int(lowest.min()) if len(lowest) else Fraction(1)
    if np.abs(array).max(initial=0) >= float(scale) * 2 ** 31:
        raise ValueError(f"values of shape {array.shape} are no multiples of a step size: only quantized networks have "
                         "an integer form")
    return np.rint(array.astype(np.float64) / float(scale)).astype(np.int64), scale
