"""The command that separates and its Python interface, with small random weights."""
import re
import zlib
from pathlib import Path

import h5py
import nnabla as nn
import numpy as np
import pytest
import soundfile

from common.machine.cache import cache_dir, make_cache_folder
from common.machine.errors import UsageError
from common.runs.checkpoint import save_parameters
from common.workbench.pages import Page
from common.workbench.testing import assert_one_line, run_without_packages, script_of, stems_in
from x_umx import separate
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes
from x_umx.separator import Separator

RATE = 44100
SIZES = Sizes(n_fft=256, hidden_size=16, max_bin=94)
pytestmark = pytest.mark.usefixtures("cache", "own_folder")
CHUNKS = ("--chunk-dur", "0.08", "--overlap", "0.1")


def save(path, network, seed=0, change=lambda parameters: None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nn.clear_parameters()
    nn.random.seed(seed)
    network.masks(nn.Variable((2, 1, network.sizes.nb_channels, network.sizes.bins)))
    change(nn.get_parameters(grad_only=False))
    save_parameters(path)
    nn.clear_parameters()
    return path


def uneven(parameters):
    """Let masks be far from one another, and from constants."""
    weights = next(parameter.d for name, parameter in parameters.items() if name.endswith("/W"))
    rng = np.random.default_rng(zlib.crc32(weights.tobytes()))
    for name, parameter in parameters.items():
        if "fc3" in name and name.endswith(("beta", "gamma")):
            parameter.d = rng.uniform(-0.3, 1) + 0.3 * rng.standard_normal(parameter.shape)


def constant(masks):
    """Let the mask of each source be a number."""
    def change(parameters):
        for name, parameter in parameters.items():
            if name.startswith("fc3") and name.endswith(("beta", "gamma")):
                parameter.d = 0
            if name.startswith("output_mean"):
                parameter.d = masks[name.removeprefix("output_mean_")]
    return change


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files xumx.h5 and mono.h5 of X-UMX, and a folder umx of UMX."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "xumx.h5", CrossNetOpenUnmix(SIZES), change=uneven)
    save(folder / "mono.h5", CrossNetOpenUnmix(Sizes(n_fft=256, nb_channels=1, hidden_size=16, max_bin=94)),
         change=uneven)
    for seed, source in enumerate(SOURCES):
        save(folder / f"umx/{source}.h5", OpenUnmix(SIZES), seed, uneven)
    return folder


def music(frames=RATE // 5, channels=2, rate=RATE):
    """Tones and noise, away from silence and from one another in both channels."""
    rng, time = np.random.default_rng(frames), np.arange(frames)[:, None] / rate
    tones = sum(np.sin(2 * np.pi * f * time + np.arange(channels)) for f in (220, 700, 1900, 3100))
    return (0.05 * tones + 0.05 * rng.standard_normal((frames, channels))).astype(np.float32)


def song(path="song.wav", frames=RATE // 5, channels=2, rate=RATE):
    audio = music(frames, channels, rate)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return audio


@pytest.fixture
def command(models, run_main):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    return lambda *argv, model="xumx.h5": run_main(separate.main, "-c", "cpu", "--model", models / model, *argv)


def close(a, b, tolerance=1e-5):
    return np.abs(a - b).max() <= tolerance * np.abs(b).max()


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["xumx.h5", "umx", "mono.h5"])
@pytest.mark.parametrize("frames, channels, rate", [(20_011, 2, RATE), (10_007, 2, 22050), (20_011, 1, RATE)])
def test_stems_are_like_the_input(model, frames, channels, rate, command):
    song("song.wav", frames, channels, rate)
    code, out, err = command("song.wav", model=model)
    assert (code, err) == (0, "")
    assert set(stems_in()) == set(SOURCES)
    for source in SOURCES:
        info = soundfile.info(f"stems/song/{source}.wav")
        assert (info.frames, info.channels, info.samplerate) == (frames, channels, rate)


@pytest.mark.parametrize("flags, names", [((), SOURCES), (("--two-stems", "vocals"), ("vocals", "no_vocals"))])
def test_a_page_to_listen_to(flags, names, command):
    song()
    assert command("song.wav", "--page", *flags)[0] == 0
    page = Page("stems/song/page.html")
    page.assert_whole(num_scripts=2)
    assert page.addresses() == [f"{name}.wav" for name in ("mixture", *names)]


@pytest.mark.parametrize("model, flags", [
    ("xumx.h5", ()), ("umx", ()), ("mono.h5", ()), ("xumx.h5", ("--niter", 3)), ("umx", ("--softmask",)),
    ("xumx.h5", ("--residual",))], ids=str)
def test_stems_sum_to_the_mixture(model, flags, command):
    mixture = song()
    assert command("song.wav", "--float32", *flags, model=model)[0] == 0
    assert close(sum(stems_in().values()), mixture, 1e-3)


def test_published_models_are_listed(capsys):
    make_cache_folder(cache_dir())
    (cache_dir() / "x-umx.h5").touch()
    assert separate.main(["--list-models"]) == 0
    header, *rows = (re.split("  +", line) for line in capsys.readouterr().out.splitlines())
    *published, shipped = rows
    there = {row[0]: row[-1] for row in published}
    assert header[0] == "model" and there == {"xumx": "yes", "umx": "no", "umxhq": "no"}
    assert all("142 MB" in row and "vocals drums bass other" in row for row in published)
    assert shipped[:4] == ["xumx-small", "6.5 MB", "bass drums vocals other", "this package"]


@pytest.mark.parametrize("targets", [("vocals",), ("other", "bass")], ids=" ".join)
def test_targets_of_xumx_are_taken_by_name(targets, command):
    song()
    assert command("song.wav", "--float32", "-o", "all")[0] == 0
    assert command("song.wav", "--float32", "--targets", *targets)[0] == 0
    everything, some = stems_in("all/song"), stems_in()
    for target in targets:
        np.testing.assert_allclose(some[target], everything[target], atol=1e-7)    # both add up to the song
    rest = {"accompaniment"} if len(targets) == 1 else set()
    assert set(some) == set(targets) | rest


def test_the_accompaniment_of_one_target_of_xumx_is_the_sum_of_the_others(command):
    song()
    assert command("song.wav", "--float32", "-o", "all")[0] == 0
    assert command("song.wav", "--float32", "--targets", "drums")[0] == 0
    others = sum(stem for source, stem in stems_in("all/song").items() if source != "drums")
    assert close(stems_in()["accompaniment"], others, 1e-4)


def test_the_accompaniment_of_one_target_of_umx_is_the_rest_of_the_mixture(command):
    mixture = song()
    assert command("song.wav", "--float32", "--targets", "vocals", model="umx")[0] == 0
    stems = stems_in()
    assert set(stems) == {"vocals", "accompaniment"}
    assert close(stems["vocals"] + stems["accompaniment"], mixture, 1e-3)
    assert np.abs(stems["accompaniment"]).max() > 0.01


@pytest.mark.parametrize("model", ["xumx.h5", "umx"])
def test_two_stems_sum_to_the_mixture(model, command):
    mixture = song()
    assert command("song.wav", "--float32", "-o", "all", model=model)[0] == 0
    assert command("song.wav", "--float32", "--two-stems", "vocals", model=model)[0] == 0
    stems = stems_in()
    assert set(stems) == {"vocals", "no_vocals"}
    np.testing.assert_allclose(stems["vocals"] + stems["no_vocals"], mixture, atol=1e-6)
    np.testing.assert_allclose(stems["vocals"], stems_in("all/song")["vocals"], atol=1e-7)


def test_the_residual_is_one_more_stem(command):
    song()
    for flag, folder in (("--residual", "a"), ("--residual-model", "b")):
        assert command("song.wav", "--float32", flag, "-o", folder)[0] == 0
    assert set(stems_in("a/song")) == {*SOURCES, "residual"}
    assert all(np.array_equal(stem, stems_in("b/song")[name]) for name, stem in stems_in("a/song").items())


def test_the_residual_holds_what_targets_leave(command):
    mixture = song()
    assert command("song.wav", "--float32", "--residual", "--targets", "bass", "drums", model="umx")[0] == 0
    assert set(stems_in()) == {"bass", "drums", "residual"}
    assert close(sum(stems_in().values()), mixture, 1e-3)


@pytest.mark.parametrize("flags", [("--niter", 0), ("--niter", 2), ("--softmask",), ("--softmask", "--alpha", 2),
                                   ("--residual",), CHUNKS], ids=lambda flags: " ".join(map(str, flags)))
def test_the_flag_changes_the_result(flags, command):
    song()
    assert command("song.wav", "--float32", "-o", "default")[0] == 0
    assert command("song.wav", "--float32", *flags)[0] == 0
    assert not close(stems_in()["bass"], stems_in("default/song")["bass"], 1e-3)
    if "--alpha" in flags:
        assert command("song.wav", "--float32", "--softmask", "-o", "one")[0] == 0
        assert not close(stems_in()["bass"], stems_in("one/song")["bass"], 1e-3)


def test_the_network_works_at_the_rate_that_is_asked_for(models, command):
    mixture = song(rate=22050)
    assert command("song.wav", "--float32", "--no-mixture-consistency", "--sample-rate", 22050)[0] == 0
    with_that_rate = Separator(models / "xumx.h5", sample_rate=22050).separate(mixture, 22050)
    as_if_trained_there = Separator(models / "xumx.h5").separate(mixture, RATE)    # nothing is resampled
    for source, stem in stems_in().items():
        np.testing.assert_array_equal(with_that_rate[source], as_if_trained_there[source])
        assert close(stem, with_that_rate[source], 1e-6)
    assert soundfile.info("stems/song/bass.wav").samplerate == 22050


def test_alpha_without_softmask_does_not_matter(command):
    song()
    assert command("song.wav", "--float32", "-o", "default")[0] == 0
    assert command("song.wav", "--float32", "--alpha", 2)[0] == 0
    np.testing.assert_array_equal(stems_in()["bass"], stems_in("default/song")["bass"])


def test_all_inputs_are_separated(command):
    for name in ("a.wav", "b.wav", "c.wav"):
        song(name, 3000)
    assert command("a.wav", "--inputs", "b.wav", "c.wav")[0] == 0
    assert all(set(stems_in(f"stems/{name}")) == set(SOURCES) for name in "abc")


# Chunks and batches ---------------------------------------------------------------------------------------------------


MASKS = {"bass": 0.25, "drums": 0.5, "vocals": 2.0, "other": 0.0}


@pytest.mark.parametrize("chunk, overlap", [(None, 0.1), (0.2, 0.1), (0.1, 0.5), (0.1, 0.0), (0.3333, 0.25)])
def test_constant_masks_scale_the_signal_without_a_seam(chunk, overlap, tmp_path):
    path = save(tmp_path / "constant.h5", CrossNetOpenUnmix(SIZES), change=constant(MASKS))
    separator = Separator(path, niter=0, chunk_seconds=chunk, overlap=overlap)
    mixture = music(RATE + 17)
    for source, stem in separator.separate(mixture, RATE).items():
        np.testing.assert_allclose(stem, MASKS[source] * mixture, atol=2e-6, err_msg=source)


@pytest.mark.parametrize("niter", [0, 1])
def test_a_batch_gives_what_single_chunks_give(niter, models):
    separator = Separator(models / "xumx.h5", niter=niter)
    chunks = np.stack([music(8000), music(8001)[1:]])
    both = separator.process(chunks)
    alone = [separator.process(chunk[None])[0] for chunk in chunks]    # filled up with zeros now
    fresh = [Separator(models / "xumx.h5", niter=niter).process(chunk[None])[0] for chunk in chunks]
    for item in range(2):
        assert close(alone[item], both[item], 1e-5) and close(fresh[item], both[item], 1e-5)
    assert not close(both[0], both[1], 1e-2)


@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_the_number_of_chunks_does_not_matter(num, models):
    separator = Separator(models / "xumx.h5", chunk_seconds=0.1, overlap=0)
    audio = music(num * 4410)
    stems = separator.separate(audio, RATE)
    alone = [separator.separate(audio[k * 4410:(k + 1) * 4410], RATE) for k in range(num)]
    for source in SOURCES:
        assert close(stems[source], np.concatenate([part[source] for part in alone]), 1e-5)


@pytest.mark.parametrize("model", ["xumx.h5", "umx"])
def test_engines_agree(model, models):
    audio = music(10_000)
    a, b = (Separator(models / model, engine=engine).separate(audio, RATE) for engine in ("nnabla", "onnxruntime"))
    assert list(a) == list(b) == list(SOURCES)
    assert all(close(a[source], b[source], 1e-4) for source in SOURCES)


# Python interface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5000,), (5000, 1), (5000, 2), (1, 2), (7,), (129, 2), (4411, 2)], ids=str)
@pytest.mark.parametrize("rate", [RATE, 16000])
def test_stems_have_the_shape_of_the_audio(shape, rate, models):
    separator = Separator(models / "xumx.h5", chunk_seconds=0.1)
    audio = music(shape[0], shape[-1] if len(shape) == 2 else 1).reshape(shape)
    stems = separator.separate(audio, rate)
    assert tuple(stems) == separator.stems == SOURCES
    assert all(stem.shape == shape and stem.dtype == np.float32 and np.isfinite(stem).all() for stem in stems.values())


def test_mono_is_stereo_of_equal_sides(models):
    separator, audio = Separator(models / "xumx.h5"), music(5000, 1)
    mono, stereo = separator.separate(audio[:, 0], RATE), separator.separate(np.repeat(audio, 2, axis=1), RATE)
    assert all(close(mono[source], stereo[source].mean(1)) for source in SOURCES)


def test_silence_stays_silent(models):
    stems = Separator(models / "xumx.h5").separate(np.zeros((3000, 2)), RATE)
    assert all(np.array_equal(stem, np.zeros((3000, 2))) for stem in stems.values())


def test_the_audio_is_left_as_it_was(models):
    audio = music(3000)
    Separator(models / "xumx.h5").separate(audio, RATE)
    np.testing.assert_array_equal(audio, music(3000))


@pytest.mark.parametrize("audio", [np.zeros((10, 3)), np.zeros((0, 2)), np.zeros(0), np.zeros((2, 2, 2)), np.zeros(()),
                                   np.array([0.0, np.nan]), np.array([np.inf])], ids=lambda audio: str(audio.shape))
def test_what_is_no_audio_is_refused(audio, models):
    with pytest.raises(ValueError, match="finite samples"):
        Separator(models / "xumx.h5").separate(audio, RATE)


@pytest.mark.parametrize("residual", [False, True])
def test_a_large_exponent_gives_stems_that_are_finite(residual, models):
    separator = Separator(models / "xumx.h5", softmask=True, alpha=50, residual=residual, niter=0)
    stems = separator.separate(100 * music(3000), RATE)
    assert all(np.isfinite(stem).all() for stem in stems.values())
    assert max(np.abs(stem).max() for stem in stems.values()) > 0.01


def test_separators_do_not_disturb_each_other(models):
    audio = music(3000)
    wanted = Separator(models / "umx", engine="nnabla").separate(audio, RATE)
    one, other = (Separator(models / name, engine="nnabla") for name in ("umx", "xumx.h5"))
    other.separate(audio, RATE)
    assert all(np.array_equal(stem, wanted[name]) for name, stem in one.separate(audio, RATE).items())
    assert not nn.get_parameters()


@pytest.mark.parametrize("values", [{"niter": -1}, {"alpha": 0}, {"alpha": -1}, {"targets": ["piano"]},
                                    {"wiener_eps": 1e-16}, {"wiener_eps": np.nan}, {"wiener_window": 0},
                                    {"sample_rate": 0}, {"targets": ["bass", "bass"]}, {"overlap": 1},
                                    {"chunk_seconds": -1}, {"engine": "abacus"}], ids=str)
def test_values_that_are_not_allowed_are_refused(values, models):
    with pytest.raises(UsageError):
        Separator(models / "xumx.h5", **values).separate(music(100), RATE)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_an_input_that_fails_does_not_keep_the_others_from_being_separated(command):
    song("good.wav", 3000)
    song("cut.wav", 30_000)
    Path("cut.wav").write_bytes(Path("cut.wav").read_bytes()[:30])
    Path("empty.wav").write_bytes(b"")
    soundfile.write("nothing.wav", np.zeros((0, 2)), RATE)
    soundfile.write("nan.wav", np.full((3000, 2), np.nan), RATE, subtype="FLOAT")
    bad = ("missing.wav", "cut.wav", "empty.wav", "nothing.wav", "nan.wav")
    code, out, err = command(*bad, "good.wav")
    lines = err.splitlines()
    assert code == 1
    assert [line.split(":")[:2] for line in lines] == [["error", f" {name}"] for name in bad]
    assert lines[-1].endswith("1 of 6 inputs were separated")
    assert sorted(path.name for path in Path("stems").iterdir()) == ["good"]
    assert set(stems_in("stems/good")) == set(SOURCES)


@pytest.mark.parametrize("flags, words", [
    (("--targets", "piano"), ["--targets piano", "separates bass, drums, vocals, other"]),
    (("--two-stems", "piano"), ["--two-stems piano", "bass, drums, vocals, other"]),
    (("--targets", "bass", "drums", "--two-stems", "vocals"), ["--two-stems vocals", "bass, drums"]),
    (("--targets", "bass", "bass"), ["bass"]),
    (("--model", "xunx"), ["--model xunx: no such file or folder", "xumx, umx, umxhq"]),
    (("--umx-infer",), ["--umx-infer", "is X-UMX"]),
    (("--niter", "-1"), ["--niter: '-1' is not an integer"]), (("--niter", "x"), ["--niter"]),
    (("--alpha", "0"), ["--alpha: '0' is not a number"]),
    (("--alpha", "nan"), ["--alpha: 'nan'"]), (("--softmask", "--alpha", "inf"), ["--alpha: 'inf'"]),
    (("--sample-rate", "999"), ["--sample-rate: '999' is not a rate from 1000 to 1000000 Hz"]),
    (("--chunk-dur", "0"), ["--chunk-dur"]), (("--overlap", "0.7"), ["--overlap"]), (("--engine", "x"), ["--engine"]),
    (("--precision", "bf16"), ["--precision bf16"]), (("--bogus",), ["--bogus"])],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_wrong_arguments_are_one_line(flags, words, command):
    song(frames=3000)
    assert_one_line(command("song.wav", *flags), 2, *words)
    assert not Path("stems").exists()


def test_an_engine_that_cannot_be_had_is_said_once(command):
    song("a.wav", 3000)
    song("b.wav", 3000)
    assert_one_line(command("a.wav", "b.wav", "--precision", "bf16"), 2, "--precision bf16")


def test_without_an_input(command):
    assert_one_line(command(), 2, "no audio file is given")


def test_umx_infer_takes_umx(command):
    song(frames=3000)
    assert command("song.wav", "--umx-infer", model="umx")[0] == 0
    assert set(stems_in()) == set(SOURCES)


def test_the_published_weights_are_the_default(monkeypatch, run_main):
    monkeypatch.setattr("x_umx.weights.PUBLISHED", {"xumx": "http://127.0.0.1:1/x-umx.h5",
                                                    "umx": "http://127.0.0.1:1/umx.zip"})
    song(frames=3000)
    for flags, name in ((("--model", "xumx"), "x-umx.h5"), (("--umx-infer",), "umx.zip")):
        assert_one_line(run_main(separate.main, "song.wav", "-c", "cpu", *flags), 1, name, "put the file at")


@pytest.mark.parametrize("damage", ["other names", "not HDF5", "not finite"])
def test_bad_weights_are_one_line(damage, command, tmp_path):
    song(frames=3000)
    path = save(tmp_path / "bad.h5", CrossNetOpenUnmix(SIZES))
    if damage == "not HDF5":
        path.write_bytes(b"no weights")
    elif damage == "not finite":
        with h5py.File(path, "a") as file:
            file["fc1_bass/affine/W"][0, 0] = np.inf
    else:
        with h5py.File(path, "w") as file:
            file["conv1/conv/W"] = np.zeros((3, 3), np.float32)
    says = {"other names": "weights of another network", "not HDF5": "cannot be read", "not finite": "not finite"}
    assert_one_line(command("song.wav", "--model", path), 1, str(path), says[damage])
    assert not Path("stems").exists()


def test_missing_install_is_one_line():
    assert_one_line(run_without_packages(script_of(separate), "song.wav"), 2, "pip install -r requirements.txt")
