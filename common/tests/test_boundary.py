"""Boundaries: files of others are opened in `common.reading` alone, and stderr is written to by one function."""
import ast
from pathlib import Path

import pytest

import common

DECODERS = {"json.load", "json.loads", "yaml.load", "yaml.safe_load", "csv.reader", "csv.DictReader", "np.load",
            "np.fromfile", "np.loadtxt", "np.genfromtxt", "h5py.File", "zipfile.ZipFile", "tarfile.open", "gzip.open",
            "gzip.GzipFile", "pickle.load", "pickle.loads", "configparser.RawConfigParser", "Image.open", "av.open",
            "onnx.load", "torch.load", "soundfile.SoundFile", "os.open"}
METHODS = {"read_text", "read_bytes"}
# {module: {call: why it may}}. Beside these only files are opened to write.
OWN = "a file of the package itself"
EXEMPT = {
    "common.audio.decoders": {"av.open": "gets bytes that the boundary opened",
                              "soundfile.SoundFile": "gets a stream that the boundary opened"},
    "common.audio.descriptions": {"open": "the stem that was just written"},
    "common.audio.files": {"soundfile.SoundFile": "opens to write only"},
    "common.console.commands": {"read_text": OWN},
    "common.machine.streams": {"open": "the null device alone", "os.open": "the null device alone"},
    "common.datasets.mnist": {"gzip.GzipFile": "within the block of the boundary"},
    "common.downloads.fetch": {"open": "the digest of a download that was just written"},
    "common.gpu.nvrtc": {"read_bytes": OWN},
    "common.inference.onnx_reduction": {"onnx.load": "what onnxruntime has just written"},
    "common.machine.cache": {"json.loads": "below the boundary, its own cache", "read_text": "its own cache"},
    "common.machine.cores": {"read_text": "what the kernel tells in /proc and /sys"},
    "common.machine.cuda_extension": {"open": "the library of an installed package"},
    "common.machine.files": {"os.open": "to sync what was just written"},
    "common.machine.memory": {"read_text": "what the kernel tells in /proc"},
    "common.machine.output_folders": {"os.open": "the lock that it makes", "read_text": "the lock that it makes"},
    "common.machine.reductions": {"read_text": "what the driver tells in /proc"},
    "common.pages.document": {"read_text": OWN},
    "common.pictures.image_files": {"Image.open": "gets a stream that the boundary opened"},
    "common.pictures.figures": {"Image.open": "what matplotlib has just drawn, in memory"},
    "common.runs.checkpoint": {"h5py.File": "writes into memory only"},
    "common.runs.ini": {"configparser.RawConfigParser": "gets a text that the boundary read"},
    "common.workbench.browser": {"json.loads": "for tests alone, what the browser says"},
    "common.workbench.pages": dict.fromkeys(("json.loads", "read_text"), "for tests alone"),
    "common.workbench.testing": dict.fromkeys(("csv.DictReader", "h5py.File", "json.loads", "open", "read_bytes",
                                               "read_text"), "for tests alone"),
    "common.workbench.reproductions": dict.fromkeys(("read_text", "yaml.safe_load"),
                                                     "for developers alone, files of this repository"),
    "common.workbench.results": dict.fromkeys(("json.loads", "read_text", "yaml.safe_load"),
                                               "for developers alone, files of this repository"),
    "d3net.scenes.onnx_segmenter": {"json.loads": "runs without this repository, on what export.py wrote"},
    "mixed_precision_dnns.deployment.onnx_network": {"onnx.load": "what onnxruntime has just written"},
    "out_of_core_training.benchmark": {"json.loads": "what its own process printed"},
    "x_umx.convert": {"torch.load": "within the block of the boundary"},
}


def is_read(call):
    """Tell whether a call of `open`, a function or a method of a path, is to read."""
    mode = call.args[1 if isinstance(call.func, ast.Name) else 0:][:1] + [
        word.value for word in call.keywords if word.arg == "mode"]
    return not mode or not (isinstance(mode[0], ast.Constant) and set(str(mode[0].value)) & set("wax"))


def readers_in(source):
    """Names of the calls in a module that open or decode a file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        if name in DECODERS or ("." in name and last in METHODS):
            yield name if name in DECODERS else last
        elif last == "open" and (is_opening_a_path(node) if "." in name else is_read(node)):
            yield "open"


def is_opening_a_path(call):
    """Tell whether `x.open(...)` has a mode of a path, to read; tracks and stems have a method `open` of their own."""
    return bool(call.args or call.keywords) and is_read(call)


def modules():
    """{dotted name: path} of all modules but tests."""
    root = Path(common.__file__).parents[1]
    for folder in (root / "common", *(path.parent for path in root.glob("*/*/__main__.py"))):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            if "tests" not in parts:
                yield ".".join(parts), path


def found():
    for name, path in modules():
        if not name.startswith("common.reading"):
            for call in readers_in(path.read_text(encoding="utf-8")):
                yield name, call


def test_all_packages_are_looked_at():
    names = {name.partition(".")[0] for name, _ in modules()}
    assert names == {"common", "mixed_precision_dnns", "x_umx", "d3net", "out_of_core_training", "data_cleansing"}


def test_no_other_module_opens_or_decodes_files():
    unexpected = {pair for pair in found() if pair[1] not in EXEMPT.get(pair[0], {})}
    assert not unexpected, "read such files by common.reading"


def test_what_is_said_on_stderr_is_one_line():
    """All but the scripts that cannot import `say` call it."""
    printing = {name for name, path in modules() for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.keyword) and node.arg == "file" and ast.unparse(node.value) == "sys.stderr"}
    assert {name for name in printing if not name.endswith(".__main__")} == {
        "common.console.commands", "common.machine.streams"}, "use `common.machine.streams.say`"


def test_every_exemption_is_needed_and_has_a_reason():
    present = set(found())
    for name, calls in EXEMPT.items():
        for call, reason in calls.items():
            assert (name, call) in present, f"{name}: {call} is exempt, and not there"
            assert len(reason.split()) >= 3


@pytest.mark.parametrize("source, calls", [
    ("open(p)", ["open"]), ("open(p, 'rb')", ["open"]), ("open(p, 'w')", []), ("p.open('rb')", ["open"]),
    ("p.open('wb')", []), ("p.open(mode='r')", ["open"]), ("track.open()", []), ("p.read_text()", ["read_text"]),
    ("def f():\n return json.loads(x)", ["json.loads"]), ("read_text(p)", []), ("Image.open(p)", ["Image.open"])])
def test_what_counts_as_reading(source, calls):
    assert list(readers_in(source)) == calls
