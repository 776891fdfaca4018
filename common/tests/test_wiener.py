"""The multichannel Wiener filter: against the reference, `norbert`, and what must hold of any such filter."""
from pathlib import Path

import norbert
import numpy as np
import pytest

from common.cpu import parallel
from common.separation import multichannel_wiener, wiener
from common.separation.wiener import SourceModel, filter_estimates, filter_mixture, mixture_phase, residual_model

REFERENCE = Path(__file__).parent / "data" / "wiener.npz"
REFERENCE_D3NET = Path(__file__).parent / "data" / "wiener_d3net.npz"
BINS, FRAMES = 70, 11    # three blocks of bins, the last one shorter


def turned(array):
    """Turn (frames, bins, channels, ...) into (..., channels, bins, frames), and back."""
    return array.transpose()


@pytest.fixture(scope="module")
def ref():
    return dict(np.load(REFERENCE))


def mixture(channels, dtype=np.complex128, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((channels, BINS, FRAMES)) + 1j * rng.standard_normal((channels, BINS, FRAMES))
    return (scale * x).astype(dtype)


def models(sources, channels, dtype=np.float64, scale=1.0, seed=1):
    return (scale * np.random.default_rng(seed).random((sources, channels, BINS, FRAMES))).astype(dtype)


def by_norbert(magnitudes, x, iterations, softmask, eps=None):
    y = norbert.wiener(turned(magnitudes).astype(np.float64), turned(x).astype(np.complex128), iterations, softmask,
                       eps)
    return turned(y)


def assert_close(ours, expected, tolerance):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("iterations", range(4))
def test_agrees_with_reference(ref, iterations, softmask):
    """One frame of it is silent, and one has no model."""
    x, key = turned(ref["X_real_f64"] + 1j * ref["X_imag_f64"]), f"Y_n{iterations}_s{softmask:d}"
    y = multichannel_wiener(turned(ref["V_f64"]), x, iterations, softmask)
    assert_close(y, turned(ref[f"{key}_real_f64"] + 1j * ref[f"{key}_imag_f64"]), 1e-8)


@pytest.mark.parametrize("alpha, key", [(1, "residual_f64"), (2, "residual_alpha2_f64")])
def test_residual_model_agrees_with_reference(ref, alpha, key):
    x = turned(ref["X_real_f64"] + 1j * ref["X_imag_f64"])
    assert_close(residual_model(turned(ref["V_f64"]) ** alpha, x, alpha), turned(ref[key]), 1e-8)


# Single precision holds the estimates between iterations; the arithmetic is the same.
@pytest.mark.parametrize("dtype, tolerance", [(np.complex128, 1e-10), (np.complex64, 1e-6)])
@pytest.mark.parametrize("iterations, softmask", [(0, False), (0, True), (1, False), (1, True), (3, False)])
@pytest.mark.parametrize("sources", [1, 4])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_agrees_with_norbert(channels, sources, iterations, softmask, dtype, tolerance):
    for scale in (1e-2, 1, 300):    # above 10, norbert scales
        x, magnitudes = mixture(channels, dtype, scale), models(sources, channels, scale=scale)
        y = multichannel_wiener(magnitudes, x, iterations, softmask)
        assert y.dtype == dtype and y.shape == magnitudes.shape
        assert_close(y, by_norbert(magnitudes, x, iterations, softmask), tolerance)


@pytest.mark.parametrize("iterations, softmask", [(0, True), (1, False), (2, True)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_eps_of_norbert(channels, iterations, softmask):
    x, magnitudes = mixture(channels), models(4, channels)
    results = [multichannel_wiener(magnitudes, x, iterations, softmask, eps=eps) for eps in (1e-10, 1 / 64, wiener.EPS)]
    for y, eps in zip(results, (1e-10, 1 / 64, None), strict=True):    # norbert rounds the root of eps to float32
        assert_close(y, by_norbert(magnitudes, x, iterations, softmask, eps), 1e-10)
    assert np.abs(results[0] - results[1]).max() > 1e-3


@pytest.mark.parametrize("window", [1, 4, FRAMES - 1, FRAMES, 100])
@pytest.mark.parametrize("channels", [1, 2])
def test_each_window_is_filtered_by_itself(channels, window):
    x, magnitudes = mixture(channels, scale=30), models(2, channels)
    x[..., :4] /= 100    # each window is scaled by its own largest value
    y = multichannel_wiener(magnitudes, x, window=window)
    for start in range(0, FRAMES, window):
        part = np.s_[..., start:start + window]
        assert_close(y[part], by_norbert(magnitudes[part], x[part], 1, False), 1e-10)


@pytest.mark.parametrize("arguments", [{"eps": 1e-16}, {"eps": np.nan}, {"eps": np.inf}, {"window": 0}], ids=str)
def test_what_the_filter_cannot_take(arguments):
    with pytest.raises(ValueError, match="at least 2e-16 and 1"):
        multichannel_wiener(models(2, 2), mixture(2), **arguments)


@pytest.mark.parametrize("eps", [wiener.SMALLEST_EPS, 1e-10, 1.0])
def test_coherent_sources_in_both_channels_give_finite_stems(eps):
    x, magnitudes = mixture(2, np.complex64, 1e4), models(3, 2, np.float32, 1e4)
    x[1], magnitudes[:, 1] = x[0], magnitudes[:, 0]
    assert np.isfinite(multichannel_wiener(magnitudes, x, 3, eps=eps)).all()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_one_iteration_is_the_default(channels):
    x, magnitudes = mixture(channels), models(2, channels)
    default = multichannel_wiener(magnitudes, x)
    # To rounding: norbert, for more than two channels, gives other last bits for arrays at another place of the memory.
    np.testing.assert_allclose(default, multichannel_wiener(magnitudes, x, 1, False), rtol=1e-9, atol=1e-12)
    assert not np.allclose(default, multichannel_wiener(magnitudes, x, 2, False))


@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sources_add_up_to_the_mixture(channels, iterations, softmask):
    x = mixture(channels)
    y = multichannel_wiener(models(4, channels), x, iterations, softmask)
    np.testing.assert_allclose(y.sum(0), x, atol=1e-5)    # the filter adds sqrt(2.2e-16) to the covariance


def test_first_estimates():
    x, magnitudes = mixture(2), models(3, 2)
    phases = multichannel_wiener(magnitudes, x, iterations=0)
    assert_close(np.abs(phases), magnitudes, 1e-12)
    np.testing.assert_allclose(np.angle(phases * x.conj()), 0, atol=1e-12)
    softmasks = multichannel_wiener(magnitudes, x, iterations=0, softmask=True)
    assert_close(softmasks, magnitudes / magnitudes.sum(0) * x, 1e-12)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_silence_and_missing_models_give_finite_results(channels, iterations, softmask, dtype):
    x, magnitudes = mixture(channels, dtype), models(4, channels, np.float32)
    x[:, :, 1] = 0    # a silent frame
    x[:, 2] = 0    # a silent bin
    magnitudes[:, :, :, 3] = 0    # a frame without a model
    magnitudes[:, :, 4] = 0    # a bin without a model
    magnitudes[2] = 0    # a source that is not there
    x[:, 5], magnitudes[:, :, 5] = 0, 0    # nothing at all
    y = multichannel_wiener(magnitudes, x, iterations, softmask)
    assert np.isfinite(y).all()
    assert (y[2] == 0).all() and (y[:, :, 5] == 0).all() and (y[:, :, 4] == 0).all() and (y[:, :, :, 3] == 0).all()
    if iterations or softmask:
        assert (y[:, :, :, 1] == 0).all() and (y[:, :, 2] == 0).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_only_silence(channels):
    x, magnitudes = np.zeros((channels, BINS, FRAMES), np.complex64), np.zeros((4, channels, BINS, FRAMES), np.float32)
    assert (multichannel_wiener(magnitudes, x, 2) == 0).all()
    assert (residual_model(magnitudes, x) < 1e-15).all()


@pytest.mark.parametrize("difference", [0, 1e-6, 1e-3])
def test_two_nearly_equal_channels(difference):
    """The determinants cancel; the remaining error of complex64 is that of the estimates kept in it."""
    mono = mixture(1)
    x = np.concatenate([mono, mono * (1 + difference * mixture(1, seed=2))])
    magnitudes = models(4, 1) * np.abs(x)
    expected = by_norbert(magnitudes, x, 2, False)
    assert_close(multichannel_wiener(magnitudes, x, 2), expected, 1e-5)
    single = multichannel_wiener(magnitudes.astype(np.float32), x.astype(np.complex64), 2)
    assert_close(single, expected, 1e-3)
    np.testing.assert_allclose(single.sum(0), x, atol=1e-3)


def test_equal_channels_give_equal_stems():
    mono, magnitudes = mixture(1), models(4, 1)
    y = multichannel_wiener(np.repeat(magnitudes, 2, axis=1), np.repeat(mono, 2, axis=0), 2)
    np.testing.assert_allclose(y[:, 0], y[:, 1], atol=1e-12)
    np.testing.assert_allclose(y[:, :1], multichannel_wiener(magnitudes, mono, 2), atol=1e-6)


def test_sources_and_bins_stand_for_themselves():
    """Another order of the sources, or another choice of bins, leaves every result what it was."""
    x, magnitudes = mixture(2), models(4, 2)
    y = multichannel_wiener(magnitudes, x, 2)
    assert_close(multichannel_wiener(magnitudes[::-1], x, 2), y[::-1], 1e-9)
    np.testing.assert_array_equal(multichannel_wiener(magnitudes[:, :, 5:41], x[:, 5:41], 2), y[:, :, 5:41])


@pytest.mark.parametrize("channels", [1, 2])
def test_does_not_depend_on_the_number_of_threads(channels, monkeypatch):
    monkeypatch.setattr(parallel, "_SMALL", 0)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "num_threads", lambda threads=threads: threads)
        results.append(multichannel_wiener(models(4, channels), mixture(channels), 2))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_arguments_stay_as_they_are(channels):
    """norbert scales the mixture that it is given."""
    x, magnitudes = mixture(channels, scale=100), models(2, channels)
    kept = x.copy(), magnitudes.copy()
    multichannel_wiener(magnitudes, x, 1)
    residual_model(magnitudes, x)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(magnitudes, kept[1])


@pytest.mark.parametrize("shape", [(4, 2, BINS, FRAMES + 1), (4, 1, BINS, FRAMES), (2, BINS, FRAMES)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="magnitudes"):
        multichannel_wiener(np.zeros(shape), mixture(2))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 4), (1, 2, 3, 4), (4,), ()])
def test_a_mixture_of_other_axes_reaches_no_loop(shape):
    """Loops look at no bounds: without a channel they wrote where no array is."""
    with pytest.raises(ValueError, match="a mixture of shape"):
        multichannel_wiener(np.zeros((2, *shape)), np.zeros(shape, complex))


@pytest.mark.parametrize("change, message", [
    ({"magnitudes": models(2, 2).astype(complex)}, "magnitudes of complex128: real numbers"),
    ({"mixture": np.abs(mixture(2))}, "mixture of float64: complex numbers"), ({"mixture": None}, "mixture of object"),
    ({"iterations": -1}, "iterations -1"), ({"iterations": 1.5}, "iterations 1.5"), ({"iterations": "1"}, "iterations"),
])
def test_arguments_of_another_kind(change, message):
    with pytest.raises(ValueError, match=message):
        multichannel_wiener(**{"magnitudes": models(2, 2), "mixture": mixture(2), **change})


def _of_other_types(array):
    """The values of an array in types that numba does not know, and in those of other programs."""
    wider = np.clongdouble if array.dtype.kind == "c" else np.longdouble
    return [array.astype(array.dtype.newbyteorder(">")), array.astype(wider), array.tolist(), np.asfortranarray(array),
            np.repeat(array, 2, axis=-1)[..., ::2]]


@pytest.mark.parametrize("channels", [1, 2])    # norbert sums in an order that follows the layout
@pytest.mark.parametrize("kind", range(5))
def test_arrays_of_other_types_give_the_same_bits(channels, kind):
    x, magnitudes = mixture(channels), models(2, channels)
    expected = multichannel_wiener(magnitudes, x)
    y = multichannel_wiener(_of_other_types(magnitudes)[kind], _of_other_types(x)[kind])
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == expected.dtype
    half = multichannel_wiener(magnitudes.astype(np.float16), x)
    np.testing.assert_array_equal(half, multichannel_wiener(magnitudes.astype(np.float16).astype(np.float32), x))
    if channels == 2:
        y, x = (_of_other_types(array)[kind] for array in (expected, x))
        np.testing.assert_array_equal(filter_estimates(np.asarray(y), np.asarray(x)),
                                      filter_estimates(expected, mixture(2)))


def test_residual_model_keeps_the_type_and_leaves_over_what_is_not_explained():
    x = mixture(2, np.complex64)
    magnitudes = np.stack([np.abs(x) * np.float32(0.25)] * 2)
    model = residual_model(magnitudes, x)
    assert model.dtype == np.float32 and model.shape == (3, *x.shape)
    np.testing.assert_allclose(model[0], np.abs(x) * 0.5, rtol=1e-5)    # scaled to fit the mixture
    np.testing.assert_allclose(model[2], np.abs(x) * 0.5, rtol=1e-5)    # what they left before that
    assert (residual_model(4 * magnitudes, x)[2] == 0).all()


# D3Net ----------------------------------------------------------------------------------------------------------------


def per_matrix(estimates, x):
    """D3Net's filter as its definition reads, in double precision, with NumPy's inverse."""
    x, estimates = x.astype(np.complex128).transpose(2, 1, 0), estimates.astype(np.complex128).transpose(0, 3, 2, 1)
    terms = []    # v_j R_j, (frames, bins, 2, 2)
    for y in estimates:
        v = (np.abs(y) ** 2).mean(-1)
        v += 1e-10 * v.max()
        r = np.einsum("tfa,tfb->fab", y, y.conj()) / (v.sum(0) + 2.22e-16)[:, None, None]
        terms.append(v[:, :, None, None] * r)
    z = np.linalg.inv(sum(terms)) @ x[..., None]
    return np.stack([(term @ z)[..., 0] for term in terms]).transpose(0, 3, 2, 1)


def estimates(sources, dtype=np.complex64, scale=1.0):
    phases = np.random.default_rng(3).random((sources, 2, BINS, FRAMES))
    return (models(sources, 2, scale=scale) * np.exp(2j * np.pi * phases)).astype(dtype)


@pytest.mark.parametrize("case", ["four", "mixphase", "two", "mono"])
def test_d3net_agrees_with_reference(case):
    ref = dict(np.load(REFERENCE_D3NET))
    sources = [name.removeprefix(f"{case}_in_") for name in ref if name.startswith(f"{case}_in_")]
    given, expected = (np.stack([ref[f"{case}_{kind}_{source}"].transpose(1, 2, 0) for source in sources])
                       for kind in ("in", "out"))
    assert_close(filter_estimates(given, ref[f"{case}_mix"].transpose(1, 2, 0)), expected, 1e-5)


@pytest.mark.parametrize("scale", [1, 300])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_d3net_agrees_with_its_definition(sources, scale):
    x, y = mixture(2, np.complex64, scale), estimates(sources, scale=scale)
    filtered = filter_estimates(y, x)
    assert filtered.dtype == np.complex64 and filtered.shape == y.shape
    assert_close(filtered, per_matrix(y, x), 1e-5)
    assert_close(filtered.sum(0), x, 1e-5)


def test_d3net_of_blocks_is_that_of_the_song():
    x, y = mixture(2, np.complex64), estimates(3)
    whole, sources = filter_estimates(y, x), [SourceModel(BINS) for _ in y]
    edges = [(0, 4), (4, 5), (5, FRAMES)]
    powers = [np.stack([model.add(estimate[:, :, a:b]) for model, estimate in zip(sources, y, strict=True)])
              for a, b in edges]
    blocks = [filter_mixture(power, sources, x[:, :, a:b]) for power, (a, b) in zip(powers, edges, strict=True)]
    assert_close(np.concatenate(blocks, axis=-1), whole, 1e-6)


def test_d3net_with_silence_and_missing_sources():
    x, y = mixture(2, np.complex64), estimates(4)
    x[:, :, 1], y[:, :, :, 1] = 0, 0
    x[:, 2] = 0
    y[:, :, 4] = 0
    y[2] = 0
    x[:, 5], y[:, :, 5] = 0, 0
    filtered = filter_estimates(y, x)
    assert np.isfinite(filtered).all()
    assert not filtered[:, :, :, 1].any() and not filtered[:, :, 2].any() and not filtered[2].any()
    assert not filter_estimates(np.zeros_like(y), np.zeros_like(x)).any()


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("difference", [0, 1e-9, 1e-7, 1e-3])
def test_d3net_of_nearly_equal_channels(difference, scale):
    """As for mono music in two channels, be it with an error of rounding."""
    mono = mixture(1, scale=scale)
    x = np.concatenate([mono, mono * (1 + difference * mixture(1, seed=2))]).astype(np.complex64)
    y = mixture_phase(models(4, 1, np.float32, scale) * np.ones((2, 1, 1), np.float32), x)
    filtered = filter_estimates(y, x)
    assert_close(filtered.sum(0), x, 1e-3 if difference < 1e-3 else 1e-2)
    assert np.abs(filtered).max() < 2 * np.abs(x).max()
    if not difference:
        np.testing.assert_array_equal(filtered[:, 0], filtered[:, 1])


def test_d3net_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(parallel, "_SMALL", 0)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "num_threads", lambda threads=threads: threads)
        results.append(filter_estimates(estimates(4), mixture(2, np.complex64)))
    np.testing.assert_array_equal(*results)


def test_mixture_phase():
    x, magnitudes = mixture(2, np.complex64), models(3, 2, np.float32)
    x[:, 0, 0] = 0
    assert_close(mixture_phase(magnitudes, x), magnitudes * np.exp(1j * np.angle(x)), 1e-6)


def test_d3net_refuses_what_is_not_stereo():
    model, x = SourceModel(BINS), mixture(2, np.complex64)
    with pytest.raises(ValueError, match="estimate"):
        model.add(x[:1])
    with pytest.raises(ValueError, match="estimate"):
        model.add(x[:, :3])
    power = model.add(x)[None]
    with pytest.raises(ValueError, match="powers"):
        filter_mixture(power[:, :, 1:], [model], x)
    with pytest.raises(ValueError, match="powers"):
        filter_mixture(power, [model, model], x)
