"""Separation by a network that export.py wrote, with numpy and onnxruntime alone, on any Python from 3.10 on.

    from onnx_separator import OnnxSeparator
    stems = OnnxSeparator("xumx.onnx").separate(audio)    # (samples, 2) at 44.1 kHz -> {"vocals": array, ...}

It does what `x_umx.separator.Separator` does by default: chunks of 16 s that overlap and are cross-faded, the
short-time Fourier transform, the masks of the network, one iteration of the multichannel Wiener filter, and back.
"""
import numpy as np
import onnxruntime

from common.audio.numpy_stft import istft, stereo, stft

EPS = np.finfo(np.float64).eps
FRAMES = 512    # that the filter treats at once, to save memory


class OnnxSeparator:
    """Splits stereo music into stems.

    Parameters
    ----------
    path : str
        The .onnx file. Its metadata say sources, sample rate and transform.

    Attributes
    ----------
    sources : list of str
    sample_rate : int
        In Hz; audio is to have it.

    Raises
    ------
    ValueError
        The file is of another network.
    """

    def __init__(self, path: str):
        options = onnxruntime.SessionOptions()
        # For int8: x86 CPUs without VNNI would add two products in 16 bits, and cut off what is larger.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        sizes = "sample_rate", "n_fft", "hop_length", "nb_channels", "max_bin"
        missing = [key for key in ("sources", *sizes) if key not in metadata]
        if missing:
            raise ValueError(f"{path}: not a network of x-umx/export.py: its metadata lack {', '.join(missing)}")
        self.sources = metadata["sources"].split(",")
        self.sample_rate, self.n_fft, self.hop_length, self.channels, self.max_bin = (
            int(metadata[key]) for key in sizes)

    def separate(self, audio: np.ndarray, chunk_seconds: float = 16.0, overlap: float = 0.1) -> dict[str, np.ndarray]:
        """Split audio (samples, 2) into {source: float32 array (samples, 2)}.

        Chunks last longer than 0 s and overlap by 0 to 0.5 of their length; ValueError if not.
        """
        if not 0 < chunk_seconds < np.inf or not 0 <= overlap <= 0.5:
            raise ValueError(f"chunks of {chunk_seconds} s with an overlap of {overlap}: they are to be longer than 0, "
                             "and the overlap from 0 to 0.5")
        audio = stereo(audio)
        length = max(1, min(len(audio), round(chunk_seconds * self.sample_rate)))
        shared = round(overlap * round(chunk_seconds * self.sample_rate))
        last = len(audio) - length
        starts = [*range(0, last, round(chunk_seconds * self.sample_rate) - shared), last]
        edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
        fade = np.minimum(1, edge / (shared + 1))[:, None]
        total, weight = np.zeros((len(self.sources), *audio.shape), np.float32), np.zeros((len(audio), 1))
        for start in starts:
            part = slice(start, start + length)
            total[:, part] += fade * self.separate_chunk(audio[part])
            weight[part] += fade
        return dict(zip(self.sources, (total / weight).astype(np.float32), strict=True))

    def separate_chunk(self, audio: np.ndarray) -> np.ndarray:
        """Split audio (samples, 2) in one piece: (sources, samples, 2)."""
        mixture = stft(audio, self.n_fft, self.hop_length)    # (frames, 2, bins)
        magnitude = np.abs(mixture)
        x = magnitude.mean(1, keepdims=True) if self.channels == 1 else magnitude
        masks, = self.session.run(None, {"magnitude": np.ascontiguousarray(x[:, None, :, :self.max_bin])})
        masks = masks.reshape(len(x), len(self.sources), self.channels, -1).swapaxes(0, 1)
        phase = np.exp(1j * np.angle(mixture))
        stems = self.wiener(masks * magnitude * phase, mixture)
        return np.stack([istft(stem, self.hop_length, len(audio)) for stem in stems])

    @staticmethod
    def wiener(estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
        """Refine estimates (sources, frames, 2, bins) of a mixture (frames, 2, bins) by one iteration, as norbert."""
        scale = max(1.0, np.abs(mixture).max() / 10)
        y, x, models = (estimates / scale).astype(np.complex128), mixture.astype(np.complex128) / scale, []
        for source in y:
            power = (np.abs(source) ** 2).mean(1)    # (frames, bins)
            covariance = np.einsum("taf,tbf->fab", source, source.conj())
            models.append((power, covariance / (EPS + power.sum(0))[:, None, None]))
        out = np.empty_like(y)
        for start in range(0, len(x), FRAMES):
            part = slice(start, start + FRAMES)
            total = sum(power[part, :, None, None] * covariance for power, covariance in models)
            total = total + np.sqrt(EPS) * np.eye(2)
            (a, b), (c, d) = np.moveaxis(total, (2, 3), (0, 1))
            left, right = x[part, 0], x[part, 1]
            solved = np.stack([d * left - b * right, a * right - c * left], 1) / (a * d - b * c)[:, None]
            for source, (power, covariance) in zip(out, models, strict=True):
                source[part] = power[part, None] * np.einsum("fab,tbf->taf", covariance, solved)
        return out * scale
