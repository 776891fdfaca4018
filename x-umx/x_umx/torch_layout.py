"""The weights of UMX and X-UMX as PyTorch holds them: names and layouts of open-unmix-pytorch and of asteroid.

A state dict of UMX is that of one source. Sources are those of X-UMX; (None,) stands for UMX, whose names have none.
"""
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from common.machine.errors import UserError
from x_umx.model import SOURCES, Sizes

VECTORS = ("input_mean", "input_scale", "output_scale", "output_mean")
NORMALIZATION = {"beta": "bias", "gamma": "weight", "mean": "running_mean", "var": "running_var"}
# open-unmix-pytorch -> asteroid, for each source
ASTEROID = {"fc1": "layer_enc.{}.enc.0", "bn1": "layer_enc.{}.enc.1", "lstm": "layer_lstm.{}",
            "fc2": "layer_dec.{}.dec.0", "bn2": "layer_dec.{}.dec.1", "fc3": "layer_dec.{}.dec.3",
            "bn3": "layer_dec.{}.dec.4", **{name: f"mean_scale.{name}_{{}}" for name in VECTORS}}
_ASTEROID_SOURCE = re.compile(r"layer_enc\.([\w-]+)\.")
Arrays = Mapping[str, np.ndarray]    # by the names of parameters
Sources = Sequence[str | None]
# Of the Fourier transform, and what batch normalization counts; neither is a weight.
NO_WEIGHT = re.compile(r"(stft|transform|encoder|decoder)\..*|sample_rate|.*\.num_batches_tracked")


def torch_shapes(sizes: Sizes, sources: Sources = (None,)) -> dict[str, tuple[int, ...]]:
    """List the weights of a network in PyTorch.

    Parameters
    ----------
    sizes : Sizes
    sources : sequence of str or None
        The sources of X-UMX; (None,) for UMX.

    Returns
    -------
    dict of str to tuple of int
        The shape of each entry of a state dict.
    """
    hidden, size, bins = sizes.hidden_size, sizes.lstm_size, sizes.nb_channels * sizes.bins
    shapes: dict[str, tuple[int, ...]] = {
        name: (sizes.max_bin if name.startswith("input") else sizes.bins,) for name in VECTORS}
    for k, shape in enumerate(((hidden, sizes.nb_channels * sizes.max_bin), (hidden, 2 * hidden), (bins, hidden)), 1):
        shapes[f"fc{k}.weight"] = shape
        shapes |= {f"bn{k}.{name}": shape[:1] for name in NORMALIZATION.values()}
    for layer, cells in enumerate(_cells(sizes)):
        features = len(cells) * size if layer else hidden
        for cell in cells:
            shapes |= {f"lstm.weight_ih_{cell}": (4 * size, features), f"lstm.weight_hh_{cell}": (4 * size, size),
                       f"lstm.bias_ih_{cell}": (4 * size,), f"lstm.bias_hh_{cell}": (4 * size,)}
    return {_theirs(name, source): shape for source in sources for name, shape in shapes.items()}


def from_torch(state: Arrays, sizes: Sizes, sources: Sources = (None,)) -> dict[str, np.ndarray]:
    """Convert the weights of a state dict to our parameters.

    Matrices of affine layers are transposed; the two biases of an LSTM cell, of which only the sum counts, are added.

    Parameters
    ----------
    state : dict of str to float32 array
        At least what `torch_shapes(sizes, sources)` lists.
    sizes : Sizes
    sources : sequence of str or None
        As for `torch_shapes`.

    Returns
    -------
    dict of str to float32 array
    """
    ours = {}
    for source in sources:
        part = {name: state[_theirs(name, source)] for name in torch_shapes(sizes)}
        ours |= {_ours(name, source): value for name, value in _umx_from_torch(part, sizes).items()}
    return ours


def to_torch(parameters: Arrays, sizes: Sizes, sources: Sources = (None,)) -> dict[str, np.ndarray]:
    """Convert our parameters to a state dict; the inverse of `from_torch` but for second biases, which are 0.

    Parameters
    ----------
    parameters : dict of str to float32 array
    sizes, sources
        As for `from_torch`.

    Returns
    -------
    dict of str to float32 array, int64 for the counts of batches, which nothing uses
    """
    state = {}
    for source in sources:
        def get(name, source=source):
            return parameters[_ours(name, source)]

        state |= {_theirs(name, source): value for name, value in _umx_to_torch(get, sizes).items()}
    return state


def _theirs(name: str, source: str | None) -> str:
    head, dot, rest = name.partition(".")
    return f"{ASTEROID[head].format(source)}{dot}{rest}" if source else name


def _ours(name: str, source: str | None) -> str:
    head, slash, rest = name.partition("/")
    return f"{head}_{source}{slash}{rest}" if source else name


def _cells(sizes: Sizes) -> list[tuple[str, ...]]:
    """How PyTorch calls the directions of each layer."""
    return [(f"l{k}",) if sizes.unidirectional else (f"l{k}", f"l{k}_reverse") for k in range(sizes.nb_layers)]


def _umx_from_torch(state: Arrays, sizes: Sizes) -> dict[str, np.ndarray]:
    ours = {name: state[name] for name in VECTORS}
    for k in (1, 2, 3):
        ours[f"fc{k}/affine/W"] = state[f"fc{k}.weight"].T
        ours |= {f"fc{k}/bn/{our}": state[f"bn{k}.{their}"].reshape(1, 1, -1) for our, their in NORMALIZATION.items()}
    weights, biases = [], []
    for cells in _cells(sizes):
        # The gates come in the same order; our columns are those of the input, then those of the state.
        matrices = [np.hstack([state[f"lstm.weight_{part}_{cell}"] for part in ("ih", "hh")]) for cell in cells]
        weights.append(np.stack(matrices).reshape(len(cells), 4, sizes.lstm_size, -1))
        biases.append([state[f"lstm.bias_ih_{cell}"] + state[f"lstm.bias_hh_{cell}"] for cell in cells])
    ours["lstm/lstm/weight_l0"] = weights[0]
    if len(weights) > 1:
        ours["lstm/lstm/weight"] = np.stack(weights[1:])
    return ours | {"lstm/lstm/bias": np.reshape(biases, (len(weights), -1, 4, sizes.lstm_size))}


def _umx_to_torch(get: Callable[[str], np.ndarray], sizes: Sizes) -> dict[str, np.ndarray]:
    state = {name: get(name) for name in VECTORS}
    for k in (1, 2, 3):
        state[f"fc{k}.weight"] = get(f"fc{k}/affine/W").T
        state |= {f"bn{k}.{their}": get(f"fc{k}/bn/{our}").ravel() for our, their in NORMALIZATION.items()}
        state[f"bn{k}.num_batches_tracked"] = np.zeros((), np.int64)
    weights = [get("lstm/lstm/weight_l0"), *(get("lstm/lstm/weight") if sizes.nb_layers > 1 else ())]
    for cells, layer, biases in zip(_cells(sizes), weights, get("lstm/lstm/bias"), strict=True):
        for cell, w, bias in zip(cells, layer.reshape(len(cells), 4 * sizes.lstm_size, -1), biases, strict=True):
            state |= {f"lstm.weight_ih_{cell}": w[:, :-sizes.lstm_size],
                      f"lstm.weight_hh_{cell}": w[:, -sizes.lstm_size:],
                      f"lstm.bias_ih_{cell}": bias.ravel(), f"lstm.bias_hh_{cell}": np.zeros(bias.size, np.float32)}
    return state


def sources_of(state: Arrays, listed: Sequence[str] = SOURCES) -> tuple[str | None, ...]:
    """Return the sources of a state dict in the order in which they are `listed`; (None,) if it is not of X-UMX."""
    found = dict.fromkeys(match[1] for match in map(_ASTEROID_SOURCE.match, state) if match)
    return tuple(sorted(found, key=lambda name: listed.index(name) if name in listed else len(listed))) or (None,)


def sizes_of(state: Arrays, source: str | None = None) -> Sizes:
    """Infer the sizes of the network that a state dict belongs to.

    Parameters
    ----------
    state : dict of str to array
    source : str or None
        One of `sources_of(state)`.

    Returns
    -------
    Sizes

    Raises
    ------
    UserError
        It belongs to neither UMX nor X-UMX.
    """
    try:
        (hidden, columns), (used,), (bins,) = (state[_theirs(name, source)].shape
                                               for name in ("fc1.weight", "input_mean", "output_mean"))
        channels = columns // used
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise UserError("neither weights of UMX, as open-unmix-pytorch names them, nor of X-UMX, as asteroid does"
                        ) from error
    layers = next(k for k in itertools.count() if _theirs(f"lstm.weight_ih_l{k}", source) not in state)
    try:
        return Sizes(n_fft=2 * (bins - 1), nb_channels=channels, hidden_size=hidden, nb_layers=max(layers, 1),
                     max_bin=used, unidirectional=_theirs("lstm.weight_ih_l0_reverse", source) not in state)
    except ValueError as error:
        raise UserError(f"weights of another network than UMX and X-UMX: {error}") from error
