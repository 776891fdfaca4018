"""The stems of openunmix 1.3.0, from the weights that it has.

`data/openunmix.npz` was written with openunmix 1.3.0 and torch 2.13.0, in double precision:

    nets = {name: OpenUnmix(65, nb_channels=2, hidden_size=8, max_bin=50, input_mean=..., input_scale=...)
            for name in ("vocals", "drums")}    # random weights, statistics of batch normalization, too
    separator = Separator(nets, n_fft=128, n_hop=32, wiener_win_len=300, **SETTINGS[name]).eval().double()
    separator(mixture)[0, :, :, ::3]            # tones and noise in bursts, with silence, of 310 frames

where SETTINGS are `niter=1` for "default", and `niter=2, softmask=True` for "softmask". It holds the mixture as int16,
the state dicts, and these outputs.
"""
from pathlib import Path

import nnabla as nn
import numpy as np
import pytest
import soundfile

from common.runs.checkpoint import save_parameters
from common.workbench.testing import stems_in
from x_umx import separate
from x_umx.separator import Separator
from x_umx.torch_layout import from_torch, sizes_of

TARGETS, EVERY, RATE = ("vocals", "drums"), 3, 44100
SETTINGS = {"default": {}, "softmask": {"niter": 2, "softmask": True}}
COMPATIBLE = {"wiener_eps": 1e-10, "wiener_window": 300, "chunk_seconds": None}


@pytest.fixture(scope="module")
def stored():
    return dict(np.load(Path(__file__).parent / "data/openunmix.npz"))


@pytest.fixture(scope="module")
def model(stored, tmp_path_factory):
    """Folder with the weights of both targets, as convert.py leaves them."""
    folder = tmp_path_factory.mktemp("umx")
    for target in TARGETS:
        state = {name.partition("/")[2]: value for name, value in stored.items() if name.startswith(f"{target}/")}
        ours = from_torch(state, sizes_of(state)).items()
        save_parameters(folder / f"{target}.h5", {name: nn.Variable.from_numpy_array(value) for name, value in ours})
    return folder


def distance(stems, stored, setting):
    """Signal-to-error ratio of {target: (samples, 2)} against what is stored, in dB."""
    wanted = stored[f"out/{setting}"].astype(float)
    found = np.stack([stems[target][::EVERY].T for target in TARGETS])
    return 10 * np.log10((wanted ** 2).sum() / ((found - wanted) ** 2).sum())


@pytest.mark.parametrize("setting", SETTINGS)
def test_stems_are_those_of_openunmix(setting, stored, model):
    """To 120 dB: openunmix itself is 131 to 134 dB from these numbers where it computes in float32."""
    stems = Separator(model, TARGETS, **SETTINGS[setting], **COMPATIBLE).separate(stored["mixture"] / 32768, RATE)
    assert distance(stems, stored, setting) > 120


@pytest.mark.parametrize("change", [{"wiener_eps": 2.2e-16}, {"wiener_window": None}, {"wiener_window": 299}], ids=str)
def test_each_of_both_settings_matters(change, stored, model):
    stems = Separator(model, TARGETS, **COMPATIBLE | change).separate(stored["mixture"] / 32768, RATE)
    assert 10 < distance(stems, stored, "default") < 100


def test_flags_of_the_command(stored, model, tmp_path):
    soundfile.write(tmp_path / "song.wav", stored["mixture"], RATE)
    argv = [tmp_path / "song.wav", "--model", model, "--targets", *TARGETS, "--float32", "--chunk-dur", 60,
            "--wiener-eps", "1e-10", "--wiener-window", 300, "--out-dir", tmp_path / "stems"]
    assert separate.main([str(word) for word in argv]) == 0
    assert distance(stems_in(tmp_path / "stems/song"), stored, "default") > 120
