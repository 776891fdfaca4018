"""How much every training image raises or lowers the validation loss: influence scores.

Leaving image j out of step t changes the parameters by lr / b * grad l_j, and that change travels through the steps
that follow. With u_T the gradient of the mean validation loss at the final parameters, walking backwards,

    score_j += lr_t / b_t * <u_{t+1}, grad l_j>        for each image j of step t
    u_t      = u_{t+1} - lr_t * H_t u_{t+1}            H_t: Hessian of the mean loss of step t

predicts the change of the validation loss. A negative score says that removing the image helps. S. Hara et al. (arXiv
1906.08473) take gradients and Hessians at the parameters before each step; arXiv 2103.11807 takes the final parameters
for all steps, and needs no others.
"""
import attrs
import nnabla as nn
import numpy as np

from common.console.progress import progress
from common.machine.errors import UsageError
from data_cleansing.graphs.rewriting import trace
from data_cleansing.influence import koh_liang
from data_cleansing.influence.gradients import NORMALIZATIONS, BatchScores, validation_gradient
from data_cleansing.influence.snapshot import Snapshot, fingerprint
from data_cleansing.training.parameters import Layout
from data_cleansing.training.trainer import Trainer, predict
from data_cleansing.training.trajectory import Trajectory

HESSIANS = ("exact", "published", "none")
EPOCHS = ("last", "all")


@attrs.frozen
class Method:
    """What a method computes with, unless it is told otherwise; None where it has no such choice."""

    hessian: str = None
    normalization: str = None
    epochs: str = None


METHODS = {
    "final": Method("exact", "batch", "last"),
    "every_step": Method("exact", "batch", "last"),
    "checkpoints": Method(None, "test", "all"),
    "koh_liang": Method(),
    "loss": Method(),
    "random": Method(),
}
PUBLISHED = {"hessian": "published", "normalization": "single"}


def influence_scores(network, train, valid, record, method="final", *, published=False, hessian=None,
                     normalization=None, epochs=None, cache=None, damping=10.0, seed=0, state=None, on_step=None):
    """Score all training images; the current parameters are taken as the final ones, and left as they are.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits, nn.Variable (batch, classes), for an nn.Variable (batch, channels,
        height, width); `train` is False to normalize by running statistics. Its parameters exist in the current scope.
    train, valid : data_cleansing.data.images.Images
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
        `exact`; `published`: divided once more by the size of the batch; `none`: u stays what it is.
    normalization : str, for `final`, `every_step` and `checkpoints`
        How batch normalization treats the images whose gradients are taken: `single`: each as a batch of one; `batch`:
        as in training, by the statistics of its batch; `test`: by the running ones.
    epochs : str, for `final`, `every_step` and `checkpoints`
        `last` or `all`: which ones to walk back through. Default: `all` for `checkpoints`, otherwise `last`.
    cache : data_cleansing.training.parameters.ParameterCache
    damping : float, for `koh_liang`
        10 as published for CIFAR-10; 0.1 was for MNIST and STL-10.
    seed : int, for `random`
    state : path, optional
        An .npz file to which the state is saved every minute and when interrupted; where it exists, the computation
        goes on from there. It stays when all is done.
    on_step : callable, optional
        Called after each step as `on_step(step, u=u)`, for `koh_liang` as `on_step(step, v=v, objective=objective)`,
        with flat parameters in the order of `data_cleansing.training.parameters.Layout`.

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
        The network has functions that nnabla cannot differentiate twice, or `state` belongs to other settings.
    """
    choices = resolve(method, published, hessian, normalization, epochs)
    _check_fit(train, valid, record)
    if method == "random":
        return np.random.default_rng(seed).permutation(len(train)).astype(np.float64)
    layout = _existing_parameters(network, train)
    final = layout.values()
    problem = _Problem(network, train, valid, record, layout, final, cache, choices, on_step)
    try:
        if method == "loss":
            return -predict(network, train)[1].astype(np.float64)
        identity = fingerprint(method, published, choices, damping, final, *_arrays(train, valid, record))
        if method == "koh_liang":
            return _koh_liang(problem, published, damping, state, identity)
        return _walk(problem, method, state, identity)
    finally:
        layout.assign(final)    # normalization in training mode and stored parameters have changed them


def resolve(method, published=False, hessian=None, normalization=None, epochs=None):
    """Return the `Method` of all choices, those that are None replaced by what goes with `method` and `published`.

    Raises
    ------
    UsageError
        An unknown choice, or one that the method does not have.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: choose one of {', '.join(METHODS)}")
    defaults = attrs.asdict(METHODS[method])
    given = {"hessian": hessian, "normalization": normalization, "epochs": epochs}
    for name, allowed in (("hessian", HESSIANS), ("normalization", NORMALIZATIONS), ("epochs", EPOCHS)):
        if given[name] is None:
            given[name] = PUBLISHED.get(name, defaults[name]) if published and defaults[name] else defaults[name]
        elif defaults[name] is None:
            raise UsageError(f"{name} {given[name]!r}: method '{method}' has no such choice")
        elif given[name] not in allowed:
            raise UsageError(f"{name} {given[name]!r}: choose one of {', '.join(allowed)}")
    return Method(**given)


def _check_fit(train, valid, record):
    if record.num_images != len(train):
        raise UsageError(f"the record is of a training with {record.num_images} images, not {len(train)}")
    if valid.shape != train.shape:
        raise UsageError(f"validation images are {valid.shape}, training images {train.shape}")


@attrs.frozen(eq=False)
class _Problem:
    """What all methods compute from."""

    network: object
    train: object
    valid: object
    record: object
    layout: Layout
    final: np.ndarray
    cache: object
    choices: Method
    on_step: object


def _existing_parameters(network, images):
    """Return the layout of the parameters of a network, which must be there."""
    existing = set(nn.get_parameters(grad_only=False))
    trace(network, nn.Variable((1, *images.shape)), train=False)
    layout = Layout()
    missing = [name for name in layout.parameters if name not in existing]
    if missing:
        raise UsageError(f"the parameters of the network are not in the current scope ({', '.join(missing[:3])}, ...): "
                         "load or train them first")
    return layout


def _arrays(train, valid, record):
    """All data that scores depend on."""
    return (train.pixels, train.labels, valid.pixels, valid.labels, record.rows, record.seeds, record.bounds,
            record.learning_rates)


def _walk(problem, method, state, identity):
    """Walk back through the steps."""
    record, layout = problem.record, problem.layout
    parameters_of = _parameters(problem, method)
    first = 0 if problem.choices.epochs == "all" else record.first_step(record.num_epochs - 1)
    scorer = BatchScores(problem.network, problem.train.shape, problem.choices.normalization, layout)

    def start():
        return {"next": np.array(record.num_steps - 1), "scores": np.zeros(len(problem.train)),
                "u": validation_gradient(problem.network, problem.valid, layout)}

    with Snapshot(state, identity, start) as snapshot:
        for step in progress(range(int(snapshot.values["next"]), first - 1, -1), desc="scoring"):
            layout.assign(parameters_of(step))
            u, scores = snapshot.values["u"], snapshot.values["scores"].copy()
            if method == "checkpoints" and step + 1 == record.first_step(record.epochs[step] + 1):
                u = validation_gradient(problem.network, problem.valid, layout)
            u = _score_step(problem, scorer, step, u, scores)
            snapshot.update(next=np.array(step - 1), u=u, scores=scores)
            if problem.on_step is not None:
                problem.on_step(step, u=u)
    return snapshot.values["scores"]


def _score_step(problem, scorer, step, u, scores):
    """Add the scores of a step to `scores`, and return u before the step."""
    rows, seeds = problem.record.batch(step)
    image, label = problem.train.inputs(rows, seeds), problem.train.targets(rows)
    learning_rate = problem.record.learning_rates[step]
    if problem.choices.hessian in (None, "none"):
        in_batch = scorer.scores(u, image, label)
    else:
        in_batch, product = scorer.scores_and_product(u, image, label)
        divisor = len(rows) if problem.choices.hessian == "published" else 1
        u = u - np.float32(learning_rate / divisor) * product
    np.add.at(scores, rows, learning_rate / len(rows) * in_batch.astype(np.float64))
    return u


def _parameters(problem, method):
    """Return a function from a step to the flat parameters that its images are scored with."""
    if method == "final":
        return lambda step: problem.final
    if problem.cache is None:
        raise UsageError(f"method '{method}' needs the parameters that a training has stored: give a cache")
    trajectory = Trajectory(Trainer(problem.network, problem.train, problem.record), problem.cache)
    if method == "every_step":
        return trajectory.before
    return lambda step: trajectory.before(problem.record.first_step(problem.record.epochs[step] + 1))


def _koh_liang(problem, published, damping, state, identity):
    layout = problem.layout
    u = validation_gradient(problem.network, problem.valid, layout, koh_liang.PUBLISHED_GROUP if published else None)
    scorer = BatchScores(problem.network, problem.train.shape, "test", layout)
    with Snapshot(state, identity, lambda: koh_liang.start(layout, len(problem.train))) as snapshot:
        scores = koh_liang.scores(scorer, problem.train, problem.record, u, damping, snapshot, problem.on_step)
    return -scores if published else scores
