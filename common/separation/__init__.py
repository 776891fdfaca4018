"""What music separation needs beside a network: audio files, spectrograms, the Wiener filter, chunks."""
from common.audio.stft import istft, stft
from common.separation.wiener import multichannel_wiener

__all__ = ["istft", "multichannel_wiener", "stft"]
