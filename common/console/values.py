"""Converters of what stands on a command line or in a `.cfg` file."""
import argparse
import math
import numbers
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def to_integer(value: object) -> int:
    """Convert an integer, or text of decimal digits with or without a sign; raise ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(value)
    return int(value)


def to_number(value: object) -> float:
    """Convert a finite real number, or its text; raise ValueError for anything else."""
    if not isinstance(value, (str, numbers.Real)) or isinstance(value, bool):
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
