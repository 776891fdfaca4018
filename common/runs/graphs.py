"""Graphs and compiled networks that are built once for each shape of their inputs."""
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from common.machine.threads import NNABLA

Built = TypeVar("Built")


class Graphs(Generic[Built]):
    """What was built for each key, which usually is the shape of an input. Threads may share it.

    Parameters
    ----------
    limit : int, optional
        How many are kept. The one that was used longest ago is dropped before another is built, as each may hold a copy
        of the weights. If not given, all are kept.

    Examples
    --------
    >>> graphs = Graphs(limit=1)
    >>> [graphs.get(shape, lambda: f"graph of {shape}") for shape in ((1, 2), (1, 2), (1, 3))]
    ['graph of (1, 2)', 'graph of (1, 2)', 'graph of (1, 3)']
    >>> (1, 2) in graphs
    False
    """

    def __init__(self, limit: int | None = None):
        self._limit = limit
        self._built: OrderedDict[Hashable, Built] = OrderedDict()    # the one that was used last is at the end

    def __len__(self) -> int:
        return len(self._built)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._built

    def get(self, key: Hashable, build: Callable[[], Built]) -> Built:
        """Return what was built for `key`; if there is nothing yet, it is built now."""
        with NNABLA:
            if key not in self._built:
                if len(self) == self._limit:
                    self._built.popitem(last=False)
                self._built[key] = build()
            self._built.move_to_end(key)
            return self._built[key]
