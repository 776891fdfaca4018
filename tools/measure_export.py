"""Measure what float16 and int8 cost and save in the files that the scripts export.py of X-UMX and D3Net write.

    python tools/measure_export.py x-umx
    python tools/measure_export.py d3net [--scenes RUN]

Music: the weights that ship on three computed songs, SDR of whole signals against the sources; the least distance of a
stem, of float32 from that of separate.py, of the others from that of float32. Scenes: a network of `d3net/train.py
segmentation SYNTHETIC`, against segment.py. Sizes of files, and time: networks of the published size with random
parameters; D3Net takes a patch of 256 frames and its flip, an image of 512 x 1024; --engine winograd.
"""
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nnabla as nn
import numpy as np

from common.console import cli
from common.console.tables import align
from common.datasets.band.songs import make_tracks
from common.datasets.synthetic_scenes import IGNORE, NUM, make_scene
from common.inference.exporting import PRECISIONS
from common.runs.checkpoint import save_parameters
from common.separation.separator import StemSeparator
from d3net import export
from d3net.benchmark import IMAGE, PATCH, random_weights, street_network
from d3net.music.onnx_separator import OnnxSeparator
from d3net.music.separator import Separator
from d3net.scenes.onnx_segmenter import OnnxSegmenter
from d3net.scenes.segmenter import Segmenter
from x_umx import benchmark as x_umx_benchmark
from x_umx import export as x_umx_export
from x_umx.onnx_separator import OnnxSeparator as OnnxXumx
from x_umx.separator import Separator as XumxSeparator

ROUNDS = 4


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("paper", choices=("x-umx", "d3net"), help="whose files to measure")
    parser.add_argument("--scenes", metavar="RUN", help="of d3net: output folder of d3net/train.py segmentation")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = xumx(folder) if args.paper == "x-umx" else d3net(folder, args.scenes)
    print(align([["", *PRECISIONS], *rows]))


def xumx(folder: Path) -> list[list[str]]:
    def exported(model, precision):
        path = folder / f"{precision}.onnx"
        x_umx_export.main(["--model", str(model), "-o", str(path), "--precision", precision])
        return path

    rows = music(("bass", "drums", "vocals", "other"), XumxSeparator("xumx-small"),
                 {precision: OnnxXumx(str(exported("xumx-small", precision))) for precision in PRECISIONS})
    published = x_umx_benchmark.random_weights(folder)
    sizes = [exported(published, precision).stat().st_size / 1e6 for precision in PRECISIONS]
    return [*rows, ["published size, MB", *(f"{size:.1f}" for size in sizes)]]


def d3net(folder: Path, run: str | None) -> list[list[str]]:
    for precision in PRECISIONS:
        export.main(["mss", "--model", "d3net-small", "-o", str(folder / precision), "--precision", precision])
    rows = music(("vocals", "drums"), Separator("d3net-small"),
                 {precision: OnnxSeparator(str(folder / precision)) for precision in PRECISIONS})
    return rows + (scenes(folder, run) if run else []) + times(folder)


def music(targets: Sequence[str], separator: StemSeparator,
          exported: Mapping[str, OnnxSeparator | OnnxXumx]) -> list[list[str]]:
    """Score stems of computed songs by files of each precision."""
    tracks = make_tracks("test", num=3, duration=8.0, seed=1)
    songs = [track.read("mixture", 0, track.num_frames) for track in tracks]
    wanted = [separator.separate(song, separator.sample_rate) for song in songs]
    stems = {precision: [network.separate(song) for song in songs] for precision, network in exported.items()}
    rows = []
    for target in targets:
        sources = [track.read(target, 0, track.num_frames) for track in tracks]
        found = {precision: [song[target] for song in stems[precision]] for precision in PRECISIONS}
        scores = [np.mean([*map(ratio, sources, found[precision])]) for precision in PRECISIONS]
        exact = [min(map(ratio, [song[target] for song in wanted], found["float32"])),
                 *(min(map(ratio, found["float32"], found[precision])) for precision in PRECISIONS[1:])]
        rows += [[f"{target}, SDR", *(f"{score:.2f} dB" for score in scores)],
                 [f"{target}, least distance", *(f"{value:.0f} dB" for value in exact)]]
    return rows


def ratio(wanted: np.ndarray, found: np.ndarray) -> float:
    """Signal to error in dB."""
    error = wanted.astype(np.float64) - found
    return float(10 * np.log10(np.sum(wanted.astype(np.float64) ** 2) / np.sum(error ** 2)))


def scenes(folder: Path, run: str) -> list[list[str]]:
    pictures = [make_scene("val", index) for index in range(NUM["val"])]
    segmenter, equal, right = Segmenter(run), [], []
    wanted = [segmenter.segment(image) for image, _ in pictures]
    for precision in PRECISIONS:
        target = folder / f"{precision}.onnx"
        export.main(["segmentation", "--model", run, "-o", str(target), "--precision", precision])
        found = [OnnxSegmenter(str(target)).segment(image) for image, _ in pictures]
        equal.append(np.mean(np.equal(wanted, found)))
        known = np.array([label for _, label in pictures]) != IGNORE
        right.append(np.mean(np.equal(found, [label for _, label in pictures])[known]))
    return [["pixels as segment.py", *(f"{share:.2%}" for share in equal)],
            ["pixels right", *(f"{share:.2%}" for share in right)]]


def times(folder: Path) -> list[list[str]]:
    random_weights(folder, {"vocals": "vocals"})
    street_network(nn.Variable((1, 3, 64, 64)))
    save_parameters(folder / "D3Net-S.h5")
    rng = np.random.default_rng(0)
    patches, image = rng.random((2, *PATCH[1:]), np.float32), rng.integers(0, 256, (*IMAGE[2:], 3), np.uint8)
    calls: dict[str, Callable[[], object]] = {}
    sizes = []
    for precision in PRECISIONS:
        songs, street = folder / f"music-{precision}", folder / f"street-{precision}.onnx"
        for task, model, target in (("mss", "vocals", songs), ("segmentation", "D3Net-S", street)):
            export.main([task, "--model", str(folder / f"{model}.h5"), "-o", str(target), "--precision", precision])
        network, segmenter = OnnxSeparator(str(songs))._networks["vocals"], OnnxSegmenter(str(street))
        calls[f"vocals {precision}"] = lambda network=network: network.session.run(None, {"magnitude": patches})
        calls[f"scenes {precision}"] = lambda segmenter=segmenter: segmenter.segment(image)
        sizes.append([path.stat().st_size / 1e6 for path in (songs / "vocals.onnx", street)])
    winograd = Separator(folder / "vocals.h5", engine="winograd")._network("vocals")
    calls["winograd"] = lambda: winograd(patches)
    seconds = median_times(calls)
    return [
        *([f"{title}, MB", *(f"{size[k]:.1f}" for size in sizes)] for k, title in enumerate(("vocals", "D3Net-S"))),
        ["vocals, 2 x 256 frames, s", *(f"{seconds[f'vocals {precision}']:.2f}" for precision in PRECISIONS)],
        ["the same, winograd", f"{seconds['winograd']:.2f}", "", ""],
        ["D3Net-S, 512 x 1024, s", *(f"{seconds[f'scenes {precision}']:.2f}" for precision in PRECISIONS)]]


def median_times(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each call, the median of rounds in which they take turns, after one that is not counted."""
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            durations[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in durations.items()}


if __name__ == "__main__":
    cli.run(main)
