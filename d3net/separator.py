"""Separation with D3Net: spectrogram, a network for each source on overlapping patches, Wiener filter, and back."""
import contextlib
import math
import os
import tempfile
from collections import OrderedDict

import nnabla as nn
import numpy as np

from common.checkpoint import load_parameters, parameter_shapes
from common.engines import check_engine, compile_network
from common.errors import UsageError, UserError
from common.monitor import progress
from common.separation.stems import separate_stream
from common.separation.wiener import SourceModel, filter_mixture, mixture_phase
from d3net.mss_model import TARGETS, D3NetMSS
from d3net.overlap_add import overlap_add, patch_starts
from d3net.spectrogram import Spectrogram
from d3net.weights import mss_files

DEFAULT_MODEL = "d3net-mss"
CHUNK_SECONDS, OVERLAP = 180.0, 0.03
PATCH_OVERLAPS = (0.0, 0.5, 0.75)
RESIDUAL = "residual"


class Separator:
    """Splits music into stems.

        stems = Separator("d3net-mss").separate(audio, sample_rate)    # {"vocals": array, ...}

    The Wiener filter shares the mixture out among the sources that it knows. So where not all four sources are asked
    for, it is told of one more, the `residual`: what the estimates leave of the magnitudes of the mixture. It becomes
    the last stem. (In the published code the targets get all of the mixture, however few they are.)

    Parameters
    ----------
    model : str or path
        See `d3net.weights.mss_files`.
    targets : sequence of str or None
        Sources to return, by name; None: all that the model has.
    flip : bool
        Average the estimates for the song and for the song with its sides swapped, in twice the time.
    patch_overlap : float or None
        Share of a patch, 0, 0.5 or 0.75, that it has in common with the next; the time grows with 1 / (1 - share).
        None: as published, by the hyper-parameters, which is 0.5.
    wiener : bool
        Refine the estimates by the multichannel Wiener filter. If false, they get the phase of the mixture, and the
        residual is the mixture minus their sum.
    chunk_seconds, overlap : float
        Longer signals are cut into chunks that overlap by this share, and are cross-faded; the covariances of the
        Wiener filter are then those of a chunk. With None for the former songs are separated in one piece, as the
        published code does; that takes some 6 MB of memory for a second.
    engine, precision : str
        See `common.engines`.

    Attributes
    ----------
    stems : tuple of str
        Names of what is returned, in order.
    sample_rate : int
        At which the networks work, in Hz.
    files : dict of str to d3net.weights.WeightFile
        Those of the targets.

    Raises
    ------
    UsageError, UserError
        As `mss_files`; weights that do not fit their hyper-parameters; a value that is not allowed.

    References
    ----------
    arXiv 2010.01733.
    """

    def __init__(self, model=DEFAULT_MODEL, targets=None, *, flip=True, patch_overlap=None, wiener=True,
                 chunk_seconds=None, overlap=OVERLAP, engine="auto", precision="float32"):
        _check(targets, patch_overlap, chunk_seconds, overlap)
        check_engine(engine, precision)
        self.files = mss_files(model, targets)
        self.targets = tuple(self.files)
        self._spectrum = _common_spectrum(self.files)
        self.sample_rate = next(iter(self.files.values())).hparams.fs
        self.flip, self.patch_overlap, self.wiener = flip, patch_overlap, wiener
        self.chunk_seconds, self.overlap = chunk_seconds, overlap
        self.stems = self.targets + (() if set(TARGETS) <= set(self.targets) else (RESIDUAL,))
        self.engine, self.precision = engine, precision
        self._compiled = None, None    # target, its network
        self._parameters = OrderedDict()
        with self._scope():
            for target, file in self.files.items():
                load_parameters(file.path, parameter_shapes(lambda target=target: self._build(target)(self._patches(
                    target, 1))))

    def _scope(self):
        """The parameters of this object, apart from all others."""
        return nn.parameter_scope("separator", self._parameters)

    def _build(self, target):
        return D3NetMSS(self.files[target].hparams, target)

    def separate(self, audio, sample_rate):
        """Split a signal.

        Parameters
        ----------
        audio : array (samples, channels) or (samples,), float
            Mono or stereo.
        sample_rate : int
            In Hz; any.

        Returns
        -------
        dict of str to float32 array
            The stems, each of the shape of `audio` and at its rate.

        Raises
        ------
        ValueError
            More than two channels, no samples, or samples that are not finite.
        """
        audio = np.asarray(audio, np.float32)
        signal = audio[:, None] if audio.ndim == 1 else audio
        if signal.ndim != 2 or not len(signal) or signal.shape[1] not in (1, 2) or not np.isfinite(signal).all():
            raise ValueError(f"audio of shape {audio.shape}: finite samples (samples, channels) of 1 or 2 channels "
                             "are wanted")
        seconds = self.chunk_seconds or len(signal) / sample_rate + 1    # one chunk is cut to what there is
        blocks = separate_stream(self, [signal], sample_rate, signal.shape[1], seconds, self.overlap, 1,
                                 list(range(len(self.stems))))
        stems = np.concatenate(list(blocks))[:len(signal)]    # (samples, stems, channels)
        return {name: stems[:, k].reshape(audio.shape) for k, name in enumerate(self.stems)}

    def process(self, chunks):
        """Separate chunks of one length, each by itself.

        Parameters
        ----------
        chunks : float32 array (batch, samples, 2), at `sample_rate`

        Returns
        -------
        float32 array (batch, stems, samples, 2)
        """
        batch, samples, channels = chunks.shape
        out = np.empty((batch, samples, len(self.stems), channels), np.float32)
        for chunk, stems in zip(chunks, out, strict=True):
            song = Spectrogram(chunk, *self._spectrum)
            patches = sum(len(patch_starts(song.num_frames, *self._patching(target))) for target in self.targets)
            with progress(None, total=patches, unit="patch") as bar:
                if self.wiener:
                    self._filter(song, stems, bar)
                else:
                    self._keep_phases(chunk, song, stems, bar)
        return out.swapaxes(1, 2)

    def _filter(self, song, stems, bar):
        """Write the stems (samples, stems, 2) of a song, by the Wiener filter.

        It needs no more of an estimate than its covariances, and one number for both channels of a bin in a frame.
        """
        models = [SourceModel(self._bins) for _ in self.stems]
        with _on_disk((len(self.stems), song.num_frames, self._bins)) as powers:

            def add(index, start, estimate):    # float32 (2, bins, frames)
                frames = slice(start, start + estimate.shape[2])
                complex_estimate, = mixture_phase(estimate[None], song.frames(frames.start, frames.stop))
                powers()[index, frames] = models[index].add(complex_estimate).T

            def filtered(start, stop):
                return filter_mixture(powers()[:, start:stop].swapaxes(1, 2), models, song.frames(start, stop))

            rest = _Rest(song, self.targets, self.files) if RESIDUAL in self.stems else None
            for index, target in enumerate(self.targets):
                for start, estimate in self._estimates(target, song, bar):
                    add(index, start, estimate)
                    if rest:
                        rest.subtract(start, estimate)
            if rest:
                for start, stop in song.blocks():
                    add(-1, start, rest.magnitudes(start, stop))
            for start, block in song.resynthesize(filtered):
                stems[start:start + block.shape[-1]] = block.transpose(2, 0, 1)

    def _keep_phases(self, chunk, song, stems, bar):
        """Write the stems (samples, stems, 2) of a song: the estimates with the phase of the mixture."""
        magnitudes = np.empty((song.num_frames, 2, self._bins), np.float32)
        for index, target in enumerate(self.targets):
            for start, estimate in self._estimates(target, song, bar):
                magnitudes[start:start + estimate.shape[2]] = estimate.transpose(2, 0, 1)
            for start, block in song.resynthesize(
                    lambda low, high: mixture_phase(magnitudes[None, low:high].transpose(0, 2, 3, 1),
                                                    song.frames(low, high))):
                stems[start:start + block.shape[-1], index] = block[0].T
        if RESIDUAL in self.stems:
            stems[:, -1] = chunk - stems[:, :-1].sum(1)

    def _estimates(self, target, song, bar):
        """Run the network of a target over a song.

        Yields
        ------
        int
            First frame of a block.
        float32 array (2, bins, frames)
            Magnitudes of the target.
        """
        bar.set_description(target)
        run = self._network(target)

        def network(patches):
            estimates, = run(patches)
            bar.update()
            return estimates

        start = 0
        for block in overlap_add(network, song.magnitudes, song.num_frames, *self._patching(target), flip=self.flip):
            yield start, block.transpose(1, 2, 0)
            start += len(block)

    @property
    def _bins(self):
        return self._spectrum[0] // 2 + 1

    def _patching(self, target):
        """Length and distance of the patches of a target, in frames."""
        hparams = self.files[target].hparams
        if self.patch_overlap is None:
            return hparams.test_patch_len, hparams.out_shift
        return hparams.test_patch_len, round(hparams.test_patch_len * (1 - self.patch_overlap))

    def _patches(self, target, number):
        return nn.Variable((number, self.files[target].hparams.test_patch_len, 2, self._bins))

    def _network(self, target):
        """Return the compiled network of a target, the only one there is: at full size it takes some 800 MB to run."""
        if self._compiled[0] != target:
            self._compiled = None, None
            shape = self._patches(target, 1 + self.flip).shape

            def build(patches):
                with self._scope():
                    return self._build(target)(patches)

            self._compiled = target, compile_network(build, [shape], self.engine, self.precision)
        return self._compiled[1]


class _Rest:
    """What the estimates of a few targets leave of the magnitudes of a song.

    Bins that the networks copy from the mixture say nothing of the sources: there the rest is as strong as the sources
    that are missing would be, each like a target.
    """

    def __init__(self, song, targets, files):
        self._song = song
        self._magnitudes = np.empty((song.num_frames, 2, song.n_fft // 2 + 1), np.float32)
        for start, stop in song.blocks():
            self._magnitudes[start:stop] = song.magnitudes(start, stop)
        self._estimated = min(file.hparams.valid_signal_idx for file in files.values())
        self._missing = max(1, len(TARGETS) - len(targets))

    def subtract(self, start, estimate):
        """Take away the estimate of a target (2, bins, frames) from frame `start` on."""
        self._magnitudes[start:start + estimate.shape[2]] -= estimate.transpose(2, 0, 1)

    def magnitudes(self, start, stop):
        """Return the rest of these frames, float32 (2, bins, frames)."""
        rest = np.maximum(0, self._magnitudes[start:stop])
        copied = self._song.magnitudes(start, stop)[:, :, self._estimated:]
        rest[:, :, self._estimated:] = np.sqrt(self._missing) * copied
        return rest.transpose(1, 2, 0)


@contextlib.contextmanager
def _on_disk(shape):
    """Keep a float32 array in a file without a name: in memory it would be as large as all stems.

    Yields
    ------
    callable
        Returns the array; what was read or written of it is no longer in memory when it is let go.
    """
    size = 4 * math.prod(shape)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)    # a disk that is full later would end the process
        except OSError as error:
            raise UserError(f"{tempfile.gettempdir()}: no room for {size >> 20} MB of estimates ({error.strerror}); "
                            "set TMPDIR to a folder on another disk") from error
        yield lambda: np.memmap(file, np.float32, "r+", shape=shape)


def _common_spectrum(files):
    """Return n_fft and hop length of networks that are to work on one spectrogram of two channels."""
    first = None
    for file in files.values():
        hparams = file.hparams
        if hparams.n_channels != 2:
            raise UserError(f"{file.path}: a network of {hparams.n_channels} channels, not of stereo")
        if hparams.fft_size < 4 * hparams.hop_size or hparams.fft_size % (2 * hparams.hop_size):
            raise UserError(f"{file.path}: hop_size {hparams.hop_size} is to divide half of fft_size "
                            f"{hparams.fft_size}, twice or more")
        values = hparams.fft_size, hparams.hop_size, hparams.fs
        first = first or (file, values)
        if values != first[1]:
            raise UserError(f"{file.path}: another fft_size, hop_size or fs than {first[0].path}")
    return first[1][:2]


def _check(targets, patch_overlap, chunk_seconds, overlap):
    """Raise a UsageError for a value that is not allowed."""
    if patch_overlap not in (None, *PATCH_OVERLAPS):
        raise UsageError(f"an overlap of patches of {patch_overlap}: it is to be one of "
                         f"{', '.join(map(str, PATCH_OVERLAPS))}")
    if chunk_seconds is not None and not chunk_seconds > 0 or not 0 <= overlap <= 0.5:
        raise UsageError(f"chunks of {chunk_seconds} s with an overlap of {overlap}: they are to be longer than 0, and "
                         "the overlap from 0 to 0.5")
    if len(set(targets or ())) < len(targets or ()):
        raise UsageError(f"--targets {' '.join(targets)}: each may be named once")
