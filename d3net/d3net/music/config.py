"""The keys of an experiment of music separation, with the published names and defaults."""
import attrs

from common.datasets.songs import SongsConfig
from common.runs.config import integer, names, number, path, text
from d3net.hyperparameters import LARGEST_SEED, MSSHyperParameters, as_published, is_published_mss, replace_given

SOURCES = ("vocals", "drums", "bass", "other")    # in this order they are drawn and added up
ACCOMPANIMENT = "accompaniment"    # all sources but the vocals


@attrs.frozen(kw_only=True)
class MSSConfig(SongsConfig):
    """An experiment of music separation: a section of `mss.cfg`. The text of each key is its `help`.

    Raises
    ------
    ValueError
        A value is not allowed, or two of them contradict each other.
    """

    target: str = text("vocals", help="what the network separates: one of the sources, or 'accompaniment', all but "
                                      "vocals")
    hparams: str | None = path(None, is_name=is_published_mss, help="hyper-parameters of the network, a name or a YAML "
                                                                    "file; none: those of the target")
    sources: tuple[str, ...] = names(SOURCES, help="what the mixtures are made of")

    seq_dur: float = number(6.0, above=0, help="length of the training excerpts in seconds")
    patch_length: int = integer(0, at_least=0, help="frames of an excerpt that are trained on, its first ones; 0: all "
                                                    "that the network can take")
    valid_dur: float = number(6.0, above=0, help="length of the pieces of the validation songs in seconds")

    epochs: int = integer(50, at_least=1, help="passes over the songs")
    batch_size: int = integer(6, at_least=1, help="excerpts per update")
    lr: float = number(1e-3, above=0, help="learning rate for 6 excerpts per update, in proportion for others")
    lr_drop_epoch: int = integer(40, at_least=0, help="epochs after which the learning rate is a tenth")
    weight_decay: float = number(1e-4, at_least=0, help="pull of every parameter towards zero, likewise for 6 excerpts")
    seed: int = integer(42, at_least=0, at_most=LARGEST_SEED, help="fixes initialization and excerpts")
    nfft: int = as_published(integer, "length of a frame in samples", "4096")
    nhop: int = as_published(integer, "distance of frames in samples", "1024")

    def __attrs_post_init__(self) -> None:
        if self.target not in (*self.sources, ACCOMPANIMENT):
            raise ValueError(f"target = {self.target!r} is none of {', '.join(self.sources)} or {ACCOMPANIMENT}")
        if not self.target_sources:
            raise ValueError(f"target = {self.target!r}: there is no source but the vocals")

    @property
    def target_sources(self) -> list[str]:
        """Sources that add up to the target."""
        return [source for source in self.sources
                if source == self.target or self.target == ACCOMPANIMENT != source != "vocals"]

    def resolved(self, hparams: MSSHyperParameters) -> MSSHyperParameters:
        """Return the hyper-parameters with what this experiment changes of them.

        Raises
        ------
        UsageError
            The network cannot work on such spectrograms.
        """
        return replace_given(hparams, fft_size=self.nfft, hop_size=self.nhop)
