"""The short-time Fourier transform: against the reference, its definition, and its inverse."""
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from common.audio import stft as transform
from common.audio.stft import num_frames, overlap_add, window, window_sum
from common.separation import istft, stft

REFERENCE = Path(__file__).parent / "data" / "stft.npz"

# n_fft, hop_length, as frames overlap: four times, twice, unevenly, hardly
GRIDS = [(64, 16), (64, 20), (16, 5), (10, 1), (12, 4), (8, 3)]


@pytest.fixture(scope="module")
def ref():
    return dict(np.load(REFERENCE))


def noise(*shape, dtype=np.float64):
    return np.random.default_rng(len(shape) + shape[-1]).standard_normal(shape).astype(dtype)


def assert_close(ours, expected, tolerance=1e-5):
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def by_definition(x, n_fft, hop_length, center):
    """Sum over n of w[n] x[t hop + n] exp(-2 pi i k n / n_fft), of a signal (samples,)."""
    if center:
        x = np.pad(x, n_fft // 2, mode="reflect")
    n = np.arange(n_fft)
    w = 0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), n) / n_fft)
    starts = range(0, len(x) - n_fft + 1, hop_length)
    return np.stack([waves @ (w * x[start:start + n_fft]) for start in starts], axis=1)


@pytest.mark.parametrize("center", [True, False])
def test_transform_agrees_with_reference(ref, center):
    spectrogram = stft(ref["x"], int(ref["n_fft"]), int(ref["n_hop"]), center)
    assert spectrogram.dtype == np.complex64
    assert_close(spectrogram.real, ref[f"real_center{center:d}"])
    assert_close(spectrogram.imag, ref[f"imag_center{center:d}"])


@pytest.mark.parametrize("n_fft, hop_length", [(256, 64), (256, 100), (4096, 1024)])
def test_both_agree_with_librosa(n_fft, hop_length):
    import librosa

    x = noise(2, 9001)
    spectrogram = stft(x, n_fft, hop_length)
    assert_close(spectrogram, librosa.stft(x, n_fft=n_fft, hop_length=hop_length, pad_mode="reflect"), 1e-12)
    length = 9001 // hop_length * hop_length
    changed = spectrogram * np.linspace(0, 1, spectrogram.shape[1])[:, None]    # of no signal
    assert_close(istft(changed, hop_length, length=length),
                 librosa.istft(changed, hop_length=hop_length, length=length), 1e-12)


def test_inverse_agrees_with_reference(ref):
    hop_length = int(ref["n_hop"])
    spectrogram = (ref["real_center1"] + 1j * ref["imag_center1"]).astype(np.complex64)
    for suffix, z in (("", spectrogram), ("_z", (ref["z_real"] + 1j * ref["z_imag"]).astype(np.complex64))):
        assert_close(istft(z, hop_length), ref[f"istft{suffix}"])
        assert_close(istft(z, hop_length), ref[f"istft_scipy{suffix}"])


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("n_fft, hop_length", GRIDS)
@pytest.mark.parametrize("length", [64, 65, 79, 80, 81, 203])
def test_transform_is_what_it_is_defined_as(length, n_fft, hop_length, center):
    x = noise(length)
    expected = by_definition(x, n_fft, hop_length, center)
    assert_close(stft(x, n_fft, hop_length, center), expected, 1e-12)
    assert num_frames(length, n_fft, hop_length, center) == expected.shape[1]


@pytest.mark.parametrize("n_fft, hop_length", GRIDS)
@pytest.mark.parametrize("length", [2, 3, 7, 15, 31, 32, 33, 63, 64, 65, 100, 160, 203])
def test_inverse_gives_every_sample_back(length, n_fft, hop_length):
    """Also of signals shorter than half a frame, which are reflected more than once."""
    x = noise(2, length)
    assert_close(istft(stft(x, n_fft, hop_length), hop_length, length=length), x, 1e-12)


def test_inverse_of_a_single_sample():
    np.testing.assert_allclose(istft(stft(np.array([0.7]), 64, 16), 16, length=1), [0.7])


@pytest.mark.parametrize("n_fft, hop_length", GRIDS)
def test_inverse_without_centring(n_fft, hop_length):
    """Complete frames come back, but for the samples at the ends that the window sets to 0."""
    x = noise(203)
    spectrogram = stft(x, n_fft, hop_length, center=False)
    covered = (spectrogram.shape[1] - 1) * hop_length + n_fft
    y = istft(spectrogram, hop_length, center=False)
    assert len(y) == covered <= 203 and y[0] == 0
    assert_close(y[1:], x[1:covered], 1e-12)


@pytest.mark.parametrize("n_fft, hop_length", [(64, 16), (4096, 1024)])
def test_single_precision_loses_little(n_fft, hop_length):
    x = noise(2, 3 * n_fft + hop_length - 1, dtype=np.float32)
    y = istft(stft(x, n_fft, hop_length), hop_length, length=x.shape[-1])
    assert_close(y, x, 1e-6)


def test_default_sizes_are_those_of_the_papers():
    x = noise(10000)
    np.testing.assert_array_equal(stft(x), stft(x, 4096, 1024))
    np.testing.assert_array_equal(istft(stft(x)), istft(stft(x), 1024))


@pytest.mark.parametrize("length, expected", [(None, 192), (0, 0), (5, 5), (192, 192), (207, 207), (300, 300)])
def test_length_of_the_inverse(length, expected):
    assert istft(stft(noise(3, 203), 64, 16), 16, length=length).shape == (3, expected)


def test_beyond_the_frames_there_is_silence():
    y = istft(stft(noise(203), 64, 16), 16, length=300)    # frames end at 192 + 32
    assert (y[:224] != 0).all() and (y[224:] == 0).all()


def test_transform_is_linear():
    x, y = noise(2, 100), noise(2, 100)[::-1]
    assert_close(stft(2 * x - 3 * y, 16, 5), 2 * stft(x, 16, 5) - 3 * stft(y, 16, 5), 1e-12)


def test_inverse_is_linear():
    z = stft(noise(2, 100), 16, 5)
    assert_close(istft(z[0] - 1j * z[1], 5), istft(z[0], 5) + istft(-1j * z[1], 5), 1e-12)


def test_axes_before_the_last_do_not_mix():
    x = noise(2, 3, 100)
    spectrogram = stft(x, 16, 5)
    assert spectrogram.shape == (2, 3, 9, 21)
    np.testing.assert_array_equal(spectrogram[1, 2], stft(x[1, 2], 16, 5))
    np.testing.assert_array_equal(istft(spectrogram, 5)[1, 2], istft(spectrogram[1, 2], 5))


def test_imaginary_parts_of_the_outer_bins_do_not_count():
    z = stft(noise(100), 16, 5)
    other = z.copy()
    other[[0, -1]] += 1j
    np.testing.assert_array_equal(istft(z, 5), istft(other, 5))


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_long_signals_are_transformed_in_parts(monkeypatch, at_once):
    x = noise(2, 203)
    whole = stft(x, 16, 5), istft(stft(x, 16, 5), 5)
    monkeypatch.setattr(transform, "_FRAMES_AT_ONCE", at_once)
    np.testing.assert_array_equal(stft(x, 16, 5), whole[0])
    assert_close(istft(whole[0], 5), whole[1], 1e-14)    # overlaps are added in another order


def test_frames_lie_next_to_each_other():
    assert stft(noise(2, 100), 16, 5).swapaxes(-1, -2).flags.c_contiguous


def test_arguments_stay_as_they_are():
    x = noise(100)
    z = stft(x, 16, 5)
    kept = x.copy(), z.copy()
    istft(z, 5)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(z, kept[1])


@pytest.mark.parametrize("length, center", [(0, True), (0, False), (15, False)])
def test_too_few_samples(length, center):
    with pytest.raises(ValueError, match=f"no frame of 16 samples in {length} samples"):
        stft(np.zeros(length), 16, 4, center)


@pytest.mark.parametrize("change, message", [
    ({"x": "song"}, "x of <U4"), ({"x": None}, "x of object"), ({"x": 1.0}, r"x of float64 \(\)"),
    ({"x": np.ones(64, complex)}, "x of complex128"), ({"n_fft": 0}, "n_fft 0"), ({"n_fft": 15}, "n_fft 15"),
    ({"n_fft": 16.0}, "n_fft 16.0"), ({"hop_length": 0}, "hop_length 0"), ({"hop_length": None}, "hop_length None")])
def test_transform_names_a_wrong_argument(change, message):
    with pytest.raises(ValueError, match=message):
        stft(**{"x": noise(64), "n_fft": 16, "hop_length": 4, **change})


@pytest.mark.parametrize("change, message", [
    ({"spectrogram": np.ones(9)}, "spectrogram of float64"), ({"spectrogram": np.ones((1, 3))}, "spectrogram of"),
    ({"spectrogram": np.ones((9, 0))}, "spectrogram of"), ({"spectrogram": "a"}, "spectrogram of"),
    ({"hop_length": 0}, "hop_length 0"), ({"hop_length": 4.0}, "hop_length 4.0"), ({"length": -1}, "length -1"),
    ({"length": 9.0}, "length 9.0")])
def test_inverse_names_a_wrong_argument(change, message):
    with pytest.raises(ValueError, match=message):
        istft(**{"spectrogram": np.ones((9, 5), complex), "hop_length": 4, **change})


@pytest.mark.parametrize("of_other_type", [
    lambda array: array.astype(array.dtype.newbyteorder(">")), lambda array: array.tolist(), np.asfortranarray,
    lambda array: np.repeat(array, 2, axis=-1)[..., ::2]], ids=["byte order", "list", "fortran", "strided"])
def test_arrays_of_other_types_give_the_same_bits(of_other_type):
    x = noise(2, 90)
    spectrogram = stft(x, 16, 4)
    np.testing.assert_array_equal(stft(of_other_type(x), 16, 4), spectrogram)
    y = istft(of_other_type(spectrogram), 4, length=90)
    np.testing.assert_array_equal(y, istft(spectrogram, 4, length=90))
    assert y.dtype == np.float64 and y.dtype.isnative


def test_whole_numbers_are_inverted_and_no_signals_are_none():
    np.testing.assert_array_equal(istft(np.ones((9, 5), int), 4), istft(np.ones((9, 5), complex), 4))
    assert istft(stft(np.zeros((0, 90)), 16, 4), 4, length=90).shape == (0, 90)


@pytest.mark.parametrize("hop_length", [1, 4, 5, 8, 13])
def test_overlap_add(hop_length):
    frames = noise(2, 6, 8)
    expected = np.zeros((2, 5 * hop_length + 8))
    for t in range(6):
        expected[:, t * hop_length:t * hop_length + 8] += frames[:, t]
    np.testing.assert_allclose(overlap_add(frames, hop_length), expected, atol=1e-15)


@pytest.mark.parametrize("n_fft", [2, 10, 256, 4094, 4096])
def test_window_has_the_bits_of_scipy(n_fft):
    np.testing.assert_array_equal(window(n_fft), scipy.signal.get_window("hann", n_fft))


def test_window_sum_counts_the_frames_there_are():
    total = window_sum(8, 4, 3)
    w = window(8) ** 2
    np.testing.assert_allclose(total, [1, *w[1:4], *(w[4:] + w[:4]), *(w[4:] + w[:4]), *w[4:]], atol=1e-15)
    assert w[0] == 0    # where the sum vanishes there is 1, to divide by
