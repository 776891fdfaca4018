"""Compare the list of suspicious labels with cleanlab's and with the scores, where wrong labels were planted.

    python data-cleansing/compare_lists.py RUN_DIR
    python data-cleansing/compare_lists.py DIGITS    # seconds, after cleanse.py --dataset digits --flip-labels 0.1

RUN_DIR is made by train.py or cleanse.py with --flip-labels. Labels are judged first, where that is not done. cleanlab
gets the same probabilities and is left out where it is not installed (pip install cleanlab). Scores of the run mark as
many labels as are estimated to be wrong. Prints means over the trials and writes RUN_DIR/list_comparison.csv: the area
under the ROC curve, the share of wrong labels among the 50 most suspicious, recall and precision of the marked labels.
"""
import importlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from common.console import cli
from common.console.tables import align
from common.machine.context import use_context
from common.machine.errors import UsageError
from common.machine.files import write_csv
from common.machine.output_folders import claimed
from data_cleansing.command_line import add_published_flags
from data_cleansing.labels.confident_learning import number_wrong, self_confidence
from data_cleansing.labels.cross_validation import Evidence
from data_cleansing.labels.decisions import LABEL, judge
from data_cleansing.results.flipped_labels import precision_at, ranking_area
from data_cleansing.results.run_folder import read_config
from data_cleansing.results.score_files import influence_path, methods_with_scores, read_influence
from data_cleansing.trial import Trial

HEADER = ("list", "seed", "wrong", "auc", "precision_at_50", "marked", "recall", "precision", "seconds")
CLEANLAB_FILTERS = ("prune_by_noise_rate", "both")    # its default, and a stricter one
Marking = Callable[[], tuple[np.ndarray, np.ndarray]]    # () -> scores (n,), the lower the more suspicious; marked (n,)


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of train.py or cleanse.py")
    cli.add_context_flags(parser)
    add_published_flags(parser, "device_id")
    args = parser.parse_args(argv)
    cfg = read_config(args.run)
    with claimed(args.run) as folder:
        if not cfg.flip_labels:
            raise UsageError(f"{args.run}: no labels were made wrong there, so none are known to be; train with "
                             "--flip-labels 0.1")
        print(f"{args.run}: computing on {use_context(args.context, args.device_id)}", flush=True)
        rows = [row for seed in cfg.seeds for row in compare(Trial(cfg, folder, seed))]
        write_csv(folder / "list_comparison.csv", HEADER, rows)
    print(format_comparison(rows))


def compare(trial: Trial) -> list[tuple]:
    """Measure all lists of a trial; rows as in `HEADER`, seconds without those of the networks."""
    started = time.perf_counter()
    evidence = trial.cross_validate()
    print(f"seed {trial.seed}: judged in {time.perf_counter() - started:.0f} s", flush=True)
    labels = trial.train_images.labels
    lists: dict[str, Marking] = {
        "cleanse.py": partial(_own_list, evidence, trial),
        "its probabilities alone": partial(_by_confidence, evidence, labels),
        **_cleanlab_lists(evidence.probabilities, labels),
        **{method: partial(_by_influence, trial, method, evidence)
           for method in methods_with_scores(trial.folder, trial.seed)}}
    return [_measure(name, marking, trial) for name, marking in lists.items()]


def _measure(name, marking, trial):
    wrong, started = trial.flipped, time.perf_counter()
    scores, marked = marking()
    seconds = time.perf_counter() - started
    return (name, trial.seed, int(wrong.sum()), ranking_area(scores, wrong),
            precision_at(scores, wrong, min(50, len(wrong))), int(marked.sum()), marked[wrong].mean(),
            wrong[marked].mean() if marked.any() else float("nan"), seconds)


def _own_list(evidence: Evidence, trial: Trial):
    found = judge(evidence, trial.train_images)
    return found.ranks, np.array([LABEL in problems for problems in found.problems])


def _by_confidence(evidence, labels):
    return _lowest(self_confidence(evidence.probabilities, labels), evidence, labels)


def _by_influence(trial, method, evidence):
    scores = read_influence(influence_path(trial.folder, method, trial.seed), len(trial.train_images))
    return _lowest(scores, evidence, trial.train_images.labels)


def _lowest(scores, evidence, labels):
    """Mark as many of the lowest scores as labels are estimated to be wrong."""
    marked = np.zeros(len(scores), bool)
    marked[np.argsort(scores, kind="stable")[:number_wrong(evidence.probabilities, labels)]] = True
    return scores, marked


def _cleanlab_lists(probabilities, labels) -> dict[str, Marking]:
    try:
        find = importlib.import_module("cleanlab.filter").find_label_issues
        score = importlib.import_module("cleanlab.rank").get_label_quality_scores
    except ImportError:
        print("cleanlab is not installed, so it is not compared (pip install cleanlab)")
        return {}
    return {f"cleanlab, {name}": lambda name=name: (
        score(labels, probabilities), find(labels, probabilities, filter_by=name, n_jobs=1))
        for name in CLEANLAB_FILTERS}


def format_comparison(rows: Sequence[tuple]) -> str:
    """Return a table of the means over trials of `compare`."""
    names = list(dict.fromkeys(row[0] for row in rows))
    means = {name: np.mean([row[3:] for row in rows if row[0] == name], axis=0) for name in names}
    formats = (".4f", ".3f", ".1f", ".3f", ".3f", ".3f")
    return align([["means over trials:", *(name.replace("_", " ") for name in HEADER[3:])],
                  *([name, *map(format, values, formats)] for name, values in means.items())])


if __name__ == "__main__":
    cli.run(main)
