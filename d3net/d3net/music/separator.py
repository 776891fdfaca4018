"""Separation with D3Net: spectrogram, a network for each source on overlapping patches, Wiener filter, and back."""
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.audio.spool import Spool, array_on_disk
from common.console.progress import progress
from common.inference.engines import CompiledNetwork, compile_network
from common.machine.errors import UsageError, UserError
from common.reading.files import sha256_of
from common.runs.checkpoint import load_parameters, parameter_shapes
from common.runs.graphs import Graphs
from common.separation.monitor import Report, unobserved
from common.separation.separator import StemSeparator
from common.separation.wiener import SourceModel, filter_mixture, mixture_phase
from d3net.hyperparameters import MSSHyperParameters
from d3net.mss_model import TARGETS, D3NetMSS
from d3net.music.network import DEFAULT, NETWORK, PATCH_OVERLAPS
from d3net.music.overlap_add import overlap_add, patch_starts
from d3net.music.spectrogram import Spectrogram
from d3net.music.weights import mss_files
from d3net.weights import WeightFile

RESIDUAL = "residual"


class Separator(StemSeparator):
    """Splits music into stems.

        stems = Separator("d3net-mss").separate(audio, sample_rate)    # {"vocals": array, ...}

    The Wiener filter divides the mixture among the sources that it knows. If not all four sources are asked for, it
    therefore gets one more, the `residual`: what the estimates leave of the magnitudes of the mixture. It becomes the
    last stem. (In the published code the targets get all of the mixture, however few they are.)

    Parameters
    ----------
    model
        See `d3net.music.weights.mss_files`.
    targets
        Sources to return, by name; None: all that the model has.
    flip
        Average the estimates for the song and for the song with its sides swapped, in twice the time.
    patch_overlap
        Share of a patch, 0, 0.5 or 0.75, that it has in common with the next; the time grows with 1 / (1 - share).
        None: as published, by the hyper-parameters, which is 0.5.
    wiener
        Refine the estimates by the multichannel Wiener filter. If false, they get the phase of the mixture, and the
        residual is the mixture minus their sum.
    chunk_seconds, overlap, engine, precision
        See `StemSeparator`. The covariances of the Wiener filter are those of a chunk or, in one piece as in the
        published code, of the song; in both cases memory does not grow with its length.

    Attributes
    ----------
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

    def __init__(self, model: str | Path = DEFAULT, targets: Sequence[str] | None = None, *, flip: bool = True,
                 patch_overlap: float | None = None, wiener: bool = True,
                 chunk_seconds: float | None = NETWORK.chunk_seconds, overlap: float = NETWORK.overlap,
                 engine: str = "auto", precision: str = "float32"):
        if patch_overlap not in (None, *PATCH_OVERLAPS):
            raise UsageError(f"an overlap of patches of {patch_overlap}: it is to be one of "
                             f"{', '.join(map(str, PATCH_OVERLAPS))}")
        super().__init__(targets, chunk_seconds, overlap, engine, precision)
        self.files = mss_files(model, targets)
        self.targets = tuple(self.files)
        self._spectrum = _common_spectrum(self.files.values())
        self.sample_rate = next(iter(self.files.values())).hparams.fs
        self.flip, self.patch_overlap, self.wiener = flip, patch_overlap, wiener
        for file in self.files.values():
            length = file.hparams.test_patch_len
            if patch_overlap and length * (1 - patch_overlap) % 1:
                raise UsageError(f"an overlap of patches of {patch_overlap}: {file.path} has patches of {length} "
                                 "frames, which cannot share that; choose another")
        self.stems = self.targets + (() if set(TARGETS) <= set(self.targets) else (RESIDUAL,))
        self._networks = Graphs(1)    # by target; at full size a network takes some 800 MB to run
        with self._scope():
            for target, file in self.files.items():
                load_parameters(file.path, parameter_shapes(lambda target=target: self._build(target)(self.patches(
                    target, 1))))

    @property
    def complete(self) -> bool:
        return True    # what is no target is in the residual

    @property
    def adds_up(self) -> bool:
        return self.wiener or RESIDUAL in self.stems

    def settings(self) -> dict[str, Any]:
        networks = {target: {"sha256": sha256_of(file.path),
                             "hparams": attrs.asdict(file.hparams)} for target, file in self.files.items()}
        return super().settings() | {"networks": networks, "flip": self.flip, "patch_overlap": self.patch_overlap,
                                     "wiener": self.wiener}

    def _build(self, target: str) -> D3NetMSS:
        return D3NetMSS(self.files[target].hparams, target)

    def process(self, chunks: np.ndarray) -> np.ndarray:
        return np.stack([np.concatenate(list(self.separate_whole([chunk]))) for chunk in chunks]).swapaxes(1, 2)

    def separate_whole(self, blocks: Iterable[np.ndarray], folder: str | Path | None = None,
                       report: Report = unobserved) -> Iterator[np.ndarray]:
        """Separate a song in one piece, as `StemSeparator.separate_whole`, in memory for a few blocks of frames.

        The networks run over all of it before the first stems come. Until then the song and what is needed of their
        estimates lie on the disk: 1.8 MB for a second of four stems, 3.2 MB without the filter.
        """
        with Spool(folder, (2,)) as mixture:
            for block in blocks:
                mixture.append(block)
            if len(mixture):
                song = Spectrogram(mixture, *self._spectrum)
                if self.wiener:
                    yield from self._filtered(song, folder, report)
                else:
                    yield from self._with_phases(song, mixture, folder, report)

    def _filtered(self, song: Spectrogram, folder: str | Path | None, report: Report) -> Iterator[np.ndarray]:
        """Yield the stems (samples, stems, 2) of a song, by the Wiener filter.

        It needs no more of an estimate than its covariances, and one number for both channels of a bin in a frame.
        """
        models = [SourceModel(self._bins) for _ in self.stems]
        with array_on_disk(folder, (len(self.stems), song.num_frames, self._bins)) as powers:

            def add(index, start, estimate):    # float32 (2, bins, frames)
                frames = slice(start, start + estimate.shape[2])
                complex_estimate, = mixture_phase(estimate[None], song.frames(frames.start, frames.stop))
                powers()[index, frames] = models[index].add(complex_estimate).T

            def filtered(start, stop):
                return filter_mixture(powers()[:, start:stop].swapaxes(1, 2), models, song.frames(start, stop))

            self._estimate_all(song, folder, add, report)
            for _, block in song.resynthesize(filtered):
                yield block.transpose(2, 0, 1)

    def _with_phases(self, song: Spectrogram, mixture: Spool, folder: str | Path | None,
                     report: Report) -> Iterator[np.ndarray]:
        """Yield the stems (samples, stems, 2) of a song: the estimates with the phase of the mixture."""
        with array_on_disk(folder, (len(self.targets), song.num_frames, 2, self._bins)) as magnitudes:

            def add(index, start, estimate):    # float32 (2, bins, frames)
                magnitudes()[index, start:start + estimate.shape[2]] = estimate.transpose(2, 0, 1)

            def with_phases(start, stop):
                return mixture_phase(magnitudes()[:, start:stop].transpose(0, 2, 3, 1), song.frames(start, stop))

            self._estimate_all(song, folder, add, report)
            for start, block in song.resynthesize(with_phases):
                stems = block.transpose(2, 0, 1)
                if RESIDUAL in self.stems:
                    rest = mixture[start:start + len(stems)] - stems.sum(1)
                    stems = np.concatenate([stems, rest[:, None]], axis=1)
                yield stems

    def _estimate_all(self, song: Spectrogram, folder: str | Path | None,
                      add: Callable[[int, int, np.ndarray], None], report: Report) -> None:
        """Run the networks, and call `add(index, start, magnitudes)` for blocks of all stems the filter is to know."""
        patches = sum(len(patch_starts(song.num_frames, *self._patching(target))) for target in self.targets)
        done = itertools.count(1)
        with progress(None, total=patches, unit="patch") as bar, contextlib.ExitStack() as stack:

            def patch_done():
                bar.update()
                report(next(done) / patches)

            rest = None
            if self.wiener and RESIDUAL in self.stems:
                shape = song.num_frames, 2, self._bins
                rest = _Rest(song, self.targets, self.files, stack.enter_context(array_on_disk(folder, shape)))
            for index, target in enumerate(self.targets):
                bar.set_description(target)
                for start, estimate in self._estimates(target, song, patch_done):
                    add(index, start, estimate)
                    if rest:
                        rest.subtract(start, estimate)
            if rest:
                for start, stop in song.blocks():
                    add(-1, start, rest.magnitudes(start, stop))

    def _estimates(self, target: str, song: Spectrogram,
                   patch_done: Callable[[], None]) -> Iterator[tuple[int, np.ndarray]]:
        """Run the network of a target over a song.

        Yields
        ------
        int
            First frame of a block.
        float32 array (2, bins, frames)
            Magnitudes of the target.
        """
        run = self._network(target)

        def network(patches):
            estimates, = run(patches)
            patch_done()
            return estimates

        start = 0
        for block in overlap_add(network, song.magnitudes, song.num_frames, *self._patching(target), flip=self.flip):
            yield start, block.transpose(1, 2, 0)
            start += len(block)

    @property
    def _bins(self) -> int:
        return self._spectrum[0] // 2 + 1

    def _patching(self, target: str) -> tuple[int, int]:
        """Length and distance of the patches of a target, in frames."""
        hparams = self.files[target].hparams
        if self.patch_overlap is None:
            return hparams.test_patch_len, hparams.out_shift
        return hparams.test_patch_len, round(hparams.test_patch_len * (1 - self.patch_overlap))

    def patches(self, target: str, number: int) -> nn.Variable:
        """Make an input for the network of a target: magnitudes (number, frames, 2, bins)."""
        return nn.Variable((number, self.files[target].hparams.test_patch_len, 2, self._bins))

    def build_estimate(self, target: str, magnitudes: nn.Variable) -> nn.Variable:
        """Build the graph of the network of a target, in test mode, on an input of `patches`."""
        with self._scope():
            return self._build(target)(magnitudes)

    def _network(self, target: str) -> CompiledNetwork:
        """Return the compiled network of a target."""
        build = functools.partial(self.build_estimate, target)
        shape = self.patches(target, 1 + self.flip).shape
        return self._networks.get(target, lambda: compile_network(build, [shape], self.engine, self.precision))


class _Rest:
    """What the estimates of a few targets leave of the magnitudes of a song.

    Bins that the networks copy from the mixture say nothing of the sources: there the rest is as strong as the sources
    that are missing would be, each like a target.
    """

    def __init__(self, song: Spectrogram, targets: Sequence[str], files: Mapping[str, Any],
                 magnitudes: Callable[[], np.ndarray]):
        self._song, self._magnitudes = song, magnitudes    # the latter of `array_on_disk`, (frames, 2, bins)
        for start, stop in song.blocks():
            self._magnitudes()[start:stop] = song.magnitudes(start, stop)
        self._estimated = min(file.hparams.valid_signal_idx for file in files.values())
        self._missing = max(1, len(TARGETS) - len(targets))

    def subtract(self, start: int, estimate: np.ndarray) -> None:
        """Take away the estimate of a target (2, bins, frames) from frame `start` on."""
        self._magnitudes()[start:start + estimate.shape[2]] -= estimate.transpose(2, 0, 1)

    def magnitudes(self, start: int, stop: int) -> np.ndarray:
        """Return the rest of these frames, float32 (2, bins, frames)."""
        rest = np.maximum(0, self._magnitudes()[start:stop])
        copied = self._song.magnitudes(start, stop)[:, :, self._estimated:]
        rest[:, :, self._estimated:] = np.sqrt(self._missing) * copied
        return rest.transpose(1, 2, 0)


def _common_spectrum(files: Iterable[WeightFile[MSSHyperParameters]]) -> tuple[int, int]:
    """Return n_fft and hop length of networks that are to work on one spectrogram of two channels."""
    first, *_ = files = list(files)
    for file in files:
        hparams = file.hparams
        if hparams.n_channels != 2:
            raise UserError(f"{file.path}: a network of {hparams.n_channels} channels, not of stereo")
        try:
            hparams.check_frames()
        except ValueError as error:
            raise UserError(f"{file.path}: {error}") from error
        if any(getattr(hparams, key) != getattr(first.hparams, key) for key in ("fft_size", "hop_size", "fs")):
            raise UserError(f"{file.path}: another fft_size, hop_size or fs than {first.path}")
    return first.hparams.fft_size, first.hparams.hop_size
