"""Scores of separated music by museval (BSS eval, version 4): of a track, and of a data set.

A track is scored in a process of its own, because museval computes on one core for minutes and takes gigabytes; what
it used is free again afterwards. Meanwhile the next track is separated.
"""
import contextlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common.console.progress import progress
from common.datasets.multitrack import MIXTURE, Track
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, write_text
from common.machine.processes import in_processes
from common.reading.texts import as_read_back, check_fields, read_json
from common.separation.score_tables import MADE_WITH, METRICS, Frames, over_frames, read_frames
from common.separation.separator import StemSeparator

_NOTES = "notes"    # which targets are not scored, beside what museval writes

# One track ------------------------------------------------------------------------------------------------------------


def import_museval() -> Any:
    """Return the module museval.

    Raises
    ------
    UserError
        It refuses to be imported, for want of the programs that read and write audio for it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")    # of packages that it imports, about their own future
            import museval
    except RuntimeError as error:
        raise UserError("museval needs the programs ffmpeg and ffprobe: install ffmpeg (apt-get install ffmpeg, brew "
                        "install ffmpeg), or separate without scores") from error
    return museval


def score_track(references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray],
                sample_rate: int) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Score estimates in windows of one second, with filters over the whole track, as museval.eval_mus_track does.

    The references of all sources serve, also of those that are not estimated; so the scores of a target do not depend
    on which other targets there are.

    Parameters
    ----------
    references : dict of str to array (samples, channels)
        All sources of the track.
    estimates : dict of str to array (any number of samples, channels)
        Of some of the sources; cut, or filled with zeros, to the length of the references.
    sample_rate : int
        In Hz.

    Returns
    -------
    scores : dict of str to dict of str to array (frames,)
        Target -> metric -> dB; NaN where a source or an estimate is silent. All frames are NaN if the whole target is.
    notes : list of str
        Which targets were not scored, and why.

    Raises
    ------
    UserError
        museval cannot be imported.
    """
    museval = import_museval()
    samples = len(next(iter(references.values())))
    estimates = {name: _fitted(audio, samples) for name, audio in estimates.items() if name in references}
    frames = museval.metrics.Framing(sample_rate, sample_rate, samples).nwin
    scores = {name: {metric: np.full(frames, np.nan) for metric in METRICS} for name in estimates}
    # museval refuses sources that are silent throughout: the references are left out, and a reference stands in for an
    # estimate, which changes nothing for the others.
    heard = {name: audio for name, audio in references.items() if not _is_silent(audio)}
    scored = [name for name, audio in estimates.items() if name in heard and not _is_silent(audio)]
    if scored:
        stand_in = [estimates[name] if name in scored else audio for name, audio in heard.items()]
        values = museval.evaluate(list(heard.values()), stand_in, win=sample_rate, hop=sample_rate)
        for metric, rows in zip(("SDR", "ISR", "SIR", "SAR"), values, strict=True):
            for name, row in zip(heard, rows, strict=True):
                if name in scored:
                    scores[name][metric] = row
    return scores, [f"{name} is not scored: its {'estimate' if name in heard else 'reference'} is silent"
                    for name in estimates if name not in scored]


def _fitted(audio: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(audio[:samples], [(0, max(0, samples - len(audio))), (0, 0)])


def _is_silent(audio: np.ndarray) -> bool:
    return not audio.sum(axis=1).any()    # museval's definition, by the sum of the channels


# Tracks of a data set -------------------------------------------------------------------------------------------------


def evaluate_tracks(tracks: Sequence[Track], separator: StemSeparator, folder: str | Path,
                    made_with: Mapping[str, Any], cores: int = 1) -> tuple[dict[str, Frames], list[str]]:
    """Separate and score tracks; write `<track>.json` for each, as museval does, and skip those that are there.

    What failed is said in a line on stderr, and does not keep the other tracks from being done.

    Parameters
    ----------
    tracks
    separator
        Its stems that are no sources of a track are not scored.
    folder
        A file in it is taken as it is if it was made of the same audio and with the same `made_with`.
    made_with
        What determines the estimates: model and settings, JSON-able.
    cores
        Tracks that are scored at once. Each takes a core, and memory in proportion to its length.

    Returns
    -------
    scores : dict of str to dict
        Track -> target -> metric -> list of dB over frames.
    failed : list of str
        Names of the tracks without scores.

    Raises
    ------
    UserError
        museval cannot be imported, or the folder not be written to.
    UsageError
        The separator cannot work as it was told to.
    """
    import_museval()
    folder = make_folder(folder)
    jobs = {track.name: _Job(track, folder / f"{track.name}.json", made_with) for track in tracks}
    todo = [job for job in jobs.values() if not job.is_done()]
    _say_what_is_there(folder, list(jobs.values()), todo)
    failed = []
    try:
        _separate_and_score(todo, separator, cores, failed)
    except KeyboardInterrupt:
        done = sum(job.is_done() for job in jobs.values())
        raise KeyboardInterrupt(f"interrupted; {done} of {len(jobs)} tracks are scored, run again to go on") from None
    return {name: read_frames(job.path) for name, job in jobs.items() if name not in failed}, failed


def _separate_and_score(jobs: "list[_Job]", separator: StemSeparator, cores: int, failed: list[str]) -> None:
    """Separate here, score in processes, and report each track; adds the names of those without scores to `failed`."""
    by_name = {job.track.name: job for job in jobs}
    with progress(None, total=len(jobs), unit="track") as bar:
        def fail(name, error):
            bar.update()
            failed.append(name)
            _say(f"error: {error}", sys.stderr)

        with contextlib.closing(in_processes(_score, _estimated(jobs, separator, bar, fail), cores)) as ended:
            for name, error in ended:
                if error is not None:
                    fail(name, error)
                else:
                    bar.update()
                    by_name[name].report()


@attrs.frozen
class _Job:
    """A track, the file of its scores, and what determines them."""

    track: Track
    path: Path
    made_with: Mapping[str, Any]

    def origin(self) -> dict[str, Any]:
        """What the scores depend on, as JSON gives it back."""
        audio = {name: stem.key() for name, stem in self.track.stems.items()}
        return as_read_back({**self.made_with, "audio": audio})

    def is_done(self) -> bool:
        try:
            stored = check_fields(read_json(self.path), {MADE_WITH: dict, _NOTES: list}, self.path, "scores")
            read_frames(self.path)
        except UserError:    # no file, or one of somebody else
            return False
        return stored[MADE_WITH] == self.origin()

    def separate(self, separator: StemSeparator) -> dict[str, np.ndarray]:
        """Return the estimates of the sources of the track, {source: float32 (samples, 2)}."""
        track = self.track
        targets = [stem for stem in separator.stems if stem in track.sources]
        if not targets:
            raise UserError(f"{track.name}: has {', '.join(track.sources)}, and none of them is estimated")
        if not track.num_frames:
            raise UserError(f"{track.name}: holds no audio")
        try:
            mixture = track.read(MIXTURE, 0, track.num_frames)
        except UsageError as error:    # its file is gone: no matter of the command
            raise UserError(str(error)) from error
        stems = separator.separate(mixture, track.sample_rate)
        if not all(np.isfinite(stems[target]).all() for target in targets):
            raise UserError(f"{track.name}: the separation gave NaN or infinite samples; are the weights intact?")
        return {target: stems[target] for target in targets}

    def score(self, estimates: Mapping[str, np.ndarray]) -> None:
        """Write the file of scores."""
        track = self.track
        references = {source: track.read(source, 0, track.num_frames) for source in track.sources}
        scores, notes = score_track(references, estimates, track.sample_rate)
        store = import_museval().TrackStore(track.name, win=1, hop=1)
        for target, values in scores.items():
            store.add_target(target, values)
        store.scores |= {MADE_WITH: self.origin(), _NOTES: notes}
        write_text(self.path, store.json)

    def report(self) -> None:
        scores = over_frames(read_frames(self.path))
        _say(f"{self.track.name}: SDR {', '.join(f'{name} {values[0]:.2f}' for name, values in scores.items())} dB")
        for note in read_json(self.path)[_NOTES]:
            _say(f"{self.track.name}: {note}")


def _say_what_is_there(folder, jobs, todo):
    if len(todo) < len(jobs):
        _say(f"{len(jobs) - len(todo)} of {len(jobs)} tracks are scored in {folder} already")
    if other := sum(job.path.exists() for job in todo):
        _say(f"{other} of {len(jobs)} tracks were scored with another model, settings or audio: they are scored anew")


def _say(text, stream=None):
    """Print a line where a progress bar may be."""
    stream = stream or sys.stdout
    tqdm.write(text, stream)
    stream.flush()


def _estimated(jobs, separator, bar, fail):
    """Separate one track after the other; yields what `in_processes` takes, and calls `fail(name, error)` otherwise."""
    for job in jobs:
        name = job.track.name
        bar.set_description(name)
        try:
            estimates = job.separate(separator)
        except UsageError:    # of the separator: no other track would do better
            raise
        except UserError as error:
            fail(name, error)
        else:
            yield name, (job, estimates)


def _score(job, estimates):
    with threadpool_limits(1):
        job.score(estimates)
