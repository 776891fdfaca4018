"""What a checkpoint of asteroid notes of its network, beside the weights."""
import reprlib
from collections.abc import Mapping
from typing import Any

from common.audio.headers import RATES
from common.console.values import to_integer, to_number
from common.machine.errors import UserError
from x_umx.model import SAMPLE_RATE, SOURCES, Sizes


def listed_sources(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sources in the order that a checkpoint gives, the published one where it gives none.

    Raises
    ------
    UserError
        It gives something that is no list of names.
    """
    listed = settings.get("sources")
    if listed is None:
        return SOURCES
    if not isinstance(listed, (list, tuple)) or not listed or not all(isinstance(name, str) for name in listed):
        raise UserError(f"sources of model_args = {_short(listed)}: a list of names is wanted")
    return tuple(listed)


def not_kept(settings: Mapping[str, Any], sizes: Sizes) -> dict[str, tuple[float, float]]:
    """Check the numbers that a checkpoint gives, and find those that files of ours do not hold.

    Parameters
    ----------
    settings
        `model_args` of the checkpoint. What is missing, or None, is as published.
    sizes
        Of its weights.

    Returns
    -------
    dict
        Name -> the number given, and another one that will be taken in its place.

    Raises
    ------
    UserError
        A value is not allowed, or contradicts the weights.
    """
    of_weights = {"window_length": sizes.n_fft, "in_chan": sizes.n_fft, "hidden_size": sizes.hidden_size,
                  "nb_channels": sizes.nb_channels, "nb_layers": sizes.nb_layers, "max_bin": sizes.max_bin,
                  "bidirectional": not sizes.unidirectional}
    for name, value in of_weights.items():
        given = settings.get(name)
        if given is not None and (type(given) is not type(value) or given != value):
            raise UserError(f"{name} of model_args = {_short(given)}, but {value} by its weights")
    taken = {"n_hop": (sizes.n_fft // 4, to_integer, 1, sizes.n_fft // 3),
             "sample_rate": (SAMPLE_RATE, to_number, RATES[0], RATES[-1]), "spec_power": (1, to_number, 0.1, 100)}
    found = {name: (_number(name, settings[name], *rest), value) for name, (value, *rest) in taken.items()
             if settings.get(name) is not None}
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def _number(name, value, convert, least, most):
    try:
        number = None if isinstance(value, str) else convert(value)
    except (ValueError, OverflowError):
        number = None
    if number is None or not least <= number <= most:
        raise UserError(f"{name} of model_args = {_short(value)}: a number from {least} to {most} is wanted")
    return number


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:    # Python does not spell out integers of thousands of digits
        return f"a huge {type(value).__name__}"
