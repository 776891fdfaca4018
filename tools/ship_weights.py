"""Put the weights of a training into the package, in half the room.

    python tools/ship_weights.py RUN FOLDER

RUN is the output folder of x-umx/train.py or of d3net/train.py mss; FOLDER, in a `shipped` folder of a package, gets
its best weights and what describes their network. Matrices are rounded to float16, vectors stay float32; loading makes
float32 of both. Prints the size and the SHA-256 of each file, for the model card (CARD.md).
"""
import argparse
import hashlib
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np

DESCRIPTIONS = (".json", ".yaml")
LEFT_OUT = ("params_best", "final")    # the same as best_xumx.h5; the last parameters, not the best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    files = [path for path in sorted(args.run.iterdir())
             if path.suffix in (".h5", *DESCRIPTIONS) and not path.stem.endswith(LEFT_OUT)]
    if not any(path.suffix == ".h5" for path in files):
        print(f"error: {args.run}: no weights of a training here", file=sys.stderr)
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        target = args.folder / path.name
        if path.suffix == ".h5":
            halve(path, target)
        else:
            shutil.copyfile(path, target)
        content = target.read_bytes()
        print(f"{target}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


def halve(source: Path, target: Path) -> None:
    """Copy a file of parameters, with matrices in float16."""
    with h5py.File(source, "r") as original, h5py.File(target, "w") as copy:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                value = item[()]
                matrix = np.squeeze(value).ndim > 1
                stored = value.astype(np.float16) if matrix else value
                dataset = copy.create_dataset(name, data=stored, track_times=False)
                dataset.attrs.update(item.attrs)

        original.visititems(visit)


if __name__ == "__main__":
    sys.exit(main())
