"""Score the training images of a run: how much does each one raise or lower the validation loss?

    python data-cleansing/score.py RUN_DIR [--methods final every_step ...] [--published]
    python data-cleansing/score.py DIGITS    # half a minute, after train.py DIGITS

Writes RUN_DIR/influence/METHOD/influence_METHOD_SEED.csv, the images that are best removed first. A negative influence
says that removing the image lowers the validation loss.
Where train.py has planted wrong labels (--flip-labels), a table says how well each method finds them.
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
from data_cleansing.config import Scoring
from data_cleansing.influence.methods import METHODS
from data_cleansing.results.flipped_labels import detection_rows, format_detection
from data_cleansing.results.run_folder import read_config, remove
from data_cleansing.results.score_files import SIGN
from data_cleansing.trial import Trial, run_trials


def main(argv: Sequence[str] | None = None) -> None:
    args = stage_parser(__doc__, Scoring, overwrite="score anew what these methods have scored before").parse_args(argv)
    cfg = read_config(args.run, **overrides_of(args, Scoring))
    choose_context = partial(use_context, args.context, args.device_id)
    with claimed(args.run):
        if args.overwrite:
            # What was retrained without the worst images is not that of the new scores.
            names = [METHODS[method].folder for method in cfg.scored_methods]
            remove(args.run, [f"{kind}/{name}" for kind in ("influence", "score", "new_trainings")
                              for name in names])
        print(f"{args.run}: computing on {choose_context()}; {SIGN}", flush=True)
        run_trials(cfg, args.run, choose_context, _score)
        found = [row for seed in cfg.seeds for row in detection_rows(args.run, Trial(cfg, Path(args.run), seed))
                 ] if cfg.flip_labels else []
    if found:
        print(format_detection(found))
    print(f"scored: {Path(args.run) / 'influence'}; next: python data-cleansing/eval.py {args.run}")


def _score(trial):
    if not trial.is_trained:
        raise UsageError(f"{trial.folder}: seed {trial.seed} is not trained to the end; go on with train.py --resume")
    trial.score()


if __name__ == "__main__":
    cli.run(main)
