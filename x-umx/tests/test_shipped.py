"""The weights that ship: what they are, what they reach on songs they never saw, and when they are taken."""
import re

import numpy as np
import pytest
import soundfile

from common.datasets.band.songs import make_tracks
from common.separation.networks import PublishedModel
from common.workbench.testing import assert_weights_of_card, stems_in
from x_umx import separate, weights
from x_umx.compare import sdr
from x_umx.model import SOURCES
from x_umx.separation import NETWORK
from x_umx.separator import Separator
from x_umx.weights import find_weights

FOLDER = NETWORK.shipped["xumx-small"].folder
NOWHERE = "http://127.0.0.1:1/x-umx.h5"
pytestmark = pytest.mark.usefixtures("cache", "own_folder")


def test_the_weights_are_those_of_their_card():
    assert_weights_of_card(FOLDER, 7e6)


def test_they_are_found_by_name():
    found, = find_weights("xumx-small")
    assert found.path.parent == FOLDER and found.sources == SOURCES


def test_songs_never_trained_with_are_separated_better_than_not_at_all():
    separator = Separator("xumx-small")
    gains = []
    for track in make_tracks("test", num=2, duration=6.0, seed=1):
        mixture = track.read("mixture", 0, track.num_frames)
        stems = separator.separate(mixture, track.sample_rate)
        sources = {source: track.read(source, 0, track.num_frames) for source in SOURCES}
        gains.append([sdr(sources[source], stems[source]) - sdr(sources[source], mixture) for source in SOURCES])
    assert np.mean(gains, axis=0).min() > 2    # dB, of each source


def unreachable(monkeypatch):
    monkeypatch.setitem(NETWORK.published, "xumx", PublishedModel(url=NOWHERE, megabytes=142, sdr={}))
    monkeypatch.setattr(weights, "PUBLISHED", {"xumx": NOWHERE})


def song():
    soundfile.write("song.wav", 0.1 * np.random.default_rng(0).standard_normal((6000, 2)), 44100)


def test_without_network_they_take_the_place_of_the_default_and_one_line_says_so(monkeypatch, run_main):
    unreachable(monkeypatch)
    song()
    code, out, err = run_main(separate.main, "song.wav", "-c", "cpu")
    assert code == 0 and "xumx-small" in out and set(stems_in()) == set(SOURCES)
    assert re.fullmatch(r"note: the weights of xumx [^\n]*refused[^\n]* xumx-small [^\n]*\n", err), err


def test_without_network_a_model_that_is_asked_for_is_no_other(monkeypatch, run_main):
    unreachable(monkeypatch)
    song()
    code, _, err = run_main(separate.main, "song.wav", "-c", "cpu", "--model", "xumx")
    assert code == 1 and "put the file at" in err and err.count("\n") == 1


def test_weights_in_the_cache_need_no_network_and_no_stand_in(monkeypatch, cache, run_main):
    unreachable(monkeypatch)
    song()
    cache.mkdir(exist_ok=True)
    (cache / "x-umx.h5").write_bytes((FOLDER / "best_xumx.h5").read_bytes())
    code, _, err = run_main(separate.main, "song.wav", "-c", "cpu")
    assert code == 0 and "xumx-small" not in err
