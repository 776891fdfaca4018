"""A network that a training has left, without its data."""
from pathlib import Path

from common.machine.errors import UserError
from common.runs.checkpoint import load_parameters, parameter_shapes, stored_shapes
from common.runs.training import BEST
from mixed_precision_dnns import data, network
from mixed_precision_dnns.config import read_config

LAST_BIAS = "fc/quantized_affine/b"


def load_trained(folder, weights=None):
    """Load the parameters of a run into the current parameter scope.

    Parameters
    ----------
    folder : path
        Output folder of train_resnet.py or train_imagenet.py.
    weights : path, optional
        Other parameters of the same network than the best ones of the run.

    Returns
    -------
    cfg : mixed_precision_dnns.config.Config or ImageNetConfig
    settings : tuple
        Shape of the images, number of classes, and function that builds the network: the last arguments of
        `mixed_precision_dnns.network.build_network`.

    Raises
    ------
    UsageError
        There is no such run, or no such file.
    UserError
        Its files are damaged, or the parameters are of another network.
    """
    cfg = read_config(folder)
    path = weights or Path(folder) / BEST
    shapes = stored_shapes(path)
    if LAST_BIAS not in shapes:
        raise UserError(f"{path}: weights of another network: no {LAST_BIAS!r} in it")
    settings = data.shape_of_images(cfg), shapes[LAST_BIAS][0], data.model_of(cfg)
    load_parameters(path, parameter_shapes(lambda: network.build_network(cfg, 1, False, *settings)))
    return cfg, settings
