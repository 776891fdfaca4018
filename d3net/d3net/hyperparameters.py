"""What determines the networks: the published files in `hparams/`, or one's own of the same keys.

Lists of a multi-scale network run down the scales and up again: 2 D + 1 blocks for D scales below the first.
"""
from pathlib import Path

import attrs
import yaml

from common.machine.errors import UsageError, UserError
from common.machine.files import beside_scripts
from common.runs.config import from_dict

FOLDER = beside_scripts(__package__, "hparams")
SCALES = 4    # of the segmentation network: 4, 8, 16 and 32 pixels a step


# Fields: each takes what a YAML file holds and raises a ValueError that names the key.


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _field(is_valid, expected):
    def check(instance, field, value):
        if not is_valid(value):
            raise ValueError(f"{field.name} = {_as_lists(value)!r} is not allowed ({expected})")

    return attrs.field(converter=_as_tuples, validator=check)


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _as_lists(value):
    return list(map(_as_lists, value)) if isinstance(value, tuple) else value


def _all(is_valid, length=None):
    """Check a tuple, of `length` items if given, otherwise of at least one."""
    def check(value):
        right_length = isinstance(value, tuple) and (len(value) == length if length else len(value) > 0)
        return right_length and all(map(is_valid, value))
    return check


def _count():
    return _field(_is_count, "a positive integer")


def _number():
    return _field(_is_number, "a number >= 0")


def _counts(length=None):
    return _field(_all(_is_count, length), f"{length or 'one or more'} positive integers")


def _is_rate(value):
    return _is_number(value) and 0 < value <= 1


def _rates(length=None):
    return _field(_all(_is_rate, length), f"{length or 'one or more'} numbers above 0, at most 1")


def _lists_of(is_valid, expected):
    return _field(_all(_all(is_valid)), f"one list of {expected} for each band")


@attrs.frozen
class MultiScale:
    """A multi-scale network of D3 blocks, with what precedes it.

    Parameters
    ----------
    bins : tuple of int
        First bin, and the one after the last.
    num_features : int
        Channels of the convolution before it.
    dens_k, num_layers, n_blocks : tuple of int (2 depth + 1)
        Growth, layers of a D2 block and number of D2 blocks, of every D3 block on the way down and up.
    comp_rates : tuple of float (2 depth or more)
        Share of the channels that remain between two scales; those from number `depth` on count, on the way up.
    """

    bins = attrs.field()
    num_features = attrs.field()
    dens_k = attrs.field()
    num_layers = attrs.field()
    n_blocks = attrs.field()
    comp_rates = attrs.field()

    @property
    def depth(self):
        """How often height and width are halved."""
        return len(self.dens_k) // 2

    @property
    def num_bins(self):
        """Width of the band."""
        return self.bins[1] - self.bins[0]

    def check(self, name):
        """Raise a ValueError if the lists do not belong together or the bins cannot be halved `depth` times."""
        lengths = {len(numbers) for numbers in (self.dens_k, self.num_layers, self.n_blocks)}
        if len(lengths) > 1 or len(self.dens_k) % 2 == 0 or len(self.comp_rates) < 2 * self.depth:
            raise ValueError(f"{name}: {len(self.dens_k)} growth rates, {len(self.num_layers)} numbers of layers, "
                             f"{len(self.n_blocks)} of blocks and {len(self.comp_rates)} compression rates; the first "
                             "three should be equal and odd, the last at most one less")
        if self.num_bins <= 0 or self.num_bins % 2**self.depth:
            raise ValueError(f"{name}: bins {self.bins[0]} to {self.bins[1]} cannot be halved {self.depth} times")


@attrs.frozen(kw_only=True)
class MSSHyperParameters:
    """Network, spectrogram and patches of a target of music source separation; keys as published.

    Bins up to `valid_signal_idx` are estimated, in bands that meet at `band_split_idxs`; lists of lists have one for
    each band, `f_` is the network of all bins, `ttl_` the block behind all of them. Patches are in frames.
    """

    valid_signal_idx = _count()
    band_split_idxs = _counts()
    num_init_features = _counts()
    num_layer_blocks = _lists_of(_is_count, "positive integers")
    dens_k = _lists_of(_is_count, "positive integers")
    b_n_blocks = _lists_of(_is_count, "positive integers")
    comp_rates = _lists_of(_is_rate, "numbers above 0, at most 1")
    f_num_init_features = _count()
    f_num_layer_block = _counts()
    f_dens_k = _counts()
    f_n_blocks = _counts()
    f_comp_rates = _rates()
    ttl_num_layer_block = _count()
    ttl_dens_k = _count()
    patch_length = _count()
    n_channels = _count()
    fft_size = _count()
    hop_size = _count()
    fs = _count()
    test_patch_len = _count()
    out_shift = _count()

    def __attrs_post_init__(self):
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

    @property
    def bins(self):
        """Number of bins of a spectrum."""
        return self.fft_size // 2 + 1

    @property
    def bands(self):
        """Networks of the bands, a list of `MultiScale`."""
        edges = (0, *self.band_split_idxs, self.valid_signal_idx)
        rows = zip(edges[:-1], edges[1:], self.num_init_features, self.dens_k, self.num_layer_blocks, self.b_n_blocks,
                   self.comp_rates, strict=True)
        return [MultiScale((first, last), *row) for first, last, *row in rows]

    @property
    def full(self):
        """Network of all bins, a `MultiScale`."""
        return MultiScale((0, self.valid_signal_idx), self.f_num_init_features, self.f_dens_k, self.f_num_layer_block,
                          self.f_n_blocks, self.f_comp_rates)

    @property
    def frame_multiple(self):
        """What the number of frames must be a multiple of: they are halved as often as the bins."""
        return 2 ** max(network.depth for network in (*self.bands, self.full))


@attrs.frozen(kw_only=True)
class SegmentationHyperParameters:
    """Network and training of semantic segmentation; keys as published.

    Lists of four have an entry for each stage; `dilation` false makes all dilations of a stage 1. `channels` are those
    of the head. Training runs on crops of `image_height` by `image_width`; `mean` and `std` (RGB, 0 to 255)
    standardize images.
    """

    batch_size = _count()
    num_init_features = _count()
    num_layers = _counts(SCALES)
    n_blocks = _counts(SCALES)
    dens_k = _counts(SCALES)
    block_comp = _rates(SCALES)
    intermediate_out_ch = _counts(SCALES)
    trans_comp_factor = _count()
    dense_n_out_layer_block = _counts(SCALES)
    dilation = _field(_all(lambda value: isinstance(value, bool), SCALES), f"{SCALES} times true or false")
    channels = _count()
    image_height = _count()
    image_width = _count()
    num_classes = _count()
    max_iter = _count()
    save_interval = _count()
    lr = _number()
    momentum = _number()
    weight_decay = _number()
    power = _number()
    min_lr = _number()
    mean = _field(_all(_is_number, 3), "3 numbers >= 0")
    std = _field(_all(lambda value: _is_number(value) and value > 0, 3), "3 numbers above 0")
    palette = _field(_all(_all(lambda value: _is_number(value) and value <= 255, 3)), "lists of red, green and blue")

    def __attrs_post_init__(self):
        if len(self.palette) != self.num_classes:
            raise ValueError(f"palette: {len(self.palette)} colours for {self.num_classes} classes")
        for stage, (kept, layers) in enumerate(zip(self.dense_n_out_layer_block, self.num_layers, strict=True), 1):
            if kept > layers:
                raise ValueError(f"dense_n_out_layer_block: {kept} of {layers} layers in stage {stage}")


def load_mss(name_or_path):
    """Read the hyper-parameters of a music network.

    Parameters
    ----------
    name_or_path : str or path
        A target (`vocals`, `drums`, `bass`, `other`), a test configuration (`tiny`, `tiny_bass`), or a YAML file.

    Returns
    -------
    MSSHyperParameters

    Raises
    ------
    UsageError
        There are none of that name, or the file has not the right keys and values.
    """
    return _load(MSSHyperParameters, name_or_path, FOLDER / "mss")


def load_segmentation(name_or_path):
    """Read the hyper-parameters of a segmentation network.

    Parameters
    ----------
    name_or_path : str or path
        `D3Net_L`, `D3Net_S` (or with a hyphen), `tiny`, or a YAML file.

    Returns
    -------
    SegmentationHyperParameters

    Raises
    ------
    UsageError
        As for `load_mss`.
    """
    return _load(SegmentationHyperParameters, name_or_path, FOLDER / "segmentation")


def save_hyper_parameters(path, hparams):
    """Write hyper-parameters as a YAML file that `load_mss` or `load_segmentation` reads.

    Parameters
    ----------
    path : path
    hparams : MSSHyperParameters or SegmentationHyperParameters
    """
    values = {key: _as_lists(value) for key, value in attrs.asdict(hparams, recurse=False).items()}
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False, default_flow_style=None), encoding="utf-8")


def _load(cls, name_or_path, folder):
    path = _find(str(name_or_path), folder)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a YAML file of hyper-parameters") from error
    if isinstance(content, dict):
        content = {str(key): value for key, value in content.items()}    # YAML knows keys of other types
    try:
        return from_dict(cls, content, path)
    except UserError as error:
        raise UsageError(str(error)) from error


def _find(name, folder):
    published = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name.replace("-", "_") in published:
        return published[name.replace("-", "_")]
    if not Path(name).exists():
        raise UsageError(f"{name}: no such file, nor one of the configurations {', '.join(published)}")
    return Path(name)
