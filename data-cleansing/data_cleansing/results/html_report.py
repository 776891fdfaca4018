"""The report of a run: one HTML file that needs nothing else, and lists beside it."""
import base64
import html
import io
from pathlib import Path

import numpy as np

from common.console.tables import align
from common.machine.files import write_csv, write_text
from data_cleansing.config import Config
from data_cleansing.influence.methods import EVERY_STEP, FINAL, RANDOM
from data_cleansing.leave_one_out_comparison import HEADER, compare_with_retraining
from data_cleansing.results import accuracy
from data_cleansing.results.cleaned_lists import (
    ESTIMATES_HEADER,
    estimates_row,
    format_estimates,
    write_cleaned,
    write_merged,
)
from data_cleansing.results.flipped_labels import DETECTION_HEADER, detection_means, detection_rows, format_detection
from data_cleansing.results.score_files import SIGN, influence_path, methods_with_scores, read_influence
from data_cleansing.training.record import TrainingRecord
from data_cleansing.trial import Trial

NUM_IMAGES = 24    # worst images of each method, and as many best ones
LARGEST = 64    # pixels: side of an image in the report
CACHE_HEADER = ("cache", "what is kept", "bytes")
STYLE = """body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }
td.text, th.text { text-align: left } .images { display: flex; flex-wrap: wrap; gap: .6em }
figure { margin: 0 0 .4em; width: 9em; font-size: 12px; line-height: 1.3; white-space: nowrap; overflow: hidden }
figure img { width: 64px; height: 64px; image-rendering: pixelated; display: block; margin: 3px }
.flipped { outline: 3px solid #D55E00 } img.plot { max-width: 100% }"""


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
    method = cfg.methods[0]
    detection, estimates, cache, images, trials = [], [], [], "", []
    for seed in cfg.seeds:
        trials.append(trial := Trial(cfg, folder, seed))
        detection += detection_rows(folder, trial)
        estimates.append(estimates_row(seed, write_cleaned(folder, trial, method)))
        if not cache:    # one trial stands for all
            cache = [*cache_sizes(trial.layout.size, trial.record), _stored(trial)]
            images = _rankings(folder, trial, num_images)
    if not cfg.flip_labels:    # each trial makes other labels wrong
        estimates.append(estimates_row("all", write_merged(folder, trials, method)))
    write_csv(folder / "cleaned" / "estimates.csv", ESTIMATES_HEADER, estimates)
    write_csv(folder / "cache.csv", CACHE_HEADER, cache)
    if detection:
        write_csv(folder / "detection.csv", DETECTION_HEADER, detection)
    comparison = compare_with_retraining()
    write_csv(folder / "leave_one_out.csv", *comparison.rows())
    text = _page(folder, cfg, measures, detection, cache, images + _beside_retraining(comparison), estimates)
    write_text(folder / "report.html", text)
    print(accuracy.format_table(measures))
    if detection:
        print(format_detection(detection))
    print(align((f"parameters, {name}:", f"{size:,}", f"bytes, {what}") for name, what, size in cache))
    print(format_estimates(estimates))
    print(f"cleaned: {folder / 'cleaned'}\nreport: {folder / 'report.html'}")


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


def _page(folder, cfg, measures, detection, cache, images, estimates):
    settings = ", ".join(f"{key} {value}" for key, value in (
        ("data", cfg.data_dir or cfg.dataset), ("epochs", cfg.n_epochs), ("batch", cfg.batch_size), ("lr", cfg.lr),
        ("trials", cfg.n_trials)))
    parts = [f"<h1>Data cleansing of {_text(folder.resolve().name)}</h1><p>{_text(settings)}"
             f"{', scored as published' if cfg.published else ''}. A score predicts how the "
             f"validation loss changes when an image is left out: {_text(SIGN)}.</p>", _accuracy(measures, cfg),
             "<h2>Labels that seem wrong</h2><p>Numbers of images, by networks that were trained without them; the "
             f"lists in <code>cleaned/</code> name them.</p>{_table(ESTIMATES_HEADER, estimates)}"]
    if detection:
        parts.append("<h2>Labels that were flipped</h2><p>Means over trials. AUC: chance that a wrong label ranks "
                     "before a right one. 'loss' ranks by the loss of the image itself, without any influence.</p>"
                     + _table(("method", *DETECTION_HEADER[3:]),
                              [(method, *(f"{value:.3f}" for value in values))
                               for method, values in detection_means(detection).items()]))
    parts.append("<h2>Parameters to store</h2>" + _table(CACHE_HEADER, [(*row[:2], f"{row[2]:,}") for row in cache]))
    return (f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>Data cleansing</title><style>{STYLE}"
            f"</style></head><body>{''.join(parts)}{images}</body></html>\n")


def _accuracy(measures, cfg):
    if not measures:
        return "<h2>Accuracy</h2><p>Nothing was retrained yet.</p>"
    lines = accuracy.curves(measures)
    rows = [(method, removed, f"{mean:.4f}", f"{deviation:.4f}") for method, points in lines.items()
            for removed, mean, deviation in zip(*points, strict=True)]
    kind = "all epochs" if cfg.retrain_all else "the last epoch"
    return (f"<h2>Accuracy without the worst images</h2><p>After training {kind} again. Bars: standard deviation over "
            f"trials.</p>{_plot(accuracy.draw_accuracy(measures, cfg.dataset))}"
            "<details><summary>Numbers</summary>"
            f"{_table(('method', 'removed', 'test accuracy', 'std'), rows)}</details>")


def _beside_retraining(comparison):
    """Scores beside the change of the loss that they predict, where this can be computed."""
    rows = [(*row[:2], *(f"{value:.3f}" for value in row[2:])) for row in comparison.table()]
    return (f"<h2>Are the scores right?</h2><p>Not of these images: {len(comparison.changes)} digits, softmax "
            "regression. Each is left out of the last epoch, and the true change of the validation loss is set beside "
            "its score. Points on the line are right.</p>"
            f"{_plot(comparison.draw())}<details><summary>Numbers</summary>{_table(HEADER, rows)}</details>")


def _rankings(folder, trial, num_images):
    """The worst and the best images of each method but chance, and the histogram of its scores."""
    classes, losses = trial.predictions()
    parts = []
    for method in methods_with_scores(folder, trial.seed):
        if method == RANDOM:
            continue
        scores = read_influence(influence_path(folder, method, trial.seed), len(classes))
        order = np.argsort(scores, kind="stable")
        parts.append(f"<h2>{_text(method)}, seed {trial.seed}</h2>{_plot(_histogram(scores))}")
        parts += [f"<h3>{title}</h3><div class='images'>"
                  + "".join(_image(trial, int(row), scores[row], classes[row], losses[row]) for row in rows)
                  + "</div>" for title, rows in (("Worst: lowest scores", order[:num_images]),
                                                 ("Best: highest scores", order[::-1][:num_images]))]
    return "".join(parts)


def _image(trial, row, score, predicted, loss):
    images = trial.train_images
    names = images.class_names
    title = _text(images.paths[row])
    flipped = " class='flipped'" if trial.flipped[row] else ""
    return (f"<figure><img{flipped} alt='{title}' title='{title}' src='{_png(_picture(images.pixels[row]))}'>"
            f"row {row}<br>label {_text(names[images.labels[row]])}{' (flipped)' if flipped else ''}<br>"
            f"predicted {_text(names[predicted])}<br>score {score:.2e}<br>loss {loss:.2f}</figure>")


def _picture(pixels):
    """Make a Pillow image of pixels, (1 or 3, height, width), no larger than the report shows it."""
    from PIL import Image

    values = pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
    picture = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    picture.thumbnail((LARGEST, LARGEST))
    return picture


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plot(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return f"<img class='plot' alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _histogram(scores):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.8))
    axes = figure.add_subplot()
    axes.hist(scores, bins=60, log=True)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("score")
    axes.set_ylabel("images")
    return figure


def _table(header, rows):
    head = "".join(_cell("th", name.replace("_", " "), row) for name, row in zip(header, rows[0], strict=True))
    body = "".join("<tr>" + "".join(_cell("td", cell, cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(tag, value, like):
    """A cell that is aligned as suits a value `like` that: words to the left."""
    return f"<{tag}{' class=text' if str(like)[:1].isalpha() else ''}>{_text(value)}</{tag}>"


def _text(value):
    return html.escape(str(value), quote=True)
