"""The keys of a training, with the published names and defaults: one class for each task."""
import attrs

from common.datasets.remixing import AUGMENTATIONS
from common.machine.errors import UsageError
from common.runs.config import flag, integer, names, number, text

SOURCES = ("vocals", "drums", "bass", "other")    # in this order they are drawn and added up
ACCOMPANIMENT = "accompaniment"    # all sources but the vocals
AS_PUBLISHED = -1    # of a key that stands in the hyper-parameters, too

_LARGEST_SEED = 2 ** 31 - 1
_THERE = "; -1: as in the hyper-parameters"


@attrs.frozen(kw_only=True)
class MSSConfig:
    """An experiment of music separation: a section of `mss.cfg`. The text of each key is its `help`.

    Raises
    ------
    ValueError
        A value is not allowed, or two of them contradict each other.
    """

    target = text("vocals", help="what the network separates: one of the sources, or 'accompaniment', all but vocals")
    hparams = text(None, help="hyper-parameters of the network, a name or a YAML file; none: those of the target")
    sources = names(SOURCES, help="what the mixtures are made of")

    root = text(None, help="folder of MUSDB18, or of train/, valid/ and test/ with a folder of stems for each song; "
                           "'synthetic' generates music; none: synthetic")
    is_wav = flag(False, help="read the WAV version of MUSDB18")
    setup_file = text(None, help="YAML file in the root that lists the validation songs; none: those of musdb")
    samples_per_track = integer(64, at_least=1, help="excerpts per song and epoch")
    source_augmentations = names(AUGMENTATIONS, options=AUGMENTATIONS, help="changes of each excerpt")
    seq_dur = number(6.0, above=0, help="length of the training excerpts in seconds")
    patch_length = integer(0, at_least=0, help="frames of an excerpt that are trained on, its first ones; 0: all that "
                                               "the network can take")
    valid_dur = number(6.0, above=0, help="length of the pieces of the validation songs in seconds")
    workers = integer(2, at_least=0, help="threads that read the excerpts to come")

    epochs = integer(50, at_least=1, help="passes over the songs")
    batch_size = integer(6, at_least=1, help="excerpts per update")
    lr = number(1e-3, above=0, help="learning rate for 6 excerpts per update, in proportion for others")
    lr_drop_epoch = integer(40, at_least=0, help="epochs after which the learning rate is a tenth")
    weight_decay = number(1e-4, at_least=0, help="pull of every parameter towards zero, likewise for 6 excerpts")
    seed = integer(42, at_least=0, at_most=_LARGEST_SEED, help="fixes initialization and excerpts")
    nfft = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"length of a frame in samples{_THERE}, 4096")
    nhop = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"distance of frames in samples{_THERE}, 1024")

    def __attrs_post_init__(self):
        if self.target not in (*self.sources, ACCOMPANIMENT):
            raise ValueError(f"target = {self.target!r} is none of {', '.join(self.sources)} or {ACCOMPANIMENT}")
        if not self.target_sources:
            raise ValueError(f"target = {self.target!r}: there is no source but the vocals")

    @property
    def target_sources(self):
        """Indices of the sources that add up to the target."""
        return [index for index, source in enumerate(self.sources)
                if source == self.target or self.target == ACCOMPANIMENT != source != "vocals"]

    def resolved(self, hparams):
        """Return the hyper-parameters with what this experiment changes of them.

        Parameters
        ----------
        hparams : MSSHyperParameters

        Raises
        ------
        UsageError
            The network cannot work on such spectrograms.
        """
        return _evolved(hparams, fft_size=self.nfft, hop_size=self.nhop)


@attrs.frozen(kw_only=True)
class SegmentationConfig:
    """An experiment of segmentation: a section of `segmentation.cfg`. The text of each key is its `help`."""

    hparams = text("D3Net_L", help="hyper-parameters of the network, a name or a YAML file")
    data_dir = text(None, help="folder of Cityscapes; 'synthetic' generates street scenes")
    pretrained = text(None, help="backbone to start from: a published name or a file; none: random parameters")
    recompute = flag(False, help="compute the outputs of convolutions again in the backward pass, to save memory")

    max_iter = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"updates with 8 images each{_THERE}, 80000")
    batch_size = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"images per update{_THERE}, 8")
    image_height = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"pixels of a training crop{_THERE}, 512")
    image_width = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"likewise{_THERE}, 1024")
    lr = number(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"first learning rate for 8 images per update, in proportion "
                                                          f"for others{_THERE}, 0.01")
    min_lr = number(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"last learning rate, likewise{_THERE}, 0.0001")
    power = number(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"exponent of its decay{_THERE}, 0.9")
    momentum = number(AS_PUBLISHED, at_least=AS_PUBLISHED, help=f"share of an update that the next one keeps{_THERE}, "
                                                                "0.9")
    weight_decay = number(AS_PUBLISHED, at_least=AS_PUBLISHED, help="pull of every parameter towards zero"
                                                                    f"{_THERE}, 0.0005")
    save_interval = integer(AS_PUBLISHED, at_least=AS_PUBLISHED, help="updates between two files model_param_*.h5"
                                                                      f"{_THERE}, 8000")
    log_interval = integer(50, at_least=1, help="updates between two values in the series of losses")
    epoch_length = integer(1000, at_least=1, help="updates between two validations, a line of the log each")
    valid_images = integer(0, at_least=0, help="validate with so many images, the first ones; 0: all")
    workers = integer(4, at_least=0, help="threads that prepare the images to come")
    seed = integer(42, at_least=0, at_most=_LARGEST_SEED, help="fixes initialization, order and augmentation")

    def resolved(self, hparams):
        """Return the hyper-parameters with what this experiment changes of them.

        Parameters
        ----------
        hparams : SegmentationHyperParameters

        Raises
        ------
        UsageError
            A value is not allowed.
        """
        return _evolved(hparams, **{key: getattr(self, key) for key in (
            "max_iter", "batch_size", "image_height", "image_width", "lr", "min_lr", "power", "momentum",
            "weight_decay", "save_interval")})


def _evolved(hparams, **values):
    given = {key: value for key, value in values.items() if value != AS_PUBLISHED}
    try:
        return attrs.evolve(hparams, **given)
    except ValueError as error:
        raise UsageError(f"the hyper-parameters with {given}: {error}") from error
