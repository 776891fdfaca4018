"""The report of a run: one HTML file that needs nothing else, and lists beside it."""
import base64
import html
import io
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.files import write_csv, write_text
from data_cleansing import experiment, results
from data_cleansing.trial import Trial

SHOWN = 24    # worst images of each method, and best ones
LARGEST = 64    # pixels: side of an image in the report
CACHE_HEADER = ("cache", "what is kept", "bytes")
STYLE = """body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } .images { display: flex; flex-wrap: wrap; gap: .6em }
figure { margin: 0; width: 7em; font-size: 12px; line-height: 1.3 } figure img { width: 64px; height: 64px;
image-rendering: pixelated; display: block } .flipped { outline: 3px solid #D55E00 } img.plot { max-width: 100% }"""


def write(folder, cfg, shown=SHOWN):
    """Write `report.html`, `summary/`, `fig/`, `detection.csv`, `cache.csv` and `cleaned/`, and print their tables.

    Parameters
    ----------
    folder : path
        Of a run that was trained and scored.
    cfg : data_cleansing.config.Config
    shown : int
        Images of each kind in the report.
    """
    folder = Path(folder)
    found = results.summarize(folder)
    results.write_figure(folder, found, cfg.dataset)
    method = cfg.methods[0]
    removed = experiment.number_to_remove(found, method)
    detection, images, cache = [], "", None
    for seed in cfg.seeds:
        trial = Trial(cfg, folder, seed)
        detection += experiment.detection_rows(folder, trial)
        experiment.write_cleaned(folder, trial, method, removed)
        if cache is None:    # one trial stands for all
            cache, images = cache_sizes(trial), _rankings(folder, trial, shown)
    write_csv(folder / "cache.csv", CACHE_HEADER, cache)
    if detection:
        write_csv(folder / "detection.csv", experiment.DETECTION_HEADER, detection)
    write_text(folder / "report.html", _page(folder, cfg, found, detection, cache, images, removed))
    print(results.format_table(found))
    if detection:
        print(format_detection(detection))
    print(f"cleaned: {removed} images to look at by '{method}' (best mean validation accuracy), "
          f"{folder / 'cleaned'}\nreport: {folder / 'report.html'}")


def cache_sizes(trial):
    """Bytes of stored parameters as the paper counts them (float32), and what this trial has on the disk."""
    one = 4 * trial.layout.size
    steps = trial.record.num_steps - trial.boundaries[-2]
    stored = sum(path.stat().st_size for path in (trial.training / "parameters").glob("step_*.npy"))
    return [("all parameters", f"before each of {trial.record.num_steps} steps", one * trial.record.num_steps),
            ("Hara et al.", f"before each of the {steps} steps of the last epoch", one * steps),
            ("ours (final)", "the final ones", one),
            ("this run", f"{len(trial.cache.steps())} files, those for retraining included", stored)]


def detection_means(rows):
    """Return {method: mean of each measure over the trials}."""
    by_method = defaultdict(list)
    for row in rows:
        by_method[row[0]].append(row[3:])
    return {method: np.mean(values, axis=0) for method, values in by_method.items()}


def format_detection(rows):
    """Return a table of how well the flipped labels were found, means over trials."""
    header = experiment.DETECTION_HEADER[3:]
    lines = [f"{'flipped labels found:':24}" + "".join(f"{name.replace('_', ' '):>20}" for name in header)]
    lines += [f"{method:24}" + "".join(f"{value:>20.3f}" for value in values)
              for method, values in detection_means(rows).items()]
    return "\n".join(lines)


def _page(folder, cfg, found, detection, cache, images, removed):
    settings = ", ".join(f"{key} {value}" for key, value in (
        ("data", cfg.data_dir or cfg.dataset), ("epochs", cfg.n_epochs), ("batch", cfg.batch_size), ("lr", cfg.lr),
        ("trials", cfg.n_trials), ("computed as published", cfg.published)))
    parts = [f"<h1>Data cleansing of {_text(folder.resolve().name)}</h1><p>{_text(settings)}. A score predicts how the "
             f"validation loss changes when an image is left out: {_text(results.SIGN)}.</p>", _accuracy(found, cfg),
             f"<p>The lists in <code>cleaned/</code> mark {removed} images to look at: the number of worst images of "
             f"'{_text(cfg.methods[0])}' without which the mean validation accuracy was best.</p>"]
    if detection:
        parts.append("<h2>Labels that were flipped</h2><p>Means over trials. AUC: chance that a wrong label ranks "
                     "before a right one. 'loss' ranks by the loss of the image itself, without any influence.</p>"
                     + _table(("method", *experiment.DETECTION_HEADER[3:]),
                              [(method, *(f"{value:.3f}" for value in values))
                               for method, values in detection_means(detection).items()]))
    parts.append("<h2>Parameters to store</h2>" + _table(CACHE_HEADER, [(*row[:2], f"{row[2]:,}") for row in cache]))
    return (f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>Data cleansing</title><style>{STYLE}"
            f"</style></head><body>{''.join(parts)}{images}</body></html>\n")


def _accuracy(found, cfg):
    if not found:
        return "<h2>Accuracy</h2><p>Nothing was retrained yet.</p>"
    lines = results.curves(found)
    rows = [(method, removed, f"{mean:.4f}", f"{deviation:.4f}") for method, points in lines.items()
            for removed, mean, deviation in zip(*points, strict=True)]
    kind = "all epochs" if cfg.retrain_all else "the last epoch"
    return (f"<h2>Accuracy without the worst images</h2><p>After training {kind} again. Bars: standard deviation over "
            f"trials.</p>{_plot(results.draw_accuracy(found, cfg.dataset))}"
            "<details><summary>Numbers</summary>"
            f"{_table(('method', 'removed', 'test accuracy', 'std'), rows)}</details>")


def _rankings(folder, trial, shown):
    """The worst and the best images of each method, and the histogram of its scores."""
    classes, losses = trial.predictions()
    parts = []
    for method in experiment.scored(folder, trial.seed):
        scores = results.read_influence(results.influence_path(folder, method, trial.seed), len(classes))
        order = np.argsort(scores, kind="stable")
        parts.append(f"<h2>{_text(method)}, seed {trial.seed}</h2>{_plot(_histogram(scores))}")
        if method != "random":
            parts += [f"<h3>{title}</h3><div class='images'>"
                      + "".join(_image(trial, int(row), scores[row], classes[row], losses[row]) for row in rows)
                      + "</div>" for title, rows in (("Worst: lowest scores", order[:shown]),
                                                     ("Best: highest scores", order[::-1][:shown]))]
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
    figure = Figure(figsize=(6, 1.8))
    axes = figure.add_subplot()
    axes.hist(scores, bins=60, log=True)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("score")
    axes.set_ylabel("images")
    return figure


def _table(header, rows):
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value):
    return html.escape(str(value), quote=True)
