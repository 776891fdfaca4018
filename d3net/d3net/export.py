"""Export D3Net as ONNX, to run it without nnabla, on any Python and any machine that onnxruntime runs on.

    python d3net/export.py mss --model d3net-small -o d3net-onnx    # 3 seconds
    python d3net/export.py mss --model d3net-mss -o d3net-onnx [--precision float32|float16|int8]
    python d3net/export.py segmentation --model D3Net-S -o d3net_s.onnx [--precision float32|float16|int8]

Beside the networks goes a file that needs numpy and onnxruntime alone and does all of the rest.
More flags: python d3net/export.py mss --help
"""
from collections.abc import Sequence

from common.console import cli
from d3net.music import export as export_mss
from d3net.scenes import export as export_segmentation
from d3net.tasks import parse_task

TASKS = {"mss": export_mss, "segmentation": export_segmentation}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_task(__doc__, TASKS, argv)
    TASKS[args.task].export(args)


if __name__ == "__main__":
    cli.run(main)
