"""Find the training images that harm a classifier: train, score, retrain without the worst, report.

    python data-cleansing/cleanse.py --dataset digits --flip-labels 0.1      # two minutes; wrong labels planted
    python data-cleansing/cleanse.py --data-dir FOLDER [--output DIR]        # a folder for each class, or a CSV list
    python data-cleansing/cleanse.py [CONFIG] [--resume]

CONFIG is a section of the .cfg file. Ends with DIR/report.html and DIR/cleaned/cleaned_SEED.csv, which says of every
training image whether to keep it or to look at it, why, and which label to give it.
"""
import time
from collections.abc import Sequence

from common.console import cli
from common.machine.output_folders import claimed
from data_cleansing.command_line import read_experiment
from data_cleansing.new_trainings import run_new_trainings
from data_cleansing.results.html_report import write_report
from data_cleansing.results.run_folder import open_run
from data_cleansing.results.score_files import SIGN
from data_cleansing.trial import Trial, run_trials


def main(argv: Sequence[str] | None = None) -> None:
    experiment = read_experiment(__doc__, argv)
    cfg = experiment.cfg
    with claimed(experiment.output) as folder:
        open_run(folder, cfg, experiment.resume, experiment.overwrite)
        print(f"{experiment.name}: computing on {experiment.choose_context()}; {SIGN}", flush=True)
        started = time.perf_counter()
        run_trials(cfg, folder, experiment.choose_context, Trial.train, Trial.score, Trial.cross_validate,
                   Trial.retrain)
        run_new_trainings(cfg, folder, experiment.choose_context)
        write_report(folder, cfg)
    print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    cli.run(main)
