"""Songs to train a music network with: excerpts, pieces for validation, and statistics."""
from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from common.datasets.multitrack import Track, pieces
from common.datasets.musdb18 import COMPUTED, find_tracks
from common.datasets.remixing import AUGMENTATIONS, GAINS, TrainingBatches
from common.datasets.spectrogram_statistics import spectrogram_statistics
from common.machine.distributed import world
from common.machine.errors import UsageError
from common.runs.comparison import fingerprint
from common.runs.config import flag, integer, names, path, text

MixtureAndTargets = tuple[np.ndarray, np.ndarray]


@attrs.frozen(kw_only=True)
class SongsConfig:
    """The keys that say which songs a training reads. A paper's configuration adds its own keys and defaults."""

    root: str | None = path(None, is_name=COMPUTED.__contains__, help="folder of MUSDB18, or of train/, "
                                       "valid/ and test/ with a folder of stems for each song; 'synthetic' and "
                                       "'synthetic-band' generate music, the latter richer")
    is_wav: bool = flag(False, help="read the WAV version of MUSDB18")
    setup_file: str | None = text(None, help="YAML file in the root that lists the validation songs; none: those of "
                                             "musdb")
    samples_per_track: int = integer(64, at_least=1, help="excerpts per song and epoch")
    source_augmentations: tuple[str, ...] = names(AUGMENTATIONS, options=AUGMENTATIONS, help="changes of each excerpt")
    workers: int = integer(2, at_least=0, help="threads that read the excerpts to come")
    sources: tuple[str, ...]
    seq_dur: float
    valid_dur: float
    batch_size: int
    seed: int

    def tracks(self, split: str, sample_rate: int) -> Sequence[Track]:
        """Find the songs of a split, at a rate in Hz.

        Raises
        ------
        UsageError, UserError
            There is no `root`; as `find_tracks`.
        """
        if not self.root:
            raise UsageError("--root: name the folder of MUSDB18 or of your own songs, or say 'synthetic', as section "
                             "SYNTHETIC does, for generated music")
        return find_tracks(self.root, split, self.is_wav, self.setup_file, self.sources, sample_rate)


class Songs:
    """The songs of an experiment, for `common.runs.training.Run.steps` and for validation.

    Parameters
    ----------
    cfg
    targets
        Sources that the network separates.
    sample_rate
        Hz.
    shortest
        Samples of the shortest excerpt that the network can take.
    add_up
        Make one target of all `targets`, which is their sum.
    gains
        As for `common.datasets.remixing.draw_item`.

    Raises
    ------
    UsageError
        No `root`, no songs where it says, or excerpts that are too short or longer than a song.
    UserError
        A song that cannot be read.
    """

    def __init__(self, cfg: SongsConfig, targets: Sequence[str], sample_rate: int, *, shortest: int,
                 add_up: bool = False, gains: tuple[float, float] = GAINS):
        self.cfg, self.targets, self.sample_rate, self.shortest = cfg, targets, sample_rate, shortest
        self._add_up = add_up
        for name, seconds in (("--seq-dur", cfg.seq_dur), ("--valid-dur", cfg.valid_dur)):
            if seconds > 0:    # otherwise these are whole songs
                self._check_length(name, seconds)
        self.train_tracks, self.valid_tracks = (cfg.tracks(split, sample_rate) for split in ("train", "valid"))
        for track in self.valid_tracks:
            self._check_length(f"validation track '{track.name}'", track.duration)
        self._batches = TrainingBatches(self.train_tracks, cfg.sources, cfg.batch_size, cfg.seq_dur, cfg.seed,
                                        cfg.samples_per_track, gains, cfg.source_augmentations, cfg.workers, world())

    @property
    def identities(self) -> dict[str, tuple[int, str]]:
        """What songs are called, for `common.runs.training.Run` -> how many, and a hash of names and lengths."""
        splits = {"training songs": self.train_tracks, "validation songs": self.valid_tracks}
        return {name: (len(tracks), fingerprint([(track.name, track.num_frames) for track in tracks]))
                for name, tracks in splits.items()}

    def _check_length(self, name, seconds):
        if round(seconds * self.sample_rate) < self.shortest:
            raise UsageError(f"{name}: {seconds:g} s are too short for the network; at least "
                             f"{self.shortest / self.sample_rate:.3f} s are needed")

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[MixtureAndTargets]:
        """Yield the batches of an epoch from step `start` on.

        Yields
        ------
        mixture : float32 (batch, 2, samples)
        targets : float32 (batch, targets, 2, samples)
        """
        wanted = [self.cfg.sources.index(target) for target in self.targets]
        for mixture, sources in self._batches.epoch(epoch, start):
            yield mixture, self._added_up(sources[:, wanted])

    def validation(self) -> Iterator[Iterator[MixtureAndTargets]]:
        """Yield, for each validation song of this rank, its pieces: shapes as of `epoch`, each a batch of one."""
        for track in world().share(self.valid_tracks):
            yield ((mixture, self._added_up(targets))
                   for mixture, targets in pieces(track, self.targets, self.cfg.valid_dur))

    def _added_up(self, targets):
        return targets.sum(axis=1, keepdims=True) if self._add_up else targets

    def statistics(self, n_fft: int, hop_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of each bin over the training mixtures, float32 (bins,) each."""
        with world().main_first():
            return spectrogram_statistics(self.train_tracks, n_fft, hop_length)
