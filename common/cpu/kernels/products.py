"""The products that convolutions are made of, kept in vector registers.

`multiply_in_order` and `multiply_fused` sum over the terms of receptive fields, many pixels at once; `correlate` sums
over the pixels, for the gradients of weights.
"""
import functools

from common.cpu.kernels import registers

TERMS = 9    # of a weight's gradient that `correlate` computes at once


@functools.cache
def tile_shape() -> tuple[int, int]:
    """Outputs and pixels whose sums fit in the registers: one vector of pixels, and half of the registers."""
    lanes, count = registers.vector_registers()
    return count // 2, lanes


def output_vectors() -> int:
    """Vectors of outputs whose sums for TERMS terms fit in the registers, for `correlate`."""
    return 2 if registers.vector_registers()[1] == 32 else 1


def _typed(fields, at, offsets, w, w_at, terms, bias, b_at, y, y_at, stride, add):
    from numba import types

    size, numbers = types.int64, types.Array(types.float32, 1, "C")
    assert fields == w == bias == y == numbers, (fields, w, bias, y)
    return types.void(numbers, size, types.Array(types.int64, 1, "C"), numbers, size, size, numbers, size, numbers,
                      size, size, types.boolean)


@registers.written_down
def multiply_in_order(typing_context, fields, at, offsets, w, w_at, terms, bias, b_at, y, y_at, stride, add):
    """Write or add sums over terms of w times fields, rounded after every product and every addition, plus bias.

    They are those of a tile, see `tile_shape`.

    Parameters
    ----------
    fields, at, offsets
        The pixels of term k are fields[at + offsets[k]:].
    w, w_at, terms
        (terms, outputs) from element `w_at` on.
    bias, b_at
        (outputs,) from element `b_at` on.
    y, y_at, stride
        Pixels are neighbours, outputs are `stride` apart, from element `y_at` on.
    add
    """
    return _typed(fields, at, offsets, w, w_at, terms, bias, b_at, y, y_at, stride, add), _write_in_order


@registers.written_down
def multiply_fused(typing_context, fields, at, offsets, w, w_at, terms, bias, b_at, y, y_at, stride, add):
    """Like `multiply_in_order`, rounded once for product and addition."""
    return _typed(fields, at, offsets, w, w_at, terms, bias, b_at, y, y_at, stride, add), _write_fused


def _write_in_order(context, builder, signature, args):
    return _write_multiply(context, builder, signature, args, ())


def _write_fused(context, builder, signature, args):
    return _write_multiply(context, builder, signature, args, ("contract",))


def _write_multiply(context, builder, signature, args, flags):
    fields, at, offsets, w, w_at, terms, bias, b_at, y, y_at, stride, add = args
    size = at.type
    field, offset, weight, shift, target = (
        registers.pointer_to(context, builder, signature.args[k], array, where)
        for k, array, where in ((0, fields, at), (2, offsets, size(0)), (3, w, w_at), (6, bias, b_at), (8, y, y_at)))
    outputs, lanes = tile_shape()

    def broadcast(pointer, o):
        return registers.broadcast(builder, builder.load(builder.gep(pointer, [size(o)])), lanes)

    def term(k, pointers, sums):
        pixels = registers.load(builder, builder.gep(field, [builder.load(pointers[1])]), lanes)
        return [builder.fadd(total, builder.fmul(pixels, broadcast(pointers[0], o), flags=flags), flags=flags)
                for o, total in enumerate(sums)]

    sums = registers.write_loop(builder, terms, [(weight, size(outputs)), (offset, size(1))],
                                [registers.zeros(lanes)] * outputs, term)
    values = [builder.fadd(total, broadcast(shift, o)) for o, total in enumerate(sums)]
    places = [builder.gep(target, [builder.mul(stride, size(o))]) for o in range(outputs)]
    with builder.if_else(add) as (adding, writing):
        with adding:
            for value, place in zip(values, places, strict=True):
                registers.store(builder, builder.fadd(registers.load(builder, place, lanes), value), place)
        with writing:
            for value, place in zip(values, places, strict=True):
                registers.store(builder, value, place)
    return context.get_dummy_value()


@registers.written_down
def correlate(typing_context, fields, offsets, first, g, g_at, stride, pixels, sums, s_at, s_stride, vectors):
    """Add to sums, over pixels, the products of TERMS fields with some outputs.

    Parameters
    ----------
    fields, offsets, first
        Pixel p of term t is fields[offsets[first + t] + p].
    g, g_at, stride, pixels
        Outputs of a pixel are neighbours; pixels are `stride` apart, from element `g_at` on.
    sums, s_at, s_stride
        Outputs are neighbours; terms are `s_stride` apart, from element `s_at` on.
    vectors
        Of outputs: 1 up to `output_vectors`.
    """
    from numba import types

    size, numbers = types.int64, types.Array(types.float32, 1, "C")
    assert fields == g == sums == numbers, (fields, g, sums)
    return types.void(numbers, types.Array(types.int64, 1, "C"), size, numbers, size, size, size, numbers, size, size,
                      size), _write_correlate


def _write_correlate(context, builder, signature, args):
    fields, offsets, first, g, g_at, stride, pixels, sums, s_at, s_stride, vectors = args
    size = first.type
    field, offset, output, total = (
        registers.pointer_to(context, builder, signature.args[k], array, where)
        for k, array, where in ((0, fields, size(0)), (1, offsets, first), (3, g, g_at), (7, sums, s_at)))
    lanes = registers.vector_registers()[0]

    def write(width):
        lines = [builder.gep(field, [builder.load(builder.gep(offset, [size(t)]))]) for t in range(TERMS)]

        def pixel(p, pointers, old):
            outputs = [registers.load(builder, builder.gep(pointers[0], [size(v * lanes)]), lanes)
                       for v in range(width)]
            new = []
            for t in range(TERMS):
                factor = registers.broadcast(builder, builder.load(builder.gep(lines[t], [p])), lanes)
                new += [builder.fadd(old[t * width + v], builder.fmul(outputs[v], factor, flags=("contract",)),
                                     flags=("contract",)) for v in range(width)]
            return new

        new = registers.write_loop(builder, pixels, [(output, stride)], [registers.zeros(lanes)] * (TERMS * width),
                                   pixel)
        for t in range(TERMS):
            row = builder.gep(total, [builder.mul(s_stride, size(t))])
            for v in range(width):
                place = builder.gep(row, [size(v * lanes)])
                registers.store(builder, builder.fadd(registers.load(builder, place, lanes), new[t * width + v]), place)

    registers.choose(builder, [(width, functools.partial(write, width)) for width in range(1, output_vectors() + 1)],
                     vectors)
    return context.get_dummy_value()
