"""Fields of attrs classes for what a YAML file holds: lists become tuples, a wrong value a ValueError with its key."""
from collections.abc import Callable
from typing import Any

import attrs

from common.console.values import largest

Check = Callable[[Any], bool]
LONGEST = 256    # entries of a list


def _is_count(most: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_rate(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


def field(is_valid: Check, expected: str, default: Any = attrs.NOTHING) -> Any:
    """Make a field for what `is_valid` accepts; `expected` says so in the message. A default makes it optional."""
    def check(instance, attribute, value):
        if not is_valid(value) or not _is_limited(value, attribute.name):
            raise ValueError(f"{attribute.name} = {as_lists(value)!r} is not allowed ({expected})")

    return attrs.field(default=default, converter=_as_tuples, validator=check)


def _is_limited(value: Any, name: str) -> bool:
    """Whether the numbers in a value are no larger than those of this name may be."""
    if isinstance(value, tuple):
        return all(_is_limited(item, name) for item in value)
    return not isinstance(value, (int, float)) or value <= largest(name)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def as_lists(value: Any) -> Any:
    return list(map(as_lists, value)) if isinstance(value, tuple) else value


def each_of(is_valid: Check, length: int | None = None, least: int = 1) -> Check:
    """Check a tuple, of `length` items if given, otherwise of `least` to `LONGEST`."""
    def check(value):
        right_length = isinstance(value, tuple) and (len(value) == length if length else least <= len(value) <= LONGEST)
        return right_length and all(map(is_valid, value))
    return check


# The kinds of fields. What determines sizes has an upper limit, far above all that is published: a file must not ask
# for more memory than there is.


def count(most: int) -> Any:
    return field(_is_count(most), f"an integer from 1 to {most}")


def switch(default: bool) -> Any:
    return field(lambda value: isinstance(value, bool), "true or false", default)


def number() -> Any:
    return field(is_number, "a number >= 0")


def counts(most: int, length: int | None = None, least: int = 1) -> Any:
    number = length or ("one or more" if least else "a list of")
    return field(each_of(_is_count(most), length, least), f"{number} integers from 1 to {most}")


def rates(length: int | None = None) -> Any:
    return field(each_of(_is_rate, length), f"{length or 'one or more'} numbers above 0, at most 1")


def count_lists(most: int) -> Any:
    return field(each_of(each_of(_is_count(most))), f"one list of integers from 1 to {most} for each band")


def rate_lists() -> Any:
    return field(each_of(each_of(_is_rate)), "one list of numbers above 0, at most 1 for each band")
