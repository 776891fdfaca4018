"""A page to listen to the stems of a song: players that run together, spectrograms, loudness and peaks."""
import math
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.machine.files import write_text
from common.pages.document import document, escape
from common.pages.pictures import indexed_uri
from common.separation.track_levels import Levels, frequency_range, measure

RANGE = 80    # dB from the weakest to the strongest colour
_TICKS = (100, 1000, 10_000)    # Hz, beside a spectrogram


def write_listening_page(path: str | Path, title: str, tracks: Mapping[str, Path], mixture: str, frames: int, rate: int,
                         note: str | None = None) -> None:
    """Write a page that plays audio files together.

    It refers to them by names relative to its own folder, so it goes on working when all of them move together.

    Parameters
    ----------
    path
    title
        Of the song.
    tracks
        Name -> file, in the order of the page.
    mixture
        The track that is all others together; it is muted at first.
    frames, rate
        Length of the tracks in samples, and their rate in Hz.
    note
        A line on what was done to their level.

    Raises
    ------
    UsageError, UserError
        A track cannot be read, or the page not be written.
    """
    path = Path(path)
    levels = {name: measure(file, frames) for name, file in tracks.items()}
    top = 10 * math.ceil(max(level.spectrogram.max() for level in levels.values()) / 10)
    palette = _palette()
    cards = "".join(_track(name, _address(file, path), levels[name], top, palette, muted=name == mixture)
                    for name, file in tracks.items())
    seconds = frames / rate
    body = (f"<h1>{escape(title)}</h1>\n<p class='faint'>{_clock(seconds)} at {rate:,} Hz. Mute tracks, or play some "
            f"alone by Solo. ‘{escape(mixture)}’ is the song as it was, and muted at first. Click on a picture to go "
            f"there.{f' Note: {escape(note)}.' if note else ''}</p>\n"
            + _transport(seconds) + f"<main id='tracks'>{cards}</main>\n" + _legend(top, palette) + "<p class='faint'>"
            "Loudness: integrated, ITU-R BS.1770-4, of the whole track. Peak: the largest sample.</p>")
    write_text(path, document(f"{title}: stems", body, __file__, {"seconds": seconds, "mixture": mixture}))


def _transport(seconds: float) -> str:
    return (f"<div id='transport'><button id='play' class='main' type='button'>Play</button>"
            f"<input id='position' type='range' min='0' max='{seconds:.3f}' step='any' value='0' aria-label='Position'>"
            f"<output id='clock'>0:00.0 / {_clock(seconds)}</output></div><p id='status' role='status'></p>\n")


def _track(name: str, address: str, levels: Levels, top: int, palette: np.ndarray, muted: bool) -> str:
    """Return the controls and the spectrogram of a track."""
    label = escape(name)
    low, high = frequency_range(levels.sample_rate)
    ticks = "".join(f"<span class='tick' style='bottom: {100 * math.log(tick / low) / math.log(high / low):.1f}%'>"
                    f"{f'{tick // 1000} kHz' if tick >= 1000 else f'{tick} Hz'}</span>"
                    for tick in _TICKS if tick < 0.9 * high)
    indices = np.clip(np.rint((levels.spectrogram[::-1] - top) / RANGE * 255 + 255), 0, 255).astype(np.uint8)
    return (f"<section class='track' data-name='{label}'><div class='controls'><h2>{label}</h2>"
            f"<button class='mute' type='button' aria-pressed='{'true' if muted else 'false'}' "
            f"aria-label='Mute {label}'>Mute</button>"
            f"<button class='solo' type='button' aria-pressed='false' aria-label='Solo {label}'>Solo</button>"
            f"<input class='volume' type='range' min='0' max='1' step='0.01' value='1' aria-label='Volume of {label}'>"
            f"<span class='levels'><span class='loudness'>{_loudness(levels.loudness)}</span> "
            f"<span class='peak'>peak {_decibels(levels.peak, 'dBFS')}</span></span></div>"
            f"<div class='picture'><img alt='Spectrogram of {label}' src='{indexed_uri(indices, palette)}'>{ticks}"
            f"<div class='head'></div></div><audio preload='auto' src='{escape(address)}'></audio></section>\n")


def _legend(top: int, palette: np.ndarray) -> str:
    """Return the scale of the colours."""
    bar = indexed_uri(np.arange(256, dtype=np.uint8)[None], palette)
    numbers = "".join(f"<span>{value}</span>" for value in range(top - RANGE, top + 1, 20))
    return (f"<div id='legend'><img alt='' src='{bar}'><div class='numbers'>{numbers}</div>"
            "<p class='faint'>dB; 0 is a sine of full scale. Frequencies are on a logarithmic scale.</p></div>\n")


def _palette() -> np.ndarray:
    import matplotlib

    return np.rint(matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def _address(file: Path, page: Path) -> str:
    """Return how a page calls a file; names need not be UTF-8."""
    relative = Path(os.path.relpath(file, page.parent)).as_posix()
    return urllib.parse.quote(os.fsencode(relative))


def _loudness(value: float | None) -> str:
    return "too short for a loudness" if value is None else _decibels(value, "LUFS")


def _decibels(value: float, unit: str) -> str:
    return "silent" if value == -math.inf else f"{value:.1f} {unit}".replace("-", "−")


def _clock(seconds: float) -> str:
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"
