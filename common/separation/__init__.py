"""What music separation needs beside a network: audio files, spectrograms, the Wiener filter, chunks."""
from typing import TYPE_CHECKING

from common.machine.lazy_names import lazy_names

if TYPE_CHECKING:
    from common.audio.stft import istft, stft
    from common.separation.wiener import multichannel_wiener

__all__ = ["istft", "multichannel_wiener", "stft"]
__getattr__ = lazy_names({"istft": "common.audio.stft", "stft": "common.audio.stft",
                          "multichannel_wiener": "common.separation.wiener"})
