"""Put the weights of a training into the package, in half the room.

    python tools/ship_weights.py RUN FOLDER

RUN is the output folder of x-umx/train.py or of d3net/train.py mss; FOLDER, in a `shipped` folder of a package, gets
its best weights and what describes their network. Matrices are rounded to float16, vectors stay float32; loading makes
float32 of both. Prints the size and the SHA-256 of each file, for the model card (CARD.md).
"""
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from common.console import cli
from common.machine.errors import UsageError
from common.machine.files import make_folder, replacing

DESCRIPTIONS = (".json", ".yaml")
LEFT_OUT = ("params_best", "final")    # the same as best_xumx.h5; the last parameters, not the best


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder of a training")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the weights go")
    args = parser.parse_args(argv)
    files = [path for path in sorted(args.run.iterdir())
             if path.suffix in (".h5", *DESCRIPTIONS) and not path.stem.endswith(LEFT_OUT)]
    if not any(path.suffix == ".h5" for path in files):
        raise UsageError(f"{args.run}: no weights of a training here")
    for path in files:
        content = halved(path) if path.suffix == ".h5" else path.read_bytes()
        target = make_folder(args.folder) / path.name
        with replacing(target) as temporary:
            temporary.write_bytes(content)
        print(f"{target}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


def halved(source: Path) -> bytes:
    """Return a file of parameters with matrices in float16."""
    buffer = io.BytesIO()
    with h5py.File(source, "r") as original, h5py.File(buffer, "w") as copy:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                value = item[()]
                matrix = np.squeeze(value).ndim > 1
                stored = value.astype(np.float16) if matrix else value
                dataset = copy.create_dataset(name, data=stored, track_times=False)
                dataset.attrs.update(item.attrs)

        original.visititems(visit)
    return buffer.getvalue()


if __name__ == "__main__":
    cli.run(main)
