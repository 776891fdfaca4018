"""Find the weights of a separation model: published ones by name, a file, or the folder of a training run."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from common.machine.errors import UsageError, UserError
from common.machine.streams import say
from common.reading.texts import check_fields, read_json
from common.runs.checkpoint import load_parameters, stored_shapes
from common.runs.training import BEST
from common.separation.weights import check_targets, find_model, in_order, refuse_archive
from x_umx.model import SAMPLE_RATE, SOURCES, CrossNetOpenUnmix, OpenUnmix, sizes_from_shapes
from x_umx.separation import NETWORK

PUBLISHED = {name: model.url for name, model in NETWORK.published.items()}
BEST_XUMX, BEST_UMX = "best_xumx.h5", "best_umx.h5"    # the published names of what a training leaves
_LARGEST = 1 << 30    # bytes that a weight file may have
_REMEDY = "remove it to use the defaults"    # of a configuration beside weights
_NUM_SHOWN = 4    # names that a note lists before it only counts
_KINDS = {"nhop": int, "sample_rate": int, "crossing": bool, "source": str}    # what is read of a configuration
_LIMITS = {"nhop": 1 << 16, "sample_rate": 1 << 20}


@attrs.frozen
class WeightFile:
    """A network and the file of its parameters.

    Parameters
    ----------
    path
    network
        Its sizes are those of the file.
    sources
        What it separates: all sources of X-UMX, one of UMX.
    sample_rate
        In Hz; that of the training run beside it, otherwise the published one.
    """

    path: Path
    network: OpenUnmix
    sources: tuple[str, ...]
    sample_rate: int = SAMPLE_RATE

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Read the parameters, which must have `shapes`, into the current scope.

        Names that the network does not have are left out with a note. Files from before nnabla 1.24 have some: the
        Fourier transform had parameters then.
        """
        stored = stored_shapes(self.path)
        if unknown := sorted(set(stored) - set(shapes)):
            say(f"note: {self.path}: {len(unknown)} parameters ignored that this network does not have "
                f"({', '.join(unknown[:_NUM_SHOWN])}{', ...' if len(unknown) > _NUM_SHOWN else ''})")
        if older := [name for name, shape in shapes.items()
                     if _is_lstm_weight(name) and stored.get(name, shape) != shape]:
            say(f"warning: {self.path}: {older[0]} was saved in another shape {stored[older[0]]}; its elements are "
                "taken in their order")
        load_parameters(self.path, shapes, optional=lambda name: name not in shapes, reshaped=_is_lstm_weight)


def _is_lstm_weight(name: str) -> bool:
    return name.endswith(("lstm/weight_l0", "lstm/weight"))


def find_weights(model: str | Path, targets: Sequence[str] | None = None) -> list[WeightFile]:
    """Find the weight files of a model.

    Parameters
    ----------
    model
        `xumx`, `umx` or `umxhq` (fetched on the first use, unless there is such a path); `xumx-small`, which is part of
        the package; a file; the folder of a training run; or a folder with the files `<target>.h5`, or the training
        runs `<target>/`, of UMX.
    targets
        Which sources are wanted; None: all there are.

    Returns
    -------
    list of WeightFile
        One file of X-UMX, or one of UMX for each target.

    Raises
    ------
    UsageError
        There is no such model, or a target that it does not separate.
    UserError
        A file belongs to another network; no network connection.
    """
    path = find_model(model, PUBLISHED, SOURCES, _LARGEST, NETWORK.shipped_folders)
    files = _in_folder(path) if path.is_dir() else {path.stem: path}
    found = [_describe(file, name) for name, file in files.items()]
    if len(found) > 1 and any(len(file.sources) > 1 for file in found):
        raise UsageError(f"--model {model}: X-UMX and other weights in one folder; name the file")
    if len(found[0].sources) > 1:
        check_targets(targets, model, found[0].sources)
        return found
    by_source = {source: file for file in found for source in file.sources}
    check_targets(targets, model, by_source)
    chosen = [by_source[source] for source in (targets or by_source)]
    _check_alike(chosen)
    return chosen


def _check_alike(files: Sequence[WeightFile]) -> None:
    """The networks of several sources share one spectrogram."""
    for file in files[1:]:
        same = (file.network.sizes.n_fft, file.network.hop_length, file.sample_rate)
        first = files[0]
        if same != (first.network.sizes.n_fft, first.network.hop_length, first.sample_rate):
            raise UserError(f"{file.path}: another n_fft, hop length or sample rate than {first.path}")


def _in_folder(folder: Path) -> dict[str, Path]:
    """Return {name: file} of the weights in a folder: of one run, or one file or run for each target."""
    for name in (BEST_XUMX, BEST_UMX, BEST):
        if (folder / name).is_file():
            return {folder.name: folder / name}
    files = {path.stem: path for path in sorted(folder.glob("[!.]*.h5"))}
    for name in (BEST_UMX, BEST):
        files = {path.parent.name: path for path in sorted(folder.glob(f"[!.]*/{name}"))} | files
    if not files:
        raise UsageError(f"--model {folder}: no weights here: neither {BEST_XUMX} or {BEST_UMX} of a training, nor "
                         "<target>.h5 of UMX")
    return in_order(files, SOURCES)


def _describe(path: Path, name: str) -> WeightFile:
    """Read sizes and sources of a weight file; `name` is that of a UMX whose run does not say what it separates."""
    refuse_archive(path)
    shapes = stored_shapes(path)
    config = _run_config(path)
    bridged = tuple(key.removeprefix("input_mean_") for key in shapes if key.startswith("input_mean_"))
    try:
        sizes = sizes_from_shapes(shapes, bridged[0] if bridged else None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    hop_length = config.get("nhop", sizes.n_fft // 4)
    if 3 * hop_length > sizes.n_fft:
        raise UserError(f"{path.parent / 'config.json'}: nhop = {hop_length} is more than a third of n_fft = "
                        f"{sizes.n_fft}, that of {path.name}; {_REMEDY}")
    rate = config.get("sample_rate", SAMPLE_RATE)
    if bridged:
        try:
            network = CrossNetOpenUnmix(sizes, hop_length, sources=bridged, crossing=config.get("crossing", True))
        except ValueError as error:
            raise UserError(f"{path}: weights of another network: {error}") from error
        return WeightFile(path, network, bridged, rate)
    return WeightFile(path, OpenUnmix(sizes, hop_length), (config.get("source", name),), rate)


def _run_config(path: Path) -> dict[str, Any]:
    """Configuration of the training run whose result `path` is; nothing for other files."""
    config = path.parent / "config.json"
    if path.name not in (BEST_XUMX, BEST_UMX, BEST) or not config.is_file():
        return {}
    what, remedy = "the configuration of a training run", _REMEDY
    values = check_fields(read_json(config, what, remedy), {}, config, what, remedy)
    present = {key: kind for key, kind in _KINDS.items() if key in values}
    check_fields(values, present, config, what, remedy)
    for key, most in _LIMITS.items():
        if not 0 < values.get(key, 1) <= most:
            raise UserError(f"{config}: {key} = {values[key]} is not within 1 to {most}; {remedy}")
    return values
