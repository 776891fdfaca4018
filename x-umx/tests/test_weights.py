"""Finding weights: files, folders, training runs and published names; what is in them and what is wrong with them."""
import io
import json
import zipfile

import h5py
import nnabla as nn
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.runs.checkpoint import parameter_shapes, save_parameters
from common.workbench.testing import arrays_in, served
from x_umx import weights
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes
from x_umx.separator import Separator
from x_umx.weights import find_weights

SIZES = Sizes(n_fft=64, hidden_size=8, max_bin=20)
MAGNITUDE = 3, 1
pytestmark = pytest.mark.usefixtures("cache")


def build(network):
    return network.masks(nn.Variable((*MAGNITUDE, network.sizes.nb_channels, network.sizes.bins)))


def save(path, network, seed=0):
    """Write random weights of a network, and leave none behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nn.clear_parameters()
    nn.random.seed(seed)
    build(network)
    save_parameters(path)
    nn.clear_parameters()
    return path


def save_umx(folder, sources=SOURCES, name="{}.h5", network=OpenUnmix(SIZES)):    # noqa: B008
    for seed, source in enumerate(sources):
        save(folder / name.format(source), network, seed)
    return folder


def loaded(found):
    """{name: array} of the parameters that a WeightFile loads."""
    nn.clear_parameters()
    found.load(parameter_shapes(lambda: build(found.network)))
    return {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}


# What is found --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [
    SIZES, Sizes(n_fft=32, nb_channels=1, hidden_size=6, max_bin=17), Sizes(n_fft=64, hidden_size=8, max_bin=1),
    Sizes(n_fft=128, hidden_size=4, nb_layers=2, max_bin=9, unidirectional=True)],
    ids=["stereo", "mono", "one bin", "forward only"])
@pytest.mark.parametrize("cross", [False, True], ids=["UMX", "X-UMX"])
def test_sizes_are_those_of_the_file(sizes, cross, tmp_path):
    sources = ("piano", "vocals")
    path = save(tmp_path / "piano.h5", CrossNetOpenUnmix(sizes, sources=sources) if cross else OpenUnmix(sizes))
    found, = find_weights(path)
    assert (found.network.sizes, found.sources) == (sizes, sources if cross else ("piano",))
    assert (found.network.hop_length, found.sample_rate) == (sizes.n_fft // 4, 44100)
    values = loaded(found)
    assert values.keys() == arrays_in(path).keys()
    assert all(np.array_equal(values[name], value) for name, value in arrays_in(path).items())


def test_a_folder_of_umx_has_a_file_for_each_target_in_the_published_order(tmp_path):
    save_umx(tmp_path / "umx", ("piano", *reversed(SOURCES)))
    (tmp_path / "umx" / "._bass.h5").touch()    # as other systems leave it
    files = find_weights(tmp_path / "umx")
    assert [file.sources for file in files] == [(source,) for source in (*SOURCES, "piano")]
    assert [file.path.name for file in files] == [f"{source}.h5" for source in (*SOURCES, "piano")]


def test_targets_choose_the_files_of_umx(tmp_path):
    save_umx(tmp_path / "umx")
    assert [file.sources for file in find_weights(tmp_path / "umx", ["vocals", "bass"])] == [("vocals",), ("bass",)]


def test_a_run_says_hop_length_rate_and_source(tmp_path):
    run = tmp_path / "run"
    save(run / "best_umx.h5", OpenUnmix(SIZES))
    (run / "config.json").write_text(json.dumps({"nhop": 8, "sample_rate": 8000, "source": "drums"}))
    for model in (run, run / "best_umx.h5"):
        found, = find_weights(model)
        assert (found.sources, found.network.hop_length, found.sample_rate) == (("drums",), 8, 8000)


def test_a_run_without_crossing_is_separated_without(tmp_path):
    save(tmp_path / "run/best_xumx.h5", CrossNetOpenUnmix(SIZES, crossing=False))
    (tmp_path / "run/config.json").write_text(json.dumps({"nhop": 16, "sample_rate": 44100, "crossing": False}))
    assert find_weights(tmp_path / "run")[0].network.crossing is False


def test_a_folder_of_runs_has_a_run_for_each_target(tmp_path):
    save_umx(tmp_path / "runs", ("vocals", "bass"), "{}/best_umx.h5")
    assert [file.sources for file in find_weights(tmp_path / "runs")] == [("bass",), ("vocals",)]


def test_weights_beside_a_strange_configuration_are_taken_by_their_name(tmp_path):
    save(tmp_path / "vocals.h5", OpenUnmix(SIZES))
    (tmp_path / "config.json").write_text(json.dumps({"nhop": 8, "source": "drums"}))    # of something else
    found, = find_weights(tmp_path / "vocals.h5")
    assert (found.sources, found.network.hop_length) == (("vocals",), 16)


# Old files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names, number, shown", [
    (("conv_r", "conv_i", "conv_cos", "conv_sin"), "4 parameters ignored", "(conv_cos, conv_i, conv_r, conv_sin)"),
    (("fc4/affine/W", "a", "b", "c", "solver/step"), "5 parameters ignored", "(a, b, c, fc4/affine/W, ...)")])
def test_names_that_the_network_does_not_have_are_ignored_with_a_note(names, number, shown, tmp_path, capsys):
    path = save(tmp_path / "vocals.h5", OpenUnmix(SIZES))
    wanted = arrays_in(path)
    with h5py.File(path, "a") as file:
        for name in names:
            file[name] = np.full((2, 2), np.nan, np.float32)
    values = loaded(find_weights(path)[0])
    assert values.keys() == wanted.keys()
    assert capsys.readouterr().err == f"note: {path}: {number} that this network does not have {shown}\n"


def test_lstm_weights_of_another_shape_are_taken_in_their_order_with_a_warning(tmp_path, capsys):
    path = save(tmp_path / "vocals.h5", OpenUnmix(SIZES))
    wanted = arrays_in(path)
    with h5py.File(path, "a") as file:
        for name in ("lstm/lstm/weight_l0", "lstm/lstm/weight"):
            attributes, value = dict(file[name].attrs), file[name][()]
            del file[name]
            file[name] = value.reshape(-1, value.shape[-1])
            file[name].attrs.update(attributes)
    values = loaded(find_weights(path)[0])
    assert all(np.array_equal(values[name], value) for name, value in wanted.items())
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"warning: {path}: lstm/lstm/weight") and "another shape" in err


def test_intact_files_are_loaded_in_silence(tmp_path, capsys):
    loaded(find_weights(save(tmp_path / "xumx.h5", CrossNetOpenUnmix(SIZES)))[0])
    assert capsys.readouterr() == ("", "")


# Published names ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder `server.folder` of published files, whose names are those of the real ones."""
    with served(tmp_path / "published") as running:
        monkeypatch.setattr(weights, "PUBLISHED", running.addresses(weights.PUBLISHED))
        yield running


def archive(path, files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as members:
        for name, data in files.items():
            members.writestr(name, data)
    path.write_bytes(content.getvalue())


def test_xumx_is_fetched_once(server, cache):
    save(server.folder / "x-umx.h5", CrossNetOpenUnmix(SIZES))
    for _ in range(2):
        found, = find_weights("xumx")
        assert (found.path, found.sources) == (cache / "x-umx.h5", SOURCES)
    assert server.gets() == 1


@pytest.mark.parametrize("name", ["umx", "umxhq"])
def test_umx_is_fetched_once_and_unpacked(name, server, cache, tmp_path):
    save_umx(tmp_path / "made")
    archive(server.folder / f"{name}.zip", {f"{name}/{source}.h5": (tmp_path / f"made/{source}.h5").read_bytes()
                                            for source in SOURCES} | {"README": b"", "../evil.h5": b"x"})
    for _ in range(2):
        files = find_weights(name)
        assert [file.path for file in files] == [cache / name / f"{source}.h5" for source in SOURCES]
        assert all(file.path.read_bytes() == (tmp_path / f"made/{file.path.name}").read_bytes() for file in files)
    assert server.gets() == 1
    assert not (cache / "evil.h5").exists() and not (tmp_path / "evil.h5").exists()


def test_an_archive_without_all_targets_is_one_line(server, cache):
    archive(server.folder / "umx.zip", {"umx/vocals.h5": b""})
    with pytest.raises(UserError, match="umx.zip: no 'bass.h5' in this archive") as caught:
        find_weights("umx")
    assert "\n" not in str(caught.value)
    assert not list((cache / "umx").glob("*.h5"))


def test_without_network_one_line_says_which_file_to_put_where(cache, monkeypatch):
    monkeypatch.setattr(weights, "PUBLISHED", {"xumx": "http://127.0.0.1:1/x-umx.h5"})
    with pytest.raises(UserError, match="put the file at") as caught:
        find_weights("xumx")
    assert str(cache / "x-umx.h5") in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_put_there_by_hand_needs_no_network(cache, monkeypatch):
    monkeypatch.setattr(weights, "PUBLISHED", {"xumx": "http://127.0.0.1:1/x-umx.h5"})
    save(cache / "x-umx.h5", CrossNetOpenUnmix(SIZES))
    assert find_weights("xumx")[0].sources == SOURCES


# What is wrong --------------------------------------------------------------------------------------------------------


def refused(error, model, targets=None):
    """Let `find_weights` or loading raise `error`; returns its message, one line."""
    with pytest.raises(error) as caught:
        Separator(model, targets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_that_is_not_there(tmp_path):
    message = refused(UsageError, "xumx2")
    assert "--model xumx2: no such file or folder; the known models are xumx, umx, umxhq, xumx-small" in message
    assert str(tmp_path / "none.h5") in refused(UsageError, tmp_path / "none.h5")


def test_a_folder_without_weights(tmp_path):
    assert f"--model {tmp_path}: no weights here" in refused(UsageError, tmp_path)


def test_a_target_that_the_model_does_not_separate(tmp_path):
    save(tmp_path / "xumx.h5", CrossNetOpenUnmix(SIZES))
    save_umx(tmp_path / "umx", ("drums", "vocals"))
    for model, has in (("xumx.h5", "bass, drums, vocals, other"), ("umx", "drums, vocals")):
        message = refused(UsageError, tmp_path / model, ["vocals", "piano"])
        assert f"--targets piano: {tmp_path / model} separates {has}" in message


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file(damage, tmp_path):
    path = save(tmp_path / "xumx.h5", CrossNetOpenUnmix(SIZES))
    content = {"truncated": path.read_bytes()[:5000], "empty": b"", "text": b"no weights"}[damage]
    path.write_bytes(content)
    assert f"{path}: cannot be read as an HDF5 file" in refused(UserError, path)


def test_weights_that_are_not_numbers(tmp_path):
    path = save(tmp_path / "xumx.h5", CrossNetOpenUnmix(SIZES))
    with h5py.File(path, "a") as file:
        file["fc2_drums/affine/W"][0, 0] = np.nan
    assert f"{path}: fc2_drums/affine/W holds values that are not finite" in refused(UserError, path)


def test_an_archive_is_not_a_weight_file(tmp_path):
    archive(tmp_path / "umx.zip", {"vocals.h5": b""})
    assert f"{tmp_path / 'umx.zip'}: a ZIP archive; unpack it" in refused(UserError, tmp_path / "umx.zip")


@pytest.mark.parametrize("names", [{"conv1/conv/W": (3, 3)}, {}, {"input_mean_vocals": (20,)},
                                   {"input_mean": (20,), "output_mean": (33,), "fc1/affine/W": (39, 8),
                                    "lstm/lstm/bias": (3, 2, 4, 4)}])
def test_weights_of_another_network(names, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        for name, shape in names.items():
            file[name] = np.zeros(shape, np.float32)
    assert f"{tmp_path / 'other.h5'}: weights of another network" in refused(UserError, tmp_path / "other.h5")


def test_names_that_are_missing(tmp_path):
    path = save(tmp_path / "vocals.h5", OpenUnmix(SIZES))
    with h5py.File(path, "a") as file:
        del file["fc2/bn/gamma"]
    assert f"{path}: weights of another network: 1 missing (fc2/bn/gamma)" in refused(UserError, path)


def test_networks_of_several_spectrograms_do_not_go_together(tmp_path):
    save_umx(tmp_path / "umx", ("bass", "drums"))
    save(tmp_path / "umx/vocals.h5", OpenUnmix(Sizes(n_fft=32, hidden_size=8, max_bin=17)))
    message = refused(UserError, tmp_path / "umx")
    assert "vocals.h5: another n_fft, hop length or sample rate than" in message
    assert [file.sources for file in find_weights(tmp_path / "umx", ["drums"])] == [("drums",)]


def test_a_folder_with_weights_of_two_models_is_no_model(tmp_path):
    save(tmp_path / "models/xumx.h5", CrossNetOpenUnmix(SIZES))
    save_umx(tmp_path / "models", ("vocals",))
    assert str(tmp_path / "models") in refused((UsageError, UserError), tmp_path / "models")


@pytest.mark.parametrize("text, said", [
    ("{", "cannot be read as the configuration of a training run"), ("[]", "holds a list, no fields"),
    ('{"nhop": "fast"}', "'nhop' is str, not int"), ('{"nhop": 0}', "nhop = 0 is not within 1 to 65536"),
    ('{"nhop": 100000000000}', "nhop = 100000000000 is not within"), ('{"sample_rate": -1}', "sample_rate = -1 is not"),
    ('{"nhop": 22}', "nhop = 22 is more than a third of n_fft = 64, that of best_xumx.h5"),
    ('{"crossing": 1}', "'crossing' is int, not bool"), ('{"source": null}', "'source' is NoneType, not str")])
def test_a_strange_configuration_of_a_run(text, said, tmp_path):
    save(tmp_path / "best_xumx.h5", CrossNetOpenUnmix(SIZES))
    (tmp_path / "config.json").write_text(text)
    message = refused(UserError, tmp_path)
    assert message.startswith(f"{tmp_path / 'config.json'}: ") and said in message


@pytest.mark.parametrize("name", ["..", "../a", "a b"])
def test_weights_of_a_source_that_cannot_be_a_name_are_refused(name, tmp_path):
    path = save(tmp_path / "xumx.h5", CrossNetOpenUnmix(SIZES, sources=("one", "two")))
    with h5py.File(path, "a") as file:
        for key in list(file):
            if key.endswith("_two"):
                file.move(key, f"{key.removesuffix('_two')}_{name}")
    assert "different names without blanks and slashes are wanted" in refused(UserError, path)
