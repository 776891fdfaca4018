"""The mixing desk: distortion, compression, equalizer, room and place of a part."""
import attrs
import numpy as np

from common.datasets.band.tones import filtered


@attrs.frozen(kw_only=True)
class Strip:
    """What a part goes through.

    Attributes
    ----------
    pan
        From -1, left, to 1.
    width
        How much left and right differ, 0 to 1.
    wet
        Amplitude of the room against the direct sound.
    room
        Seconds in which its sound falls by 60 dB.
    ratio
        Of the compressor; 1: none.
    low_cut, high_cut
        Hz.
    bumps
        Centre in Hz, width in octaves and gain in dB of each bell of the equalizer.
    """

    pan: float
    width: float
    wet: float
    room: float
    ratio: float
    low_cut: float
    high_cut: float
    bumps: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, *, pan: float, width: float, wet: float, low_cut: float,
             high_cut: tuple[float, float] = (7000, 23000)) -> "Strip":
        """Draw a strip; `pan`, `width` and `wet` are largest values, `low_cut` the highest one."""
        bumps = tuple((float(60 * 2 ** rng.uniform(0, 7.5)), rng.uniform(0.3, 1.5), rng.normal(0, 4))
                      for _ in range(rng.integers(1, 5)))
        return cls(pan=rng.uniform(-pan, pan), width=rng.uniform(0, width), wet=wet * rng.random() ** 2,
                   room=rng.uniform(0.2, 2.2), ratio=rng.choice((1, rng.uniform(1.5, 5))),
                   low_cut=low_cut * rng.uniform(0.3, 1), high_cut=float(np.exp(rng.uniform(*np.log(high_cut)))),
                   bumps=bumps)

    def gain(self, frequency: np.ndarray) -> np.ndarray:
        """Gain of the equalizer at frequencies in Hz."""
        octave = np.log2(np.maximum(frequency, 10))
        decibels = sum(gain * np.exp(-0.5 * ((octave - np.log2(centre)) / width) ** 2)
                       for centre, width, gain in self.bumps)
        ratio = np.maximum(frequency, 1)
        cuts = 1 / np.sqrt((1 + (self.low_cut / ratio) ** 4) * (1 + (ratio / self.high_cut) ** 8))
        return 10 ** (decibels / 20) * cuts


def process(rng: np.random.Generator, strip: Strip, part: np.ndarray, rate: int) -> np.ndarray:
    """Send a part (samples,) or (samples, 2) through a strip: float32 (samples, 2)."""
    part = compress(part, strip.ratio, rate)
    return filtered(part.T, rate, strip.gain, _response(rng, strip, rate).T).T


def _response(rng, strip, rate):
    """Impulse response (n, 2): direct sound, early reflections that widen it, and the room."""
    time = np.arange(round(strip.room * rate)) / rate
    tail = rng.standard_normal((len(time), 2)) * np.exp(-6.9 * time / strip.room)[:, None]
    tail *= np.minimum(1, time / 0.01)[:, None]
    response = tail * (strip.wet / np.sqrt(np.mean(np.sum(tail ** 2, axis=0)) + 1e-9))
    early = rng.integers(0.001 * rate, 0.025 * rate, 6)
    response[early] += strip.width * 0.5 * rng.standard_normal((6, 2))
    response[0] += 1
    angle = (strip.pan + 1) * np.pi / 4
    return response * (np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)]))


def compress(part: np.ndarray, ratio: float, rate: int) -> np.ndarray:
    """Bring loud and soft moments closer: what is above the mean level by x dB is left above it by x / ratio."""
    if ratio == 1:
        return part
    block = max(1, round(0.01 * rate))
    power = part ** 2 if part.ndim == 1 else part.mean(1) ** 2
    blocks = -(-len(power) // block)
    level = np.sqrt(np.pad(power, (0, blocks * block - len(power))).reshape(blocks, block).mean(1))
    mean = np.sqrt(np.mean(power)) + 1e-9
    gain = np.maximum(1, level / mean) ** (1 / ratio - 1)
    gain = np.convolve(np.pad(gain, 2, mode="edge"), np.ones(5) / 5, "valid")
    smooth = np.interp(np.arange(len(part)) / block, np.arange(blocks) + 0.5, gain)
    return part * (smooth if part.ndim == 1 else smooth[:, None])
