"""The Python interface of separation, with small random networks."""
import errno
import functools
import os
import tempfile
import tracemalloc

import nnabla as nn
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.separation import istft, stft
from common.separation import separator as shared
from common.separation.streams import separate_stream
from common.separation.wiener import filter_estimates, mixture_phase
from d3net.mss_model import TARGETS
from d3net.music import separator as module
from d3net.music import spectrogram
from d3net.music.overlap_add import overlap_add
from d3net.music.separator import Separator

RATE = 44100
SMALL = {"fft_size": 256, "hop_size": 64, "valid_signal_idx": 96, "band_split_idxs": (32,), "patch_length": 16,
         "test_patch_len": 16, "out_shift": 8}
BASS = {"test_patch_len": 24, "out_shift": 12}


@pytest.fixture(scope="module")
def save(small_mss, save_mss):
    """Write <target>.h5 and <target>.yaml of a random network, and return their folder."""
    def save(folder, target, **changes):
        folder.mkdir(parents=True, exist_ok=True)
        save_mss(folder, target, small_mss(**SMALL | changes))
        return folder
    return save


@pytest.fixture(scope="module")
def model(tmp_path_factory, save):
    """A folder of four targets."""
    folder = tmp_path_factory.mktemp("model")
    for target in TARGETS:
        save(folder, target, **(BASS if target == "bass" else {}))
    return folder


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(spectrogram, "BLOCK", 11)


def music(frames=1500, channels=2):
    """Tones and noise, different in both channels."""
    rng, time = np.random.default_rng(frames), np.arange(frames)[:, None] / RATE
    tones = sum(np.sin(2 * np.pi * f * time + np.arange(channels)) for f in (220, 700, 1900, 3100))
    return (0.1 * tones + 0.1 * rng.standard_normal((frames, channels))).astype(np.float32)


@functools.cache
def separator(model, targets=None, **options):
    return Separator(model, targets, engine="nnabla", **options)


def close(a, b, tolerance):
    return np.abs(a - b).max() <= tolerance * np.abs(b).max()


def plainly(model, audio, targets=TARGETS):
    """Separate all of a signal at once: its spectrum, and estimates of the networks (targets, 2, bins, frames)."""
    x = stft(audio.T, SMALL["fft_size"], SMALL["hop_size"])
    magnitudes, estimates = np.abs(x).transpose(2, 0, 1), []
    own = separator(model)
    for target in targets:
        hparams = own.files[target].hparams
        run = own._network(target)
        blocks = overlap_add(lambda patches, run=run: run(patches)[0], lambda a, b: magnitudes[a:b], x.shape[2],
                             hparams.test_patch_len, hparams.out_shift)
        estimates.append(np.concatenate(list(blocks)).transpose(1, 2, 0))
    return x, np.stack(estimates)


def to_stems(spectra, samples):
    return istft(spectra, SMALL["hop_size"], length=samples).swapaxes(1, 2)


# The numbers ----------------------------------------------------------------------------------------------------------


def test_stems_are_those_of_the_steps_one_by_one(model):
    audio = music()
    x, estimates = plainly(model, audio)
    expected = to_stems(filter_estimates(mixture_phase(estimates, x), x), len(audio))
    stems = separator(model).separate(audio, RATE)
    assert tuple(stems) == TARGETS
    for target, stem in zip(TARGETS, expected, strict=True):
        assert close(stems[target], stem, 1e-4), target


def test_without_the_filter_estimates_have_the_phase_of_the_mixture(model):
    audio = music()
    x, estimates = plainly(model, audio)
    expected = to_stems(mixture_phase(estimates, x), len(audio))
    stems = separator(model, wiener=False).separate(audio, RATE)
    for target, stem in zip(TARGETS, expected, strict=True):
        assert close(stems[target], stem, 1e-4), target


def test_the_residual_is_what_the_estimates_leave(model):
    audio, targets = music(), ("drums", "bass")
    x, estimates = plainly(model, audio, targets)
    rest = np.maximum(0, np.abs(x) - estimates.sum(0))
    rest[:, SMALL["valid_signal_idx"]:] = np.sqrt(2) * np.abs(x)[:, SMALL["valid_signal_idx"]:]
    expected = to_stems(filter_estimates(mixture_phase(np.concatenate([estimates, rest[None]]), x), x), len(audio))
    stems = separator(model, targets).separate(audio, RATE)
    assert tuple(stems) == (*targets, "residual")
    for name, stem in zip(stems, expected, strict=True):
        assert close(stems[name], stem, 1e-4), name


@pytest.mark.parametrize("targets", [None, ("vocals",), ("other", "bass"), ("bass", "drums", "vocals")], ids=str)
def test_stems_sum_to_the_mixture(targets, model):
    audio = music()
    stems = separator(model, targets).separate(audio, RATE)
    assert ("residual" in stems) == (targets is not None)
    assert close(sum(stems.values()), audio, 1e-3)


@pytest.mark.parametrize("targets", [("vocals",), ("bass", "other")], ids=str)
def test_without_the_filter_the_residual_is_the_difference(targets, model):
    audio = music()
    stems = separator(model, targets, wiener=False).separate(audio, RATE)
    assert tuple(stems) == (*targets, "residual")
    loudest = max(np.abs(stem).max() for stem in stems.values())
    np.testing.assert_allclose(sum(stems.values()), audio, atol=1e-6 * loudest)


def test_bins_that_no_network_estimates_are_shared_out_alike(model):
    """A tone above them goes to a target in the same measure, whatever else is asked for."""
    tone = 0.3 * np.sin(2 * np.pi * 19000 / RATE * np.arange(6000))[:, None] * np.ones((1, 2))
    tone[:, 1] *= np.cos(2 * np.pi * 3 * np.arange(6000) / RATE)    # sides that differ: the covariance can be inverted
    levels = [np.abs(separator(model, targets).separate(tone, RATE)["vocals"][500:-500]).max()
              for targets in (None, ("vocals",))]
    np.testing.assert_allclose(levels, levels[0], rtol=0.02)
    assert 0.05 < levels[0] < 0.1


@pytest.mark.parametrize("options", [{"flip": False}, {"patch_overlap": 0.0}, {"patch_overlap": 0.75},
                                     {"wiener": False}, {"chunk_seconds": 0.02}], ids=str)
def test_the_option_changes_the_result(options, model):
    audio = music()
    default, other = (separator(model, ("drums",), **o).separate(audio, RATE)["drums"] for o in ({}, options))
    assert not close(other, default, 1e-3)


def test_half_an_overlap_is_the_published_one(model):
    default, half = (separator(model, ("bass",), patch_overlap=share).separate(music(), RATE)["bass"]
                     for share in (None, 0.5))
    np.testing.assert_array_equal(default, half)


def test_swapped_sides_give_swapped_stems(model):
    """So flip averaging is to make it."""
    audio = music()
    stems, swapped = (separator(model, ("drums",)).separate(signal, RATE) for signal in (audio, audio[:, ::-1]))
    assert all(close(swapped[name][:, ::-1], stems[name], 1e-4) for name in ("drums", "residual"))


def test_engines_agree(model):
    audio = music()
    a, b = (Separator(model, ("drums", "bass"), engine=engine).separate(audio, RATE)
            for engine in ("nnabla", "onnxruntime"))
    assert all(close(a[name], b[name], 1e-4) for name in ("drums", "bass", "residual"))


# Long songs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def patches_seen(monkeypatch):
    """Shapes of what the networks were given; quick functions, another one for bass, take their place."""
    shapes = []

    def compile_network(build, made, *_):
        power = made[0][1] / 16
        return lambda patches: shapes.append(patches.shape) or (patches ** power,)

    monkeypatch.setattr(module, "compile_network", compile_network)
    return shapes


def crescendo(frames):
    """Music whose sides become louder unlike each other, so that statistics of a part are not those of the whole."""
    return music(frames) * np.linspace(0, 1, frames, dtype=np.float32)[:, None] ** [1, 4]


@pytest.mark.parametrize("wiener", [True, False])
@pytest.mark.parametrize("targets", [None, ("bass", "vocals")], ids=str)
def test_songs_of_many_blocks_are_separated_as_in_one(targets, wiener, model, patches_seen, monkeypatch):
    audio, own = crescendo(9000), Separator(model, targets, wiener=wiener)
    monkeypatch.setattr(shared, "BLOCK", 777)
    many = own.separate(audio, RATE)
    monkeypatch.setattr(shared, "BLOCK", 10_000)
    monkeypatch.setattr(spectrogram, "BLOCK", 1000)
    one = own.separate(audio, RATE)
    assert tuple(many) == tuple(one) == own.stems
    assert all(close(many[name], one[name], 1e-5) for name in one)


@pytest.mark.slow
def test_the_filter_has_the_statistics_of_the_whole_song(model):
    audio = crescendo(3000)
    x, estimates = plainly(model, audio)
    whole = to_stems(filter_estimates(mixture_phase(estimates, x), x), len(audio))
    stems = separator(model).separate(audio, RATE)
    chunks = separator(model, chunk_seconds=0.05).separate(audio, RATE)
    for target, expected in zip(TARGETS, whole, strict=True):
        assert close(stems[target], expected, 1e-4), target
        assert not close(chunks[target], expected, 1e-3), target


def test_work_grows_in_proportion_to_the_length(model, patches_seen):
    own, counts = Separator(model), []
    for length in range(1, 6):
        patches_seen.clear()
        own.separate(music((48 * length - 1) * SMALL["hop_size"]), RATE)    # 48 frames each
        counts.append(len(patches_seen))
    # Three targets have a patch every 8 frames, bass one every 12; each has one more before the beginning.
    assert counts == [(3 * 6 + 4) * length + 4 for length in range(1, 6)]
    assert set(patches_seen) == {(2, 16, 2, 129), (2, 24, 2, 129)}


@pytest.mark.parametrize("wiener", [True, False])
def test_memory_does_not_grow_with_the_song(wiener, model, patches_seen):
    own, block, peaks = Separator(model, ("drums", "other"), wiener=wiener), music(5000), []
    for count in (1, 2, 12):    # before the first, functions may have to be compiled
        tracemalloc.start()
        stems = separate_stream(own, [block] * count, RATE, 2, own.stems)
        assert sum(map(len, stems)) >= count * len(block)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


def test_files_lie_where_they_are_told_to_without_a_name(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", None)
    own = separator(model, ("drums",))
    stems = own.separate_whole([music()], tmp_path / "new")
    assert next(stems).shape[1:] == (2, 2)
    assert not list((tmp_path / "new").iterdir())


# What may come in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, rate", [((1000,), RATE), ((1000, 1), 48000), ((300, 2), 16000), ((1, 2), RATE),
                                         ((441,), RATE), ((129, 2), RATE)], ids=str)
def test_stems_have_the_shape_of_the_audio(shape, rate, model):
    """Down to 10 ms, and to a single sample."""
    audio = music(shape[0], shape[-1] if len(shape) == 2 else 1).reshape(shape)
    for wiener in (True, False):
        stems = separator(model, ("vocals",), wiener=wiener).separate(audio, rate)
        assert tuple(stems) == ("vocals", "residual")
        assert all(stem.shape == shape and stem.dtype == np.float32 and np.isfinite(stem).all()
                   for stem in stems.values())


def test_mono_is_stereo_of_equal_sides(model):
    audio = music(1500, 1)
    own, targets = separator(model, ("vocals", "bass")), ("vocals", "bass", "residual")
    mono, stereo = own.separate(audio[:, 0], RATE), own.separate(np.repeat(audio, 2, axis=1), RATE)
    assert all(close(mono[target], stereo[target].mean(1), 1e-5) for target in targets)
    assert all(close(stereo[target][:, 0], stereo[target][:, 1], 1e-5) for target in targets)
    assert close(sum(mono.values()), audio[:, 0], 1e-3)


@pytest.mark.parametrize("targets", [None, ("vocals",)], ids=str)
def test_silence_stays_silent(targets, model):
    stems = separator(model, targets).separate(np.zeros((1500, 2)), RATE)
    assert all(np.array_equal(stem, np.zeros((1500, 2))) for stem in stems.values())


def test_the_audio_is_left_as_it_was(model):
    audio = music()
    separator(model, ("vocals",)).separate(audio, RATE)
    np.testing.assert_array_equal(audio, music())


@pytest.mark.parametrize("audio", [np.zeros((10, 3)), np.zeros((0, 2)), np.zeros(0), np.zeros((2, 2, 2)), np.zeros(()),
                                   np.array([0.0, np.nan]), np.array([np.inf])], ids=lambda audio: str(audio.shape))
def test_what_is_no_audio_is_refused(audio, model):
    with pytest.raises(ValueError, match="finite samples"):
        separator(model, ("vocals",)).separate(audio, RATE)


def test_chunks_of_a_batch_stand_for_themselves(model):
    own = separator(model, ("drums",))
    chunks = np.stack([music(2000), music(2001)[1:]])
    both = own.process(chunks)
    assert both.shape == (2, 2, 2000, 2)
    for item in range(2):
        np.testing.assert_array_equal(own.process(chunks[item:item + 1])[0], both[item])


def test_separators_do_not_disturb_each_other(model):
    one, other = separator(model, ("drums",)), separator(model, ("vocals",))
    wanted = one.separate(music(), RATE)["drums"]
    other.separate(music(), RATE)
    np.testing.assert_array_equal(one.separate(music(), RATE)["drums"], wanted)
    assert not nn.get_parameters()


def test_a_network_is_compiled_once_for_all_patches_and_songs(model, monkeypatch):
    shapes, compile_network = [], module.compile_network
    monkeypatch.setattr(module, "compile_network",
                        lambda build, made, *rest: shapes.append(*made) or compile_network(build, made, *rest))
    own = Separator(model, ["bass"], engine="nnabla")
    for frames in (100, 1000, 3000):
        own.separate(music(frames), RATE)
    assert shapes == [(2, 24, 2, 129)]


# What may not ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values, says", [
    ({"targets": ["piano"]}, "piano"), ({"targets": ["bass", "bass"]}, "once"), ({"overlap": 1}, "overlap"),
    ({"chunk_seconds": -1}, "chunks"), ({"patch_overlap": 0.4}, "patches"), ({"engine": "abacus"}, "abacus")], ids=str)
def test_values_that_are_not_allowed_are_refused(values, says, model):
    with pytest.raises(UsageError, match=says):
        Separator(model, **values)


def test_patches_that_have_no_such_share_are_refused(tmp_path, save):
    save(tmp_path, "drums", test_patch_len=14, out_shift=7)
    assert Separator(tmp_path, patch_overlap=0.5).separate(music(300), RATE).keys() == {"drums", "residual"}
    with pytest.raises(UsageError, match=r"overlap of patches of 0.75: .*drums.h5 has patches of 14 frames"):
        Separator(tmp_path, patch_overlap=0.75)


@pytest.mark.parametrize("folder, remedy", [(None, "set TMPDIR"), ("stems", "choose another --out-dir")])
def test_a_full_disk_is_one_line(folder, remedy, model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=f"no room for 0 MB of estimates .No space left on device.; {remedy}"):
        list(separator(model, ("drums",)).separate_whole([music()], folder))


def test_networks_for_other_spectra_do_not_go_together(tmp_path, save):
    save(tmp_path, "drums")
    save(tmp_path, "bass", hop_size=32)
    with pytest.raises(UserError, match="bass.h5: another fft_size, hop_size or fs than .*drums.h5"):
        separator(tmp_path)


def test_a_network_of_one_channel_is_refused(tmp_path, save):
    with pytest.raises(UserError, match="drums.h5: a network of 1 channels"):
        separator(save(tmp_path, "drums", n_channels=1))


def test_hyper_parameters_that_do_not_fit_are_refused(tmp_path, save):
    yaml = save(tmp_path, "drums") / "drums.yaml"
    yaml.write_text(yaml.read_text().replace("ttl_dens_k: 2", "ttl_dens_k: 4"))
    with pytest.raises(UserError, match="drums.h5: weights of another network"):
        separator(tmp_path)
