"""The bad inputs of `bad_inputs.py`: calls of real commands, by kind, and the files that they name."""
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import h5py

SHORT = 120    # characters of a call that is shown
Argument = str | bytes

# Commands: a script and what it needs to come to the flag, key or file that is bad. ----------------------------------

COMMANDS = {
    "x-umx/benchmark.py": "", "x-umx/compare.py": "-o out", "x-umx/convert.py": "text.h5 out.pth",
    "x-umx/export.py": "--model text.h5 -o out.onnx",
    "x-umx/eval.py": "--root nosuch -o out", "x-umx/separate.py": "nosuch.wav --model text.h5 -o out",
    "x-umx/train.py": "SYNTHETIC -o out", "d3net/benchmark.py": "", "d3net/compare.py": "-o out",
    "d3net/eval.py mss": "--root nosuch -o out", "d3net/eval.py segmentation": "--data-dir nosuch -o out",
    "d3net/export.py mss": "--model text.h5 -o out", "d3net/export.py segmentation": "--model text.h5 -o out.onnx",
    "d3net/plot_scene.py": "-m nosuch", "d3net/plot_stems.py": "text.wav nosuch",
    "d3net/segment.py": "nosuch.png --model text.h5 -o out",
    "d3net/separate.py": "nosuch.wav --model text.h5 -o out", "d3net/train.py mss": "SYNTHETIC -o out",
    "d3net/train.py segmentation": "SYNTHETIC -o out", "mixed-precision-dnns/benchmark.py": "",
    "mixed-precision-dnns/compare.py": "--dataset digits --weightfile text.h5 -o out",
    "mixed-precision-dnns/demo.py": "", "mixed-precision-dnns/eval.py": "nosuch",
    "mixed-precision-dnns/export.py": "nosuch", "mixed-precision-dnns/fit_gaussian.py": "-o out",
    "mixed-precision-dnns/plot.py": "nosuch", "mixed-precision-dnns/report.py": "nosuch",
    "mixed-precision-dnns/train_imagenet.py": "RESNET18 -o out",
    "mixed-precision-dnns/train_resnet.py": "DEFAULT_ --dataset digits -o out",
    "out-of-core-training/benchmark.py": "resnet50 --memory 1GB -o out", "out-of-core-training/plan.py": "resnet50",
    "out-of-core-training/train.py": "SMALL -o out", "data-cleansing/benchmark.py": "",
    "data-cleansing/cleanse.py": "--dataset digits -o out", "data-cleansing/compare_lists.py": "nosuch",
    "data-cleansing/eval.py": "nosuch",
    "data-cleansing/leave_one_out.py": "-o out", "data-cleansing/planted_noise.py": "DIGITS -o out",
    "data-cleansing/report.py": "nosuch",
    "data-cleansing/score.py": "nosuch", "data-cleansing/train.py": "--dataset digits -o out",
}

# Where a command reads something, as {}, and what that should be.
READS = (
    ("x-umx/separate.py {} --model xumx.h5 -o out", "audio"),
    ("x-umx/separate.py good.wav --model {} -o out", "weights"),
    ("x-umx/convert.py {} out.pth", "weights"),
    ("x-umx/eval.py --root {} --model xumx.h5 -o out", "folder"),
    ("x-umx/train.py SYNTHETIC --root {} -o out", "folder"),
    ("x-umx/train.py A --cfg {} -o out", "cfg"),
    ("x-umx/compare.py --root {} -o out", "folder"),
    ("d3net/separate.py {} --model music -o out", "audio"),
    ("d3net/separate.py good.wav --model {} -o out", "weights"),
    ("d3net/segment.py {} --model scenes.h5 --config tiny -o out", "image"),
    ("d3net/segment.py good.png --model {} --config tiny -o out", "weights"),
    ("d3net/segment.py good.png --model scenes.h5 --config {} -o out", "yaml"),
    ("d3net/eval.py mss --root {} --model music -o out", "folder"),
    ("d3net/eval.py segmentation --data-dir {} --model scenes.h5 --config tiny -o out", "folder"),
    ("d3net/train.py mss A --cfg {} -o out", "cfg"),
    ("d3net/train.py mss SYNTHETIC --hparams {} -o out", "yaml"),
    ("d3net/train.py segmentation SYNTHETIC --data-dir {} -o out", "folder"),
    ("d3net/train.py segmentation SYNTHETIC --pretrained {} -o out", "weights"),
    ("d3net/plot_scene.py --model {} --config tiny -o out.png", "weights"),
    ("d3net/plot_stems.py {} nosuch", "audio"),
    ("d3net/plot_stems.py good.wav {}", "folder"),
    ("d3net/compare.py --data-dir {} -o out", "folder"),
    ("mixed-precision-dnns/eval.py {}", "run"),
    ("mixed-precision-dnns/export.py {}", "run"),
    ("mixed-precision-dnns/plot.py {}", "run"),
    ("mixed-precision-dnns/report.py {}", "run"),
    ("mixed-precision-dnns/train_resnet.py A --cfg {} -o out", "cfg"),
    ("mixed-precision-dnns/train_resnet.py DEFAULT_ --dataset digits --weightfile {} -o out", "weights"),
    ("mixed-precision-dnns/train_resnet.py DEFAULT_ --dataset cifar10 --data-dir {} -o out", "folder"),
    ("mixed-precision-dnns/train_imagenet.py RESNET18 --data-dir {} -o out", "folder"),
    ("out-of-core-training/train.py A --cfg {} -o out", "cfg"),
    ("out-of-core-training/train.py RESNET50 --data-dir {} -o out", "folder"),
    ("data-cleansing/eval.py {}", "run"),
    ("data-cleansing/report.py {}", "run"),
    ("data-cleansing/score.py {}", "run"),
    ("data-cleansing/train.py A --cfg {} -o out", "cfg"),
    ("data-cleansing/cleanse.py --dataset files --data-dir {} -o out", "folder"),
)
WRITES = (
    "x-umx/train.py SYNTHETIC -o {}",
    "x-umx/separate.py good.wav --model xumx.h5 -o {}",
    "d3net/train.py segmentation SYNTHETIC -o {}",
    "d3net/segment.py good.png --model scenes.h5 --config tiny -o {}",
    "mixed-precision-dnns/train_resnet.py DEFAULT_ --dataset digits -o {}",
    "mixed-precision-dnns/fit_gaussian.py -o {}",
    "out-of-core-training/train.py SMALL -o {}",
    "data-cleansing/train.py --dataset digits -o {}",
    "data-cleansing/leave_one_out.py -o {}",
)

NUMBERS = ("1" + "0" * 30, "nan", "1e999", "12abc", "", "9" * 5000, "-1e30", "0x10")
NO_NUMBERS = re.compile("--output_dir")
NUMERIC = "N|X|SECONDS|FRACTION|SIZE|DURATION|ROUNDS|BATCH_SIZE|EPOCHS|SEED"
TEXTUAL = "TEXT|NAME|FILE|DIR|FOLDER"
LONG = "x" * 5000 + "\n\x1b[31m" + "y" * 5000    # a value that no message may repeat as it is
NAMES: dict[str, Argument] = {    # of what is not there, or no file
    "missing": "nosuch", "no user": "~nosuch/file", "long": "a" * 300, "long path": "a/" * 3000,
    "control characters": "no\x1b[31m\nsuch", "not UTF-8": b"no\xffsuch", "loop": "loop", "FIFO": "fifo",
    "device": "/dev/zero", "not readable": "/proc/self/mem"}
PLACES: dict[str, Argument] = {"file in the way": "text.wav", "below a file": "text.wav/out", "/proc": "/proc/nosuch",
                               "long": "a" * 300, "loop": "loop/out"}
VARIABLES = ("OMPI_COMM_WORLD_SIZE=two", "OMPI_COMM_WORLD_RANK=-1", "OMPI_COMM_WORLD_SIZE=" + "9" * 400)


@attrs.frozen
class Case:
    """A call.

    Attributes
    ----------
    kind
    argv
        The script, and its arguments.
    statuses
        That are right.
    variables
        Of the environment, beside those that there are.
    redirection
        Of bash, after the call.
    """

    kind: str
    argv: tuple[Argument, ...]
    statuses: tuple[int, ...] = (1, 2)
    variables: Mapping[str, str] = attrs.field(factory=dict)
    redirection: str = ""

    def __str__(self) -> str:
        words = " ".join(os.fsdecode(word)[:SHORT] for word in self.argv)
        return f"{words} {self.redirection}{' '.join(f'{k}={v[:20]}' for k, v in self.variables.items())}".rstrip()


def cases(help_of: Callable[[str], str]) -> list[Case]:
    """List all calls; `help_of` returns what a command of `COMMANDS` prints for --help."""
    return [*_numbers(help_of), *_texts(help_of), *_words(), *_names(), *_files(), *_places(), *_surroundings()]


def _words_of(command: str) -> tuple[str, ...]:
    return tuple(f"{command} {COMMANDS[command]}".split())


def _numbers(help_of: Callable[[str], str]) -> Iterator[Case]:
    """Each flag that takes a number, with two that are none or too large."""
    count = 0
    for command in COMMANDS:
        for flag in sorted(set(re.findall(rf"(--[a-z0-9_-]+) (?:{NUMERIC})\b", help_of(command)))):
            for _ in range(0 if NO_NUMBERS.fullmatch(flag) else 2):
                yield Case("numbers", (*_words_of(command), f"{flag}={NUMBERS[count % len(NUMBERS)]}"), (2,))
                count += 1


def _texts(help_of: Callable[[str], str]) -> Iterator[Case]:
    """Each flag that takes a text, with one that is long and of several lines."""
    for command in COMMANDS:
        for flag in sorted(set(re.findall(rf"(--[a-z0-9_-]+) (?:{TEXTUAL})\b", help_of(command)))):
            yield Case("texts", (*_words_of(command), f"{flag}={LONG}"))


def _words() -> Iterator[Case]:
    for command in COMMANDS:
        words = _words_of(command)
        yield Case("flags", (*words, "--no-such-flag"), (2,))
        yield Case("flags", (*words, "--", "-dash", "--dash"), (1, 2))


def _names() -> Iterator[Case]:
    for call, _ in READS:
        for name in NAMES.values():
            yield Case("names", _filled(call, name))


def _files() -> Iterator[Case]:
    suffixes = {"audio": (".wav", ".mp3"), "image": (".png",), "weights": (".h5",), "yaml": (".yaml",),
                "cfg": (".cfg",)}
    for call, content in READS:
        if content == "run":
            yield from (Case("files", _filled(call, f"run-{name}")) for name in BROKEN_CONFIGS)
        elif content == "folder":
            yield from (Case("files", _filled(call, name)) for name in ("empty", "text.wav", "run-list"))
        else:
            for suffix in suffixes[content]:
                for name in (*CONTENTS, *(stem for stem, end in SPECIAL if end == suffix)):
                    yield Case("files", _filled(call, f"{name}{suffix}"))
            yield Case("files", _filled(call, "empty"))


def _places() -> Iterator[Case]:
    for call in WRITES:
        for place in PLACES.values():
            yield Case("places", _filled(call, place))


def _surroundings() -> Iterator[Case]:
    for command in COMMANDS:
        script = tuple(command.split())
        yield Case("streams", (*script, "--help"), (0,), redirection=">&-")
        yield Case("streams", (*script, "--help"), (1,), redirection=">/dev/full")
    for number, command in enumerate(COMMANDS):
        name, _, value = VARIABLES[number % len(VARIABLES)].partition("=")
        yield Case("variables", _words_of(command), (2,), {name: value})


def _filled(call: str, value: Argument) -> tuple[Argument, ...]:
    return tuple(value if word == "{}" else word for word in call.split())


# Files ----------------------------------------------------------------------------------------------------------------

_NOISE = random.Random(0).randbytes(3000)
CONTENTS = {"nothing": b"", "text": b"This is a text.\n" * 20, "noise": _NOISE, "zeros": bytes(3000),
            "zip": b"PK\x03\x04" + _NOISE, "brackets": b"[" * 20000, "html": b"<html><body>Not found</body></html>"}
BROKEN_CONFIGS = {"none": None, "nothing": b"", "text": b"text", "list": b"[1, 2]", "deep": b"[" * 50000,
                  "keys": b'{"epochs": 1}', "nulls": b'{"epochs": null, "cfg": {"\\u0000": [[]]}}',
                  "noise": _NOISE, "huge": b'{"epochs": 1' + b"0" * 5000 + b"}",
                  "long": json.dumps({LONG: 1, "epochs": LONG, "source": LONG, "dataset": LONG}).encode()}


def _wav(rate=44100, channels=2, bits=16, claimed=4000, samples=1000):
    frame = channels * bits // 8
    return (b"RIFF" + struct.pack("<I", 36 + claimed) + b"WAVEfmt " +
            struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * frame & 0xffffffff, frame & 0xffff, bits) +
            b"data" + struct.pack("<I", claimed) + bytes(4 * samples))


def _png(width, height, bits=8, colours=2):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(bytes(64 * (1 + 64 * 3)))) + chunk(b"IEND", b""))


def _h5(name):
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset(name, data=[0.0], dtype="f4").attrs["need_grad"] = LONG
    return file.getvalue()


SPECIAL = {
    ("rate-0", ".wav"): _wav(rate=0), ("rate-huge", ".wav"): _wav(rate=0xffffffff),
    ("channels-0", ".wav"): _wav(channels=0), ("channels-1000", ".wav"): _wav(channels=1000),
    ("bits-33", ".wav"): _wav(bits=33), ("no-samples", ".wav"): _wav(claimed=0, samples=0),
    ("playlist", ".mp3"): b"#EXTM3U\n/etc/passwd\nfile:///dev/zero\n",
    ("concat", ".mp3"): b"ffconcat version 1.0\nfile x\n",
    ("huge", ".png"): _png(60000, 60000), ("no-pixels", ".png"): _png(0, 0), ("bits-5", ".png"): _png(64, 64, bits=5),
    ("list", ".yaml"): b"- 1\n- 2\n", ("bomb", ".yaml"): b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n".encode() for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ("date", ".yaml"): b"a: 2001-99-99\n", ("keys", ".yaml"): b"batch_size: 99999999999999999999\n",
    ("twice", ".cfg"): b"[A]\na = 1\na = 2\n", ("circle", ".cfg"): b"[A]\nlike = B\n[B]\nlike = A\n",
    ("key", ".cfg"): b"[A]\nnosuch = 1\n", ("number", ".cfg"): b"[A]\nepochs = 1e30\n",
    ("huge", ".cfg"): b"[A]\nbatch_size = 1" + b"0" * 5000 + b"\n", ("nul", ".cfg"): b"[A]\ndata_dir = a\0b\n",
    ("long-key", ".cfg"): f"[A]\n{'x' * 9000} = 1\n".encode(),
    ("long-value", ".cfg"): f"[A]\nepochs = {'x' * 9000}\n".encode(),
    ("long-key", ".yaml"): json.dumps({LONG: 1}).encode(), ("long-name", ".h5"): _h5(LONG),
    ("long-value", ".yaml"): json.dumps(dict.fromkeys(("fft_size", "num_classes"), LONG)).encode(),
    ("magic", ".h5"): b"\x89HDF\r\n\x1a\n" + _NOISE, ("magic-zeros", ".h5"): b"\x89HDF\r\n\x1a\n" + bytes(3000),
}


# Small networks, for what a command reads beside what is bad.
NETWORKS = """
import nnabla as nn
from common.runs.checkpoint import save_parameters
from d3net.hyperparameters import load_mss, load_segmentation, save_hyper_parameters
from d3net.mss_model import D3NetMSS
from d3net.segmentation_model import d3net_segmentation
from x_umx.model import CrossNetOpenUnmix, Sizes

CrossNetOpenUnmix(Sizes(n_fft=256, hidden_size=16, max_bin=94)).masks(nn.Variable((1, 1, 2, 129)))
save_parameters("xumx.h5")
nn.clear_parameters()
hparams = load_mss("tiny")
D3NetMSS(hparams, "vocals")(nn.Variable((1, hparams.frame_multiple, hparams.n_channels, hparams.bins)))
save_parameters("music/vocals.h5")
save_hyper_parameters("music/vocals.yaml", hparams)
nn.clear_parameters()
d3net_segmentation(nn.Variable((1, 3, 64, 64)), load_segmentation("tiny"))
save_parameters("scenes.h5")
"""


def write_files(folder: Path, environment: Mapping[str, str]) -> None:
    """Write all files that the calls name; `environment` is that of a process that finds the papers."""
    (folder / "music").mkdir()
    subprocess.run([sys.executable, "-c", NETWORKS], cwd=folder, env=dict(environment), check=True,
                   stderr=subprocess.DEVNULL)
    for suffix in (".wav", ".mp3", ".png", ".h5", ".yaml", ".cfg"):
        for name, content in CONTENTS.items():
            (folder / f"{name}{suffix}").write_bytes(content)
    for (name, suffix), content in SPECIAL.items():
        (folder / f"{name}{suffix}").write_bytes(content)
    (folder / "good.wav").write_bytes(_wav())
    (folder / "good.png").write_bytes(_png(64, 64))
    for name, content in BROKEN_CONFIGS.items():
        (folder / f"run-{name}").mkdir()
        if content is not None:
            (folder / f"run-{name}" / "config.json").write_bytes(content)
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")


