"""Retrain a run without the worst images of each method that it has scores of, beside random and no removal.

    python data-cleansing/eval.py RUN_DIR [--remove-n-list 10 100 1000] [--retrain-all]
    python data-cleansing/eval.py DIGITS    # half a minute, after train.py DIGITS and score.py DIGITS

The last epoch is trained again, as published. `--new-trainings 8` also judges by whole trainings that begin anew, eight
of each trial; `--jobs 2` runs two at a time. Writes RUN_DIR/score/METHOD/score_delete_worst_N_seed_SEED.csv,
RUN_DIR/new_trainings, RUN_DIR/summary/{summary,paired_differences}.csv and RUN_DIR/fig/{result,paired_differences}.png.
"""
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.console import cli
from common.machine.context import use_context
from common.machine.errors import UsageError
from common.machine.output_folders import claimed
from common.runs.config import overrides_of
from data_cleansing.command_line import stage_parser
from data_cleansing.config import Retraining
from data_cleansing.new_trainings import run_new_trainings
from data_cleansing.results import accuracy, paired
from data_cleansing.results.run_folder import read_config, remove
from data_cleansing.results.score_files import methods_with_scores
from data_cleansing.trial import run_trials


def main(argv: Sequence[str] | None = None) -> None:
    args = stage_parser(__doc__, Retraining, overwrite="retrain anew what was retrained before").parse_args(argv)
    cfg = read_config(args.run, **overrides_of(args, Retraining))
    choose_context = partial(use_context, args.context, args.device_id)
    with claimed(args.run):
        if args.overwrite:
            remove(args.run, ("score", "new_trainings", "summary", "fig"))
        print(f"{args.run}: computing on {choose_context()}", flush=True)
        run_trials(cfg, args.run, choose_context, _retrain)
        run_new_trainings(cfg, args.run, choose_context)
        measures = accuracy.summarize(args.run)
        accuracy.write_figure(args.run, measures, cfg.dataset)
        comparisons = paired.summarize(args.run)
    print(accuracy.format_table(measures))
    print(paired.format_table(comparisons))
    print(f"evaluated: {Path(args.run) / 'summary' / 'summary.csv'}; next: python data-cleansing/report.py {args.run}")


def _retrain(trial):
    methods = methods_with_scores(trial.folder, trial.seed)
    if not methods:
        raise UsageError(f"{trial.folder}: no scores of seed {trial.seed}; run score.py first")
    trial.retrain(methods)


if __name__ == "__main__":
    cli.run(main)
