"""The files that the published script leaves beside the parameters, for tools that read them."""
from common.machine.files import write_text
from mixed_precision_dnns.network import LOSSES

# Letter in the file name -> kind of tensor; name in the file name -> scalar.
_KINDS = {"w": "weights", "a": "activations", "b": "bias"}
_SCALARS = {"n": "n", "d": "d", "min": "xmin", "max": "xmax"}


def scalar_values(tensors):
    """Values of all scalars, a dict for each quantized tensor."""
    return [{name: float(scalar.d) for name, scalar in tensor.scalars.items()} for tensor in tensors]


def write(folder, rows, values, tensors):
    """Write `results.csv` and `res_{n,d,min,max}_{w,a,b}.csv`.

    Parameters
    ----------
    folder : pathlib.Path
    rows : list of dict
        Log of each epoch.
    values : list of list of dict
        `scalar_values` after each epoch.
    tensors : list of QuantizedTensor
    """
    lines = [",".join(f"{value:10.8f}" for value in (row["epoch"] - 1, row["train_error"], row["valid_error"],
                                                     *(row[loss] for loss in LOSSES))) for row in rows]
    write_text(folder / "results.csv", "\n".join([",".join(("iter", "train_err", "val_err", *LOSSES)), *lines]) + "\n")
    for letter, kind in _KINDS.items():
        chosen = [k for k, tensor in enumerate(tensors) if tensor.kind == kind]
        for short, scalar in _SCALARS.items():
            if chosen and scalar in tensors[chosen[0]].scalars:
                lines = [f"{index},{epoch},{at_epoch[k][scalar]:10.8f}" for index, k in enumerate(chosen)
                         for epoch, at_epoch in enumerate(values)]
                write_text(folder / f"res_{short}_{letter}.csv", "\n".join(lines) + "\n")
