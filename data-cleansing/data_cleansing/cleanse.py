"""Find the training images that harm a classifier: train, score, retrain without the worst, report.

    python data-cleansing/cleanse.py --dataset digits --flip-labels 0.1      # minutes; wrong labels planted
    python data-cleansing/cleanse.py --data-dir FOLDER [--output DIR]        # a folder for each class, or a CSV list
    python data-cleansing/cleanse.py [CONFIG] [--resume]

CONFIG is a section of the .cfg file. Ends with DIR/report.html and DIR/cleaned/cleaned_SEED.csv, which says of every
training image whether to keep it or to look at it.
"""
import time

from common.console import cli
from common.machine.context import use_context
from data_cleansing.experiment import add_experiment_flags, load_experiment, run_trials
from data_cleansing.results import files as results
from data_cleansing.results.html_report import write_report
from data_cleansing.results.run_folder import open_run
from data_cleansing.trial import Trial


def main(argv=None):
    parser = cli.parser(__doc__)
    add_experiment_flags(parser)
    args = parser.parse_args(argv)
    name, cfg = load_experiment(args)
    folder = open_run(args.output or name, cfg, args.resume, args.overwrite)
    print(f"{name}: computing on {use_context(args.context, args.device_id)}; {results.SIGN}", flush=True)
    started = time.perf_counter()
    run_trials(cfg, folder, args, Trial.train, Trial.score, Trial.retrain)
    write_report(folder, cfg)
    print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    cli.run(main)
