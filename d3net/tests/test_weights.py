"""Finding weights and their hyper-parameters, and the configurations themselves."""
import io
import zipfile

import attrs
import h5py
import nnabla as nn
import numpy as np
import pytest
import yaml

from common.machine.errors import UsageError, UserError
from common.runs.checkpoint import load_parameters, parameter_shapes, save_parameters
from common.workbench.testing import served
from d3net.hyperparameters import FOLDER, load_mss, load_segmentation, save_hyper_parameters
from d3net.mss_model import TARGETS, D3NetMSS
from d3net.music import weights as music_weights
from d3net.music.weights import mss_files
from d3net.scenes import published
from d3net.scenes.weights import pretrained_backbone, segmentation_file
from d3net.segmentation_model import d3net_segmentation

pytestmark = pytest.mark.usefixtures("cache")


def save_music(path, target=None, hparams="tiny", beside=True):
    """Write random weights of a small network, and its hyper-parameters."""
    target = target or path.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    nn.clear_parameters()
    D3NetMSS(load_mss("tiny"), target)(nn.Variable((1, 4, 2, 2049)))
    save_parameters(path)
    nn.clear_parameters()
    if beside:
        save_hyper_parameters(path.with_name(f"{target}.yaml"), load_mss(hparams))
    return path


def save_segmentation(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nn.clear_parameters()
    d3net_segmentation(nn.Variable((1, 3, 32, 32)), load_segmentation("tiny"))
    save_parameters(path)
    nn.clear_parameters()
    return path


def refused(error, function, *args):
    """Let a function raise `error`; returns its message, one line."""
    with pytest.raises(error) as caught:
        function(*args)
    assert caught.type is error and "\n" not in str(caught.value)
    return str(caught.value)


# Music ----------------------------------------------------------------------------------------------------------------


def test_a_folder_has_a_file_for_each_target_in_the_published_order(tmp_path):
    for target in ("piano", "bass", "vocals"):
        save_music(tmp_path / f"{target}.h5")
    save_music(tmp_path / "vocals_final.h5", "vocals")    # as training leaves it
    (tmp_path / "._bass.h5").touch()    # as other systems leave it
    files = mss_files(tmp_path)
    assert {target: file.path for target, file in files.items()} == {
        target: tmp_path / f"{target}.h5" for target in ("vocals", "bass", "piano")}
    assert list(files) == ["vocals", "bass", "piano"]
    assert files["piano"].hparams == load_mss("tiny")
    assert list(mss_files(tmp_path, ["bass", "vocals"])) == ["bass", "vocals"]


def test_a_file_says_its_target_itself(tmp_path):
    files = mss_files(save_music(tmp_path / "vocals_final.h5", "vocals"))
    assert list(files) == ["vocals"]
    assert files["vocals"].hparams == load_mss("tiny")


def test_without_a_file_of_hyper_parameters_those_of_the_target_are_taken(tmp_path):
    save_music(tmp_path / "bass.h5", beside=False)
    assert mss_files(tmp_path)["bass"].hparams == load_mss("bass")
    save_music(tmp_path / "other/piano.h5", beside=False)
    assert "piano.yaml" in refused(UsageError, mss_files, tmp_path / "other")


def test_what_is_found_fits_the_network(tmp_path):
    file = mss_files(save_music(tmp_path / "drums.h5"))["drums"]
    network = D3NetMSS(file.hparams, "drums")
    shapes = parameter_shapes(lambda: network(nn.Variable((1, 4, 2, 2049))))
    load_parameters(file.path, shapes)
    assert nn.get_parameters(grad_only=False).keys() == shapes.keys()


def test_a_target_that_is_not_there(tmp_path):
    save_music(tmp_path / "drums.h5")
    assert "--targets vocals: " in refused(UsageError, mss_files, tmp_path, ["vocals"])


@pytest.mark.parametrize("model", ["d3net-music", "none.h5"])
def test_a_model_that_is_not_there(model):
    message = refused(UsageError, mss_files, model)
    assert message.startswith(f"--model {model}: no such file or folder") and "d3net-mss" in message
    assert "D3Net-L, D3Net-S" in refused(UsageError, segmentation_file, model)


def test_a_folder_without_weights(tmp_path):
    assert "no weights here" in refused(UsageError, mss_files, tmp_path)
    assert "params_best.h5" in refused(UsageError, segmentation_file, tmp_path)


def test_a_file_under_the_name_of_another_target(tmp_path):
    save_music(tmp_path / "vocals.h5", "drums")
    message = refused(UserError, mss_files, tmp_path)
    assert "vocals.h5: weights of another network: of the target drums" in message


@pytest.mark.parametrize("names", [["conv1/conv/W"], ["vocals/conv/W"], ["input_mean_vocals", "fc1_vocals/affine/W"],
                                   ["vocals/decode_scale", "drums/decode_scale"], []])
def test_weights_of_another_network_are_not_music(names, tmp_path):
    with h5py.File(tmp_path / "vocals.h5", "w") as file:
        for name in names:
            file[name] = np.zeros(2, np.float32)
    for model in (tmp_path, tmp_path / "vocals.h5"):
        assert "vocals.h5: weights of another network" in refused(UserError, mss_files, model)
    assert "vocals.h5: weights of another network" in refused(UserError, segmentation_file, tmp_path / "vocals.h5")


def test_networks_are_not_exchanged(tmp_path):
    music, streets = save_music(tmp_path / "vocals.h5"), save_segmentation(tmp_path / "D3Net-S.h5")
    assert "not those of a D3Net for segmentation" in refused(UserError, segmentation_file, music)
    assert "not those of a D3Net for one source" in refused(UserError, mss_files, streets)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file(damage, tmp_path):
    path = save_music(tmp_path / "vocals.h5")
    path.write_bytes({"truncated": path.read_bytes()[:5000], "empty": b"", "text": b"no weights"}[damage])
    for find in (mss_files, segmentation_file):
        assert f"{path}: cannot be read as an HDF5 file" in refused(UserError, find, path)


def test_an_archive_is_not_a_weight_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "d3net-mss.zip", "w") as members:
        members.writestr("vocals.h5", b"")
    assert "a ZIP archive; unpack it" in refused(UserError, mss_files, tmp_path / "d3net-mss.zip")


# Segmentation ---------------------------------------------------------------------------------------------------------


def test_a_run_has_its_hyper_parameters_beside_the_best_weights(tmp_path):
    path = save_segmentation(tmp_path / "params_best.h5")
    save_hyper_parameters(tmp_path / "hparams.yaml", load_segmentation("tiny"))
    for model in (tmp_path, path):
        file = segmentation_file(model)
        assert (file.path, file.hparams) == (path, load_segmentation("tiny"))


def test_hyper_parameters_are_given_or_follow_from_the_name(tmp_path):
    assert segmentation_file(save_segmentation(tmp_path / "mine.h5")).hparams == load_segmentation("D3Net-L")
    assert segmentation_file(tmp_path / "mine.h5", "tiny").hparams == load_segmentation("tiny")
    for name in ("D3Net-S", "D3Net_S"):
        path = save_segmentation(tmp_path / f"{name}.h5")
        assert segmentation_file(path).hparams == load_segmentation("D3Net-S")


# Published names ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder `server.folder` under the published names."""
    with served(tmp_path / "published") as running:
        monkeypatch.setattr(music_weights, "PUBLISHED_MSS", running.addresses(music_weights.PUBLISHED_MSS))
        monkeypatch.setattr(published, "BASE", f"http://127.0.0.1:{running.server_port}")
        yield running


def test_the_music_networks_are_fetched_once_and_unpacked(server, cache, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as members:
        for target in TARGETS:
            members.write(save_music(tmp_path / f"made/{target}.h5", beside=False), f"d3net-mss/{target}.h5")
    (server.folder / "d3net-mss.zip").write_bytes(content.getvalue())
    for _ in range(2):
        files = mss_files("d3net-mss")
        assert [file.path for file in files.values()] == [cache / f"d3net-mss/{target}.h5" for target in TARGETS]
        assert {target: file.hparams for target, file in files.items()} == {t: load_mss(t) for t in TARGETS}
    assert server.gets() == 1


def test_an_archive_without_all_targets_is_one_line(server, cache):
    with zipfile.ZipFile(server.folder / "d3net-mss.zip", "w") as members:
        members.writestr("vocals.h5", b"")
    assert "no 'bass.h5' in this archive" in refused(UserError, mss_files, "d3net-mss")
    assert not list((cache / "d3net-mss").glob("*.h5"))


@pytest.mark.parametrize("name, file, config", [
    ("D3Net-L", "D3Net-L.h5", "D3Net-L"), ("D3Net_S", "D3Net-S.h5", "D3Net-S")])
def test_segmentation_networks_are_fetched_once(name, file, config, server, cache):
    save_segmentation(server.folder / file)
    for _ in range(2):
        found = segmentation_file(name)
        assert (found.path, found.hparams) == (cache / file, load_segmentation(config))
    assert server.gets() == 1


def test_backbones_are_fetched_or_given(server, cache, tmp_path):
    (server.folder / "D3Net-S-pretrained-backbone.h5").write_bytes(b"x")
    path = cache / "D3Net-S-pretrained-backbone.h5"
    assert pretrained_backbone("D3Net-S-pretrained-backbone") == pretrained_backbone(path) == path
    message = refused(UsageError, pretrained_backbone, tmp_path / "none.h5")
    assert "no such weight file" in message and "D3Net-L-pretrained-backbone" in message


def test_without_network_one_line_says_which_file_to_put_where(cache, monkeypatch):
    monkeypatch.setattr(music_weights, "PUBLISHED_MSS", {"d3net-mss": "http://127.0.0.1:1/d3net-mss.zip"})
    assert f"put the file at {cache / 'd3net-mss.zip'}" in refused(UserError, mss_files, "d3net-mss")


# Hyper-parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder, load", [("mss", load_mss), ("segmentation", load_segmentation)])
def test_every_configuration_loads_and_is_written_back_the_same(folder, load, tmp_path):
    paths = sorted((FOLDER / folder).glob("*.yaml"))
    assert len(paths) == {"mss": 7, "segmentation": 3}[folder]
    for path in paths:
        hparams = load(path.stem)
        save_hyper_parameters(tmp_path / "copy.yaml", hparams)
        assert load(tmp_path / "copy.yaml") == hparams == load(path)
        assert yaml.safe_load((tmp_path / "copy.yaml").read_text()) == yaml.safe_load(path.read_text())


def test_hyphen_and_underscore_are_the_same():
    assert load_segmentation("D3Net-L") == load_segmentation("D3Net_L") != load_segmentation("D3Net_S")


@pytest.mark.parametrize("target, multiple", [("vocals", 16), ("bass", 16), ("tiny", 4)])
def test_frames_are_halved_as_often_as_the_deepest_network_does(target, multiple):
    assert load_mss(target).frame_multiple == multiple


@pytest.mark.parametrize("changes, words", [
    ({"f_dens_k": [4, 5, 6]}, "full band: 3 growth rates, 5 numbers of layers, 5 of blocks"),
    ({"dens_k": [[4, 5, 6, 5], [2, 2, 2]], "num_layer_blocks": [[3, 3, 2, 2], [1, 1, 1]],
      "b_n_blocks": [[2, 2, 2, 2], [1, 1, 1]]}, "band 0: 4 growth rates"),
    ({"comp_rates": [[1.0, 1.0, 1.0], [1.0, 1.0]]}, "3 compression rates"),
    ({"num_init_features": [8]}, "num_init_features: 1 entries for 2 bands"),
    ({"band_split_idxs": [190]}, "band 0: bins 0 to 190 cannot be halved 2 times"),
    ({"band_split_idxs": [1600]}, "band 1: bins 1600 to 1600"),
    ({"valid_signal_idx": 2049}, "valid_signal_idx = 2049: a spectrum has 2049 bins"),
    ({"patch_length": 30}, "patch_length = 30: not a multiple of 4 frames"),
    ({"out_shift": 24}, "out_shift = 24"),
    ({"fs": 0}, "fs = 0 is not allowed (an integer from 1 to 1048576)"),
    ({"fs": True}, "fs = True"), ({"fs": "44100"}, "fs = '44100'"), ({"f_dens_k": 4}, "f_dens_k = 4"),
    ({"f_dens_k": []}, "f_dens_k = []"), ({"dens_k": [4, 5]}, "dens_k = [4, 5]"),
    ({"comp_rates": [[1.5], [1.0]]}, "comp_rates"),
    ({"hop_size": 10**11}, "hop_size = 100000000000 is not allowed (an integer from 1 to 65536)"),
    ({"f_n_blocks": [64] * 5, "f_num_layer_block": [64] * 5, "f_dens_k": [256] * 5}, "full band: dens_k and the"),
    ({"f_dens_k": [1] * 257}, "f_dens_k"), ({"unknown": 1}, "unknown key 'unknown'"),
])
def test_music_hyper_parameters_that_are_not_allowed(changes, words, tmp_path):
    _check_refused(load_mss, FOLDER / "mss/tiny.yaml", changes, words, tmp_path)


@pytest.mark.parametrize("changes, words", [
    ({"num_layers": [3, 4, 2]}, "num_layers = [3, 4, 2] is not allowed (4 integers from 1 to 64)"),
    ({"n_blocks": [64] * 4, "num_layers": [64] * 4, "dens_k": [256] * 4}, "the network: dens_k and the numbers of"),
    ({"dense_n_out_layer_block": [3, 2, 3, 1]}, "3 of 2 layers in stage 3"),
    ({"palette": [[0, 0, 0]]}, "palette: 1 colours for 19 classes"), ({"palette": [[0, 0]] * 19}, "palette"),
    ({"dilation": [1, 1, 1, 1]}, "dilation"), ({"std": [1.0, 0, 1.0]}, "std"), ({"lr": float("nan")}, "lr"),
    ({"block_comp": [0.2, 0, 0.2, 0.2]}, "block_comp"),
    ({"block_comp": [0.5, 0.5, 0.5, 0.2]}, "block_comp = [0.5, 0.5, 0.5, 0.2]: no channel is left in stage 4"),
    ({"trans_comp_factor": 40}, "trans_comp_factor = 40: no channel is left of the 14 of stage 1"),
])
def test_segmentation_hyper_parameters_that_are_not_allowed(changes, words, tmp_path):
    _check_refused(load_segmentation, FOLDER / "segmentation/tiny.yaml", changes, words, tmp_path)


def _check_refused(load, published, changes, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(published.read_text()) | changes))
    message = refused(UsageError, load, path)
    assert message.startswith(f"{path}: ") and words in message


@pytest.mark.parametrize("content", [b"[1, 2", b"\xff\xfe\x00", b"", b"- 1", b"fs: 44100", b"? [a]\n: 1", b"1: 2"])
def test_a_file_that_holds_no_hyper_parameters(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    for load in (load_mss, load_segmentation):
        assert refused(UsageError, load, path).startswith(f"{path}: ")


def test_a_configuration_that_is_not_there(tmp_path):
    assert "no such file, nor one of the configurations bass, drums" in refused(UsageError, load_mss, "piano")
    assert "D3Net_L, D3Net_S, tiny" in refused(UsageError, load_segmentation, "D3Net_M")
    assert refused(UsageError, load_mss, tmp_path).startswith(f"{tmp_path}: ")


def test_fields_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        load_mss("tiny").fs = 8000


def test_a_folder_of_ones_own_goes_before_the_published_weights(tmp_path, monkeypatch):
    nn.clear_parameters()
    D3NetMSS(load_mss("tiny"), "vocals")(nn.Variable((1, 16, 2, 2049)))
    (tmp_path / "d3net-mss").mkdir()
    save_parameters(tmp_path / "d3net-mss" / "vocals.h5")
    save_hyper_parameters(tmp_path / "d3net-mss" / "vocals.yaml", load_mss("tiny"))
    monkeypatch.chdir(tmp_path)
    assert mss_files("d3net-mss")["vocals"].path.resolve() == tmp_path / "d3net-mss" / "vocals.h5"
