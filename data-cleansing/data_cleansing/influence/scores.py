"""How much every training image raises or lowers the validation loss: influence scores.

Leaving image j out of step t changes the parameters by lr / b * grad l_j, and that change travels through the steps
that follow. With u_T the gradient of the mean validation loss at the final parameters, walking backwards,

    score_j += lr_t / b_t * <u_{t+1}, grad l_j>        for each image j of step t
    u_t      = u_{t+1} - lr_t * H_t u_{t+1}            H_t: Hessian of the mean loss of step t

predicts the change of the validation loss. A negative score says that removing the image helps. S. Hara et al. (arXiv
1906.08473) take gradients and Hessians at the parameters before each step; arXiv 2103.11807 takes the final parameters
for all steps, and needs no others.

With momentum m and weight decay a, where a step is v_{t+1} = m v_t + lr_t (gradient + a theta_t) and theta_{t+1} =
theta_t - v_{t+1}, a change of a step comes back in the steps that follow. Let u be the gradient of the validation loss
for theta_t and w that for v_t; w_T = 0. Reverse differentiation of a step gives, with p = u - w,

    score_j += lr_t / b_t * <p_{t+1}, grad l_j>
    u_t      = u_{t+1} - lr_t * (H_t + a) p_{t+1}
    p_t      = u_t + m p_{t+1}                         p_T = u_T

which is the recursion above for m = a = 0. This is ours; the papers have plain gradient descent.
"""
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nnabla as nn
import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.threads import NNABLA
from common.runs.comparison import fingerprint
from data_cleansing.data.images import Images
from data_cleansing.data.samples import Samples
from data_cleansing.graphs.rewriting import Network, trace
from data_cleansing.influence.methods import FINAL, METHODS, choose
from data_cleansing.influence.problem import Problem
from data_cleansing.training.parameters import Layout, ParameterCache, velocity_of
from data_cleansing.training.record import TrainingRecord


def influence_scores(network: Network, train: Images | Samples, valid: Images | Samples, record: TrainingRecord,
                     method: str = FINAL, *, published: bool = False, hessian: str | None = None,
                     normalization: str | None = None, epochs: str | None = None, cache: ParameterCache | None = None,
                     damping: float = 10.0, seed: int = 0, state: str | Path | None = None,
                     on_step: Callable[..., object] | None = None) -> np.ndarray:
    """Score all training images; the current parameters are taken as the final ones, and left as they are.

    Their gradients are overwritten.

    Several threads may call it: one computes after the other, as they share the current parameters.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits, nn.Variable (batch, classes), for an nn.Variable (batch, channels,
        height, width); `train` is False to normalize by running statistics. Its parameters exist in the current scope.
    train, valid : data_cleansing.data.images.Images or data_cleansing.data.samples.Samples
        To train on, as in `record`; to measure the loss on (`koh_liang` as published takes groups of 1000 in order).
    record : data_cleansing.training.record.TrainingRecord
        Of the training.
    method : str
        `final`: the final parameters in all steps; `every_step`: those before each step, from `cache`; `checkpoints`:
        those after each epoch, from `cache`, with u computed there anew and no Hessians; `koh_liang`: through the
        inverse Hessian (`data_cleansing.influence.koh_liang`); `loss`: minus the loss of the image itself, no influence
        at all; `random`: a random order.
    published : bool
        Compute as the published code does: `hessian="published"` and `normalization="single"` unless given, and for
        `koh_liang` the opposite sign, and u divided once more by the size of the groups that it was computed in.
    hessian : str, for `final` and `every_step`
        `exact`; `published`: divided once more by the size of the batch; `none`: u stays what it is (as in TracIn, G.
        Pruthi et al., arXiv 2002.08484). `bounded`, the default: `exact`, but `none` for all steps where u grows with
        it to more than `data_cleansing.influence.growth.LIMIT` times its length at the end of the training.
    normalization : str, for `final`, `every_step` and `checkpoints`
        How batch normalization treats the images whose gradients are taken: `single`: each as a batch of one; `batch`:
        as in training, by the statistics of its batch; `test`: by the running ones.
    epochs : str, for `final`, `every_step` and `checkpoints`
        `last` or `all`: which ones to walk back through. Default: `all` for `checkpoints`, otherwise `last`.
    cache : ParameterCache, for `every_step` and `checkpoints`
    damping : float, for `koh_liang`
        10 as published for CIFAR-10; 0.1 was for MNIST and STL-10.
    seed : int, for `random`
    state : path, optional
        An .npz file to which the state is saved every minute and when interrupted; where it exists, the computation
        goes on from there. It stays when all is done.
    on_step : callable, optional
        Called after each step as `on_step(step, u=u)`, for `koh_liang` as `on_step(step, v=v, objective=objective)`,
        with flat parameters in the order of `data_cleansing.training.parameters.Layout`; again from the last step where
        `bounded` begins anew without the Hessian.

    Returns
    -------
    float64 (len(train),)
        Sorted ascending, the images come first that are best removed. Units of the validation loss where the method
        predicts its change.

    Raises
    ------
    UsageError
        Unknown or unsuitable choices, parameters that do not exist or are not stored.
    UserError
        The network has functions that nnabla cannot differentiate twice, `state` belongs to other settings, or scores
        are not finite.

    Warns
    -----
    RuntimeWarning
        u grew beyond that limit: how much, in which step, and what is done about it or to be done.
    """
    choices = choose(method, published, hessian, normalization, epochs)
    _check_fit(train, valid, record)
    with NNABLA, nn.no_grad(False), _no_new_parameters():
        return _scores(network, train, valid, record, method, choices, published=published, cache=cache,
                       damping=damping, seed=seed, state=state, on_step=on_step)


@contextlib.contextmanager
def _no_new_parameters() -> Iterator[None]:
    """Take back the parameters that are made in this block.

    To build a network makes those that are missing, at random: a second try would take them for trained ones.
    """
    before = set(nn.get_parameters(grad_only=False))
    try:
        yield
    finally:
        for name in set(nn.get_parameters(grad_only=False)) - before:
            nn.parameter.pop_parameter(name)


def _scores(network, train, valid, record, method, choices, *, published, cache, damping, seed, state, on_step):
    layout = _existing_parameters(network, train, record)
    final = layout.values()
    identity = fingerprint(method, published, choices, damping, final, train.pixels, train.labels, valid.pixels,
                           valid.labels, record.rows, record.seeds, record.bounds, record.learning_rates,
                           record.momentum, record.weight_decay)
    problem = Problem(network=network, train=train, valid=valid, record=record, layout=layout, final=final, cache=cache,
                      method=method, choices=choices, published=published, damping=damping, seed=seed, state=state,
                      identity=identity, on_step=on_step)
    try:
        scores = METHODS[method].compute(problem)
    finally:
        layout.assign(final)    # normalization in training mode and stored parameters have changed them
    if not np.isfinite(scores).all():
        raise UserError(f"method '{method}': scores are not finite; lower the learning rate, or raise damping")
    return scores


def _check_fit(train, valid, record):
    if record.num_images != len(train):
        raise UsageError(f"the record is of a training with {record.num_images} images, not {len(train)}")
    if valid.shape != train.shape:
        raise UsageError(f"validation images are {valid.shape}, training images {train.shape}")
    if (valid.labels.dtype.kind, valid.labels.shape[1:]) != (train.labels.dtype.kind, train.labels.shape[1:]):
        raise UsageError("validation images have other labels than training images: classes, or as many numbers each")


def _existing_parameters(network, images, record):
    """Return the layout of the parameters of a network, which must be there."""
    existing = set(nn.get_parameters(grad_only=False))
    trace(network, nn.Variable((1, *images.shape)), train=False)
    layout = Layout()
    missing = [name for name in layout.parameters if name not in existing]
    if missing:
        raise UsageError(f"the parameters of the network are not in the current scope ({', '.join(missing[:3])}, ...): "
                         "load or train them first")
    if record.momentum:    # the parameters of a cache have velocities
        for name, parameter in layout.trained.items():
            velocity_of(name, parameter)
    return Layout()
