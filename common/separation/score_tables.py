"""Tables of scores: files in museval's format, medians over frames and tracks, published numbers beside them."""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.console.tables import align
from common.machine.files import write_csv, write_json
from common.reading.files import decoding
from common.reading.texts import read_json

METRICS = ("SDR", "SIR", "ISR", "SAR")
AVERAGE = "average"
MADE_WITH = "made_with"    # what determines the estimates, in files of scores

Frames = Mapping[str, Mapping[str, Sequence[float]]]    # target -> metric -> dB over frames
Medians = Mapping[str, Mapping[str, float]]    # target -> metric -> dB; NaN where no track has a score
Published = Mapping[str, Mapping[str, float]]    # label of a column -> target -> SDR in dB


def read_frames(path: str | Path) -> dict[str, dict[str, list[float]]]:
    """Read target -> metric -> dB over frames from the file of a track."""
    what = "scores of museval"
    content = read_json(path, what)
    with decoding(path, what):
        return {str(target["name"]): {metric: [float(frame["metrics"][metric]) for frame in target["frames"]]
                                      for metric in METRICS} for target in content["targets"]}


def aggregate(scores: Mapping[str, Frames]) -> Medians:
    """Take the median over the frames of each track, then over the tracks, ignoring NaN."""
    by_target = {}
    for frames in scores.values():
        for target, values in over_frames(frames).items():
            by_target.setdefault(target, []).append(values)
    return {target: dict(zip(METRICS, _median(np.transpose(rows)), strict=True)) for target, rows in by_target.items()}


def average(aggregated: Medians) -> dict[str, float]:
    """Return {metric: mean over the targets that have a score} of what `aggregate` returns."""
    columns = {metric: [values[metric] for values in aggregated.values()] for metric in METRICS}
    return {metric: float(np.mean([x for x in column if x == x] or [np.nan])) for metric, column in columns.items()}


def over_frames(frames: Frames) -> dict[str, list[float]]:
    """Return {target: medians of METRICS over the frames} of one track of what `aggregate` takes."""
    return {target: _median([values[metric] for metric in METRICS]) for target, values in frames.items()}


def _median(rows: Iterable[Sequence[float]]) -> list[float]:
    """Median of each row, ignoring NaN; NaN where there is nothing else."""
    kept = ([x for x in row if x == x] for row in rows)
    return [float(np.median(row)) if row else np.nan for row in kept]


def print_medians(scores: Mapping[str, Frames], subset: str, published: Published) -> None:
    """Print the table of medians over frames and songs of a subset, beside published numbers."""
    print(f"\nmedian over frames and {len(scores)} {subset} songs; beside it, published SDR on the 50 test songs of "
          "MUSDB18")
    print(format_table(aggregate(scores), published), flush=True)


def format_table(aggregated: Medians, published: Published) -> str:
    """Lay out scores in dB, and published SDR beside them."""
    lines = [["dB", *METRICS, *published]]
    for target, values in aggregated.items():
        lines.append([target, *(_db(values[metric]) for metric in METRICS),
                      *(_db(column.get(target, np.nan)) for column in published.values())])
    means = average(aggregated)
    # Over the same targets, or else there is nothing to compare.
    theirs = [float(np.mean([column.get(target, np.nan) for target in aggregated])) for column in published.values()]
    lines.append([AVERAGE, *(_db(means[metric]) for metric in METRICS), *map(_db, theirs)])
    return align(lines)


def _db(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"


def write_scores(folder: Path, made_with: Mapping[str, Any], scores: Mapping[str, Frames],
                 failed: Sequence[str]) -> None:
    """Write `scores.json`, with the medians and their average, and `scores.csv`, with the medians of each track.

    `made_with` is what determines the estimates; `failed` has the names of the tracks without scores.
    """
    aggregated = aggregate(scores)
    medians = {track: over_frames(frames) for track, frames in scores.items()}
    tracks = {track: {target: dict(zip(METRICS, row, strict=True)) for target, row in rows.items()}
              for track, rows in medians.items()}
    write_json(folder / "scores.json", _without_nan({
        MADE_WITH: made_with, "failed": failed, "median": aggregated, AVERAGE: average(aggregated),
        "tracks": tracks}))
    write_csv(folder / "scores.csv", ("track", "target", *METRICS), [
        (track, target, *("" if x != x else round(x, 5) for x in row))
        for track, rows in medians.items() for target, row in rows.items()])


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value
