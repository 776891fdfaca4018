"""Songs for training and validation, as an experiment of music separation asks for them."""
from common.audio.stft import num_frames
from common.datasets.multitrack import pieces
from common.datasets.musdb18 import SYNTHETIC, find_tracks
from common.datasets.remixing import TrainingBatches
from common.datasets.spectrogram_statistics import spectrogram_statistics
from common.machine.distributed import world
from common.machine.errors import UsageError

GAINS = (0.75, 1.25)


class Songs:
    """Training excerpts, validation pieces and statistics, with the target of the network.

    Parameters
    ----------
    cfg : MSSConfig
    hparams : MSSHyperParameters

    Raises
    ------
    UsageError
        No songs where `root` says, or excerpts with too few frames for the network or longer than a song.
    UserError
        A song that cannot be read.
    """

    def __init__(self, cfg, hparams):
        self.cfg, self.hparams = cfg, hparams
        if hparams.n_channels != 2:
            raise UsageError(f"n_channels = {hparams.n_channels} in the hyper-parameters: music is read in stereo")
        self._check_length("--seq-dur", cfg.seq_dur)
        self._check_length("--valid-dur", cfg.valid_dur)
        self._check_patch_length()
        self.train_tracks, self.valid_tracks = (
            find_tracks(cfg.root or SYNTHETIC, split, cfg.is_wav, cfg.setup_file, cfg.sources, hparams.fs)
            for split in ("train", "valid"))
        for track in self.valid_tracks:
            self._check_length(f"validation track '{track.name}'", track.duration)
        self._batches = TrainingBatches(self.train_tracks, cfg.sources, cfg.batch_size, cfg.seq_dur, cfg.seed,
                                        cfg.samples_per_track, GAINS, cfg.source_augmentations, cfg.workers, world())

    def _check_length(self, what, seconds):
        shortest = max((self.hparams.frame_multiple - 1) * self.hparams.hop_size, self.hparams.fft_size // 2 + 1)
        if round(seconds * self.hparams.fs) < shortest:
            raise UsageError(f"{what}: {seconds:g} s are too short for the network, which needs "
                             f"{self.hparams.frame_multiple} frames, {shortest / self.hparams.fs:.3f} s")

    def _check_patch_length(self):
        most, multiple = self.num_frames(round(self.cfg.seq_dur * self.hparams.fs)), self.hparams.frame_multiple
        if self.cfg.patch_length % multiple or self.cfg.patch_length > most:
            raise UsageError(f"--patch-length {self.cfg.patch_length}: choose a multiple of {multiple} up to {most}, "
                             f"the frames of --seq-dur {self.cfg.seq_dur:g}; for more, raise that")

    def __len__(self):
        return len(self._batches)

    def num_frames(self, samples):
        """Count the frames of an excerpt that the network can take: the first ones, in a multiple of its own."""
        frames = num_frames(samples, self.hparams.fft_size, self.hparams.hop_size, center=True)
        return frames // self.hparams.frame_multiple * self.hparams.frame_multiple

    def epoch(self, epoch, start=0):
        """Yield the batches of an epoch from step `start` on: mixture and target, (batch, 2, samples) each."""
        for mixture, sources in self._batches.epoch(epoch, start):
            yield mixture, sources[:, self.cfg.target_sources].sum(axis=1)

    def validation(self):
        """Yield, for each song of this rank, its pieces: mixture and target, (1, 2, samples) each."""
        chosen = [self.cfg.sources[index] for index in self.cfg.target_sources]
        for track in world().share(self.valid_tracks):
            yield ((mixture, targets.sum(axis=1)) for mixture, targets in pieces(track, chosen, self.cfg.valid_dur))

    def statistics(self):
        """Mean and standard deviation of each bin over the training mixtures."""
        with world().main_first():
            return spectrogram_statistics(self.train_tracks, self.hparams.fft_size, self.hparams.hop_size)
