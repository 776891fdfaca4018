"""The keys of an experiment of segmentation, with the published names and defaults."""
import attrs

from common.datasets.table import SYNTHETIC
from common.runs.config import flag, integer, number, path
from d3net.hyperparameters import (
    LARGEST_SEED,
    SegmentationHyperParameters,
    as_published,
    is_published_segmentation,
    replace_given,
)


@attrs.frozen(kw_only=True)
class SegmentationConfig:
    """An experiment of segmentation: a section of `segmentation.cfg`. The text of each key is its `help`."""

    hparams: str = path("D3Net_L", is_name=is_published_segmentation,
                        help="hyper-parameters of the network, a name or a YAML file")
    data_dir: str | None = path(None, is_name=SYNTHETIC.__eq__,
                                help="folder of Cityscapes; 'synthetic' generates street scenes")
    pretrained: str | None = path(None, help="backbone to start from: a published name or a file; none: random "
                                             "parameters")
    recompute: bool = flag(False, help="compute the outputs of convolutions again in the backward pass, to save memory")

    max_iter: int = as_published(integer, "length of the training in updates of 8 images, as published: with others it "
                                          "sees as many images in all", "80000")
    batch_size: int = as_published(integer, "images per update", "8")
    image_height: int = as_published(integer, "height of a training crop in pixels", "512")
    image_width: int = as_published(integer, "width of a training crop in pixels", "1024")
    lr: float = as_published(number, "first learning rate for 8 images per update, in proportion for others", "0.01")
    min_lr: float = as_published(number, "last learning rate, in the same proportion", "0.0001")
    power: float = as_published(number, "exponent of its decay", "0.9")
    momentum: float = as_published(number, "share of an update that the next one keeps", "0.9")
    weight_decay: float = as_published(number, "pull of every parameter towards zero", "0.0005")
    save_interval: int = as_published(integer, "updates between two files model_param_*.h5", "8000")
    log_interval: int = integer(50, at_least=1, help="updates between two values in the series of losses")
    epoch_length: int = integer(1000, at_least=1, help="updates between two validations, a line of the log each")
    valid_images: int = integer(0, at_least=0, help="validate with so many images, the first ones; 0: all")
    workers: int = integer(4, at_least=0, help="threads that prepare the images to come")
    seed: int = integer(42, at_least=0, at_most=LARGEST_SEED, help="fixes initialization, order and augmentation")

    def resolved(self, hparams: SegmentationHyperParameters) -> SegmentationHyperParameters:
        """Return the hyper-parameters with what this experiment changes of them.

        Raises
        ------
        UsageError
            A value is not allowed.
        """
        shared = attrs.fields_dict(SegmentationHyperParameters).keys() & attrs.fields_dict(SegmentationConfig)
        return replace_given(hparams, **{key: getattr(self, key) for key in shared})
