"""Record of the array accesses of an iteration, derived from its graph as nnabla would record it, without running it.

    recorder = Recorder()
    recorder.write(x)
    recorder.forward(loss)
    recorder.zero_grad(solver)
    recorder.backward(loss)
    recorder.solver_call(solver, "update")
    record = recorder.finish()
"""
import heapq
import re
from typing import Any

import attrs
import nnabla as nn

from common.out_of_core.accesses import solver_accesses
from common.out_of_core.backends import Backend, accesses_of, backend_named, needed_inputs, needed_outputs
from common.out_of_core.record import Access, Record

_WORD = re.compile(r"(?:(\d+)\?)?([>+~]?)(?:(dx|dy|x|y)(\d+|\*)|([a-z_]+\d*))(?::(\w+))?")


def functions_of(output: nn.Variable) -> list[Any]:
    """The functions that lead to a variable, in the order in which nnabla computes them."""
    functions = []
    output.visit(functions.append)
    return functions


def backward_functions(output: nn.Variable) -> list[Any]:
    """The functions that `output.backward()` runs, in order: by falling rank, then as they are met."""
    met, heap, done = {}, [], set()

    def meet(f):
        if f is None or not f.need_grad:
            return
        key = hash(f)
        if key not in done:
            heapq.heappush(heap, (-f.rank, met.setdefault(key, len(met)), key, f))

    order = []
    meet(output.parent)
    while heap:
        *_, key, f = heapq.heappop(heap)
        if key in done:
            continue
        done.add(key)
        order.append(f)
        for v in f.inputs:
            if v.need_grad:
                meet(v.parent)
    return order


def label(f: Any) -> str:
    """Name of a function with the shape of its first output."""
    return f"{f.info.type_name} of {'x'.join(map(str, f.outputs[0].shape)) or '1'}"


class Recorder:
    """Turns the calls of an iteration into the accesses that nnabla records for them.

    The methods are called as the loop calls nnabla. They follow nnabla's rules for what is cleared when, whether a
    gradient is written or added to, and which arrays share memory. The graph, its parameters and the states of its
    solvers are taken to outlive the iteration.

    Parameters
    ----------
    backend
        What is to compute; by default what the current context computes with.
    """

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend or backend_named()
        self._numbers = {}       # key of an array -> number
        self._sizes = []         # elements of each array
        self._heads = {}         # number -> dtype of the copy that is valid; absent: there is no copy
        self._temporary = set()
        self._zero = set()       # gradients that count as zero: the next one is written, not added
        self._blocks, self._labels = [[]], ["the inputs"]
        self._kept = []          # what the keys are addresses of
        self._lent = {}          # key of a gradient -> number of the array that stands for it in a backward
        self._forward = {}       # key of a function -> number of the block of its forward
        self._again = {}         # number of a block -> what is computed again at its end

    def write(self, variable: nn.Variable, dtype: str = "float32") -> None:
        """Record that a variable is set from the host, `variable.d = values` with values of type `dtype`."""
        self._access("cast", self._data(variable), dtype, write_only=True)

    def read(self, variable: nn.Variable, dtype: str = "float32") -> None:
        """Record that a value is read, as by `variable.d`."""
        self._access("get", self._data(variable), dtype)

    def forward(self, output: nn.Variable, clear_buffer: bool = False, clear_no_need_grad: bool = True) -> None:
        """Record `output.forward(...)`."""
        visits = {}
        for f in functions_of(output):
            self._begin_block(f"{label(f)}, forward")
            self._forward[hash(f)] = len(self._blocks) - 1
            self._run(f, accesses_of(f, self._backend).forward, {})
            if clear_buffer or clear_no_need_grad:
                self._clear_used(f, visits, clear_buffer)

    def zero_grad(self, solver: Any) -> None:
        """Record `solver.zero_grad()`."""
        for parameter in solver.get_parameters().values():
            self._zero_fill(self._grad(parameter))

    def backward(self, output: nn.Variable, clear_buffer: bool = True) -> None:
        """Record `output.backward(clear_buffer=...)`."""
        # nnabla lends the output new arrays for the gradient that it starts from.
        for name in ("seed", "lent"):
            self._clear(self._number((name, len(self._blocks)), output.size))
        self._lent = {hash(output.grad): self._number(("seed", len(self._blocks)), output.size)}
        seen = {self._grad(output)}
        for f in backward_functions(output):
            self._compute_again(f)
            self._zero_unseen(f, seen)
            self._begin_block(f"{label(f)}, backward")
            adds = {i: self._begin_gradient(v, seen) for i, v in enumerate(f.inputs) if v.need_grad}
            self._run(f, accesses_of(f, self._backend).backward, adds)
            if clear_buffer:
                self._clear_outputs(f)
        self._lent = {}

    def solver_call(self, solver: Any, call: str) -> None:
        """Record `solver.update()`, `solver.weight_decay(...)` and other calls that go through the parameters."""
        words = solver_accesses(solver, call).split()
        for key, parameter in solver.get_parameters().items() if words else ():
            if self._grad(parameter) in self._zero:    # no backward led to it: nnabla skips it
                continue
            self._begin_block(f"{call} of {key}")
            for word in words:
                target = word.lstrip("+")
                if target in ("p", "g"):
                    number = self._data(parameter) if target == "p" else self._grad(parameter)
                elif target == "t":
                    number = self._number((id(solver), key, target, len(self._blocks)), parameter.size)
                    self._temporary.add(number)
                else:
                    number = self._number((id(solver), key, target), parameter.size)
                self._access("cast" if word != target else "get", number, "float32", temporary=target == "t")

    def call(self, f: Any, direction: str) -> None:
        """Record a function alone, `forward` or `backward`, as the first one to write its gradients."""
        self._begin_block(f"{label(f)}, {direction}")
        words = getattr(accesses_of(f, self._backend), direction)
        self._run(f, words, {i: False for i, v in enumerate(f.inputs) if v.need_grad})

    def finish(self) -> Record:
        """Return the `Record` of the iteration."""
        cleared = set()
        alive = {number: dtype for number, dtype in self._heads.items() if number not in self._temporary}
        blocks = [[_settle(access, cleared, alive) for access in block] for block in self._blocks]
        return Record(blocks, self._labels, alive, self._again)

    def _begin_block(self, label: str) -> None:
        self._blocks.append([])
        self._labels.append(label)

    def _number(self, key, size):
        if key not in self._numbers:
            self._numbers[key] = len(self._sizes)
            self._sizes.append(size)
        return self._numbers[key]

    def _data(self, variable):
        """Number of the array with the data; a function in place shares that of its input."""
        f = variable.parent
        if f is not None:
            for i, v in enumerate(f.inputs):
                if f.inplace_data(i) and f.outputs[f.inplace_data_with(i)] == variable:
                    return self._data(v)
        return self._nd_array(variable.data, variable.size)

    def _grad(self, variable):
        lent = self._lent.get(hash(variable.grad))
        return self._nd_array(variable.grad, variable.size) if lent is None else lent

    def _nd_array(self, array, size):
        if hash(array) not in self._numbers:
            self._kept.append(array)
        return self._number(hash(array), size)

    def _access(self, kind, number, dtype, write_only=False, temporary=False):
        creates = number not in self._heads
        self._blocks[-1].append(Access(kind, number, self._sizes[number], dtype, not write_only, temporary, creates))
        if kind == "cast" or creates:
            self._heads[number] = dtype
        self._zero.discard(number)

    def _clear(self, number):
        self._blocks[-1].append(Access("clear", number, self._sizes[number], "bool"))
        self._heads.pop(number, None)
        self._zero.discard(number)

    def _zero_fill(self, number):
        self._clear(number)
        self._zero.add(number)

    def _run(self, f, words, adds):
        """Record the words of a function; `adds` tells for which input a gradient is added to (True) or written."""
        inputs, outputs, buffers = f.inputs, f.outputs, accesses_of(f, self._backend).buffers
        for word in words.split():
            found = _WORD.fullmatch(word)
            assert found is not None, word
            condition, operator, kind, index, buffer, dtype = found.groups()
            if condition is not None and int(condition) not in adds:
                continue
            if buffer:
                self._touch_buffer(f, buffer, buffers[buffer], operator)
                continue
            variables = inputs if kind in ("x", "dx") else outputs
            for i in range(len(variables)) if index == "*" else (int(index),):
                if i >= len(variables) or kind == "dx" and i not in adds:
                    continue
                number = self._grad(variables[i]) if kind in ("dx", "dy") else self._data(variables[i])
                if kind != "dx":
                    self._touch(number, operator, self._backend.dtype(dtype))
                elif operator != "~":
                    self._touch(number, "+" if adds[i] or operator == "+" else ">", self._backend.dtype(dtype))
                elif not adds[i]:
                    self._clear(number)

    def _touch(self, number, operator, dtype, temporary=False):
        if operator == "~":
            self._clear(number)
        else:
            self._access("cast" if operator else "get", number, dtype, operator == ">", temporary)

    def _touch_buffer(self, f, name, buffer, operator):
        key = (hash(f), name) if buffer.held else (hash(f), name, len(self._blocks))
        new = key not in self._numbers
        number = self._number(key, buffer.size(f))
        dtype = self._backend.dtype(buffer.dtype)
        if new and buffer.ready:
            self._heads[number] = dtype
        if not buffer.held:
            self._temporary.add(number)
        self._touch(number, operator, dtype, temporary=not buffer.held)

    def _clear_used(self, f, visits, everything):
        """Clear the inputs of `f` that no later function of this forward and no backward uses."""
        for v in f.inputs:
            key = _node(v)
            if key not in visits:    # a function may use a variable more than once
                visits[key] = sum(_node(u) == key for g in v.function_references for u in g.inputs)
            visits[key] -= 1
            if visits[key] or v.parent is None or v.persistent or _shares_memory(v):
                continue
            if everything or v.recompute or not self._is_needed(v):
                self._clear(self._data(v))

    def _compute_again(self, f):
        """Compute what the backward of `f` needs and the forward has cleared; nnabla does so before its hooks."""
        needed = [f.inputs[j] for j in needed_inputs(f, self._backend)]
        needed += [f.outputs[o] for o in needed_outputs(f, self._backend)]
        for v in needed:
            self._restore(v)

    def _restore(self, variable):
        f = variable.parent
        if f is None or not variable.recompute or self._data(variable) in self._heads:
            return
        for v in f.inputs:
            self._restore(v)
        start, functions = self._again.setdefault(len(self._blocks) - 1, (len(self._blocks[-1]), []))
        functions.append(self._forward[hash(f)])
        # Running statistics are asked for again, too, but not updated a second time.
        self._run(f, accesses_of(f, self._backend).forward, {})

    def _is_needed(self, variable):
        """Whether a backward depends on the data of a variable."""
        for f in variable.function_references:
            if any(f.inputs[j] == variable for j in needed_inputs(f, self._backend)):
                return True
        f = variable.parent
        return any(f.outputs[o] == variable for o in needed_outputs(f, self._backend))

    def _zero_unseen(self, f, seen):
        """Zero the gradients of outputs that nothing led to."""
        for v in f.outputs:
            if self._grad(v) not in seen:
                self._zero_fill(self._grad(v))
                seen.add(self._grad(v))

    def _begin_gradient(self, variable, seen):
        """Whether the gradient of an input is added to; if not, it is cleared first."""
        number = self._grad(variable)
        first = number in self._zero if variable.parent is None else number not in seen
        seen.add(number)
        if first:
            self._clear(number)
        return not first

    def _clear_outputs(self, f):
        for v in f.outputs:
            if v.persistent:
                continue
            if v.function_references and not in_place(f):
                self._clear(self._data(v))
            self._clear(self._grad(v))


def _node(variable):
    """Key of a variable of the graph; one that was unlinked from its function equals the other, and is not the same."""
    return hash(variable), variable.parent is None


def _shares_memory(variable):
    """Whether the function that made a variable, or one that uses it, has an input and an output in one array."""
    return in_place(variable.parent) or any(in_place(f) for f in variable.function_references)


def in_place(f: Any) -> bool:
    """Whether a function writes into the array of an input."""
    return any(f.inplace_data(i) for i in range(len(f.inputs)))


def _settle(access, cleared, alive):
    """What outlives the iteration exists in the next one, unless it was cleared before: it is not made anew."""
    if access.kind == "clear":
        cleared.add(access.array)
        return access
    creates = access.creates and (access.array not in alive or access.array in cleared)
    return attrs.evolve(access, creates=creates, transfers=access.transfers and not creates)
