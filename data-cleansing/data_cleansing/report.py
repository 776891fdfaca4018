"""Write the report of a run: worst and best images, accuracy over removal, histograms, sizes, in one HTML file.

    python data-cleansing/report.py RUN_DIR [--num-images 24]
    python data-cleansing/report.py DIGITS    # a minute, after eval.py DIGITS

Writes RUN_DIR/report.html, which needs no network and no other file, and the lists that it is made of. Where cleanse.py
has not judged the labels by cross-validation, it does that first.
"""
from collections.abc import Sequence
from functools import partial

from common.console import cli
from common.console.values import positive_int
from common.machine.context import use_context
from common.machine.output_folders import claimed
from data_cleansing.command_line import add_published_flags
from data_cleansing.results.html_report import write_report
from data_cleansing.results.report_images import LOOK_AT, NUM_IMAGES
from data_cleansing.results.run_folder import read_config
from data_cleansing.results.score_files import listed_method
from data_cleansing.trial import Trial, run_trials


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of cleanse.py, or of train.py after score.py")
    parser.add_argument("--num-images", type=positive_int, default=NUM_IMAGES, metavar="N",
                        help="worst and best images of each method to show, and up to "
                             f"{LOOK_AT} times as many of those to look at (default: %(default)s)")
    cli.add_context_flags(parser)
    add_published_flags(parser, "device_id")
    args = parser.parse_args(argv)
    cfg = read_config(args.run)
    choose_context = partial(use_context, args.context, args.device_id)
    choose_context()
    with claimed(args.run):
        listed_method(args.run, cfg.seeds, cfg.methods)    # before what takes long
        run_trials(cfg, args.run, choose_context, Trial.cross_validate)
        write_report(args.run, cfg, args.num_images)


if __name__ == "__main__":
    cli.run(main)
