"""Spectrograms inside of graphs: values against transforms of arrays, gradients against adjoints and nnabla."""
import contextlib
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.audio.stft_functions import inverse_by_product, masked_inverse, spectrum
from common.machine.context import native_functions
from common.separation import istft, stft

REFERENCE = Path(__file__).parent / "data" / "stft.npz"

# samples, n_fft, hop_length, center
GRIDS = [
    (100, 16, 4, True),
    (103, 16, 4, False),
    (101, 16, 5, True),    # the hop length does not divide the frame
    (101, 16, 5, False),
    (16, 16, 4, False),    # one frame
    (7, 16, 4, True),    # reflected more than once
    (2, 8, 2, True),
]
# bins, hop length; nnabla's own inverse asks for frames that are multiples of it
INVERSES = [(9, 4), (5, 4), (9, 5)]
NATIVE_INVERSES = INVERSES[:2]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def variable(array, need_grad=True):
    return nn.Variable.from_numpy_array(array).apply(need_grad=need_grad)


def maybe_native(native):
    return native_functions() if native else contextlib.nullcontext()


def forward(*outputs):
    nn.forward_all(outputs)
    return [y.d.copy() for y in outputs]


def gradient(x, outputs, weights, present=0.0):
    """Gradient to `x` of the sum of all outputs times their weights; None leaves an output unused."""
    loss = sum(F.sum(y * variable(w, False)) for y, w in zip(outputs, weights, strict=True) if w is not None)
    x.g = present
    loss.forward(clear_no_need_grad=True)
    loss.backward(clear_buffer=True)
    return x.g.copy()


def assert_close(ours, expected, tolerance=1e-5):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def inner(a, b):
    return np.sum(np.multiply(a, b, dtype=np.float64))


@pytest.mark.parametrize("native", [False, True])
def test_magnitudes_agree_with_reference(native):
    ref = np.load(REFERENCE)
    with maybe_native(native):
        *_, magnitude = spectrum(variable(ref["x"][None]), int(ref["n_fft"]), int(ref["n_hop"]))
    assert_close(forward(magnitude)[0], ref["spec"])
    assert_close(magnitude.d.mean(2, keepdims=True), ref["spec_mono"])


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("samples, n_fft, hop_length, center", GRIDS[:5])
def test_spectrum_transforms_as_stft_does(samples, n_fft, hop_length, center, native):
    x = normal(2, 3, samples)
    with maybe_native(native):
        outputs = forward(*spectrum(variable(x), n_fft, hop_length, center))
    expected = stft(x, n_fft, hop_length, center).transpose(3, 0, 1, 2)    # (frames, batch, channels, bins)
    for ours, theirs in zip(outputs, (expected.real, expected.imag, np.abs(expected)), strict=True):
        assert ours.shape == theirs.shape
        assert_close(ours, theirs)


@pytest.mark.parametrize("samples, n_fft, hop_length, center", GRIDS)
def test_gradient_of_the_spectrum_is_its_adjoint(samples, n_fft, hop_length, center):
    """<A x, y> = <x, A^T y> for the linear part, the magnitude being unused."""
    x, direction = variable(normal(2, 3, samples)), normal(2, 3, samples, seed=1)
    real, imag, magnitude = spectrum(x, n_fft, hop_length, center)
    weights = [normal(*real.shape, seed=seed) for seed in (2, 3)]
    back = gradient(x, (real, imag, magnitude), (*weights, None))
    x.d = direction
    expected = sum(inner(y, w) for y, w in zip(forward(real, imag), weights, strict=True))
    # Sums with little left of them: the tolerance counts what was added.
    assert inner(direction, back) == pytest.approx(expected, abs=1e-6 * np.abs(direction * back).sum())


@pytest.mark.parametrize("used", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
@pytest.mark.parametrize("samples, n_fft, hop_length, center", GRIDS[:5])
def test_gradients_of_the_spectrum_agree_with_nnabla(samples, n_fft, hop_length, center, used):
    results = []
    for native in (False, True):
        x = variable(normal(1, 2, samples))
        with maybe_native(native):
            outputs = spectrum(x, n_fft, hop_length, center)
        weights = [normal(*y.shape, seed=seed) if use else None for seed, (y, use) in
                   enumerate(zip(outputs, used, strict=True))]
        results.append(gradient(x, outputs, weights, present=2))
    assert_close(*results)


def test_gradient_of_the_magnitude_agrees_with_finite_differences():
    x, step = normal(1, 1, 60), 1e-3
    source = variable(x)
    outputs = spectrum(source, 16, 5)
    weight, direction = normal(*outputs[2].shape, seed=1), normal(*x.shape, seed=2)
    back = gradient(source, outputs, (None, None, weight))
    values = [inner(np.abs(stft(x.astype(np.float64) + side * direction, 16, 5)).transpose(3, 0, 1, 2), weight)
              for side in (step, -step)]
    assert inner(back, direction) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def test_silence_has_no_magnitude_and_no_gradient():
    x = variable(np.zeros((1, 2, 50), np.float32))
    outputs = spectrum(x, 16, 4)
    assert (gradient(x, outputs, (None, None, normal(*outputs[2].shape))) == 0).all()
    assert all((y == 0).all() for y in forward(*spectrum(x, 16, 4)))


def test_gradients_of_two_uses_of_a_waveform_add_up():
    def used_twice(native):
        leaf = variable(normal(1, 2, 50))
        with maybe_native(native):
            x = F.mul_scalar(leaf, 1.5)
            outputs = (*spectrum(x, 16, 4), *spectrum(x, 8, 2))
        return gradient(leaf, outputs, [normal(*y.shape, seed=seed) for seed, y in enumerate(outputs)])

    assert_close(used_twice(False), used_twice(True))


def parts(bins, frames=7, batch=2, channels=2, sources=3):
    """Masks, real and imaginary part."""
    return (normal(frames, batch, sources * channels, bins),
            normal(frames, batch, channels, bins, seed=1), normal(frames, batch, channels, bins, seed=2))


def by_hand(masks, real, imag, hop_length):
    mixture = (real + 1j * imag).transpose(1, 2, 3, 0)    # (batch, channels, bins, frames)
    channels = mixture.shape[1]
    return np.stack([istft(masks[:, :, first:first + channels].transpose(1, 2, 3, 0) * mixture, hop_length)
                     for first in range(0, masks.shape[2], channels)])


@pytest.mark.parametrize("bins, hop_length, native", [(*sizes, False) for sizes in INVERSES]
                         + [(*sizes, True) for sizes in NATIVE_INVERSES])
def test_masked_inverse_applies_the_masks_in_order(bins, hop_length, native):
    arrays = parts(bins)
    with maybe_native(native):
        y = masked_inverse(*(variable(array) for array in arrays), hop_length)
    assert y.shape == (3, 2, 2, 6 * hop_length)
    assert_close(forward(y)[0], by_hand(*arrays, hop_length))


@pytest.mark.parametrize("bins, hop_length", INVERSES)
def test_gradient_of_the_masked_inverse_is_its_adjoint(bins, hop_length):
    arrays = parts(bins)
    masks, *spectra = (variable(array, k == 0) for k, array in enumerate(arrays))
    y = masked_inverse(masks, *spectra, hop_length)
    weight, direction = normal(*y.shape, seed=3), normal(*masks.shape, seed=4)
    back = gradient(masks, [y], [weight])
    masks.d = direction
    expected = inner(forward(y)[0], weight)
    assert inner(direction, back) == pytest.approx(expected, abs=1e-6 * np.abs(direction * back).sum())


@pytest.mark.parametrize("bins, hop_length", NATIVE_INVERSES)
@pytest.mark.parametrize("channels, sources", [(1, 1), (1, 3), (2, 4)])
def test_gradients_to_the_masks_agree_with_nnabla(bins, hop_length, channels, sources):
    arrays, results = parts(bins, 5, 2, channels, sources), []
    for native in (False, True):
        leaf, *spectra = (variable(array, k == 0) for k, array in enumerate(arrays))
        with maybe_native(native):
            masks = F.mul_scalar(leaf, 1.5)
            y = masked_inverse(masks, *spectra, hop_length) - 3 * masked_inverse(masks, *spectra, hop_length)
        results.append(gradient(leaf, [y], [normal(*y.shape, seed=3)], present=2))
    assert_close(*results)


@pytest.mark.parametrize("native", [False, True])
def test_masks_of_one_return_the_mixture(native):
    x = normal(2, 2, 64)
    with maybe_native(native):
        real, imag, _ = spectrum(variable(x), 16, 4)
        y = masked_inverse(variable(np.ones((17, 2, 4, 9), np.float32)), real, imag, 4)
    assert_close(forward(y)[0], np.stack([x, x]))


@pytest.mark.parametrize("bins, hop_length", NATIVE_INVERSES)
@pytest.mark.parametrize("sources", [1, 4])
def test_the_inverse_of_a_gpu_is_nnablas(bins, hop_length, sources):
    arrays = normal(7, 2, 3 * sources, bins), normal(7, 2, 3, bins, seed=1), normal(7, 2, 3, bins, seed=2)
    found = []
    for inverse in (inverse_by_product, masked_inverse):
        masks, real, imag = (variable(array, need_grad=k == 0) for k, array in enumerate(arrays))
        with native_functions():
            y = inverse(masks, real, imag, hop_length)
        y.forward()
        masks.grad.zero()
        y.backward(normal(*y.shape, seed=3))
        found.append((y.d.copy(), masks.g.copy()))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
