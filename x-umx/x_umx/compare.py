"""Compare X-UMX with one UMX for each source, and with X-UMX that lacks one of its three ideas, at small scale.

    python x-umx/compare.py [--epochs 5] [--output compare] [--resume]
    python x-umx/compare.py --seeds 3 --variants umx xumx --root synthetic-band --samples-per-track 1 --epochs 12
    python x-umx/compare.py --variants xumx --root MUSDB18 --split train    # scores on what it was trained with

All networks have the same size and see the same number of excerpts (section SYNTHETIC of train.cfg: generated songs).
The table shows the SDR of the stems of whole songs, 10 log10(|s|^2 / |s - e|^2), without Wiener filter; with several
seeds, the mean over them and the deviation of one training.
"""
import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from common.console import cli
from common.console.tables import align, with_deviation
from common.console.values import int_from_0, positive_int
from common.datasets.multitrack import MIXTURE
from common.datasets.musdb18 import SPLITS, SYNTHETIC
from common.machine.context import use_context
from common.machine.files import beside_scripts, write_json
from common.machine.output_folders import claimed
from common.out_of_core import InCore
from common.runs.config import load_section
from common.runs.significance import describe_pairs
from x_umx.config import Config
from x_umx.separator import Separator
from x_umx.train import train

RESULT = "result.json"
VARIANTS = {
    "umx": ("UMX, one for each source", {"umx_train": True}),
    "xumx": ("X-UMX", {}),
    "no-crossing": ("X-UMX without crossing", {"crossing": False}),
    "no-combination": ("X-UMX without combination loss", {"combination": False}),
    "no-waveforms": ("X-UMX without loss of waveforms", {"mcoef": 0.0}),
}

Results = Mapping[str, Sequence[Mapping[str, float]]]    # network -> for each training, source -> dB


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--epochs", type=positive_int, default=5, help="of each network (default: %(default)s)")
    parser.add_argument("--seed", type=int_from_0, default=42, help="of each network (default: %(default)s)")
    parser.add_argument("--seeds", type=positive_int, default=1, metavar="N",
                        help="trainings of each network, with the seeds from --seed on (default: %(default)s)")
    parser.add_argument("--samples-per-track", type=positive_int, metavar="N",
                        help="excerpts per song and epoch (default: as train.py)")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS),
                        help="what to compare (default: all)")
    parser.add_argument("--root", default=SYNTHETIC, help="songs, as for train.py (default: %(default)s)")
    parser.add_argument("--setup-file", metavar="FILE", help="as for train.py")
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose songs are scored (default: %(default)s)")
    parser.set_defaults(output="compare")
    cli.add_run_flags(parser)
    cli.add_context_flags(parser)
    args = parser.parse_args(argv)
    use_context(args.context, args.device_id)
    given = ("epochs", "seed", "root", "setup_file", "samples_per_track")
    keys = {key: vars(args)[key] for key in given if vars(args)[key] is not None}
    base = load_section(Config, beside_scripts("x_umx", "train.cfg"), "SYNTHETIC", keys)
    with claimed(args.output) as folder:
        results = compare(base, args, folder)
    print(format_table(results, base.sources))
    if args.seeds > 1 and len(args.variants) > 1 and "xumx" in args.variants:
        print(format_differences(results))


def compare(base: Config, args: argparse.Namespace, folder: Path) -> Results:
    """Train the variants of `base` that the flags name in `folder`; returns the SDRs, as of `sdr_of_songs`, of each."""
    if args.overwrite:
        (folder / RESULT).unlink(missing_ok=True)    # of trainings that begin anew
    results = {MIXTURE: [sdr_of_songs(base, args.split, lambda mixture: dict.fromkeys(base.sources, mixture))]}
    for seed in range(base.seed, base.seed + args.seeds):
        for key in args.variants:
            name, change = VARIANTS[key]
            cfg = attrs.evolve(base, seed=seed, **change)
            place = folder / (key if args.seeds == 1 else f"{key}-{seed}")
            train_variant(cfg, name, place, args.resume, args.overwrite)
            separator = Separator(place, cfg.sources, niter=0, chunk_seconds=None, engine="nnabla")
            results.setdefault(name, []).append(sdr_of_songs(
                cfg, args.split, lambda mixture, separator=separator: separator.separate(mixture, base.sample_rate)))
            write_json(folder / RESULT, results)
    return results


def train_variant(cfg: Config, name: str, folder: Path, resume: bool, overwrite: bool) -> None:
    """Train the networks of a variant: one, or one for each source."""
    for source in (cfg.sources if cfg.umx_train else (None,)):
        print(f"{name}{f': {source}' if source else ''}", flush=True)
        one = attrs.evolve(cfg, source=source) if source else cfg
        train(one, folder / source if source else folder, InCore(), resume, overwrite)


def sdr_of_songs(cfg: Config, split: str,
                 separate: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Mean SDR in dB over the songs, for each source; `separate` maps (samples, 2) to {source: (samples, 2)}."""
    scores = []
    for track in cfg.tracks(split, cfg.sample_rate):
        stems = separate(track.read(MIXTURE, 0, track.num_frames))
        scores.append([sdr(track.read(source, 0, track.num_frames), stems[source]) for source in cfg.sources])
    return dict(zip(cfg.sources, np.mean(scores, axis=0).tolist(), strict=True))


def sdr(target: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-distortion ratio in dB of whole signals."""
    signal, distortion = (np.sum(x ** 2, dtype=np.float64) for x in (target, target - estimate))
    return float(10 * np.log10(signal / distortion))


def format_table(results: Results, sources: Sequence[str]) -> str:
    """Lay the SDRs out as a table with a row for each variant."""
    def cells(trainings):
        columns = zip(*([*scores.values(), np.mean(list(scores.values()))] for scores in trainings), strict=True)
        return [with_deviation(column, ".2f") for column in columns]

    return align([["SDR in dB", *sources, "mean"], *([name, *cells(each)] for name, each in results.items())])


def format_differences(results: Results) -> str:
    """Say by how much the SDR is higher with X-UMX, training by training; a line for each other and each source."""
    columns = {name: _by_source(each) for name, each in results.items() if name != MIXTURE}
    xumx = VARIANTS["xumx"][0]
    return "\n".join(f"{source}, {xumx} - {name}: {describe_pairs(columns[xumx][source], others[source], 'dB')}"
                     for name, others in columns.items() if name != xumx for source in others)


def _by_source(trainings: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return source -> dB of each training; "mean" is that over the sources."""
    return {**{source: [scores[source] for scores in trainings] for source in trainings[0]},
            "mean": [float(np.mean(list(scores.values()))) for scores in trainings]}


if __name__ == "__main__":
    cli.run(main)
