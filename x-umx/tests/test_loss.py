"""The losses: against the reference, and against explicit sums over all combinations of the sources."""
import itertools
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.cpu import parallel
from x_umx import loss
from x_umx.loss import IGNORED, combinations, mse_combination_loss, sdr_combination_loss

REFERENCE = Path(__file__).parent / "data" / "losses.npz"
EPS = 1e-10


@pytest.fixture(scope="module")
def ref():
    return dict(np.load(REFERENCE))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def variable(array, need_grad=False):
    return nn.Variable.from_numpy_array(array).apply(need_grad=need_grad)


def evaluate(function, mixture, estimates, target, present=0.0, factor=1.0, **kwargs):
    """Return a loss, and the gradient of `factor` times the loss to the estimates, added to what is `present`."""
    estimates = variable(estimates, need_grad=True)
    y = function(variable(mixture), estimates, variable(target), **kwargs)
    assert y.shape == ()
    estimates.g = present
    y.forward(clear_no_need_grad=True)
    y.backward(factor, clear_buffer=True)
    return float(y.d), estimates.g.copy()


def subsets(sources, combine):
    """All proper, non-empty subsets of so many sources; one source each without `combine`, or if there is only one."""
    sizes = range(1, sources) if combine and sources > 1 else [1]
    return [subset for size in sizes for subset in itertools.combinations(range(sources), size)]


def explicit_mse(mixture, masks, target, combine=True):
    mixture, masks, target = (np.asarray(array, np.float64) for array in (mixture, masks, target))
    channels = mixture.shape[2]
    errors = [masks[:, :, c:c + channels] * mixture - target[:, :, c:c + channels]
              for c in range(0, masks.shape[2], channels)]
    return np.mean([np.mean(sum(errors[s] for s in subset) ** 2) for subset in subsets(len(errors), combine)])


def explicit_sdr(mixture, estimates, target, combine=True):
    mixture, estimates, target = (np.asarray(array, np.float64) for array in (mixture, estimates, target))
    sources, batch, channels, length = estimates.shape
    seen = slice(IGNORED, length - IGNORED)
    values = []
    for subset, item, channel in itertools.product(subsets(sources, combine), range(batch), range(channels)):
        x = mixture[item, channel, seen]
        e = sum(estimates[s, item, channel, seen] for s in subset)
        y = sum(target[item, s * channels + channel, seen] for s in subset)
        n, m = x - y, x - e
        share = y @ y / (y @ y + n @ n + EPS)
        first = e @ y / (np.sqrt(EPS + e @ e) * np.sqrt(EPS + y @ y) + EPS)
        second = n @ m / (np.sqrt(EPS + m @ m) * np.sqrt(EPS + n @ n) + EPS)
        values.append(1 - share * first - (1 - share) * second)
    return np.mean(values)


def spectra(sources, frames=7, batch=2, channels=2, bins=9):
    """Mixture, masks and target; magnitudes, though the formula does not ask for that."""
    shape = (frames, batch, sources * channels, bins)
    return (np.abs(normal(frames, batch, channels, bins)), np.abs(normal(*shape, seed=1)),
            np.abs(normal(*shape, seed=2)))


def waveforms(sources, batch=2, channels=2, length=2 * IGNORED + 50, cut=30):
    """Mixture, estimates that have something of the targets, and targets; the mixture is more than their sum."""
    target = normal(batch, sources * channels, length + cut)
    mixture = target.reshape(batch, sources, channels, -1).sum(1) + normal(batch, channels, length + cut, seed=1)
    by_source = target[..., :length].reshape(batch, sources, channels, length).transpose(1, 0, 2, 3)
    return mixture, by_source + normal(*by_source.shape, seed=2), target


CASES = [(mse_combination_loss, explicit_mse, spectra), (sdr_combination_loss, explicit_sdr, waveforms)]
KINDS = pytest.mark.parametrize("function, explicit, arrays", CASES, ids=["mse", "sdr"])
SOURCES = pytest.mark.parametrize("sources", [1, 2, 3, 4, 5])


def assert_close(ours, expected, tolerance=1e-5):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_mse_agrees_with_reference(ref, engine):
    value, gradient = evaluate(mse_combination_loss, ref["mix_spec"], ref["masks"], ref["target_spec"])
    assert value == pytest.approx(float(ref["mse_loss_f64"]), rel=1e-5)
    assert_close(gradient, ref["mse_grad_masks"])


def test_sdr_agrees_with_reference(ref, engine):
    value, gradient = evaluate(sdr_combination_loss, ref["mix"], ref["pred"], ref["target"])
    assert value == pytest.approx(float(ref["sdr_loss_f64"]), rel=1e-5)
    assert_close(gradient, ref["sdr_grad_pred"])


def test_sdr_with_silent_drums_agrees_with_reference(ref, engine):
    target = ref["target"].copy()
    target[:, 2:4] = 0
    value, gradient = evaluate(sdr_combination_loss, ref["mix"], ref["pred"], target)
    assert value == pytest.approx(float(ref["sdr_loss_silent_drums_f64"]), rel=1e-5)
    assert np.isfinite(gradient).all()


@SOURCES
def test_combinations_are_all_proper_subsets(sources):
    rows = {tuple(np.flatnonzero(row)) for row in combinations(sources)}
    assert rows == set(subsets(sources, True)) and len(combinations(sources)) == len(rows) == max(1, 2 ** sources - 2)
    np.testing.assert_array_equal(combinations(sources, combine=False), np.eye(sources))


@KINDS
@SOURCES
@pytest.mark.parametrize("channels, combine", [(1, True), (2, True), (2, False)])
def test_loss_is_the_mean_over_all_combinations(function, explicit, arrays, sources, channels, combine, engine):
    arguments = arrays(sources, channels=channels)
    value, _ = evaluate(function, *arguments, combine=combine)
    assert value == pytest.approx(explicit(*arguments, combine), rel=1e-5)


@KINDS
@SOURCES
@pytest.mark.parametrize("combine", [True, False])
def test_gradient_agrees_with_finite_differences(function, explicit, arrays, sources, combine, engine):
    mixture, estimates, target = arrays(sources)
    _, gradient = evaluate(function, mixture, estimates, target, combine=combine)
    step = 1e-4
    for seed in range(3, 6):
        direction = normal(*estimates.shape, seed=seed)
        above, below = (explicit(mixture, estimates + side * direction.astype(np.float64), target, combine)
                        for side in (step, -step))
        error = np.sum(gradient * direction, dtype=np.float64) - (above - below) / (2 * step)
        assert abs(error) < 1e-5 * np.linalg.norm(gradient) * np.linalg.norm(direction)


def test_one_source_alone_costs_what_umx_counts(engine):
    mixture, mask, target = spectra(1)
    value, _ = evaluate(mse_combination_loss, mixture, mask, target)
    assert value == pytest.approx(np.mean((mixture * mask - target) ** 2), rel=1e-5)


@KINDS
def test_gradient_has_the_factor_and_adds_to_what_exists(function, explicit, arrays, engine):
    once = evaluate(function, *arrays(3))[1]
    more = evaluate(function, *arrays(3), present=once.max(), factor=10)[1]
    assert_close(more - once.max(), 10 * once)


@KINDS
def test_gradients_of_two_uses_add_up(function, explicit, arrays):
    mixture, estimates, target = arrays(3)
    leaf = variable(estimates, need_grad=True)
    scaled = F.mul_scalar(leaf, 0.5)
    y = sum(factor * function(variable(mixture), scaled, variable(target)) for factor in (1, 3))
    leaf.g = 0
    y.forward(clear_no_need_grad=True)
    y.backward(clear_buffer=True)
    assert_close(leaf.g, 2 * evaluate(function, mixture, 0.5 * estimates, target)[1])


@KINDS
def test_does_not_depend_on_the_number_of_threads(function, explicit, arrays, monkeypatch):
    monkeypatch.setattr(parallel, "_SMALL", 0)
    size = {"frames": loss._ROWS + 3} if function is mse_combination_loss else {}
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "num_threads", lambda threads=threads: threads)
        results.append(evaluate(function, *arrays(3, **size)))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_long_spectrograms_are_summed_by_blocks():
    mixture, masks, target = spectra(3, frames=loss._ROWS + 3, batch=2)
    assert evaluate(mse_combination_loss, mixture, masks, target)[0] == pytest.approx(
        explicit_mse(mixture, masks, target), rel=1e-5)


def test_perfect_estimates_of_spectrograms_cost_nothing(engine):
    mixture, masks, _ = spectra(4)
    value, gradient = evaluate(mse_combination_loss, mixture, masks, masks * np.tile(mixture, (1, 1, 4, 1)))
    assert value == pytest.approx(0, abs=1e-12) and np.abs(gradient).max() < 1e-7


def test_perfect_estimates_of_waveforms_cost_nothing(engine):
    mixture, estimates, _ = waveforms(4)
    target = np.zeros((2, 8, mixture.shape[-1]), np.float32)
    target[..., :estimates.shape[-1]] = estimates.transpose(1, 0, 2, 3).reshape(2, 8, -1)
    value, gradient = evaluate(sdr_combination_loss, mixture, estimates, target)
    assert value == pytest.approx(0, abs=1e-6) and np.abs(gradient).max() < 1e-6


def test_estimates_of_the_wrong_sign_cost_most(engine):
    """Of sources that add up to the mixture and do not overlap, one being the mixture's negative."""
    target = normal(1, 2, 2 * IGNORED + 50)
    value, _ = evaluate(sdr_combination_loss, np.zeros((1, 1, target.shape[-1]), np.float32),
                        -target.transpose(1, 0, 2)[:, :, None, :].reshape(2, 1, 1, -1), target)
    assert value == pytest.approx(2, abs=1e-6)


def test_sdr_does_not_see_the_ends(engine):
    mixture, estimates, target = waveforms(3)
    value, gradient = evaluate(sdr_combination_loss, mixture, estimates, target)
    ends = np.r_[:IGNORED, -IGNORED:0]
    assert (gradient[..., ends] == 0).all() and (gradient[..., IGNORED:-IGNORED] != 0).all()
    estimates[..., ends] = 7
    mixture[..., :IGNORED], target[..., estimates.shape[-1] - IGNORED:] = 7, 7
    assert evaluate(sdr_combination_loss, mixture, estimates, target)[0] == value


@pytest.mark.parametrize("silent", ["target", "estimates", "mixture", "all"])
def test_sdr_of_silence_is_finite(silent, engine):
    arrays = dict(zip(("mixture", "estimates", "target"), waveforms(3), strict=True))
    for name in arrays if silent == "all" else [silent]:
        arrays[name] = np.zeros_like(arrays[name])
    value, gradient = evaluate(sdr_combination_loss, **arrays)
    assert value == pytest.approx(explicit_sdr(**arrays), rel=1e-5) and np.isfinite(gradient).all()


@pytest.mark.parametrize("exact", ["estimates", "targets"])
def test_nothing_is_left_of_a_loud_mixture(exact):
    """Two sources add up to the mixture, to the bit: what they leave comes out as the rounding error of products."""
    rng = np.random.default_rng(0)
    mixture, first, third = (rng.uniform(512, 1024, (16, 2, 2 * IGNORED + 50)).astype(np.float32) for _ in range(3))
    sources = {"estimates": normal(3, *mixture.shape), "targets": normal(3, *mixture.shape)}
    sources[exact] = np.stack([first, mixture - first, third])
    arrays = mixture, sources["estimates"], np.concatenate(sources["targets"], axis=1)
    value, gradient = evaluate(sdr_combination_loss, *arrays)
    assert value == pytest.approx(explicit_sdr(*arrays), rel=1e-5) and np.isfinite(gradient).all()


@pytest.mark.parametrize("length", [1, 2 * IGNORED])
def test_waveforms_of_which_nothing_is_left(length, engine):
    with pytest.raises(ValueError, match=f"waveforms of {length} samples"):
        sdr_combination_loss(nn.Variable((1, 1, 500)), nn.Variable((2, 1, 1, length)), nn.Variable((1, 2, 500)))


@pytest.mark.parametrize("mixture, masks, target", [
    ((5, 2, 2, 30), (5, 2, 8, 20), (5, 2, 8, 20)), ((5, 2, 2, 30), (5, 2, 8, 30), (5, 2, 8, 20)),
    ((5, 2, 2, 30), (5, 2, 8, 30), (4, 2, 8, 30)), ((5, 2, 2, 30), (4, 2, 8, 30), (4, 2, 8, 30)),
    ((5, 2, 2, 30), (5, 2, 7, 30), (5, 2, 7, 30)), ((5, 2, 2, 30), (5, 2, 0, 30), (5, 2, 0, 30)),
    ((5, 2, 30), (5, 8, 30), (5, 8, 30)), ((5, 2, 0, 30), (5, 2, 8, 30), (5, 2, 8, 30))])
def test_spectra_that_do_not_fit_reach_no_loop(mixture, masks, target, engine):
    """Compiled loops look at no bounds, and took what lies behind an array."""
    with pytest.raises(ValueError, match="(masks|target) of shape"):
        mse_combination_loss(*map(nn.Variable, (mixture, masks, target)))


@pytest.mark.parametrize("mixture, estimates, target", [
    ((2, 2, 900), (4, 2, 2, 1000), (2, 8, 1000)), ((2, 2, 1000), (4, 2, 2, 900), (2, 8, 800)),
    ((1, 2, 1000), (4, 2, 2, 900), (2, 8, 1000)), ((2, 2, 1000), (4, 2, 2, 900), (1, 8, 1000)),
    ((2, 1, 1000), (4, 2, 2, 900), (2, 8, 1000)), ((2, 2, 1000), (4, 2, 2, 900), (2, 6, 1000)),
    ((2, 2, 1000), (2, 2, 900), (2, 8, 1000))])
def test_waveforms_that_do_not_fit_are_refused(mixture, estimates, target, engine):
    with pytest.raises(ValueError, match="(mixture|estimates|target) of shape"):
        sdr_combination_loss(*map(nn.Variable, (mixture, estimates, target)))
