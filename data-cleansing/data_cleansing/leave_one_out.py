"""Check the scores against the truth: leave every image out in turn, train again, measure the validation loss.

    python data-cleansing/leave_one_out.py [--num-images 150] [--output DIR]

Softmax regression on digits, whose loss is smooth; takes seconds. Prints how the scores go with the true changes, and
writes DIR/leave_one_out.csv and DIR/leave_one_out.png.
"""
from collections.abc import Sequence

from common.console import cli
from common.console.values import positive_int
from common.machine.context import use_context
from common.machine.files import write_csv
from common.machine.output_folders import claimed
from common.pictures.figures import save_figure
from data_cleansing.leave_one_out_comparison import IMAGES, compare_with_retraining, format_table


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--num-images", type=positive_int, default=IMAGES, metavar="N",
                        help="images to train with, each left out in turn (default: %(default)s)")
    parser.add_argument("--output", "-o", default="LEAVE_ONE_OUT", metavar="DIR",
                        help="where results go (default: %(default)s)")
    cli.add_context_flags(parser)
    args = parser.parse_args(argv)
    use_context(args.context, args.device_id)
    with claimed(args.output) as folder:
        comparison = compare_with_retraining(args.num_images)
        write_csv(folder / "leave_one_out.csv", *comparison.rows())
        save_figure(folder / "leave_one_out.png", comparison.draw())
    print(f"scores of {len(comparison.changes)} digits beside the true change of the validation loss when each is left "
          "out of the last epoch, softmax regression")
    print(format_table(comparison))
    print(f"written: {folder}")


if __name__ == "__main__":
    cli.run(main)
