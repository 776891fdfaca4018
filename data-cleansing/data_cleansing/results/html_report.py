"""The report of a run: one HTML file that needs nothing else, and lists beside it."""
from pathlib import Path

import numpy as np

from common.console.tables import align
from common.machine.files import write_csv, write_text
from common.pages.document import document, escape, table
from common.pages.pictures import figure_uri
from common.pictures.figures import figure_style, power_of_ten
from common.runs.comparison import read_settings
from common.runs.significance import CONFIDENCE
from data_cleansing.config import Config
from data_cleansing.influence.methods import EVERY_STEP, FINAL
from data_cleansing.leave_one_out_comparison import HEADER, compare_with_retraining
from data_cleansing.results import accuracy, paired
from data_cleansing.results.cleaned_lists import (
    ESTIMATES_HEADER,
    ESTIMATES_NAMES,
    estimates_row,
    format_estimates,
    write_cleaned,
    write_merged,
)
from data_cleansing.results.flipped_labels import DETECTION_HEADER, detection_means, detection_rows, format_detection
from data_cleansing.results.report_images import FULL_BYTES, FULL_SIDE, NUM_IMAGES, TO_LOOK_AT, Listed, page_data
from data_cleansing.results.score_files import SIGN, listed_method, scored_as_published
from data_cleansing.training.record import TrainingRecord
from data_cleansing.trial import Trial

CACHE_HEADER = ("cache", "what is kept", "bytes")


def write_report(folder: str | Path, cfg: Config, num_images: int = NUM_IMAGES) -> None:
    """Write `report.html`, `summary/`, `fig/`, `cleaned/`, `detection.csv`, `cache.csv` and `leave_one_out.csv`.

    Their tables are printed. The parameters of the current scope are replaced.

    Parameters
    ----------
    folder : path
        Of a run that was trained and scored.
    num_images : int
        Worst images of each method in the report, and best ones.
    """
    folder = Path(folder)
    measures = accuracy.summarize(folder)
    accuracy.write_figure(folder, measures, cfg.dataset)
    comparisons = paired.summarize(folder)
    detection, estimates, cache, lists = _go_through_trials(folder, cfg)
    data = page_data(folder, lists[-1], num_images)
    write_csv(folder / "cleaned" / "estimates.csv", ESTIMATES_HEADER, estimates)
    write_csv(folder / "cache.csv", CACHE_HEADER, cache)
    if detection:
        write_csv(folder / "detection.csv", DETECTION_HEADER, detection)
    comparison = compare_with_retraining()
    write_csv(folder / "leave_one_out.csv", *comparison.rows())
    body = "".join([_head(folder, cfg), _estimates(estimates), _workplace(data), _accuracy(folder, measures, cfg),
                    _paired(comparisons), _detection(detection), _cache(cache), _histograms(lists[0].scores),
                    _beside_retraining(comparison)])
    write_text(folder / "report.html", document("Data cleansing", body, __file__, data))
    print(accuracy.format_table(measures))
    print(paired.format_table(comparisons))
    if detection:
        print(format_detection(detection))
    print(align((f"parameters, {name}:", f"{size:,}", f"bytes, {what}") for name, what, size in cache))
    print(format_estimates(estimates))
    print(f"cleaned: {folder / 'cleaned'}\nreport: {folder / 'report.html'}")


def _go_through_trials(folder, cfg):
    """Write the lists of images; returns rows of three tables, and the list of the first and of all."""
    detection, estimates, cache, lists, trials = [], [], [], [], []
    method = listed_method(folder, cfg.seeds, cfg.methods)
    for seed in cfg.seeds:
        trials.append(trial := Trial(cfg, folder, seed))
        detection += detection_rows(folder, trial)
        found = write_cleaned(folder, trial, method)
        estimates.append(estimates_row(seed, found))
        if not cache:    # one trial stands for all
            cache = [*cache_sizes(trial.layout.size, trial.record), _stored(trial)]
            lists.append(Listed.of_trial(folder, trial, found))
    if not cfg.flip_labels:    # each trial makes other labels wrong
        images, found, where = write_merged(folder, trials, method)
        estimates.append(estimates_row("all", found))
        lists.append(Listed.of_all(folder, trials, images, found, where))
    return detection, estimates, cache, lists


def cache_sizes(num_values: int, record: TrainingRecord) -> list[tuple[str, str, int]]:
    """Bytes of parameters to store, as the paper counts them: four for each value.

    Parameters
    ----------
    num_values : int
        Of the network, statistics of batch normalization included; 307818 in the paper's for MNIST.

    Returns
    -------
    list of (name, what is kept, bytes)
    """
    last = record.num_steps - record.epoch_starts[-2]
    return [("all parameters", f"before each of {record.num_steps:,} steps", 4 * num_values * record.num_steps),
            (EVERY_STEP, f"before each of the {last:,} steps of the last epoch", 4 * num_values * last),
            (FINAL, f"the final ones: 1/{last:,} of {EVERY_STEP}", 4 * num_values)]


def _stored(trial):
    size = sum(path.stat().st_size for path in (trial.training_folder / "parameters").glob("step_*.npy"))
    return "this run", f"in {len(trial.cache.steps())} files, those for retraining included", size


def _head(folder, cfg):
    settings = ", ".join(f"{key} {value}" for key, value in (
        ("data", cfg.data_dir or cfg.dataset), ("epochs", cfg.n_epochs), ("batch", cfg.batch_size), ("lr", cfg.lr),
        ("trials", cfg.n_trials), ("scored as published", ", ".join(scored_as_published(folder)))) if value)
    return f"<h1>Data cleansing of {escape(folder.resolve().name)}</h1><p class='faint'>{escape(settings)}.</p>"


def _estimates(estimates):
    return ("<h2>Labels that seem wrong</h2><p>Numbers of images, by networks that were trained without them; the "
            f"lists in <code>cleaned/</code> name them.</p>{table(ESTIMATES_NAMES, estimates)}")


def _workplace(data):
    """Return what the script fills with the images of a list, and with what is needed to go through them."""
    shown, total = len(data["groups"][TO_LOOK_AT]), data["look_at"]
    limit = f" The {shown} most suspicious of {total} are here (--num-images)." if shown < total else ""
    return (f"<section><h2>Images to look at</h2><p>Of {data['list']}.{limit} A score predicts how the validation "
            f"loss changes when an image is left out: {escape(SIGN)}. Decide for each picture; marks stay in this "
            "browser, and Export saves them as a list. A click enlarges a picture: that of the file, at "
            f"{FULL_SIDE} pixels at most, as far as {FULL_BYTES >> 20} MB go, and then what the network sees. There, "
            "arrow keys go on, and K, R and L keep, remove and relabel.</p>"
            "<div id='choices'><label>Show <select id='group'></select></label>"
            "<label>Label <select id='label'></select></label><label>Predicted <select id='predicted'></select></label>"
            "<label>Sort by <select id='order'></select></label></div>"
            "<div id='progress'><span id='count' role='status'></span>"
            "<button id='export' class='main' type='button'>Export marks</button></div>"
            "<p id='problem' role='alert'></p><div id='images'></div>"
            "<button id='more' type='button' hidden>Show more</button>"
            "<noscript><p>This page needs JavaScript to show images.</p></noscript>"
            "<dialog id='large' aria-label='Enlarged picture'><form method='dialog'><button id='close'>Close</button>"
            "</form><img id='picture' alt=''><div id='details'></div></dialog></section>")


def _detection(detection):
    if not detection:
        return ""
    means = [(method, *(f"{value:.3f}" for value in values)) for method, values in detection_means(detection).items()]
    return ("<h2>Labels that were flipped</h2><p>Means over trials. AUC: chance that a wrong label ranks before a "
            "right one. 'loss' ranks by the loss of the image itself, without any influence.</p>"
            + table(("method", *DETECTION_HEADER[3:]), means))


def _cache(cache):
    return "<h2>Parameters to store</h2>" + table(CACHE_HEADER, [(*row[:2], f"{row[2]:,}") for row in cache])


def _accuracy(folder, measures, cfg):
    if not measures:
        return "<h2>Accuracy</h2><p>Nothing was retrained yet.</p>"
    lines = accuracy.curves(measures)
    rows = [(method, removed, f"{mean:.4f}", f"{deviation:.4f}") for method, points in lines.items()
            for removed, mean, deviation in zip(*points, strict=True)]
    made = read_settings(folder / "score") or {}    # flags of eval.py may differ from the configuration
    kind = "all epochs" if made.get("retrain_all") else "the last epoch"
    return (f"<h2>Accuracy without the worst images</h2><p>After training {kind} again. Bars: standard deviation over "
            f"trials.</p>{_plot(accuracy.draw_accuracy(measures, cfg.dataset))}"
            "<details><summary>Numbers</summary>"
            f"{table(('method', 'removed', 'test accuracy', 'std'), rows)}</details>")


def _paired(comparisons):
    """The replay beside new trainings, as differences of pairs."""
    if not comparisons:
        return ""
    rows = [(c.protocol, c.against, c.method, c.removed, c.difference.pairs, paired.format_difference(c))
            for c in comparisons]
    header = ("protocol", "against", "method", "removed", "pairs", "change of test accuracy, points")
    return ("<h2>By pairs of trainings</h2><p>The replay takes the scored steps again, and so rewards undoing "
            "the last ones. New trainings have first values and an order of their own, and tell what the images are "
            f"worth as data (--new-trainings). Bands: {CONFIDENCE:.0%} confidence of the mean difference of "
            "pairs; *: significant by a paired t test with Holm's correction.</p>"
            f"{_plot(paired.draw({'': comparisons}))}<details><summary>Numbers</summary>{table(header, rows)}"
            "</details>")


def _beside_retraining(comparison):
    """Scores beside the change of the loss that they predict, where this can be computed."""
    rows = [(*row[:2], *(f"{value:.3f}" for value in row[2:])) for row in comparison.table()]
    return (f"<h2>Are the scores right?</h2><p>Not of these images: {len(comparison.changes)} digits, softmax "
            "regression. Each is left out of the last epoch, and the true change of the validation loss is set beside "
            "its score. Points on the line are right.</p>"
            f"{_plot(comparison.draw())}<details><summary>Numbers</summary>{table(HEADER, rows)}</details>")


def _histograms(scores):
    parts = [f"<h3>{escape(method)}</h3>{_plot(_histogram(values))}" for method, values in scores.items()]
    return f"<h2>Scores</h2><p>Of all training images of one trial.</p>{''.join(parts)}"


def _plot(figure):
    return f"<img class='plot' alt='' src='{figure_uri(figure)}'>"


@figure_style()
def _histogram(scores):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.8))
    axes = figure.add_subplot()
    unit, label = power_of_ten(scores)
    axes.hist(np.divide(scores, unit), bins=60, log=True)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"score{label}")
    axes.set_ylabel("images")
    return figure
