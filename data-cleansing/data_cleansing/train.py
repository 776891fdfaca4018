"""Train as arXiv 2103.11807 does, and record what scoring needs: the order of the images and the final parameters.

    python data-cleansing/train.py [CONFIG] [--output DIR] [--resume]
    python data-cleansing/train.py --data-dir FOLDER

CONFIG is a section of the .cfg file. Afterwards: score.py DIR, eval.py DIR, report.py DIR; cleanse.py does all of it.
"""
from common.console import cli
from common.machine.context import use_context
from data_cleansing.experiment import add_experiment_flags, load_experiment, run_trials
from data_cleansing.results.run_folder import open_run
from data_cleansing.trial import Trial


def main(argv=None):
    parser = cli.parser(__doc__)
    add_experiment_flags(parser)
    args = parser.parse_args(argv)
    name, cfg = load_experiment(args)
    folder = open_run(args.output or name, cfg, args.resume, args.overwrite)
    print(f"{name}: computing on {use_context(args.context, args.device_id)}", flush=True)
    run_trials(cfg, folder, args, Trial.train)
    print(f"trained: {folder}; next: python data-cleansing/score.py {folder}")


if __name__ == "__main__":
    cli.run(main)
