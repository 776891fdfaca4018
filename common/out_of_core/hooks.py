"""Functions that nnabla calls around its own, whose errors reach the caller."""
from collections.abc import Callable
from typing import Any

from nnabla import callback

from common.machine.errors import UserError


class Hooks:
    """Functions that are called within a `with` block before each nnabla function, after it, and before each update.

    An exception that leaves such a function does not stop nnabla. It computes on, and in the end raises a SystemError
    that names no reason. Here the first exception is kept, of whatever kind (Ctrl-C may come while a hook runs), and
    raised where the block ends; no hook is called after it.

    nnabla cannot describe functions that another function runs within itself, as RNN, LSTM, GRU, SpectralNorm and
    FusedConvolution do on a CPU: with any hook it raises a SystemError. It leaves the block as a UserError.

    Parameters
    ----------
    name
        Unique among the hooks that are set at a time.
    before_function, after_function
        Get an `nnabla.function.Function`.
    before_update
        Gets nothing.
    """

    def __init__(self, name: str, before_function: Callable[[Any], object] | None = None,
                 after_function: Callable[[Any], object] | None = None,
                 before_update: Callable[[], object] | None = None) -> None:
        self._name = name
        self._set = [(set_hook, unset_hook, self._kept(hook)) for set_hook, unset_hook, hook in (
            (callback.set_function_pre_hook, callback.unset_function_pre_hook, before_function),
            (callback.set_function_post_hook, callback.unset_function_post_hook, after_function),
            (callback.set_solver_pre_hook, callback.unset_solver_pre_hook, before_update)) if hook]
        self._failure: BaseException | None = None
        self._last: Any = None

    def __enter__(self) -> "Hooks":
        self._failure = self._last = None
        for set_hook, _, hook in self._set:
            set_hook(self._name, hook)
        return self

    def __exit__(self, error_type: type | None, error: BaseException | None, traceback: object) -> None:
        for _, unset_hook, _ in self._set:
            unset_hook(self._name)
        if self._failure is not None:
            raise self._failure from None
        if isinstance(error, SystemError) and isinstance(first_error(error), EOFError) and self._last is not None:
            raise UserError(f"{self._last.info.type_name} runs functions of its own, which nnabla cannot show to what "
                            "watches an iteration: build it from simpler functions to train out of core") from None

    def _kept(self, hook):
        def call(*function):
            if self._failure is None:
                try:
                    self._last = function[0] if function else None
                    hook(*function)
                except BaseException as error:
                    self._failure = error
        return hook and call


def first_error(error: BaseException) -> BaseException:
    """The exception that others followed: nnabla raises a SystemError for any that leaves a function in Python."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
