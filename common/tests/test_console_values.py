"""Converters of flags."""
import argparse

import pytest

from common.console.values import flag_value, int_from_0, positive_int, to_integer, to_number


@pytest.mark.parametrize("value, integer", [("3", 3), (" -3 ", -3), ("+3", 3), (3, 3)])
def test_integers(value, integer):
    assert to_integer(value) == integer


@pytest.mark.parametrize("value", ["", "x", "1.0", "1e3", "0x1", "1_000", "²", 1.0, True, None])
def test_what_is_no_integer(value):
    with pytest.raises(ValueError):
        to_integer(value)


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-inf", float("nan"), False, None, [1]])
def test_what_is_no_number(value):
    with pytest.raises(ValueError):
        to_number(value)


@pytest.mark.parametrize("text", ["1e-3", " 0.001", "0.001"])
def test_numbers(text):
    assert to_number(text) == 0.001


@pytest.mark.parametrize("convert, accepted, refused, says", [
    (positive_int, "1", "0", "'0' is not an integer from 1"), (int_from_0, "0", "-1", "'-1' is not an integer from 0"),
    (flag_value("a number", to_number), "1.5", "nan", "'nan' is not a number")])
def test_a_flag_says_what_it_takes(convert, accepted, refused, says):
    assert convert(accepted) == float(accepted)
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{says}$"):
        convert(refused)
