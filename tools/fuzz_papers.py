"""The files of data sets, runs and networks, as the commands read them."""
import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnabla as nn
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import yaml
from fuzz_row import Format, inside

from common.datasets import CIFAR10, DATASETS, cifar10, cityscapes, musdb18
from common.datasets.mnist import read_idx
from common.machine.files import write_json
from common.quantizers import QUANTIZER_NAMES
from common.reading import archives
from common.runs.checkpoint import restore, save_checkpoint, save_parameters
from common.runs.config import load_section, to_dict
from common.runs.training import read_state
from common.separation.score_tables import read_frames
from d3net.hyperparameters import FOLDER as HPARAMS
from d3net.hyperparameters import load_mss, load_segmentation
from data_cleansing.config import Config as CleansingConfig
from data_cleansing.data.sources import load_files
from data_cleansing.influence.snapshot import Snapshot
from data_cleansing.results.run_folder import read_config
from data_cleansing.results.score_files import MEASURES, read_influence, read_measures
from data_cleansing.training.record import TrainingRecord, published_record
from mixed_precision_dnns.config import Config as QuantizedConfig
from mixed_precision_dnns.deployment import packed
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.quantized_network import build_network
from x_umx.model import OpenUnmix, Sizes
from x_umx.weights import find_weights

YAML_TOKENS = (b"&a ", b"*a ", b"[" * 500, b"2001-99-99", b"100000000000", b"- ", b"!!python/name:os.system ",
               b".inf", b"-1")
JSON_TOKENS = (b"[" * 2000, b"1e999", b"NaN", b"100000000000", b"-1", b"null", b"{}", b'"')
NAMES = [f"member{k}" for k in range(3)]


# Data sets --------------------------------------------------------------------------------------------------------


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("x" * 150, *NAMES):    # a long name has a header of its own
            member = tarfile.TarInfo(name)
            member.size = 300
            tar.addfile(member, io.BytesIO(bytes(300)))
    return buffer.getvalue()


def _gzipped(content: bytes, path: Path) -> None:
    path.write_bytes(gzip.compress(content, 1))


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        for name in NAMES:
            members.writestr(f"folder/{name}", bytes(300))


def _read_tar(path: Path) -> Any:
    return archives.read_members(path, NAMES, 1 << 20)


IDX = struct.pack(">HBBIII", 0, 8, 3, 5, 4, 4) + bytes(range(80))
CIFAR = pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3], b"batch_label": b"one"}, 2)
SETUP = yaml.safe_dump({"sources": {"vocals": "vocals.wav"}, "mixture": "mixture.wav", "validation_tracks": ["a - b"],
                        "stem_ids": {"mixture": 0, "vocals": 4}}).encode()


def _read_cifar(path: Path) -> Any:
    return cifar10.read(DATASETS[CIFAR10], [(str(path), path.read_bytes())])


def _write_names(path: Path) -> None:
    path.write_bytes(b"one\ntwo\n")
    for name in ("one", "two"):
        path.with_name(f"{name}_leftImg8bit.png").touch()


def _write_list(path: Path) -> None:
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(path.with_name(name))
    path.write_bytes(b"x:image,y:label\na.png,0\nb.png,1\n")


def _read_setup(path: Path) -> Any:
    return musdb18._read_setup(path.parent, path.name)


DATA = [
    inside("tar", _tar(), _gzipped, _read_tar, (b"ustar  \0", b"L", b"x", b"S", b"g", b"77777777777\0"), ".tar.gz"),
    Format("tar", lambda path: path.write_bytes(_tar()), _read_tar, ".tar"),
    Format("tar.gz", lambda path: _gzipped(_tar(), path), _read_tar, ".tar.gz", (b"\x1f\x8b\x08",)),
    Format("zip", _write_zip, lambda path: archives.read_zip(path, NAMES, 1 << 20), ".zip", (b"PK\1\2", b"PK\5\6")),
    Format("idx", lambda path: path.write_bytes(IDX), lambda path: read_idx(path, 3)),
    Format("idx.gz", lambda path: _gzipped(IDX, path), lambda path: read_idx(path, 3), ".gz"),
    inside("idx", IDX, _gzipped, lambda path: read_idx(path, 3), (), ".gz"),
    Format("CIFAR-10", lambda path: path.write_bytes(CIFAR), _read_cifar, "",
           (b"cos\nsystem\n", b"R", b"b", b"\x8d" + b"\xff" * 8, b"r\xff\xff\xff\x7f", b"(", b"\x93", b"o", b"2")),
    Format("musdb setup", lambda path: path.write_bytes(SETUP), _read_setup, ".yaml", YAML_TOKENS),
    Format("list of names", _write_names, lambda path: cityscapes._listed(path, path.parent), ".txt", (b"../", b"\0")),
    Format("list of images", _write_list, load_files, ".csv", (b'"', b"\0", b",", b"x:image,", b"../")),
]

# Runs ---------------------------------------------------------------------------------------------------------------

STATE = {"epoch": 1, "step": 0, "sums": {}, "last": {"loss": 0.5}, "best": 0.5, "rows": [{"epoch": 1, "loss": 0.5}],
         "extras": [], "config": {"seed": 0}}
HDF5_TOKENS = (b"OHDR", b"TREE", b"HEAP", b"SNOD", b"GCOL", b"need_grad", b"index", b"\xff" * 8)


def _with_solver(use: Callable[[dict, Any], Any]) -> None:
    """Call `use(parameters, solver)` with those of a small network."""
    with nn.parameter_scope("", OrderedDict()):
        PF.affine(nn.Variable((2, 3)), 4)
        solver = S.Adam(0.1)
        solver.set_parameters(nn.get_parameters())
        use(nn.get_parameters(grad_only=False), solver)


def _read_checkpoint(path: Path) -> None:
    read_state(path)
    _with_solver(lambda parameters, solver: restore(path, parameters, solver))


RECORD = published_record(20, 2, 5, 0.1)
SNAPSHOT = {"done": np.array(3), "scores": np.zeros(20)}


def _write_snapshot(path: Path) -> None:
    Snapshot(path, "abc", {}, lambda: SNAPSHOT).save()


def _read_snapshot(path: Path) -> None:
    Snapshot(path, "abc", {name: value.shape for name, value in SNAPSHOT.items()}, lambda: SNAPSHOT)


def _write_rows(path: Path, header: tuple[str, ...], *rows: tuple[object, ...]) -> None:
    path.write_text("\n".join([",".join(map(str, row)) for row in (header, *rows)]) + "\n")


INFLUENCE = ("x:image", "y:label", "influence", "datasource_index")
SCORES = {"targets": [{"name": "vocals", "frames": [
    {"time": 0.0, "metrics": {"SDR": 1.5, "SIR": 2.0, "ISR": 3.0, "SAR": float("nan")}}]}]}
INI = b"[DEFAULT]\nseed = 1\n\n[A]\nlike = B\nn_epochs = 3    # few\n[B]\ndamping = 1e-3\n"


def _read_ini(path: Path) -> None:
    load_section(CleansingConfig, path, "A")


def _named(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Read the folder of a file that must have a name of its own."""
    def read_folder(path: Path) -> Any:
        path.with_name(name).write_bytes(path.read_bytes())
        return read(path.parent)

    return read_folder


RUNS = [
    Format("checkpoint", lambda path: _with_solver(lambda parameters, solver: save_checkpoint(
        path, parameters, solver, STATE)), _read_checkpoint, ".h5", HDF5_TOKENS),
    Format("record", RECORD.save, TrainingRecord.load, ".npz", (b"PK\1\2", b"PK\3\4")),
    Format("snapshot", _write_snapshot, _read_snapshot, ".npz", (b"PK\1\2", b"<f8", b"<U3", b"(3,)")),
    Format("influence", lambda path: _write_rows(path, INFLUENCE, ("a", 0, 0.5, 1), ("b", 1, -1, 0)), read_influence,
           ".csv", (b"nan", b"1e999", b"9" * 30, b",", b'"')),
    Format("measures", lambda path: _write_rows(path, MEASURES, (1, 2, 0.5, 0.25)), read_measures, ".csv",
           (b"nan", b"1_0", b",", b'"')),
    Format("museval", lambda path: write_json(path, SCORES), read_frames, ".json", JSON_TOKENS),
    Format("run configuration", lambda path: write_json(path, to_dict(CleansingConfig())),
           _named("config.json", read_config), ".json", JSON_TOKENS),
    Format("ini", lambda path: path.write_bytes(INI), _read_ini, ".cfg",
           (b"[", b"]", b"[A]\n", b"=", b"%(x)s", b"like = A\n", b"\0", b" " * 50, b"1e999")),
]

# Networks ---------------------------------------------------------------------------------------------------------

SIZES = Sizes(n_fft=16, hidden_size=4, nb_layers=2, max_bin=5)


def _write_umx(path: Path) -> None:
    with nn.parameter_scope("", OrderedDict()):
        OpenUnmix(SIZES).masks(nn.Variable((1, 1, 2, 5)))
        save_parameters(path)


def _read_umx(path: Path) -> None:
    (path.parent / "config.json").unlink(missing_ok=True)
    find_weights(path)


def _write_run_of_umx(path: Path) -> None:
    write_json(path, {"nhop": 4, "sample_rate": 44100, "source": "vocals"})
    _write_umx(path.with_name("best_umx.h5"))


PACKED = QuantizedConfig(w_quantize=QUANTIZER_NAMES[0], w_stepsize=2 ** -5)


def _write_packed(path: Path) -> None:
    with nn.parameter_scope("", OrderedDict()):
        build_network(PACKED, 1, False, (3, 8, 8), 10)
        build_network(PACKED, 1, False, (3, 8, 8), 10).predict(np.zeros((1, 3, 8, 8), np.float32))
        packed.save(path, FinishedRun(PACKED, (3, 8, 8), 10))


def _read_packed(path: Path) -> None:
    packed.load(path)


def _repacked(content: bytes, path: Path) -> None:
    """Write a packed network with another description."""
    if not (sample := path.with_name("whole.mpdnn")).exists():
        _write_packed(sample)
    whole = sample.read_bytes()
    _, length, *others = struct.unpack_from("<IIII", whole, len(packed.MAGIC))
    text = zlib.compress(content)
    rest = struct.pack("<III", len(text), *others) + text + whole[len(packed.MAGIC) + 16 + length:]
    path.write_bytes(packed.MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest)


def _write_description(path: Path) -> None:
    """Write the description of a packed network."""
    _write_packed(path.with_name("whole.mpdnn"))
    whole = path.with_name("whole.mpdnn").read_bytes()
    _, length, *_ = struct.unpack_from("<IIII", whole, len(packed.MAGIC))
    path.write_bytes(zlib.decompress(whole[len(packed.MAGIC) + 16:][:length]))


def _read_description(path: Path) -> None:
    _repacked(path.read_bytes(), path.with_name("wrapped.mpdnn"))
    packed.load(path.with_name("wrapped.mpdnn"))


def _write_onnx(path: Path) -> None:
    from mixed_precision_dnns.deployment.quantized_onnx import export_network

    with nn.parameter_scope("", OrderedDict()):
        network = FinishedRun(QuantizedConfig(), (3, 8, 8), 10)
        path.write_bytes(export_network(network, 1).model.SerializeToString())


def _read_onnx(path: Path) -> None:
    from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork

    OnnxNetwork(path)


NETWORKS = [
    Format("weights of UMX", _write_umx, _read_umx, ".h5", HDF5_TOKENS),
    Format("run of UMX", _write_run_of_umx, _named("config.json", find_weights), ".json", JSON_TOKENS),
    Format("D3Net, music", lambda path: path.write_bytes((HPARAMS / "mss/tiny.yaml").read_bytes()), load_mss, ".yaml",
           YAML_TOKENS),
    Format("D3Net, scenes", lambda path: path.write_bytes((HPARAMS / "segmentation/tiny.yaml").read_bytes()),
           load_segmentation, ".yaml", YAML_TOKENS),
    Format("packed", _write_packed, _read_packed, ".mpdnn", (packed.MAGIC,)),
    Format("packed inside", _write_description, _read_description, ".json", (*JSON_TOKENS, b"[64,64,3,3]", b"uniform")),
    Format("ONNX", _write_onnx, _read_onnx, ".onnx", (b"Conv", b"Loop", b"pads", b"\x0a\xff\xff\x7f", b"raw_data")),
]

PAPERS = [*DATA, *RUNS, *NETWORKS]
