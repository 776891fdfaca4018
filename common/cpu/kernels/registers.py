"""Functions whose machine code is written down, for what no compiler keeps in vector registers by itself.

Vectors are LLVM's, whose compiler turns them into the instructions that the processor has.
"""
import functools
from collections.abc import Callable, Sequence
from typing import Any

from common.cpu.compiling import Loop

# A sum that any processor computes in the largest vectors that it has.
_LONG_SUM = """define <16 x float> @add(<16 x float> %a, <16 x float> %b) {
    %sum = fadd <16 x float> %a, %b
    ret <16 x float> %sum
}"""


@functools.cache
def vector_registers() -> tuple[int, int]:
    """Numbers in a vector register, and how many of these registers there are.

    They are those of the processor that numba compiles for: this one, unless `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES`
    name another. So machine code that several computers share has one shape.
    """
    import llvmlite.binding as llvm
    from numba.core.registry import cpu_target

    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    # Names alone do not tell: a processor that is named brings features of its own, which no list has.
    code = machine.emit_assembly(llvm.parse_assembly(_LONG_SUM))
    if "zmm" in code:    # AVX-512
        return 16, 32
    if "ymm" in code:    # AVX
        return 8, 16
    return (4, 32) if triple.startswith(("aarch64", "arm64")) else (4, 16)


class _Intrinsic(Loop):
    """A function whose machine code is written down, for other loops to call."""

    def compile(self) -> Any:
        from numba.extending import intrinsic

        if self._compiled is None:
            self._compiled = intrinsic(self.function)
        return self._compiled


def written_down(function: Callable) -> Loop:
    """Let compiled loops call `function`, a typing function of `numba.extending.intrinsic`."""
    return _Intrinsic(function, {})


def pointer_to(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Address of element `at` of a flat array whose type is `kind`."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def vector_type(lanes: int) -> Any:
    """LLVM's type of a vector of float32."""
    from llvmlite import ir

    return ir.VectorType(ir.FloatType(), lanes)


def load(builder: Any, pointer: Any, lanes: int) -> Any:
    """Vector of the numbers from `pointer` on."""
    return builder.load(builder.bitcast(pointer, vector_type(lanes).as_pointer()), align=4)


def store(builder: Any, vector: Any, pointer: Any) -> None:
    """Write a vector from `pointer` on."""
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=4)


def broadcast(builder: Any, number: Any, lanes: int) -> Any:
    """Vector whose elements all are `number`."""
    from llvmlite import ir

    whole = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(whole, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, whole, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def zeros(lanes: int) -> Any:
    """Vector of zeros."""
    from llvmlite import ir

    return ir.Constant(vector_type(lanes), [0.0] * lanes)


def choose(builder: Any, cases: Sequence[tuple[Any, Callable[[], None]]], number: Any) -> None:
    """Write the code of each case, of which that runs whose constant is `number`; none runs where none is."""
    done = builder.append_basic_block("done")
    choice = builder.switch(number, done)
    for constant, write in cases:
        block = builder.append_basic_block("case")
        choice.add_case(number.type(constant), block)
        builder.position_at_end(block)
        write()
        builder.branch(done)
    builder.position_at_end(done)


def write_loop(builder: Any, stop: Any, pointers: Sequence[tuple[Any, Any]], sums: Sequence[Any],
               body: Callable[[Any, Sequence[Any], Sequence[Any]], Sequence[Any]]) -> list[Any]:
    """Write a loop of at least one round that keeps sums in registers.

    Parameters
    ----------
    builder
    stop
        Number of rounds.
    pointers
        First values of pointers, and by how many elements a round moves each.
    sums
        First values of the sums.
    body
        Writes a round, given its number, pointers and sums, and returns the new sums.

    Returns
    -------
    list
        The sums after the loop.
    """
    index = stop.type
    before, loop, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, at, old = builder.phi(index), [builder.phi(p.type) for p, _ in pointers], [builder.phi(s.type) for s in sums]
    new = body(k, at, old)
    end = builder.block
    phis = [(k, index(0), builder.add(k, index(1)))]
    phis += [(phi, first, builder.gep(phi, [step])) for phi, (first, step) in zip(at, pointers, strict=True)]
    phis += list(zip(old, sums, new, strict=True))
    for phi, first, later in phis:
        phi.add_incoming(first, before)
        phi.add_incoming(later, end)
    builder.cbranch(builder.icmp_signed("<", phis[0][2], stop), loop, after)
    builder.position_at_end(after)
    return list(new)
