"""The computed band: songs that repeat, parts that do what they say."""
import attrs
import numpy as np
import pytest

from common.audio.stft import istft, stft
from common.datasets import musdb18
from common.datasets.band import songs
from common.datasets.band.desk import Strip, compress, process
from common.datasets.band.drum_kit import PIECES, play_drums
from common.datasets.band.instruments import BASSES, INSTRUMENTS, play
from common.datasets.band.score import PATTERNS, Hit, Note, Song, bass_line, block_chords, drum_part, melody
from common.datasets.band.singing import Singer, sing
from common.datasets.band.tones import band, envelope, filtered, gliding, period, shaped_noise
from common.datasets.musdb18 import find_tracks

RATE = 22050
SOURCES = ("bass", "drums", "vocals", "other")


def rng(seed=0):
    return np.random.default_rng(seed)


def song_of(seed=0, duration=4.0):
    return Song.draw(rng(seed), duration)


def spectrum_of(signal, rate=RATE):
    """Frequencies and power of a signal."""
    return np.fft.rfftfreq(len(signal), 1 / rate), np.abs(np.fft.rfft(signal * np.hanning(len(signal)))) ** 2


def pitch_of(signal, rate=RATE, low=60, high=1000):
    """Frequency in Hz at which a signal repeats best."""
    power = np.abs(np.fft.rfft(signal, 2 * len(signal))) ** 2
    correlation = np.fft.irfft(power)
    first, last = int(rate / high), int(rate / low)
    return rate / (first + correlation[first:last].argmax())


# Songs ----------------------------------------------------------------------------------------------------------------


def test_songs_are_the_same_each_time_and_differ_from_each_other():
    one, other = (songs.make_tracks("train", num=2, duration=2.0, sample_rate=RATE) for _ in range(2))
    assert [track.sources for track in one] == [SOURCES] * 2
    for source in SOURCES:
        np.testing.assert_array_equal(one[1].stems[source].audio, other[1].stems[source].audio)
    versions = [*one, *(songs.make_tracks(split, num=1, duration=2.0, sample_rate=RATE)[0]
                        for split in ("valid", "test")),
                songs.make_tracks("train", num=1, duration=2.0, sample_rate=RATE, seed=1)[0]]
    assert len({str(track.stems["other"].key()) for track in versions}) == len(versions)


@pytest.mark.parametrize("seed", range(4))
def test_songs_are_stereo_within_full_scale_with_four_audible_stems(seed):
    stems = songs.make_stems(rng(seed), 3.0, RATE)
    assert tuple(stems) == SOURCES
    mixture = sum(stems.values())
    assert np.abs(mixture).max() <= songs.PEAK + 1e-3
    for stem in stems.values():
        assert stem.shape == (3 * RATE, 2) and stem.dtype == np.float32 and np.isfinite(stem).all()
        assert np.mean(stem ** 2) > 1e-4 * np.mean(mixture ** 2)


def test_songs_can_be_separated():
    track, = songs.make_tracks("test", num=1, duration=6.0)
    mixture, frames = track.read("mixture", 0, track.num_frames), track.num_frames
    assert mixture.dtype == np.float32
    magnitudes = {source: np.abs(stft(track.read(source, 0, frames).T, 4096, 1024)) for source in SOURCES}
    total = sum(magnitudes.values()) + 1e-9
    for source, magnitude in magnitudes.items():
        stem = track.read(source, 0, frames)
        masked = istft(stft(mixture.T, 4096, 1024) * magnitude / total, 1024, length=frames).T
        sdr = [10 * np.log10(np.sum(stem ** 2) / np.sum((estimate - stem) ** 2)) for estimate in (mixture, masked)]
        assert sdr[0] < 3 and sdr[1] > sdr[0] + 5    # dB; the ideal mask of magnitudes


def test_songs_are_found_by_the_name_of_the_band(monkeypatch):
    monkeypatch.setattr(songs, "NUM", {"train": 1, "valid": 1, "test": 2})
    for split, num in songs.NUM.items():
        tracks = find_tracks(musdb18.BAND, split, sources=SOURCES, sample_rate=8000)
        assert [track.name for track in tracks] == [f"{split} {number + 1}" for number in range(num)]
        assert {track.sample_rate for track in tracks} == {8000}


# Score ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [bass_line, lambda rng, song: block_chords(rng, song, 55),
                                  lambda rng, song: melody(rng, song, 60, 0.5)], ids=["bass", "chords", "melody"])
def test_notes_are_in_key(part):
    for seed in range(5):
        song = song_of(seed)
        notes = list(part(rng(seed), song))
        assert notes
        allowed = {(degree + song.key) % 12 for degree in song.scale}
        assert {round(note.pitch) % 12 for note in notes} <= allowed
        assert all(note.duration > 0 and 0 < note.strength <= 1 for note in notes)


def test_a_melody_stays_within_reach_of_a_voice():
    pitches = [note.pitch for seed in range(20) for note in melody(rng(seed), song_of(seed, 20), 60, 0.5)]
    assert min(pitches) >= 60 - 12 and max(pitches) <= 60 + 12


def test_swing_delays_the_second_of_two_eighths_only():
    song = attrs.evolve(song_of(), swing=0.3, beat=0.5, offset=0.0)
    np.testing.assert_allclose([song.seconds(beats) for beats in (0, 0.5, 1, 1.5, 1.25)],
                               [0, 0.325, 0.5, 0.825, 0.625])


def test_drum_patterns_have_sixteen_steps_and_known_pieces():
    assert all(len(pattern) == 16 for patterns in PATTERNS.values() for pattern in patterns)
    assert {hit.piece for seed in range(30) for hit in drum_part(rng(seed), song_of(seed, 16))} <= set(PIECES)


# Sounds ---------------------------------------------------------------------------------------------------------------


def test_a_period_has_the_wanted_harmonics_and_no_others():
    amplitudes = np.abs(np.fft.rfft(period(rng(), lambda k: 1 / k, 8)))
    np.testing.assert_allclose(amplitudes[1:9] / amplitudes[1], 1 / np.arange(1, 9), rtol=1e-4)
    assert max(amplitudes[0], amplitudes[9:].max()) < 1e-4 * amplitudes[1]


def test_a_gliding_tone_reaches_both_frequencies_without_aliases():
    tone = gliding(rng(), lambda k: k ** -0.5, np.geomspace(200, 800, RATE), RATE)
    assert abs(pitch_of(tone[:1000]) / 203 - 1) < 0.03 and abs(pitch_of(tone[-1000:]) / 790 - 1) < 0.05
    steady = gliding(rng(), lambda k: np.ones(len(k)), np.full(RATE, 1000.0), RATE)
    frequency, power = spectrum_of(steady)
    between = np.abs((frequency + 500) % 1000 - 500) > 50
    assert power[between].sum() < 1e-4 * power.sum()


def test_an_envelope_rises_decays_and_ends():
    level = envelope(RATE, RATE, 0.01, 0.1, 0.05, 0.25)
    assert level[0] < 0.01 and level[-1] < 0.01
    assert level[220] > 0.9 and abs(level[RATE // 2 + RATE // 5] - 0.25) < 0.01


def test_noise_has_the_spectrum_of_its_band():
    noise = shaped_noise(rng(), RATE, RATE, band(1000, 3000))
    frequency, power = spectrum_of(noise)
    inside = power[(frequency > 500) & (frequency < 6000)].sum()
    assert inside > 0.9 * power.sum() and abs(np.mean(noise ** 2) - 1) < 1e-3


def test_a_filter_is_a_convolution():
    signal, response = rng().standard_normal(1000), rng(1).standard_normal(50)
    out = filtered(signal, RATE, np.ones_like, response)
    np.testing.assert_allclose(out, np.convolve(signal, response)[:1000], atol=1e-4)


@pytest.mark.parametrize("name", [*INSTRUMENTS, *BASSES])
def test_instruments_play_the_note_when_it_is_asked_for(name):
    note = Note(0.5, 0.8, 57.0)    # 220 Hz
    sound = play(rng(3), {**INSTRUMENTS, **BASSES}[name], [note], 2 * RATE, RATE)
    assert np.isfinite(sound).all() and not sound[:RATE // 2].any()
    heard = sound[round(0.65 * RATE):round(1.2 * RATE)]
    assert np.mean(heard ** 2) > 1e-4
    assert min(abs(pitch_of(heard, low=50) / multiple - 1) for multiple in (110, 220, 440, 660)) < 0.02


@pytest.mark.parametrize("piece", PIECES)
def test_pieces_of_the_kit_sound_from_the_stroke_on(piece):
    out = play_drums(rng(1), [Hit(0.25, piece, 1.0)], RATE, RATE)
    assert np.isfinite(out).all()
    start = round(0.25 * RATE)
    assert not out[:start].any() and np.mean(out[start:start + 2000] ** 2) > 1e-5


def test_a_singer_sings_the_notes_and_pauses_between_them():
    singer = attrs.evolve(Singer.draw(rng(1)), vibrato=(5, 0.0), breath=0.001)
    voice = sing(rng(2), singer, [Note(0.2, 0.8, 57.0), Note(1.6, 0.6, 64.0)], 3 * RATE, RATE)
    for start, stop, pitch in ((0.5, 0.9, 220), (1.8, 2.1, 329.6)):
        assert abs(pitch_of(voice[round(start * RATE):round(stop * RATE)], high=500) / pitch - 1) < 0.03
    pause, sung = voice[round(1.2 * RATE):round(1.4 * RATE)], voice[round(0.5 * RATE):round(0.9 * RATE)]
    assert np.mean(pause ** 2) < 1e-3 * np.mean(sung ** 2)


def test_nobody_sings_without_notes():
    assert not sing(rng(), Singer.draw(rng()), [], RATE, RATE).any()


# Desk -----------------------------------------------------------------------------------------------------------------


def strip(**changes):
    return attrs.evolve(Strip.draw(rng(), pan=0, width=0, wet=0, low_cut=20), **{"ratio": 1, "bumps": ((1000, 1, 0),),
                                                                               "pan": 0.0} | changes)


@pytest.mark.parametrize("pan, left, right", [(-1, 2 ** 0.5, 0), (0, 1, 1), (1, 0, 2 ** 0.5)])
def test_a_strip_puts_a_part_in_its_place(pan, left, right):
    part = shaped_noise(rng(), RATE, RATE, band(500, 2000))
    out = process(rng(), strip(pan=pan), part, RATE)
    np.testing.assert_allclose(np.sqrt(np.mean(out ** 2, axis=0)), [left, right], atol=0.03)


def test_a_room_goes_on_after_the_sound():
    part = np.zeros(RATE)
    part[:100] = 1
    dry, wet = (process(rng(), strip(wet=amount, room=1.0), part, RATE) for amount in (0, 0.5))
    assert np.sum(wet[5000:] ** 2) > 100 * np.sum(dry[5000:] ** 2)
    assert np.sum(wet[2000:6000] ** 2) > 4 * np.sum(wet[8000:12000] ** 2)


def test_an_equalizer_lifts_what_it_names():
    frequency = np.array([100.0, 1000.0, 4000.0])
    gains = 20 * np.log10(strip(bumps=((1000, 0.5, 6),)).gain(frequency) / strip().gain(frequency))
    np.testing.assert_allclose(gains, [0, 6, 0], atol=0.1)


def test_a_compressor_brings_loud_and_soft_closer():
    part = np.concatenate([0.1 * np.ones(RATE), np.ones(RATE)])
    out = compress(part, 4, RATE)
    np.testing.assert_allclose(out[:RATE - 1000], 0.1)
    assert 0.6 < out[-1000] < 0.95
    assert compress(part, 1, RATE) is part
