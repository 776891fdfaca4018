"""Measure what cleansing is worth: plant shares of wrong labels, score, and judge the removals by pairs of trainings.

    python data-cleansing/planted_noise.py MNIST_SMALL --data-dir FOLDER [--noise 0 0.05 0.1 0.2] [--jobs 2] [--resume]
    python data-cleansing/planted_noise.py MNIST_SMALL --data-dir FOLDER --noise 0.1 --remove-n-list 100 --jobs 2

On two cores the second command takes four minutes, the first most of an hour. CONFIG sets the size: MNIST_SMALL,
MNIST_TENTH (6000 images) or MNIST. For each share DIR/noise_PERCENT is a run as of cleanse.py, without its report.
Writes DIR/planted_noise.csv and DIR/planted_noise.png, in which the published replay stands beside new trainings.
"""
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from common.console import cli
from common.machine.errors import UsageError
from common.machine.files import write_csv
from common.machine.output_folders import claimed
from common.pictures.figures import save_figure
from common.runs.config import with_former_paths
from data_cleansing.command_line import Experiment, experiment_of, experiment_parser
from data_cleansing.config import Config
from data_cleansing.new_trainings import run_new_trainings
from data_cleansing.results import accuracy, paired
from data_cleansing.results.run_folder import CONFIG, open_run
from data_cleansing.trial import Trial, run_trials

NOISE = ("0", "0.05", "0.1", "0.2")


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser(__doc__)
    parser.add_argument("--noise", nargs="+", default=NOISE, metavar="SHARE",
                        help=f"shares of wrong labels to plant, in this order (default: {' '.join(NOISE)})")
    args = parser.parse_args(argv)
    experiment, shares = experiment_of(args), shares_of(args.noise)
    runs = {}
    with claimed(experiment.output) as folder:
        print(f"{experiment.name}: computing on {experiment.choose_context()}", flush=True)
        started = time.perf_counter()
        places = [folder / f"noise_{100 * share:g}" for share in shares]
        cfgs = [attrs.evolve(experiment.cfg, flip_labels=share) for share in shares]
        if experiment.resume:
            cfgs = [with_former_paths(cfg, place / CONFIG) for cfg, place in zip(cfgs, places, strict=True)]
        for cfg, place in zip(cfgs, places, strict=True):    # at first: the last may be refused, the first takes long
            open_run(place, cfg, experiment.resume, experiment.overwrite)
        for share, cfg, place in zip(shares, cfgs, places, strict=True):
            title = f"{100 * share:g} % wrong labels"
            print(f"{title}, {time.perf_counter() - started:.0f} s", flush=True)
            runs[title] = _run(experiment, cfg, place)
            write_csv(folder / "planted_noise.csv", ("wrong_labels", *paired.HEADER),
                      [(title, *comparison.row()) for title, found in runs.items() for comparison in found])
            save_figure(folder / "planted_noise.png", paired.draw(runs))
    for title, comparisons in runs.items():
        print(f"{title}:\n{paired.format_table(comparisons)}")
    print(f"written: {folder / 'planted_noise.png'}; done in {time.perf_counter() - started:.0f} s")


def shares_of(noise: Iterable[str]) -> list[float]:
    """Read shares of wrong labels, 0 to 0.9, each once.

    Raises
    ------
    UsageError
        One is none.
    """
    shares = []
    for text in noise:
        try:
            shares.append(attrs.evolve(Config(), flip_labels=text).flip_labels)
        except ValueError as error:
            raise UsageError(f"--noise {text}: {error}") from error
    return list(dict.fromkeys(shares))


def _run(experiment: Experiment, cfg: Config, run: Path) -> list[paired.Comparison]:
    """Train, score and judge with one share of wrong labels, in the folder `run`."""
    run_trials(cfg, run, experiment.choose_context, Trial.train, Trial.score, Trial.retrain)
    run_new_trainings(cfg, run, experiment.choose_context)
    accuracy.write_figure(run, accuracy.summarize(run), cfg.dataset)
    return paired.summarize(run)


if __name__ == "__main__":
    cli.run(main)
