"""A file in which every weight takes as many bits as its quantizer has learned.

    8 bytes     MAGIC
    4 x 4       checksum (CRC-32) of all that follows; bytes of the description, of the other parameters, of the weights
    ...         description: JSON, compressed by zlib
    ...         parameters that are not quantized (normalization, scalars of quantizers): float32
    ...         weights and biases: one stream of bits, the first of a byte the highest, without gaps between tensors

Integers and floats are little-endian. The code of a weight is its sign (0: +) and the number of its magnitude, counted
from 0: multiples of the step size, or powers of two from the smallest one on. Float weights are coded as their 32 bits.
"""
import json
import math
import struct
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.files import replacing
from common.quantizers import GRIDS
from common.runs.config import to_dict
from mixed_precision_dnns.config import config_from
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.network_size import FLOAT_BITS, QuantizedTensor, quantized_tensors
from mixed_precision_dnns.quantized_network import QuantizedNetwork
from mixed_precision_dnns.tensor_table import levels_of

MAGIC = b"MPDNN\x001\n"
FLOAT = "float"    # kind of a coding
_SIZES = struct.Struct("<IIII")


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
    """A network read from a file.

    `parameters` are all but the copies of quantized weights: weights and biases have their quantized values.
    `step_sizes` are those of the weights that have a fixed quantizer.
    """

    run: FinishedRun
    parameters: dict[str, np.ndarray]
    step_sizes: dict[str, float]
    codings: dict[str, Coding]

    def install(self, batch_size: int) -> QuantizedNetwork:
        """Build the network for testing in the current parameter scope, with these parameters."""
        # The published script derives step sizes from the weights anew; from quantized ones they would be others.
        cfg = attrs.evolve(self.run.cfg, published=False) if self.run.cfg.as_published else self.run.cfg
        run = attrs.evolve(self.run, cfg=cfg)
        run.build(batch_size)
        created = nn.get_parameters(grad_only=False)
        for name, values in self.parameters.items():
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
    tensors = [tensor for tensor in quantized_tensors(run.cfg) if tensor.kind != "activations"]
    values = {tensor.name: quantized_values(tensor.name, parameters) for tensor in tensors}
    codings = {tensor.name: coding_of(tensor, values[tensor.name].ravel(), parameters) for tensor in tensors}
    others = {name: p.d for name, p in parameters.items() if name not in values and not name.endswith(("/W_q", "/b_q"))}
    description = zlib.compress(json.dumps({
        "config": to_dict(run.cfg), "image_shape": list(run.image_shape), "num_classes": run.num_classes,
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
    return np.array(parameters.get(f"{name}_q", parameters[name]).d, np.float32)


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
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; export.py makes it")
    content = path.read_bytes()
    start = len(MAGIC) + _SIZES.size
    if not content.startswith(MAGIC):
        raise UserError(f"{path}: not a packed network; export.py makes one")
    if len(content) < start or zlib.crc32(content[len(MAGIC) + 4:]) != struct.unpack_from("<I", content, len(MAGIC))[0]:
        raise UserError(f"{path}: damaged; export the network again")
    _, *lengths = _SIZES.unpack_from(content, len(MAGIC))
    parts = []
    for length in lengths:
        parts.append(content[start:start + length])
        start += length
    description, floats, stream = json.loads(zlib.decompress(parts[0])), *parts[1:]
    codings = {entry["name"]: Coding(entry["kind"], entry["bits"], entry["smallest"])
               for entry in description["weights"]}
    layout = [(math.prod(entry["shape"]), entry["bits"]) for entry in description["weights"]]
    parameters = {entry["name"]: codings[entry["name"]].decode(codes).reshape(entry["shape"])
                  for entry, codes in zip(description["weights"], unpack(stream, layout), strict=True)}
    numbers = np.frombuffer(floats, "<f4")
    for entry in description["others"]:
        num = math.prod(entry["shape"])
        parameters[entry["name"]], numbers = numbers[:num].reshape(entry["shape"]), numbers[num:]
    run = FinishedRun(config_from(description["config"], path), tuple(description["image_shape"]),
                      description["num_classes"])
    return Packed(run, parameters, description["step_sizes"], codings)
