"""Retrain a run without the worst images of each method that it has scores of, beside random and no removal.

    python data-cleansing/eval.py RUN_DIR [--remove-n-list 10 100 1000] [--retrain-all]

Writes RUN_DIR/score/METHOD/score_delete_worst_N_seed_SEED.csv, RUN_DIR/summary/summary.csv and RUN_DIR/fig/result.png.
"""
from pathlib import Path

from common.console import cli
from common.machine.context import use_context
from common.machine.errors import UsageError
from data_cleansing.config import Retraining
from data_cleansing.experiment import add_published_flags, add_stage_flags, run_trials, scored, stage_changes
from data_cleansing.results import files as results
from data_cleansing.results.run_folder import read_config, remove


def main(argv=None):
    parser = cli.parser(__doc__)
    add_stage_flags(parser, Retraining)
    add_published_flags(parser, "remove_n_list", "retrain_all", "device_id")
    parser.add_argument("--overwrite", action="store_true", help="retrain anew what was retrained before")
    args = parser.parse_args(argv)
    cfg = read_config(args.run, **stage_changes(args))
    if args.overwrite:
        remove(args.run, ("score", "summary", "fig"))
    print(f"{args.run}: computing on {use_context(args.context, args.device_id)}", flush=True)
    run_trials(cfg, args.run, args, _retrain)
    found = results.summarize(args.run)
    results.write_figure(args.run, found, cfg.dataset)
    print(results.format_table(found))
    print(f"evaluated: {Path(args.run) / 'summary' / 'summary.csv'}; next: python data-cleansing/report.py {args.run}")


def _retrain(trial):
    methods = scored(trial.folder, trial.seed)
    if not methods:
        raise UsageError(f"{trial.folder}: no scores of seed {trial.seed}; run score.py first")
    trial.retrain(methods)


if __name__ == "__main__":
    cli.run(main)
