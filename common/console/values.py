"""Converters of what stands on a command line or in a `.cfg` file."""
import argparse
import math
import numbers
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The largest number that a flag or a key may have, by its last words; `largest` reads this. They lie far beyond what is
# of use, and below what would overflow, or ask for all memory before anything could be said about it.
_LARGEST = {
    "batch": 1 << 16, "batches": 1 << 16, "batch_size": 1 << 16, "throughput_on": 1 << 16,
    "epoch": 10**6, "epochs": 10**6, "patience": 10**6, "rounds": 10**6, "niter": 1000, "n_trials": 1000, "seeds": 1000,
    "cores": 1024, "jobs": 1024, "workers": 1024,
    "images": 10**7, "samples": 10**7, "duration": 10**6, "dur": 10**6,
    "image_height": 1 << 14, "image_width": 1 << 14, "size": 1 << 14, "channels": 1 << 14, "patch_length": 1 << 20,
    "width": 64, "alpha": 100, "sample_rate": 10**6, "nfft": 1 << 20, "nhop": 1 << 20,
}
_LARGEST_OF_ALL = 2**31 - 1


def largest(name: str) -> int:
    """Return the largest size that a number may have that the flag or the key `name` gives.

    Examples
    --------
    >>> largest("valid_dur"), largest("seed")
    (1000000, 2147483647)
    """
    words = name.lower().replace("-", "_").split("_")
    return next((limit for start in range(len(words)) if (limit := _LARGEST.get("_".join(words[start:]))) is not None),
                _LARGEST_OF_ALL)


def to_integer(value: object) -> int:
    """Convert an integer, or text of decimal digits with or without a sign; raise ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(value)
    return int(value)


def to_number(value: object) -> float:
    """Convert a finite real number, or its text in decimal digits; raise ValueError for anything else."""
    if not isinstance(value, (str, numbers.Real)) or isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*", value,
                                                   re.IGNORECASE):
        raise ValueError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def flag_value(meaning: str, convert: Callable[[str], T],
               accept: Callable[[T], bool] = lambda value: True) -> Callable[[str], T]:
    """Return a converter for `type=` of an argument.

    Parameters
    ----------
    meaning : str
        What the value has to be, for the error: "an integer from 1".
    convert : callable
        Raises ValueError for text that it cannot convert.
    accept : callable
        Tells whether a converted value is allowed.
    """
    def converted(text: str) -> T:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
        return value

    return converted


positive_int = flag_value("an integer from 1", to_integer, lambda value: value >= 1)
int_from_0 = flag_value("an integer from 0", to_integer, lambda value: value >= 0)
number_above_0 = flag_value("a number above 0", to_number, lambda value: value > 0)


def is_number(value: object) -> bool:
    """Whether an argument of a function is one real number, of Python or of numpy; a truth value is none."""
    import numpy as np

    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in "fiu"
