"""Tables of scores: files in museval's format, medians over frames and tracks, published numbers beside them."""
import json
from pathlib import Path

import numpy as np

from common.console.tables import align
from common.machine.files import write_csv, write_json

METRICS = ("SDR", "SIR", "ISR", "SAR")
AVERAGE = "average"
MADE_WITH = "made_with"    # what determines the estimates, in files of scores


def read_frames(path):
    """Read the file of a track.

    Returns
    -------
    dict of str to dict of str to list of float
        Target -> metric -> dB over frames.
    """
    return {target["name"]: {metric: [frame["metrics"][metric] for frame in target["frames"]] for metric in METRICS}
            for target in json.loads(Path(path).read_text())["targets"]}


def aggregate(scores):
    """Take the median over the frames of each track, then over the tracks, ignoring NaN.

    Parameters
    ----------
    scores : dict of str to dict of str to dict of str to sequence of float
        Track -> target -> metric -> dB over frames.

    Returns
    -------
    dict of str to dict of str to float
        Target -> metric -> dB; NaN where no track has a score.
    """
    by_target = {}
    for frames in scores.values():
        for target, values in over_frames(frames).items():
            by_target.setdefault(target, []).append(values)
    return {target: dict(zip(METRICS, _median(np.transpose(rows)), strict=True)) for target, rows in by_target.items()}


def average(aggregated):
    """Return {metric: mean over the targets that have a score} of what `aggregate` returns."""
    columns = {metric: [values[metric] for values in aggregated.values()] for metric in METRICS}
    return {metric: float(np.mean([x for x in column if x == x] or [np.nan])) for metric, column in columns.items()}


def over_frames(frames):
    """Return {target: medians of METRICS over the frames} of one track of what `aggregate` takes."""
    return {target: _median([values[metric] for metric in METRICS]) for target, values in frames.items()}


def _median(rows):
    """Median of each row, ignoring NaN; NaN where there is nothing else."""
    kept = ([x for x in row if x == x] for row in rows)
    return [float(np.median(row)) if row else np.nan for row in kept]


def format_table(aggregated, published):
    """Lay out scores in dB, and published SDR beside them.

    Parameters
    ----------
    aggregated : dict of str to dict of str to float
        Target -> metric -> dB.
    published : dict of str to dict of str to float
        Label of a column -> target -> SDR.

    Returns
    -------
    str
    """
    lines = [["dB", *METRICS, *published]]
    for target, values in aggregated.items():
        lines.append([target, *(_db(values[metric]) for metric in METRICS),
                      *(_db(column.get(target, np.nan)) for column in published.values())])
    means = average(aggregated)
    # Over the same targets, or else there is nothing to compare.
    theirs = [[column.get(target, np.nan) for target in aggregated] for column in published.values()]
    lines.append([AVERAGE, *(_db(means[metric]) for metric in METRICS), *(_db(np.mean(column)) for column in theirs)])
    return align(lines)


def _db(value):
    return f"{value:.2f}" if value == value else "-"


def write_scores(folder, made_with, scores, failed):
    """Write `scores.json`, with the medians and their average, and `scores.csv`, with the medians of each track.

    Parameters
    ----------
    folder : path
    made_with, scores, failed
        As for `evaluate_tracks`, and as it returns.
    """
    folder, aggregated = Path(folder), aggregate(scores)
    medians = {track: over_frames(frames) for track, frames in scores.items()}
    tracks = {track: {target: dict(zip(METRICS, row, strict=True)) for target, row in rows.items()}
              for track, rows in medians.items()}
    write_json(folder / "scores.json", _without_nan({
        MADE_WITH: made_with, "failed": failed, "median": aggregated, AVERAGE: average(aggregated),
        "tracks": tracks}))
    write_csv(folder / "scores.csv", ("track", "target", *METRICS), [
        (track, target, *("" if x != x else round(x, 5) for x in row))
        for track, rows in medians.items() for target, row in rows.items()])


def _without_nan(value):
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value
