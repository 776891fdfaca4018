"""Watch a ResNet learn its own bit widths on real handwritten digits, within 90 kB of weights; a minute.

    python demo.py [--output runs/demo]

The same as train_resnet.py and plot.py with the flags that it prints.
"""
from collections.abc import Callable, Sequence

from common.console import cli
from common.datasets import DIGITS
from mixed_precision_dnns import plot, train_resnet

EXPERIMENT = ("PARAMETRIC_FP_WQ_DELTA_XMAX", "--dataset", DIGITS, "--target-weight-kbytes", "90",
              "--epochs", "10", "--steps-per-epoch", "30", "--batch-size", "16", "--w-stepsize", "0.03125",
              "--initial-cost-lambda2", "0.02")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--output", "-o", default="runs/demo", metavar="DIR", help="where results go "
                        "(default: %(default)s); an earlier demo there is replaced")
    output = parser.parse_args(argv).output
    run("train_resnet.py", train_resnet.main, *EXPERIMENT, "--output", output, "--overwrite")
    run("plot.py", plot.main, "bits", output)
    run("plot.py", plot.main, "scalars", output)
    print(f"The float network has 1048 kB. Everything is in {output}: layers.csv (the table above), bits.png and "
          "curves.png, params_best.h5.")


def run(name: str, script: Callable[[Sequence[str]], None], *flags: str) -> None:
    """Show a command, and do what it does."""
    print(f"$ python mixed-precision-dnns/{name} {' '.join(flags)}", flush=True)
    script(list(flags))


if __name__ == "__main__":
    cli.run(main)
