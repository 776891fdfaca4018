"""Errors of a network on a data set, and what a finished run reports about itself."""
from collections.abc import Callable, Sequence
from pathlib import Path

import nnabla as nn
import numpy as np

from common.console.progress import progress
from common.datasets.batches import Batches
from common.machine.errors import TrainingError
from common.machine.files import write_json
from common.runs.checkpoint import load_parameters
from common.runs.training import BEST, Run
from mixed_precision_dnns.config import QuantizationConfig
from mixed_precision_dnns.network_size import RESULTS, STORED, activation_kbytes
from mixed_precision_dnns.quantized_network import QuantizedNetwork
from mixed_precision_dnns.tensor_table import TABLES, format_table, mean_bits, tensor_table, write_table

RESULT = "result.json"    # what a finished run measures


def top_errors(predict: Callable[[np.ndarray], np.ndarray], batches: Batches, tops: Sequence[int]) -> list[float]:
    """Shares of images whose class is not among the k best answers.

    `predict` maps images (batch, channels, height, width) to logits (batch, classes). There is a share, 0 to 1, for
    each k in `tops`.
    """
    ranks = np.concatenate([ranks_of_labels(predict(image), label[:, 0])
                            for image, label in progress(batches, total=len(batches), desc="evaluating")])
    return [float(np.mean(ranks >= k)) for k in tops]


def ranks_of_labels(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Number of classes that come before the right one: larger logits, equal ones before it, and NaN.

    `logits` are float32 (batch, classes), `label` int (batch,); the result is int64 (batch,).
    """
    own = logits[np.arange(len(label)), label][:, np.newaxis]
    earlier = (logits == own) & (np.arange(logits.shape[1]) < label[:, np.newaxis])
    return (~(logits <= own) | earlier).sum(1)


def evaluate_run(network: QuantizedNetwork, cfg: QuantizationConfig, valid_data: Batches,
                 test_data: Batches) -> dict[str, float]:
    """Measure a network that was built for testing: errors, sizes in kB, mean bits per weight and per activation.

    `valid_data` are the images that the parameters were chosen by.
    """
    valid_errors = top_errors(network.predict, valid_data, cfg.tops)
    test_errors = valid_errors if cfg.as_published else top_errors(network.predict, test_data, cfg.tops)
    others = {f"test_top{k}_error": error for k, error in zip(cfg.tops[1:], test_errors[1:], strict=True)}
    rows = tensor_table(cfg)
    activations = {kind: activation_kbytes(cfg, kind) for kind in ("max", "sum")}
    nn.forward_all(list(activations.values()))
    return {"valid_error": valid_errors[0], "test_error": test_errors[0], **others,
            "weight_kbytes": network.sizes()[0],
            **{f"activation_kbytes_{kind}": float(size.d) for kind, size in activations.items()},
            "weight_bits": mean_bits(rows, STORED), "activation_bits": mean_bits(rows, RESULTS)}


def format_result(result: dict[str, float]) -> str:
    """Format what `evaluate_run` measured in one line."""
    others = "".join(f", {key.split('_')[1]} {value:.2%}" for key, value in result.items()
                     if key.startswith("test_top"))
    return ("test error {test_error:.2%}{others} (validation {valid_error:.2%}), weights {weight_kbytes:.2f} kB "
            "({weight_bits:.2f} bits), activations {activation_kbytes_max:.2f} kB largest, {activation_kbytes_sum:.2f} "
            "kB all ({activation_bits:.2f} bits)".format(others=others, **result))


def remove_report(folder: Path) -> None:
    """Remove what `report_best` has left in the folder of a run: a longer or a new one has other results."""
    for name in (RESULT, *TABLES):
        (folder / name).unlink(missing_ok=True)


def report_best(run: Run, cfg: QuantizationConfig, network: QuantizedNetwork, valid_data: Batches,
                test_data: Batches) -> None:
    """Load and measure the best parameters of a run, and print and save what they have learned.

    Raises
    ------
    TrainingError
        There are none.
    """
    if run.best is None:
        raise TrainingError(
            f"no epoch met the budget, so there is no {BEST}: train for longer, or raise the budget or "
            f"initial_cost_lambda2 and initial_cost_lambda3 (the last state is in {run.checkpoint})")
    load_parameters(run.folder / BEST, {name: p.shape for name, p in run.parameters.items()})
    result = evaluate_run(network, cfg, valid_data, test_data)
    rows = tensor_table(cfg)
    write_table(run.folder, rows)
    write_json(run.folder / RESULT, result)
    print(format_table(rows))
    print(format_result(result))
