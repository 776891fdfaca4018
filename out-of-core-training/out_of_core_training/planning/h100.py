"""What ResNet-50 was measured to take and to do on an H100, beside what the planner predicts.

    python out-of-core-training/plan.py resnet50 --validate

Each row says what nnabla's scheduler planned with, and the size of the chunks: `OutOfCore` took others when most of it
was measured. One row calibrates: the speed in-core at batch 64 sets the rates of arithmetic and memory
(`Device.calibrated`). The link has the data sheet's rate times `LINK_SHARE`. Inputs come at `INPUT_RATE`, which was
measured there. `MAPPING` was chosen for all rows with virtual addresses.
"""
import itertools
import math
from collections.abc import Iterator, Sequence

import attrs
import nnabla as nn

from common.console.tables import align
from out_of_core_training import models
from out_of_core_training.planner import plan, plan_record
from out_of_core_training.planning.devices import DEVICES
from out_of_core_training.planning.timeline import estimated_seconds, make_timeline

NETWORK = "resnet50"
_MIB = 1 << 20


@attrs.frozen
class Row:
    """A measurement: float32, 224 x 224 pixels, one H100 with 80 GB, nnabla 1.39, cuDNN 9.19, PCIe 5 x16.

    Attributes
    ----------
    mode
        `in-core`, `scheduler` or `virtual`.
    speed
        Images/s.
    peak
        Bytes taken of the device, GB.
    planned
        Bytes of arrays that the scheduler planned with.
    chunk
        MiB of a chunk of virtual memory.
    """

    mode: str
    batch: int
    speed: float
    peak: float
    planned: float = 8e9
    chunk: int = 20


MEASURED = (
    Row("in-core", 64, 700, 6.17), Row("virtual", 96, 454, 18.6), Row("virtual", 384, 308, 19.9),
    Row("scheduler", 384, 333, 12.4), Row("in-core", 720, 772, 71.6), Row("virtual", 720, 263, 17.8),
    # With 8 GB for all that the process takes. 2 MiB were what `OutOfCore` took for a while, 8 are what it takes now.
    Row("virtual", 96, 78, 6.99, planned=6.55e9, chunk=2), Row("virtual", 96, 173, 4.52, planned=1.8e9, chunk=8),
    Row("virtual", 384, 221, 5.67, planned=3.7e9, chunk=8),
)


CURVE = (32, 64, 96, 128, 192, 256, 384, 512, 720)    # batch sizes of `curves`


def curves() -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[tuple[int, float]]]]:
    """Return images/s over the batch size, with 8 GB to plan with and chunks of 20 MiB, by mode.

    Returns
    -------
    measured, predicted
        Mode -> (batch, images/s) in the order of batches.
    """
    modes = tuple(dict.fromkeys(row.mode for row in MEASURED))
    wanted = [Row(mode, batch, math.nan, math.nan) for batch in CURVE for mode in modes]
    measured, predicted = ({mode: [] for mode in modes} for _ in range(2))
    for row in sorted(MEASURED, key=lambda row: row.batch):
        if (row.planned, row.chunk) == (wanted[0].planned, wanted[0].chunk):
            measured[row.mode].append((row.batch, row.speed))
    for row, speed, _ in predictions(wanted):
        predicted[row.mode].append((row.batch, speed))
    return measured, predicted


def predictions(rows: Sequence[Row] = MEASURED) -> Iterator[tuple[Row, float, float]]:
    """Yield rows, those of one batch together, with the predicted images/s and GB."""
    first = MEASURED[0]
    needs, steps = _needs(first.batch)
    device = DEVICES["H100-80GB"]
    device = device.calibrated(sum(estimated_seconds(needs, steps, device)[1:]), first.batch / first.speed)
    for batch, of_batch in itertools.groupby(rows, lambda row: row.batch):
        needs, steps = _needs(batch)
        seconds = estimated_seconds(needs, steps, device)
        for row in of_batch:
            if row.mode == "in-core":
                yield row, batch / sum(seconds[1:]), needs.occupancy().device_bytes / 1e9
                continue
            swapped = plan_record(needs.record, int(row.planned))
            occupancy = swapped.occupancy(row.chunk * _MIB if row.mode == "virtual" else None)
            timeline = make_timeline(swapped, seconds, device, occupancy.mapped)
            yield row, batch / timeline.seconds, occupancy.device_bytes / 1e9


def _needs(batch):
    nn.clear_parameters()
    network = models.build(NETWORK, batch)
    return plan(network.steps, network.typed_inputs, backend="cudnn"), network.steps


def table() -> str:
    """All rows, measured and predicted."""
    head = ("mode", "batch", "plan", "images/s", "predicted", "off by", "GB", "predicted", "off by")
    return align([head, *(
        (row.mode, row.batch, _plan_of(row), row.speed, f"{speed:.0f}", f"{speed / row.speed - 1:+.0%}", row.peak,
         f"{peak:.1f}", f"{peak / row.peak - 1:+.0%}") for row, speed, peak in predictions())])


def _plan_of(row):
    """What was planned with, in one word."""
    if row.mode == "in-core":
        return "-"
    chunks = f",{row.chunk}MiB" if row.mode == "virtual" else ""
    return f"{row.planned / 1e9:.3g}GB{chunks}"
