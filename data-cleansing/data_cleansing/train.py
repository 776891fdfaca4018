"""Train as arXiv 2103.11807 does, and record what scoring needs: the order of the images and the final parameters.

    python data-cleansing/train.py [CONFIG] [--output DIR] [--resume]
    python data-cleansing/train.py --data-dir FOLDER

CONFIG is a section of the .cfg file. Afterwards: score.py DIR, eval.py DIR, report.py DIR; cleanse.py does all of it.
"""
from collections.abc import Sequence

from common.console import cli
from common.machine.output_folders import claimed
from data_cleansing.command_line import read_experiment
from data_cleansing.results.run_folder import open_run
from data_cleansing.trial import Trial, run_trials


def main(argv: Sequence[str] | None = None) -> None:
    experiment = read_experiment(__doc__, argv)
    cfg = experiment.cfg
    with claimed(experiment.output) as folder:
        open_run(folder, cfg, experiment.resume, experiment.overwrite)
        print(f"{experiment.name}: computing on {experiment.choose_context()}", flush=True)
        run_trials(cfg, folder, experiment.choose_context, Trial.train)
    print(f"trained: {folder}; next: python data-cleansing/score.py {folder}")


if __name__ == "__main__":
    cli.run(main)
