"""The hyper-parameters of the networks: published files in `hparams/`, or your own of the same keys.

Lists of a multi-scale network run down the scales and up again: 2 D + 1 blocks for D scales below the first.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import yaml

from common.machine.errors import UsageError, UserError
from common.machine.files import beside_scripts, write_text
from common.reading.texts import read_yaml
from common.runs.config import from_dict
from d3net.yaml_fields import (
    as_lists,
    count,
    count_lists,
    counts,
    each_of,
    field,
    is_number,
    number,
    rate_lists,
    rates,
    switch,
)

FOLDER = beside_scripts(__name__, "hparams")
AS_PUBLISHED = -1    # of a key of an experiment that stands in the hyper-parameters, too
LARGEST_SEED = 2 ** 31 - 1
# Upper limits of what determines sizes
BINS, FRAMES, RATE, SOUND_CHANNELS = 1 << 15, 1 << 12, 1 << 20, 16
CHANNELS, GROWTH, LAYERS, PIXELS, UPDATES = 1 << 11, 1 << 8, 1 << 6, 1 << 13, 1 << 30
MOST_CLASSES = 255    # of labels in bytes, of which 255 is no class
LARGEST = 1 << 26    # weights of the dense layers of a network, about
SCALES = 4    # of the segmentation network: 4, 8, 16 and 32 pixels a step


@attrs.frozen
class MultiScale:
    """A multi-scale network of D3 blocks, and the convolution before it.

    Parameters
    ----------
    bins
        First bin, and the one after the last.
    num_features
        Channels of that convolution.
    dens_k, num_layers, n_blocks : (2 depth + 1)
        Growth, layers of a D2 block and number of D2 blocks, of every D3 block on the way down and up.
    comp_rates : (2 depth or more)
        Share of the channels that remain between two scales; those from number `depth` on count, on the way up.
    """

    bins: tuple[int, int]
    num_features: int
    dens_k: tuple[int, ...]
    num_layers: tuple[int, ...]
    n_blocks: tuple[int, ...]
    comp_rates: tuple[float, ...]

    @property
    def depth(self) -> int:
        """How often height and width are halved."""
        return len(self.dens_k) // 2

    @property
    def num_bins(self) -> int:
        """Width of the band."""
        return self.bins[1] - self.bins[0]

    def check(self, name: str) -> None:
        """Raise a ValueError if the lists do not belong together or the bins cannot be halved `depth` times."""
        lengths = {len(numbers) for numbers in (self.dens_k, self.num_layers, self.n_blocks)}
        if len(lengths) > 1 or len(self.dens_k) % 2 == 0 or len(self.comp_rates) < 2 * self.depth:
            raise ValueError(f"{name}: {len(self.dens_k)} growth rates, {len(self.num_layers)} numbers of layers, "
                             f"{len(self.n_blocks)} of blocks and {len(self.comp_rates)} compression rates; the first "
                             "three should be equal and odd, the last at most one less")
        _check_weights(name, self.dens_k, self.num_layers, self.n_blocks)
        if self.num_bins <= 0 or self.num_bins % 2**self.depth:
            raise ValueError(f"{name}: bins {self.bins[0]} to {self.bins[1]} cannot be halved {self.depth} times")


@attrs.frozen(kw_only=True)
class MSSHyperParameters:
    """Network, spectrogram and patches of a target of music source separation; keys as published.

    Bins up to `valid_signal_idx` are estimated, in bands that meet at `band_split_idxs`, which may be none; lists of
    lists have one for each band, `f_` is the network of all bins, `ttl_` the block behind all of them. Patches are in
    frames. With `mask` the network puts out what the magnitudes of the mixture are multiplied by, instead of
    magnitudes: not as published, and learned in fewer steps.
    """

    valid_signal_idx: int = count(BINS)
    band_split_idxs: tuple[int, ...] = counts(BINS, least=0)
    num_init_features: tuple[int, ...] = counts(CHANNELS)
    num_layer_blocks: tuple[tuple[int, ...], ...] = count_lists(LAYERS)
    dens_k: tuple[tuple[int, ...], ...] = count_lists(GROWTH)
    b_n_blocks: tuple[tuple[int, ...], ...] = count_lists(LAYERS)
    comp_rates: tuple[tuple[float, ...], ...] = rate_lists()
    f_num_init_features: int = count(CHANNELS)
    f_num_layer_block: tuple[int, ...] = counts(LAYERS)
    f_dens_k: tuple[int, ...] = counts(GROWTH)
    f_n_blocks: tuple[int, ...] = counts(LAYERS)
    f_comp_rates: tuple[float, ...] = rates()
    ttl_num_layer_block: int = count(LAYERS)
    ttl_dens_k: int = count(GROWTH)
    patch_length: int = count(FRAMES)
    n_channels: int = count(SOUND_CHANNELS)
    fft_size: int = count(2 * BINS)
    hop_size: int = count(2 * BINS)
    fs: int = count(RATE)
    test_patch_len: int = count(FRAMES)
    out_shift: int = count(FRAMES)
    mask: bool = switch(False)

    def __attrs_post_init__(self) -> None:
        num_bands = len(self.band_split_idxs) + 1
        for key in ("num_init_features", "num_layer_blocks", "dens_k", "b_n_blocks", "comp_rates"):
            if len(getattr(self, key)) != num_bands:
                raise ValueError(f"{key}: {len(getattr(self, key))} entries for {num_bands} bands")
        if self.valid_signal_idx >= self.bins:
            raise ValueError(f"valid_signal_idx = {self.valid_signal_idx}: a spectrum has {self.bins} bins")
        for index, band in enumerate(self.bands):
            band.check(f"band {index}")
        self.full.check("full band")
        for key in ("patch_length", "test_patch_len"):
            if getattr(self, key) % self.frame_multiple:
                raise ValueError(f"{key} = {getattr(self, key)}: not a multiple of {self.frame_multiple} frames")
        if self.test_patch_len % self.out_shift:
            raise ValueError(f"out_shift = {self.out_shift}: test_patch_len is not a multiple of it")

    def check_frames(self) -> None:
        """Raise a ValueError if signals cannot be put together again from such frames."""
        if self.fft_size < 4 * self.hop_size or self.fft_size % (2 * self.hop_size):
            raise ValueError(f"hop_size {self.hop_size} is to divide half of fft_size {self.fft_size}, twice or more")

    @property
    def bins(self) -> int:
        """Number of bins of a spectrum."""
        return self.fft_size // 2 + 1

    @property
    def bands(self) -> list[MultiScale]:
        """Networks of the bands."""
        edges = (0, *self.band_split_idxs, self.valid_signal_idx)
        rows = zip(edges[:-1], edges[1:], self.num_init_features, self.dens_k, self.num_layer_blocks, self.b_n_blocks,
                   self.comp_rates, strict=True)
        return [MultiScale((first, last), *row) for first, last, *row in rows]

    @property
    def full(self) -> MultiScale:
        """Network of all bins."""
        return MultiScale((0, self.valid_signal_idx), self.f_num_init_features, self.f_dens_k, self.f_num_layer_block,
                          self.f_n_blocks, self.f_comp_rates)

    @property
    def frame_multiple(self) -> int:
        """What the number of frames must be a multiple of: they are halved as often as the bins."""
        return 2 ** max(network.depth for network in (*self.bands, self.full))


@attrs.frozen(kw_only=True)
class SegmentationHyperParameters:
    """Network and training of semantic segmentation; keys as published.

    Lists of four have an entry for each stage; `dilation` false makes all dilations of a stage 1. `channels` are those
    of the head. Training runs on crops of `image_height` by `image_width`; `mean` and `std` (RGB, 0 to 255)
    standardize images.
    """

    batch_size: int = count(CHANNELS)
    num_init_features: int = count(CHANNELS)
    num_layers: tuple[int, ...] = counts(LAYERS, SCALES)
    n_blocks: tuple[int, ...] = counts(LAYERS, SCALES)
    dens_k: tuple[int, ...] = counts(GROWTH, SCALES)
    block_comp: tuple[float, ...] = rates(SCALES)
    intermediate_out_ch: tuple[int, ...] = counts(CHANNELS, SCALES)
    trans_comp_factor: int = count(CHANNELS)
    dense_n_out_layer_block: tuple[int, ...] = counts(LAYERS, SCALES)
    dilation: tuple[bool, ...] = field(each_of(lambda value: isinstance(value, bool), SCALES),
                                       f"{SCALES} times true or false")
    channels: int = count(CHANNELS)
    image_height: int = count(PIXELS)
    image_width: int = count(PIXELS)
    num_classes: int = count(MOST_CLASSES)
    max_iter: int = count(UPDATES)
    save_interval: int = count(UPDATES)
    lr: float = number()
    momentum: float = number()
    weight_decay: float = number()
    power: float = number()
    min_lr: float = number()
    mean: tuple[float, ...] = field(each_of(is_number, 3), "3 numbers >= 0")
    std: tuple[float, ...] = field(each_of(lambda value: is_number(value) and value > 0, 3), "3 numbers above 0")
    palette: tuple[tuple[float, ...], ...] = field(each_of(each_of(lambda value: is_number(value) and value <= 255, 3)),
                                                   "lists of red, green and blue")

    def __attrs_post_init__(self) -> None:
        if len(self.palette) != self.num_classes:
            raise ValueError(f"palette: {len(self.palette)} colours for {self.num_classes} classes")
        _check_weights("the network", self.dens_k, self.num_layers, self.n_blocks)
        for stage, (kept, layers) in enumerate(zip(self.dense_n_out_layer_block, self.num_layers, strict=True), 1):
            if kept > layers:
                raise ValueError(f"dense_n_out_layer_block: {kept} of {layers} layers in stage {stage}")
        self._check_channels()

    @property
    def block_outputs(self) -> tuple[int, ...]:
        """Channels that a D2 block adds to what it gets, for each stage."""
        rows = zip(self.dens_k, self.dense_n_out_layer_block, self.block_comp, strict=True)
        return tuple(int(growth * kept * rate) for growth, kept, rate in rows)

    def _check_channels(self) -> None:
        """Raise a ValueError if no channel is left somewhere: nnabla would end the process."""
        channels = self.num_init_features
        for stage, (blocks, outputs) in enumerate(zip(self.n_blocks, self.block_outputs, strict=True), 1):
            if not outputs:
                raise ValueError(f"block_comp = {as_lists(self.block_comp)}: no channel is left in stage {stage}")
            channels += blocks * outputs
            if stage < SCALES and channels < self.trans_comp_factor:
                raise ValueError(f"trans_comp_factor = {self.trans_comp_factor}: no channel is left of the {channels} "
                                 f"of stage {stage}")
            channels //= self.trans_comp_factor


def _check_weights(name: str, dens_k: Sequence[int], num_layers: Sequence[int], n_blocks: Sequence[int]) -> None:
    """Raise a ValueError if dense layers of 3 x 3 would have more weights than anybody trains."""
    num = sum(blocks * (layers * growth) ** 2 * 9 // 2
              for growth, layers, blocks in zip(dens_k, num_layers, n_blocks, strict=True))
    if num > LARGEST:
        raise ValueError(f"{name}: dens_k and the numbers of layers and blocks make {num} weights, more than {LARGEST}")


HyperParameters = MSSHyperParameters | SegmentationHyperParameters
Kind = TypeVar("Kind", MSSHyperParameters, SegmentationHyperParameters)


def as_published(kind: Callable[..., Any], meaning: str, published: str) -> Any:
    """Make the field of an experiment that overrides a hyper-parameter, `published` in the published files.

    `kind` is `common.runs.config.integer` or `number`.
    """
    return kind(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"{meaning}; -1: as in the hyper-parameters, {published}")


def replace_given(hparams: Kind, **values: Any) -> Kind:
    """Return hyper-parameters with those of `values` that are not `AS_PUBLISHED`; UsageError if one is not allowed."""
    given = {key: value for key, value in values.items() if value != AS_PUBLISHED}
    try:
        return attrs.evolve(hparams, **given)
    except ValueError as error:
        raise UsageError(f"the hyper-parameters with {given}: {error}") from error


def load_mss(name_or_path: str | Path) -> MSSHyperParameters:
    """Read the hyper-parameters of a music network.

    Parameters
    ----------
    name_or_path
        A target (`vocals`, `drums`, `bass`, `other`), a test configuration (`tiny`, `tiny_bass`), or a YAML file.

    Raises
    ------
    UsageError
        There are none of that name, or the file has not the right keys and values.
    """
    return _load(MSSHyperParameters, name_or_path, FOLDER / "mss")


def load_segmentation(name_or_path: str | Path) -> SegmentationHyperParameters:
    """Read the hyper-parameters of a segmentation network.

    Parameters
    ----------
    name_or_path
        `D3Net_L`, `D3Net_S` (or with a hyphen), `tiny`, or a YAML file.

    Raises
    ------
    UsageError
        As for `load_mss`.
    """
    return _load(SegmentationHyperParameters, name_or_path, FOLDER / "segmentation")


def save_hyper_parameters(path: str | Path, hparams: HyperParameters) -> None:
    """Write hyper-parameters as a YAML file that `load_mss` or `load_segmentation` reads; defaults are left out."""
    values = {key.name: as_lists(getattr(hparams, key.name)) for key in attrs.fields(type(hparams))
              if getattr(hparams, key.name) != key.default}
    write_text(path, yaml.safe_dump(values, sort_keys=False, default_flow_style=None))


def _load(cls: type[Kind], name_or_path: str | Path, folder: Path) -> Kind:
    path = _find(str(name_or_path), folder)
    try:
        content = read_yaml(path, "a YAML file of hyper-parameters", "correct it")
    except UserError as error:
        raise UsageError(str(error)) from error
    if isinstance(content, dict):
        published = {key.name: key.default for key in attrs.fields(cls) if key.default is not attrs.NOTHING}
        content = published | {str(key): value for key, value in content.items()}    # YAML knows keys of other types
    try:
        return from_dict(cls, content, path)
    except UserError as error:
        raise UsageError(str(error)) from error


def is_published_mss(name: str) -> bool:
    """Whether `load_mss` knows hyper-parameters of this name."""
    return name.replace("-", "_") in _published(FOLDER / "mss")


def is_published_segmentation(name: str) -> bool:
    """Whether `load_segmentation` knows hyper-parameters of this name."""
    return name.replace("-", "_") in _published(FOLDER / "segmentation")


def _published(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(name: str, folder: Path) -> Path:
    published = _published(folder)
    if name.replace("-", "_") in published:
        return published[name.replace("-", "_")]
    if not Path(name).exists():
        raise UsageError(f"{name}: no such file, nor one of the configurations {', '.join(published)}")
    return Path(name)
