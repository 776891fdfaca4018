"""How loops over arrays are compiled: four decorators, which differ in the liberty that the compiler takes.

Compiled functions release the interpreter's lock. A division by zero gives infinity or NaN and raises nothing. The
machine code is kept between runs, beside the source or in numba's folder in the home; where neither can be written,
every run compiles anew. It is made again where it is damaged, and where the file of a loop changes, but not where that
of a loop does which it calls: who changes such a file also has to touch those that import it. The first call of a loop
loads numba, so that commands that compute nothing start without it.
"""
import contextlib
import threading
from collections.abc import Callable
from typing import Any

_lock = threading.RLock()    # loops call each other


class Loop:
    """A function that is compiled when it, or another loop that calls it, is first called."""

    def __init__(self, function: Callable, options: dict[str, Any]) -> None:
        self.function, self._options = function, options
        self._compiled: Any = None
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any) -> Any:
        return (self._compiled or self.compile())(*args)

    def compile(self) -> Any:
        """Return numba's compiled function."""
        import numba

        with _lock:
            if self._compiled is None:
                self._resolve_called_loops()
                compiled = numba.njit(nogil=True, error_model="numpy", **self._options)(self.function)
                with contextlib.suppress(RuntimeError):    # no folder for the machine code
                    compiled._cache = _kept_code(self.function)
                self._compiled = compiled
            return self._compiled

    def _resolve_called_loops(self):
        """Replace the loops that this one calls, in its module, by what numba knows."""
        names = self.function.__globals__
        for name in self.function.__code__.co_names:
            if isinstance(names.get(name), Loop):
                names[name] = names[name].compile()


def _kept_code(function: Callable) -> Any:
    """Return numba's cache for a function, which does without what cannot be read or written.

    numba's own raises what it meets: damage of an earlier power cut, a full disk.

    Raises
    ------
    RuntimeError
        No folder can be written to.
    """
    from numba.core.caching import FunctionCache

    class Kept(FunctionCache):
        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception:    # pickle raises what it likes
                self._start_anew()
            return None

        def _start_anew(self) -> None:
            try:
                self.flush()
            except OSError:
                self.disable()

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(OSError):
                super().save_overload(sig, data)

    return Kept(function)


def _compiler(**options) -> Callable[[Callable], Loop]:
    return lambda function: Loop(function, options)


compile_exact = _compiler()    # all of IEEE arithmetic, in the order of the source
compile_sums = _compiler(fastmath={"reassoc", "nsz"})    # sums may be taken in vector lanes, in another order
compile_fused = _compiler(fastmath={"reassoc", "nsz", "contract"})    # products and sums may be fused, too
compile_inline = _compiler(inline="always")    # part of its callers, compiled as they are
