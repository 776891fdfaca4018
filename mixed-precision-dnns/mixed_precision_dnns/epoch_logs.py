"""What a run writes after each epoch: its log, and the files of the published script, for tools that read them.

`results.csv` has the steps so far, the errors and the losses of each epoch; `res_{n,d,min,max}_{w,a,b}.csv` the scalars
of the quantizers of weights, activations and biases, a line for each tensor and epoch.
"""
from collections.abc import Sequence

from common.machine.files import write_text
from common.quantizers import SCALARS
from common.runs.training import Run
from mixed_precision_dnns.config import QuantizationConfig
from mixed_precision_dnns.network_size import QuantizedTensor

LOSSES = ("loss", "loss1", "loss2", "loss3")    # all together; cross entropy, weights and activations over budget
PANELS = (("error [share]", ("train_error", "valid_error", "valid_top5_error")), ("loss", ("loss", "loss1")),
          ("weights [kB]", ("weight_kbytes",)), ("activations [kB]", ("activation_kbytes",)))
_KINDS = {"w": "weights", "a": "activations", "b": "bias"}    # letter in the file name -> kind of tensor


def log_epoch(run: Run, cfg: QuantizationConfig, steps: int, errors: Sequence[float], sizes: tuple[float, float],
              learning_rate: float, tensors: Sequence[QuantizedTensor]) -> None:
    """Log the epoch that ends, save, and print a line.

    `steps` is their number in an epoch; `errors` are of the images that the best parameters are chosen by, one for each
    of `cfg.tops`; `sizes` are those of weights and of activations, in kB; `tensors` have scalars that are learned.
    """
    weight_kbytes, activation_kbytes = sizes
    values = run.means()
    if cfg.as_published:    # its means of losses are of views of one buffer, which holds the last one
        values.update({name: run.last[name] for name in LOSSES})
    others = list(zip(cfg.tops[1:], errors[1:], strict=True))
    row = {"train_error": values.pop("error"), "valid_error": errors[0],
           **{f"valid_top{k}_error": error for k, error in others}, **values,
           "weight_kbytes": weight_kbytes, "activation_kbytes": activation_kbytes, "learning_rate": learning_rate}
    run.finish_epoch(row, PANELS, scalar_values(tensors), lambda: write_published_logs(run, cfg, steps, tensors))
    valid_errors = f"{errors[0]:.2%}" + "".join(f", top {k} {error:.2%}" for k, error in others)
    print(f"epoch {len(run.rows)}/{cfg.epochs}: loss {row['loss']:.4f}, train error {row['train_error']:.2%}, "
          f"validation error {valid_errors}, weights {weight_kbytes:.1f} kB, activations {activation_kbytes:.1f} kB",
          flush=True)


def scalar_values(tensors: Sequence[QuantizedTensor]) -> list[dict[str, float]]:
    """Values of all scalars, a dict for each quantized tensor."""
    return [{name: float(scalar.d) for name, scalar in tensor.scalars.items()} for tensor in tensors]


def write_published_logs(run: Run, cfg: QuantizationConfig, steps: int, tensors: Sequence[QuantizedTensor]) -> None:
    """Write the files of the published script, where there is one for such experiments; `steps` are of an epoch."""
    if not cfg.has_published_script:
        return
    lines = [",".join(f"{value:10.8f}" for value in (row["epoch"] * steps, row["train_error"], row["valid_error"],
                                                     *(row[loss] for loss in LOSSES))) for row in run.rows]
    write_text(run.folder / "results.csv",
               "\n".join([",".join(("iter", "train_err", "val_err", *LOSSES)), *lines]) + "\n")
    for letter, kind in _KINDS.items():
        indices = [k for k, tensor in enumerate(tensors) if tensor.kind == kind]
        for scalar in SCALARS:
            path = run.folder / f"res_{scalar.removeprefix('x')}_{letter}.csv"
            if not indices or scalar not in tensors[indices[0]].scalars:
                path.unlink(missing_ok=True)    # of another experiment, which this one overwrites
                continue
            lines = [f"{index},{epoch},{values[k][scalar]:10.8f}" for index, k in enumerate(indices)
                     for epoch, values in enumerate(run.extras)]
            write_text(path, "\n".join(lines) + "\n")
