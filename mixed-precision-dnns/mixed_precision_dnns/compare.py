"""Compare the parametrizations of a quantizer, and three ways to spend 70 kB, in equal steps from one float network.

    python train_resnet.py DEFAULT --dataset digits --batch-size 16 --epochs 10 --steps-per-epoch 30
    python compare.py --dataset digits --batch-size 16 --epochs 4 --steps-per-epoch 30    # three minutes on a CPU

The weights are quantized, as in tables 1 and 3 of the paper (arXiv 1905.11452); the experiments are those of the .cfg
files, and any key can be overridden for all of them. --seeds 3 gives deviations.
DEFAULT/params_best.h5, here or in the output folder, is the network that all start from; --weightfile names another.
The first row trains it further in float.
"""
import argparse
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from common.console import cli
from common.console.tables import align, with_deviation
from common.console.values import positive_int
from common.machine.context import fast_gradients, use_context
from common.machine.errors import TrainingError
from common.machine.files import beside_scripts, write_json
from common.machine.output_folders import claimed
from common.machine.processes import attempts
from common.out_of_core import InCore
from common.runs.config import add_config_flags, load_section, overrides_of
from mixed_precision_dnns.command_line import add_fast_gradients_flag
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.finished_run import read_result
from mixed_precision_dnns.starting_weights import find_weights
from mixed_precision_dnns.train_resnet import train

RESULT = "result.json"
UNIFORM, POW2 = "train_resnet_quant_fp.cfg", "train_resnet_quant_pow2.cfg"


@attrs.frozen
class Row:
    """What is compared: a title, and an experiment of a .cfg file."""

    title: str
    section: str
    cfg_file: str = UNIFORM


ROWS = {
    "float": Row("float", "DEFAULT_INIT"),
    "U1": Row("U1: bit width and step size", "PARAMETRIC_FP_WQ_DELTA_B_INIT"),
    "U2": Row("U2: bit width and range", "PARAMETRIC_FP_WQ_B_XMAX_INIT"),
    "U3": Row("U3: step size and range", "PARAMETRIC_FP_WQ_DELTA_XMAX_INIT"),
    "P1": Row("P1: bit width and largest power", "PARAMETRIC_POW2_WQ_B_XMAX_INIT", POW2),
    "P2": Row("P2: bit width and smallest power", "PARAMETRIC_POW2_WQ_B_XMIN_INIT", POW2),
    "P3": Row("P3: smallest and largest power", "PARAMETRIC_POW2_WQ_XMIN_XMAX_INIT", POW2),
    "fixed": Row("2 bits, fixed", "FP_W2Q_INIT"),
    "range": Row("2 bits, range learned", "PARAMETRIC_FP_W2Q_B_XMAX_CON_INIT"),
    "learned": Row("70 kB, bits learned (U3)", "PARAMETRIC_FP_WQ_DELTA_XMAX_CON_INIT"),
}

# Row -> for each seed what `evaluation.evaluate_run` measured, or why there is nothing to measure.
Results = Mapping[str, Mapping[int, Mapping[str, float] | str]]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    use_context(args.context, args.device_id)
    overrides = overrides_of(args, Config)
    experiments = {key: load_section(Config, beside_scripts("mixed_precision_dnns", ROWS[key].cfg_file),
                                     ROWS[key].section, overrides) for key in args.rows}
    for cfg in experiments.values():
        find_weights(cfg, Path(args.output) / "run", "--weightfile names another")    # before hours of training
    with claimed(args.output) as folder:
        results = compare(experiments, args, folder)
    print(format_table(results))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, needs_arguments=True)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS),
                        help="what to compare (default: all)")
    parser.add_argument("--seeds", type=positive_int, default=1, metavar="N",
                        help="trainings of each row, with the seeds from --seed on (default: %(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N",
                        help="trainings at the same time (default: %(default)s)")
    add_fast_gradients_flag(parser)
    parser.set_defaults(output="compare")
    cli.add_run_flags(parser)
    cli.add_context_flags(parser)
    add_config_flags(parser, Config)
    return parser.parse_args(argv)


def compare(experiments: Mapping[str, Config], args: argparse.Namespace, folder: Path) -> Results:
    """Train each experiment with each seed in a folder of its own; `folder` also gets `result.json` of all."""
    trainings = {}
    for number in range(args.seeds):    # seed by seed: whenever it is stopped, rows have as many
        for key, experiment in experiments.items():
            cfg = attrs.evolve(experiment, seed=experiment.seed + number)
            trainings[f"{ROWS[key].title}, seed {cfg.seed}"] = key, cfg, folder / f"{key}-{cfg.seed}"
    work = {name: (name, cfg, path, args) for name, (_, cfg, path) in trainings.items()}
    results, found = {}, {}    # the latter by name, in the order in which trainings end
    if args.overwrite:
        (folder / RESULT).unlink(missing_ok=True)    # of trainings that begin anew
    with contextlib.closing(attempts(_train, work, args.jobs)) as ended:
        for name, error in ended:
            if error is not None and not isinstance(error, TrainingError):
                raise error
            if error is not None:
                print(f"{name}: {error}", flush=True)
            found[name] = str(error) if error else read_result(trainings[name][2], RESULT)
            results = in_order([(each, key, cfg.seed) for each, (key, cfg, _) in trainings.items()], found)
            write_json(folder / RESULT, results)
    return results


def in_order(trainings: Iterable[tuple[str, str, int]], found: Mapping[str, Mapping[str, float] | str]) -> Results:
    """Sort what was found by row and seed, in the order of `trainings`: (name, row, seed)."""
    results: dict[str, dict[int, Mapping[str, float] | str]] = {}
    for name, row, seed in trainings:
        of_row = results.setdefault(row, {})
        if name in found:
            of_row[seed] = found[name]
    return results


def _train(name, cfg, folder, args):
    """Train, or go on, in a process that may be a new one."""
    print(name, flush=True)
    use_context(args.context, args.device_id)
    with fast_gradients(args.fast_gradients):
        train(cfg, folder, InCore(), args.resume, args.overwrite)


def format_table(results: Results) -> str:
    """Lay out test errors, sizes and mean bits of weights, with the deviation of one training where there are several.

    The last column counts the trainings that have a result; a row without any shows dashes.
    """
    columns = (("test error [%]", 100, "test_error", ".2f"), ("size [kB]", 1, "weight_kbytes", ".1f"),
               ("bits", 1, "weight_bits", ".2f"))
    lines = [["weights", *(title for title, *_ in columns), "trainings"]]
    for key, trainings in results.items():
        found = [result for result in trainings.values() if not isinstance(result, str)]
        cells = [with_deviation([factor * result[name] for result in found], form) if found else "-"
                 for _, factor, name, form in columns]
        lines.append([ROWS[key].title, *cells, f"{len(found)} of {len(trainings)}"])
    return align(lines)


if __name__ == "__main__":
    cli.run(main)
