"""Which arrays of a network to compute again in the backward pass, so that they need not be kept or swapped."""
import nnabla as nn

from common.machine.errors import UsageError
from common.out_of_core.backends import backend_named, needed_inputs
from common.out_of_core.recorder import functions_of, in_place

LEVELS = ("none", "cheap", "all")
PRODUCTS = ("Convolution", "Deconvolution", "Affine", "DepthwiseConvolution")
LONG = 40    # functions: what is used later than that is kept


def recompute_again(loss: nn.Variable, level: str) -> list[nn.Variable]:
    """Let nnabla compute again what lies between the narrow places of a graph (T. Chen et al., arXiv 1604.06174).

    A narrow place is where one array alone leads on to the rest: the outputs of residual blocks, of dense layers, of
    layers in a row. These are kept, and with them what is used much later, such as the maps that a decoder reads.
    The results are the same. Call it once the graph is complete, before its first forward pass.

    What leads from one narrow place to the next is computed again at a time, in the block of the function before. So
    less is kept and copied, but the smallest budget grows.

    Parameters
    ----------
    loss
        What `backward` is called on. Its graph may be that of one of several losses.
    level
        One of `LEVELS`. `cheap` keeps the outputs of convolutions and other matrix products: what is computed again
        takes little time.

    Returns
    -------
    list of nn.Variable
        What is computed again.

    Raises
    ------
    UsageError
        There is no such level.
    """
    check_level(level)
    functions = [] if level == "none" else functions_of(loss)
    again = _between_narrow_places(functions)
    if level == "cheap":
        again = [v for v in again if v.parent.info.type_name not in PRODUCTS]
    again = _with_sources(again, functions)
    for v in again:
        v.recompute = True
    return again


def check_level(level: str) -> None:
    """Raise a UsageError for what is not one of `LEVELS`."""
    if level not in LEVELS:
        raise UsageError(f"recompute {level!r}: choose one of {', '.join(LEVELS)}")


def _with_sources(candidates, functions):
    """Those variables whose sources will be there: they stay for a backward of their own, or are computed again.

    nnabla clears any other source, and would compute with whatever lies in its place.
    """
    backend = backend_named()
    stay = {hash(f.inputs[j]) for f in functions for j in needed_inputs(f, backend)}
    again = {hash(v): v for v in candidates}
    while True:
        lost = [key for key, v in again.items() if any(
            u.parent is not None and hash(u) not in stay and hash(u) not in again for u in v.parent.inputs)]
        if not lost:
            return list(again.values())
        for key in lost:
            del again[key]


def _between_narrow_places(functions):
    made = {hash(v): number for number, f in enumerate(functions) for v in f.outputs}
    last = {hash(v): number for number, f in enumerate(functions) for v in f.inputs if hash(v) in made}
    # What a detached variable reads, too, is not restored for it.
    leaves = {hash(v.data) for f in functions for v in f.inputs if v.parent is None}
    used = [v for f in functions for v in f.outputs if hash(v) in last and hash(v.data) not in leaves]
    short = [v for v in used if last[hash(v)] - made[hash(v)] <= LONG]
    alive = [0] * len(functions)    # behind each function
    for v in short:
        for number in range(made[hash(v)], last[hash(v)]):
            alive[number] += 1
    shared = {hash(v) for f in functions if in_place(f) for v in (*f.inputs, *f.outputs)}
    return [v for v in short if alive[made[hash(v)]] > 1 and not v.persistent and hash(v) not in shared]
