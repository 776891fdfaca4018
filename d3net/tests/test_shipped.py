"""The weights that ship: what they are, what they reach on songs they never saw, and when they are taken."""
import re

import numpy as np
import pytest
import soundfile

from common.datasets.band.songs import make_tracks
from common.separation.networks import PublishedModel
from common.workbench.testing import assert_weights_of_card, stems_in
from d3net import separate
from d3net.music import weights
from d3net.music.network import NETWORK
from d3net.music.separator import Separator
from d3net.music.weights import mss_files

FOLDER = NETWORK.shipped["d3net-small"].folder
TARGETS = "vocals", "drums"
pytestmark = pytest.mark.usefixtures("cache", "own_folder")


def test_the_weights_are_those_of_their_card():
    assert_weights_of_card(FOLDER, 1.2e6)


def test_they_are_found_by_name():
    files = mss_files("d3net-small")
    assert tuple(files) == TARGETS and {file.path.parent for file in files.values()} == {FOLDER}


def test_songs_never_trained_with_are_separated_better_than_not_at_all():
    separator = Separator("d3net-small")
    gains = []
    for track in make_tracks("test", num=1, duration=3.0, seed=1):
        mixture = track.read("mixture", 0, track.num_frames)
        stems = separator.separate(mixture, track.sample_rate)
        sources = [track.read(target, 0, track.num_frames) for target in TARGETS]
        gains.append([sdr(source, stems[target]) - sdr(source, mixture)
                      for target, source in zip(TARGETS, sources, strict=True)])
    assert np.mean(gains, axis=0).min() > 2    # dB, of each target


def sdr(target, estimate):
    return 10 * np.log10(np.sum(target ** 2) / np.sum((target - estimate) ** 2))


def test_without_network_they_take_the_place_of_the_default_and_one_line_says_so(monkeypatch, run_main):
    nowhere = "http://127.0.0.1:1/d3net-mss.zip"
    monkeypatch.setitem(NETWORK.published, "d3net-mss", PublishedModel(url=nowhere, megabytes=1, sdr={}))
    monkeypatch.setattr(weights, "PUBLISHED_MSS", {"d3net-mss": nowhere})
    soundfile.write("song.wav", 0.1 * np.random.default_rng(0).standard_normal((6000, 2)), 44100)
    code, out, err = run_main(separate.main, "song.wav", "-c", "cpu")
    assert code == 0 and "d3net-small" in out and set(stems_in()) == {*TARGETS, "residual"}
    assert re.fullmatch(r"note: the weights of d3net-mss [^\n]*refused[^\n]* d3net-small [^\n]*\n", err), err
    code, _, err = run_main(separate.main, "song.wav", "-c", "cpu", "--model", "d3net-mss")
    assert code == 1 and "put the file at" in err and err.count("\n") == 1
