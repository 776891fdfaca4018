"""A file in which every weight takes as many bits as its quantizer has learned.

    8 bytes     MAGIC
    4 x 4       checksum (CRC-32) of all that follows; bytes of the description, of the other parameters, of the weights
    ...         description: JSON, compressed by zlib
    ...         parameters that are not quantized (normalization, scalars of quantizers): float32
    ...         weights and biases: one stream of bits, the first of a byte the highest, without gaps between tensors

Integers and floats are little-endian. The code of a weight is its sign (0: +) and the number of its magnitude, counted
from 0: multiples of the step size, or powers of two from the smallest one on. Float weights are coded as their 32 bits.
A normalization in integers has its scale and its shift there in place of its float parameters.
"""
import json
import math
import struct
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.machine.errors import UserError
from common.machine.files import replacing
from common.quantizers import GRIDS
from common.reading.files import decoding, read_bytes
from common.reading.texts import TEXT_LIMIT, check_fields, parse_json
from common.runs.checkpoint import check_fit
from mixed_precision_dnns.config import config_from, to_shortest_dict
from mixed_precision_dnns.finished_run import LAST_BIAS, FinishedRun
from mixed_precision_dnns.network_layers import EPSILON
from mixed_precision_dnns.network_size import FLOAT_BITS, QuantizedTensor, quantized_tensors
from mixed_precision_dnns.quantized_network import QuantizedNetwork
from mixed_precision_dnns.tensor_table import levels_of

MAGIC = b"MPDNN\x001\n"
FLOAT = "float"    # kind of a coding
_SIZES = struct.Struct("<IIII")
_WHAT, _REMEDY = "a packed network", "export the network again"    # for errors
_LARGEST = 1 << 31    # bytes of a file
_LARGEST_IMAGE = 1 << 24    # values
_DESCRIPTION = {"config": dict, "image_shape": list, "num_classes": int, "weights": list, "step_sizes": dict,
                "others": list}
_COPIES = ("/W_q", "/b_q", "/scale_q", "/shift_q")    # endings of quantized weights, which follow from the others
_SCALE, _SHIFT = "/scale", "/shift"    # endings of what a normalization in integers has in place of the following
_NORMALIZATION = ("beta", "gamma", "mean", "var")
_OTHER = {"name": str, "shape": list}
_WEIGHT = {**_OTHER, "kind": str, "bits": int, "smallest": float}


@attrs.frozen
class Coding:
    """How a tensor is coded: `kind` is a name of `GRIDS` or FLOAT; `smallest` its step size or smallest magnitude."""

    kind: str
    bits: int
    smallest: float = 1.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Codes uint32 (n,) of float32 values (n,) that lie on the levels."""
        if self.kind == FLOAT:
            return values.view(np.uint32)
        return self.numbers(values) | (np.signbit(values).astype(np.uint32) << (self.bits - 1))

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """Number of the magnitude of each value, uint32 (n,)."""
        return GRIDS[self.kind].number_of(np.abs(values.astype(np.float64)) / self.smallest).astype(np.uint32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values float32 (n,) of codes uint32 (n,)."""
        if self.kind == FLOAT:
            return codes.view(np.float32)
        sign = codes >> (self.bits - 1)
        magnitude = GRIDS[self.kind].magnitude_of(codes & ((1 << (self.bits - 1)) - 1), self.smallest)
        return np.copysign(magnitude, np.where(sign, np.float32(-1), np.float32(1)))


def coding_of(tensor: QuantizedTensor, values: np.ndarray, parameters: Mapping[str, nn.Variable]) -> Coding:
    """Find how a weight or bias tensor is to be coded.

    `values` are its quantized values, float32 (n,); `parameters` all those of the network.

    Returns
    -------
    Coding
        With the bits that the budget counts. Only where U2 has more levels than that, as its step size is rounded, and
        the weights use them, it takes one bit more.
    """
    if tensor.spec.quantizer is None:
        return Coding(FLOAT, FLOAT_BITS)
    bits = int(_number(tensor.bits()))
    smallest, _, _ = levels_of(tensor, bits, parameters)
    assert smallest is not None
    coding = Coding(tensor.spec.grid.name, bits, smallest)
    return attrs.evolve(coding, bits=max(bits, int(coding.numbers(values).max()).bit_length() + 1))


# Streams of bits --------------------------------------------------------------------------------------------------


def pack(coded: Iterable[tuple[np.ndarray, int]]) -> bytes:
    """Write codes one after the other.

    `coded` yields codes uint32 (n,), and how many bits each takes, 1 to 32. The last byte is filled up with zeros.
    """
    parts, rest = [], np.zeros(0, np.uint8)
    for codes, bits in coded:
        digits = np.unpackbits(codes.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)[:, FLOAT_BITS - bits:]
        stream = np.concatenate([rest, digits.ravel()])
        whole = len(stream) - len(stream) % 8
        parts.append(np.packbits(stream[:whole]).tobytes())
        rest = stream[whole:]
    return b"".join(parts) + np.packbits(rest).tobytes()


def unpack(stream: bytes, layout: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Read what `pack` wrote.

    `layout` has the number of codes and the bits of each, for every tensor; codes are uint32 (n,).
    """
    content, start = np.frombuffer(stream, np.uint8), 0
    for num, bits in layout:
        end = start + num * bits
        digits = np.unpackbits(content[start // 8:-(-end // 8)])[start % 8:][:num * bits].reshape(num, bits)
        padded = np.zeros((num, FLOAT_BITS), np.uint8)
        padded[:, FLOAT_BITS - bits:] = digits
        yield np.packbits(padded, axis=1).view(">u4").ravel().astype(np.uint32)
        start = end


# Files ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Packed:
    """A network read from the file `path`.

    `parameters` are all but the copies of quantized weights: weights and biases have their quantized values.
    `step_sizes` are those of the weights that have a fixed quantizer.
    """

    path: Path
    run: FinishedRun
    parameters: dict[str, np.ndarray]
    step_sizes: dict[str, float]
    codings: dict[str, Coding]

    def install(self, batch_size: int) -> QuantizedNetwork:
        """Build the network for testing in the current parameter scope, with these parameters; UserError if they are
        those of another."""
        # The published script derives step sizes from the weights anew; from quantized ones they would be others.
        cfg = attrs.evolve(self.run.cfg, published=False) if self.run.cfg.as_published else self.run.cfg
        run = attrs.evolve(self.run, cfg=cfg)
        run.build(batch_size)
        created = nn.get_parameters(grad_only=False)
        parameters = unfolded(self.parameters)
        check_fit(self.path, {name: values.shape for name, values in parameters.items()},
                  {name: parameter.shape for name, parameter in created.items()},
                  optional=lambda name: name.endswith(_COPIES) and name in created)
        if wrong := [name for name in self.step_sizes if f"{name}_q" not in created]:
            raise UserError(f"{self.path}: a step size of {wrong[0]!r}, which this network has not; {_REMEDY}")
        for name, values in parameters.items():
            created[name].d = values
        for name, step_size in self.step_sizes.items():
            created[f"{name}_q"].info = types.SimpleNamespace(step_size=step_size)
        return run.build(batch_size)    # fixed quantizers have their step sizes in the graph


@attrs.frozen
class PackedSizes:
    """Bytes of the parts of a file: all before the weights, and the weights. `reported` is what the budget counts."""

    header: int
    weights: int
    reported: float


def save(path: Path, run: FinishedRun) -> PackedSizes:
    """Write the network of the current parameter scope, whose quantized weights have been computed."""
    parameters = nn.get_parameters(grad_only=False)
    tensors = [tensor for tensor in quantized_tensors(run.cfg) if tensor.is_stored]
    values = {tensor.name: quantized_values(tensor.name, parameters) for tensor in tensors}
    codings = {tensor.name: coding_of(tensor, values[tensor.name].ravel(), parameters) for tensor in tensors}
    folded = {f"{name.removesuffix(_SCALE)}/{part}" for name in values if name.endswith(_SCALE)
              for part in _NORMALIZATION}
    others = {name: p.d for name, p in parameters.items()
              if name not in values and name not in folded and not name.endswith(_COPIES)}
    description = zlib.compress(json.dumps({
        "config": to_shortest_dict(run.cfg), "image_shape": list(run.image_shape), "num_classes": run.num_classes,
        "weights": [{"name": name, "shape": list(values[name].shape), **attrs.asdict(coding)}
                    for name, coding in codings.items()],
        "step_sizes": {name: parameters[f"{name}_q"].info.step_size for name in values
                       if hasattr(getattr(parameters.get(f"{name}_q"), "info", None), "step_size")},
        "others": [{"name": name, "shape": list(array.shape)} for name, array in others.items()]}).encode(), 9)
    floats = b"".join(np.asarray(array, "<f4").tobytes() for array in others.values())
    stream = pack((codings[name].encode(array.ravel()), codings[name].bits) for name, array in values.items())
    content = struct.pack("<III", *map(len, (description, floats, stream))) + description + floats + stream
    with replacing(path) as temporary:
        temporary.write_bytes(MAGIC + struct.pack("<I", zlib.crc32(content)) + content)
    reported = sum(_number(tensor.kbytes()) for tensor in tensors) * 1024
    return PackedSizes(len(MAGIC) + 4 + len(content) - len(stream), len(stream), reported)


def _number(variable: nn.Variable) -> float:
    variable.forward()
    return float(variable.d)


def quantized_values(name: str, parameters: Mapping[str, nn.Variable]) -> np.ndarray:
    """Quantized values of a weight or bias, float32; its own where it has no quantizer."""
    quantized = parameters.get(f"{name}_q")
    return np.array((parameters[name] if quantized is None else quantized).d, np.float32)


def unfolded(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters with those of a normalization that have given its scale and shift, in place of these."""
    found = {}
    for name, values in parameters.items():
        scope, ending = name.rpartition("/")[0], f"/{name.rpartition('/')[2]}"
        if ending == _SCALE:
            found |= {f"{scope}/gamma": values, f"{scope}/beta": np.zeros_like(values),
                      f"{scope}/var": np.full_like(values, 1 - EPSILON)}
        elif ending == _SHIFT:
            found[f"{scope}/mean"] = -values
        else:
            found[name] = values
    return found


def load(path: str | Path) -> Packed:
    """Read a file that `save` wrote.

    Returns
    -------
    Packed

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It is damaged, or something else.
    """
    content = read_bytes(path, _WHAT, _LARGEST, _REMEDY, missing=f"{path}: no such file; export.py makes it")
    if not content.startswith(MAGIC):
        raise UserError(f"{path}: not a packed network; export.py makes one")
    with decoding(path, _WHAT, _REMEDY):
        if zlib.crc32(content[len(MAGIC) + 4:]) != struct.unpack_from("<I", content, len(MAGIC))[0]:
            raise UserError(f"{path}: damaged; {_REMEDY}")
        return _parse(content, Path(path))


def _parse(content: bytes, path: Path) -> Packed:
    """Make a network of the content of a file whose checksum is right; raises what damage makes it raise."""
    description, floats, stream = _parts(content, path)
    weights = [check_fields(entry, _WEIGHT, path, _WHAT, _REMEDY) for entry in description["weights"]]
    others = [check_fields(entry, _OTHER, path, _WHAT, _REMEDY) for entry in description["others"]]
    layout = [(_num(entry["shape"]), entry["bits"]) for entry in weights]
    num_bits = sum(num * bits for num, bits in layout)
    if len(stream) != -(-num_bits // 8) or len(floats) != 4 * sum(_num(entry["shape"]) for entry in others):
        raise ValueError("the shapes do not fit the numbers that are there")
    codings = {entry["name"]: _coding(entry) for entry in weights}
    parameters = {entry["name"]: codings[entry["name"]].decode(codes).reshape(entry["shape"])
                  for entry, codes in zip(weights, unpack(stream, layout), strict=True)}
    numbers = np.frombuffer(floats, "<f4")
    for entry in others:
        num = _num(entry["shape"])
        parameters[entry["name"]], numbers = numbers[:num].reshape(entry["shape"]), numbers[num:]
    step_sizes = {name: float(step_size) for name, step_size in description["step_sizes"].items()}
    return Packed(path, _run(description, parameters, path), parameters, step_sizes, codings)


def _parts(content: bytes, path: Path) -> tuple[dict[str, Any], bytes, bytes]:
    """Return the description, the bytes of the other parameters and those of the weights."""
    start, parts = len(MAGIC) + _SIZES.size, []
    for length in _SIZES.unpack_from(content, len(MAGIC))[1:]:
        parts.append(content[start:start + length])
        start += length
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(parts[0], TEXT_LIMIT)
    if start != len(content) or unpacker.unconsumed_tail:
        raise ValueError("its parts have other lengths than its header says")
    return check_fields(parse_json(text, path, _WHAT, _REMEDY), _DESCRIPTION, path, _WHAT, _REMEDY), parts[1], parts[2]


def _num(shape: Any) -> int:
    """Number of values of a shape."""
    if not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"shape {shape}")
    return math.prod(shape)


def _coding(entry: dict[str, Any]) -> Coding:
    kind, bits = entry["kind"], entry["bits"]
    if not 1 <= bits <= FLOAT_BITS or (kind == FLOAT) != (bits == FLOAT_BITS) or kind not in (FLOAT, *GRIDS):
        raise ValueError(f"a weight of kind {kind!r} and {bits} bits")
    return Coding(kind, bits, float(entry["smallest"]))


def _run(description: dict[str, Any], parameters: Mapping[str, np.ndarray], path: Path) -> FinishedRun:
    """Return what determines the network; its sizes are bounded, as it will be built of them."""
    shape, num_classes = tuple(description["image_shape"]), description["num_classes"]
    if len(shape) != 3 or _num(shape) > _LARGEST_IMAGE or parameters[LAST_BIAS].shape != (num_classes,):
        raise ValueError(f"images of shape {shape} and {num_classes} classes")
    return FinishedRun(config_from(description["config"], path), shape, num_classes)
