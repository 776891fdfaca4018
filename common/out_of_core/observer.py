"""How much memory an iteration needs, from the functions that nnabla's hooks report; its arrays are not read."""
from collections.abc import Sequence
from typing import Any

import nnabla as nn
import numpy as np

from common.out_of_core.accesses import solver_accesses
from common.out_of_core.backends import backend_named, is_known
from common.out_of_core.record import Record
from common.out_of_core.recorder import Recorder, label
from common.out_of_core.smallest import smallest_budget

_STATES = 2    # of a solver that was not attached: as many as Adam has


def split_passes(functions: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Tell the forward calls of an iteration from the backward ones.

    Parameters
    ----------
    functions
        nnabla functions in the order in which they ran; None for a parameter that a solver went to.

    Returns
    -------
    list of (direction, list of functions)
        `forward` and `backward` in turn. A backward begins at a function that has run and that none after it has used.
    """
    passes: list[tuple[str, list[Any]]] = []
    ran = {}
    for f in functions:
        if f is None:
            passes.append(("solver", []))
            continue
        direction, members = passes[-1] if passes else ("", [])
        goes_on = direction == "backward" and hash(f) in ran and f.rank <= members[-1].rank
        begins = hash(f) in ran and not any(hash(g) in ran for v in f.outputs for g in v.function_references)
        now = "backward" if goes_on or begins else "forward"
        if now != direction:
            passes.append((now, []))
        passes[-1][1].append(f)
        if now == "forward":
            ran[hash(f)] = f
        else:
            ran.pop(hash(f), None)
    return [(direction, members) for direction, members in passes if direction != "solver"]


class Observer:
    """Notes the functions of an iteration, and says afterwards how much memory they need."""

    def __init__(self, solvers: Sequence[Any]) -> None:
        self.functions: list[Any] = []
        self._solvers = solvers

    def minimum(self) -> tuple[int, str, bool]:
        """Smallest feasible budget in bytes, and the function or update that sets it.

        Returns
        -------
        num_bytes : int
        cause : str
        exact : bool
            Whether the accesses of all functions are known, and the solvers if they matter; otherwise two states are
            taken for granted for each parameter.
        """
        passes = split_passes(self.functions)
        if any(v.recompute for _, members in passes for f in members for v in f.outputs):
            record = self.record()
            blocks = list(zip(record.needs(), record.labels, strict=True))[1:]
        else:
            blocks = [self._block(f, direction) for direction, members in passes for f in members]
            blocks[:1] = [self._first_block(f) for _, members in passes[:1] for f in members[:1]]
        if None in self.functions:
            blocks += self._updates() if self._solvers else self._guessed_updates()
        num_bytes, cause = max(blocks, key=lambda block: block[0], default=(0, "nothing"))
        backend = backend_named()
        exact = all(f is None or is_known(f, backend) for f in self.functions)
        record = self.record()
        tried, block = smallest_budget(record)
        if tried > num_bytes:    # arrays of several types; what is planned with depends on all calls, not all are seen
            return tried, record.labels[block], False
        return num_bytes, cause, exact and (bool(self._solvers) or not cause.startswith("update"))

    def record(self) -> Record:
        """The accesses of the iteration."""
        recorder = self._after_inputs()
        for direction, members in split_passes(self.functions):
            if direction == "forward":
                recorder.forward(members[-1].outputs[0])
            else:
                recorder.backward(members[0].outputs[0])
        for solver in self._solvers:
            recorder.solver_call(solver, "update")
        return recorder.finish()

    def _first_block(self, f):
        """What the first function needs, beside which the inputs lie."""
        recorder = self._after_inputs()
        recorder.call(f, "forward")
        return recorder.finish().needs()[-1], f"{label(f)}, forward"

    def _after_inputs(self):
        """Begin a record with what was written before the first function: inputs that no function made."""
        recorder, functions = Recorder(), [f for f in self.functions if f is not None]
        others = {hash(v.data) for f in functions for v in f.outputs}
        others |= {hash(p.data) for p in nn.get_parameters(grad_only=False).values()}
        inputs = {hash(v.data): v for f in functions for v in f.inputs if v.parent is None}
        for key, v in inputs.items():
            if key not in others:
                recorder.write(v, np.dtype(v.data.dtype).name)
        return recorder

    def _block(self, f, direction):
        recorder = Recorder()
        recorder.call(f, direction)
        return _size_of(recorder), f"{label(f)}, {direction}"

    def _updates(self):
        blocks = []
        for solver in self._solvers:
            arrays = len({word.lstrip("+") for word in solver_accesses(solver, "update").split()})
            blocks += [(4 * arrays * p.size, f"update of {key}") for key, p in solver.get_parameters().items()]
        return blocks

    def _guessed_updates(self):
        leaves = {hash(v.data): v for f in self.functions if f is not None for v in f.inputs
                  if v.parent is None and v.need_grad}
        return [(4 * (2 + _STATES) * v.size, "update of a parameter " + "x".join(map(str, v.shape)))
                for v in leaves.values()]


def _size_of(recorder):
    return recorder.finish().needs()[-1]
