"""The keys of a training, with the published names and defaults."""
import attrs

from common.datasets.songs import SongsConfig
from common.runs.config import flag, integer, names, number, text
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes, max_bin


@attrs.frozen(kw_only=True)
class Config(SongsConfig):
    """One experiment: a section of a `.cfg` file. The text of each key is its `help`.

    Raises
    ------
    ValueError
        A value is not allowed, or two of them contradict each other.
    """

    umx_train: bool = flag(False, help="train UMX, the network of one source, instead of X-UMX")
    sources: tuple[str, ...] = names(SOURCES, help="what the mixtures are made of, and X-UMX separates")
    source: str = text("vocals", help="what UMX separates")

    seq_dur: float = number(6.0, help="length of the training excerpts in seconds; 0 or less: whole songs, one at a "
                                     "time")
    valid_dur: float = number(10.0, above=0, help="length of the pieces of the validation songs in seconds")

    epochs: int = integer(1000, at_least=1, help="passes over the songs")
    batch_size: int = integer(16, at_least=1, help="excerpts per update")
    lr: float = number(1e-3, above=0, help="learning rate for 16 excerpts per update, in proportion for others")
    weight_decay: float = number(1e-5, at_least=0, help="pull towards zero, likewise for 16 excerpts")
    lr_decay_patience: int = integer(80, at_least=0, help="epochs without gain before the learning rate drops")
    lr_decay_gamma: float = number(0.3, above=0, at_most=1, help="what it is multiplied by then")
    patience: int = integer(140, at_least=0, help="epochs without gain before UMX stops; 0: never")
    dropout: float = number(0.4, at_least=0, at_most=0.9, help="share of what the LSTM passes between layers that is "
                                                                "dropped")
    mcoef: float = number(10.0, at_least=0, help="weight of the loss of waveforms against that of spectrograms; 0: "
                                                  "none")
    combination: bool = flag(True, help="take the losses of X-UMX over sums of sources, too, not over single ones "
                                        "alone")
    crossing: bool = flag(True, help="average across the networks of X-UMX")
    seed: int = integer(42, at_least=0, at_most=2 ** 31 - 1, help="fixes initialization, excerpts and dropout")

    sample_rate: int = integer(44100, at_least=1000, help="rate of the music, in Hz")
    nfft: int = integer(4096, at_least=16, help="length of a frame in samples")
    nhop: int = integer(1024, at_least=1, help="distance of frames in samples")
    bandwidth: int = integer(16000, at_least=1, help="frequencies that enter the network, up to this, in Hz")
    nb_channels: int = integer(2, at_least=1, at_most=2, help="2, or 1: one mask for both, of their mean magnitudes")
    hidden_size: int = integer(512, at_least=2, help="features within the network")
    unidirectional: bool = flag(False, help="let the LSTM run forward only")

    def __attrs_post_init__(self):
        if self.nfft % 2 or self.hidden_size % 2:
            raise ValueError(f"nfft = {self.nfft} and hidden_size = {self.hidden_size} must be even")
        if self.nfft % self.nhop or self.nfft < 3 * self.nhop:
            raise ValueError(f"nhop = {self.nhop} must divide nfft = {self.nfft} into 3 parts or more, or the end of a "
                             "signal could not be put together again")
        if self.umx_train and self.source not in self.sources:
            raise ValueError(f"source = {self.source!r} is none of the sources {', '.join(self.sources)}")
        if not self.umx_train and len(self.sources) < 2:
            raise ValueError("X-UMX needs two sources or more")

    @property
    def sizes(self) -> Sizes:
        """`Sizes` of the network."""
        return Sizes(n_fft=self.nfft, nb_channels=self.nb_channels, hidden_size=self.hidden_size,
                     max_bin=max_bin(self.sample_rate, self.nfft, self.bandwidth), unidirectional=self.unidirectional)

    @property
    def network(self) -> OpenUnmix:
        """The network, without parameters."""
        if self.umx_train:
            return OpenUnmix(self.sizes, self.nhop, self.dropout)
        return CrossNetOpenUnmix(self.sizes, self.nhop, self.dropout, self.sources, self.crossing)

    @property
    def targets(self) -> tuple[str, ...]:
        """Sources that the network separates."""
        return (self.source,) if self.umx_train else self.sources
