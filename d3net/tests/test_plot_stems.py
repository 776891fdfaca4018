"""The picture of a song and its stems."""
import numpy as np
import pytest
import soundfile
from PIL import Image

from common.machine.errors import UsageError
from d3net import plot_stems


def write(path, frequency):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * np.arange(22050) / 22050)[:, None].repeat(2, 1), 22050)


@pytest.mark.slow
def test_a_panel_for_the_song_and_each_stem(tmp_path, capsys):
    write(tmp_path / "song.wav", 440)
    write(tmp_path / "stems" / "vocals.wav", 880)
    write(tmp_path / "stems" / "bass.flac", 110)
    plot_stems.main([str(tmp_path / "song.wav"), str(tmp_path / "stems"), "-o", str(tmp_path / "a.png")])
    assert "song, bass, vocals" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height > 400


def test_the_tone_of_a_stem_is_where_its_frequency_is(tmp_path):
    write(tmp_path / "song.wav", 4410)
    axes = plot_stems.draw({"song": plot_stems.read(tmp_path / "song.wav")}).axes[0]
    level = axes.collections[0].get_array().reshape(plot_stems.N_FFT // 2 + 1, -1)[:, 4:-4]
    assert (level.argmax(0) == round(4410 * plot_stems.N_FFT / 22050)).all()
    assert level.max() == pytest.approx(0, abs=0.1) and np.median(np.asarray(level)) < -60


def test_no_stems_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="no folder with stems"):
        plot_stems.main([str(tmp_path / "song.wav"), str(tmp_path)])
