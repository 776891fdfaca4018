"""Score the training images of a run: how much does each one raise or lower the validation loss?

    python data-cleansing/score.py RUN_DIR [--methods final every_step ...] [--published]

Writes RUN_DIR/influence/METHOD/influence_METHOD_SEED.csv, the images that are best removed first. A negative influence
says that removing the image lowers the validation loss.
"""
from pathlib import Path

from common.console import cli
from common.machine.context import use_context
from common.machine.errors import UsageError
from data_cleansing.config import Scoring
from data_cleansing.experiment import add_published_flags, add_stage_flags, run_trials, stage_changes
from data_cleansing.results import files as results
from data_cleansing.results.run_folder import read_config, remove


def main(argv=None):
    parser = cli.parser(__doc__)
    add_stage_flags(parser, Scoring)
    add_published_flags(parser, "device_id")
    parser.add_argument("--overwrite", action="store_true", help="score anew what these methods have scored before")
    args = parser.parse_args(argv)
    cfg = read_config(args.run, **stage_changes(args))
    if args.overwrite:
        # What was retrained without the worst images is not that of the new scores.
        names = [results.FOLDERS[method] for method in cfg.scored_methods]
        remove(args.run, [f"{kind}/{name}" for kind in ("influence", "score") for name in names])
    print(f"{args.run}: computing on {use_context(args.context, args.device_id)}; {results.SIGN}", flush=True)
    run_trials(cfg, args.run, args, _score)
    print(f"scored: {Path(args.run) / 'influence'}; next: python data-cleansing/eval.py {args.run}")


def _score(trial):
    if not trial.trained:
        raise UsageError(f"{trial.folder}: seed {trial.seed} is not trained to the end; go on with train.py --resume")
    trial.score()


if __name__ == "__main__":
    cli.run(main)
