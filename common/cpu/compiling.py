"""How loops over arrays are compiled: four decorators, which differ in the liberty that the compiler takes.

Compiled functions release the interpreter's lock. A division by zero gives infinity or NaN and raises nothing. The
machine code is kept between runs, beside the source or in numba's folder in the home; where neither can be written,
every run compiles anew.
"""
import contextlib
from collections.abc import Callable

import numba


def _compiler(**options) -> Callable[[Callable], Callable]:
    def compile_loop(function):
        compiled = numba.njit(nogil=True, error_model="numpy", **options)(function)
        with contextlib.suppress(RuntimeError):    # no folder for the machine code
            compiled.enable_caching()
        return compiled
    return compile_loop


compile_exact = _compiler()    # all of IEEE arithmetic, in the order of the source
compile_sums = _compiler(fastmath={"reassoc", "nsz"})    # sums may be taken in vector lanes, in another order
compile_fused = _compiler(fastmath={"reassoc", "nsz", "contract"})    # products and sums may be fused, too
compile_inline = _compiler(inline="always")    # part of its callers, compiled as they are
