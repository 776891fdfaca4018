"""The picture of a song and its stems."""
import numpy as np
import pytest
import soundfile
from PIL import Image

from common.machine.errors import UsageError
from common.separation.track_levels import measure
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
        assert picture.height > 250


def test_the_tone_of_a_stem_is_where_its_frequency_is(tmp_path):
    write(tmp_path / "song.wav", 4410)
    axes = plot_stems.draw({"song": measure(tmp_path / "song.wav", 22050)}, seconds=1).axes[0]
    image, = axes.get_images()
    _, seconds, low, high = image.get_extent()
    level = np.asarray(image.get_array())[:, 4:-4]
    row = (np.log10(4410) - low) / (high - low) * len(level) - 0.5
    assert seconds == 1 and (abs(level.argmax(0) - row) < 1).all()
    assert level.max() == pytest.approx(0, abs=0.1) and np.median(level) < -60


def test_a_picture_averages_the_power_of_neighbours():
    level = np.full((2 * plot_stems.ROWS, 3 * plot_stems.COLUMNS - 1), -120.0)
    level[0, 0] = 0
    small = plot_stems.coarser(level)
    assert small.shape == (plot_stems.ROWS, plot_stems.COLUMNS)
    assert small[0, 0] == pytest.approx(-10 * np.log10(6), abs=1e-3) and small[1:].max() == pytest.approx(-120)
    few = np.zeros((5, 7))
    np.testing.assert_allclose(plot_stems.coarser(few), few, atol=1e-9)


def test_the_song_among_its_stems_is_none_of_them(tmp_path):
    for name in ("vocals", "mixture"):
        write(tmp_path / f"{name}.wav", 440)
    assert [path.name for path in plot_stems.find_stems(tmp_path)] == ["vocals.wav"]


def test_no_stems_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="no folder with stems"):
        plot_stems.main([str(tmp_path / "song.wav"), str(tmp_path)])
