"""Songs for training and validation, as a configuration asks for them."""
from common.datasets.multitrack import pieces
from common.datasets.musdb18 import SYNTHETIC, find_tracks
from common.datasets.remixing import TrainingBatches
from common.datasets.spectrogram_statistics import spectrogram_statistics
from common.machine.distributed import world
from common.machine.errors import UsageError
from x_umx.network import shortest_excerpt


class Songs:
    """Training excerpts, validation pieces and statistics, with the targets of the network.

    Parameters
    ----------
    cfg : Config

    Raises
    ------
    UsageError
        No songs where `root` says, or excerpts that are too short or longer than a song.
    UserError
        A song that cannot be read.
    """

    def __init__(self, cfg):
        for flag, seconds in (("--seq-dur", cfg.seq_dur), ("--valid-dur", cfg.valid_dur)):
            if 0 < seconds * cfg.sample_rate < shortest_excerpt(cfg):
                raise UsageError(f"{flag} {seconds:g}: too short for the loss; at least "
                                 f"{shortest_excerpt(cfg) / cfg.sample_rate:.3f} s are needed")
        self.cfg = cfg
        self.train_tracks, self.valid_tracks = (
            find_tracks(cfg.root or SYNTHETIC, split, cfg.is_wav, cfg.setup_file, cfg.sources, cfg.sample_rate)
            for split in ("train", "valid"))
        self._batches = TrainingBatches(self.train_tracks, cfg.sources, cfg.batch_size, cfg.seq_dur, cfg.seed,
                                        cfg.samples_per_track, augmentations=cfg.source_augmentations,
                                        workers=cfg.workers, world=world())
        self._targets = [cfg.sources.index(target) for target in cfg.targets]

    def __len__(self):
        return len(self._batches)

    def epoch(self, epoch, start=0):
        """Yield the batches of an epoch from step `start` on: (batch, 2, samples), (batch, targets, 2, samples)."""
        for mixture, sources in self._batches.epoch(epoch, start):
            yield mixture, sources[:, self._targets]

    def validation(self):
        """Yield, for each song of this rank, its pieces: mixture (1, 2, samples), targets (1, targets, 2, samples)."""
        for track in world().share(self.valid_tracks):
            yield pieces(track, self.cfg.targets, self.cfg.valid_dur)

    def statistics(self):
        """Mean and standard deviation of each bin over the training mixtures."""
        return spectrogram_statistics(self.train_tracks, self.cfg.nfft, self.cfg.nhop)
