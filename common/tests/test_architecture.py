"""The architecture that ARCHITECTURE.md draws: rooms on floors, papers that know nothing of each other, no circles."""
import ast
import graphlib
import re
from pathlib import Path

import pytest

import common

ROOT = Path(common.__file__).parents[1]
# Each room imports from lower floors alone. A new room belongs here and into the picture of ARCHITECTURE.md.
FLOORS = (
    ("machine",),
    ("console", "reading"),
    ("cpu", "downloads", "gpu", "out_of_core", "pages", "pictures"),
    ("audio", "inference", "layers", "runs"),
    ("datasets", "quantizers", "workbench"),
    ("separation",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PAPERS = {"mixed_precision_dnns": "mixed-precision-dnns", "x_umx": "x-umx", "d3net": "d3net",
          "out_of_core_training": "out-of-core-training", "data_cleansing": "data-cleansing"}
PACKAGES = {"common": ROOT / "common", **{package: ROOT / folder / package for package, folder in PAPERS.items()}}


def modules():
    """{dotted name: path} of all modules but tests."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if "tests" not in parts:
                found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(path):
    """Modules of this repository that a file imports, also within its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


IMPORTS = {name: set(imports_of(path)) - {name} for name, path in MODULES.items()}


def test_every_room_has_a_floor():
    assert {path.parent.name for path in (ROOT / "common").glob("*/__init__.py")} == set(FLOOR_OF)
    assert [path.name for path in (ROOT / "common").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", FLOOR_OF)
def test_no_room_imports_upwards(room):
    for name, imported in IMPORTS.items():
        if name.startswith(f"common.{room}."):
            rooms = {other.split(".")[1] for other in imported if other != "common"} - {room}
            assert all(FLOOR_OF[other] < FLOOR_OF[room] for other in rooms), (name, rooms)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_paper_knows_itself_and_what_is_common(package):
    for name, imported in IMPORTS.items():
        if name.split(".")[0] == package:
            assert {other.split(".")[0] for other in imported} <= {package, "common"}, name


def test_no_modules_import_each_other_in_a_circle():
    # Importing a module runs the __init__ of its packages, too; one that imports from its own modules is no circle.
    graphlib.TopologicalSorter({name: {other for other in imported if not name.startswith(f"{other}.")}
                                for name, imported in IMPORTS.items()}).prepare()


def test_the_map_shows_all_rooms():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `common/(\w+)`", text, re.MULTILINE)) == set(FLOOR_OF)
    assert set(re.findall(r"^\| `([\w-]+/\w+)`", text, re.MULTILINE)) >= {f"{folder}/{package}"
                                                                        for package, folder in PAPERS.items()}


# Audio and pictures of others are decoded in two modules alone; elsewhere they would be read without bounds.
DECODING = re.compile(r"\bav\.open\(|\bsoundfile\.(?:read|info|blocks|SoundFile)\(|\blibrosa\.load\(|\bImage\.open\(|"
                      r"\bim(?:read|decode)\w*\(|\bVideoCapture\(|\bwave\.open\(")
DECODERS = {
    "common.audio.decoders": {"av.open(", "soundfile.SoundFile("}, "common.pictures.image_files": {"Image.open("},
    "common.audio.files": {"soundfile.SoundFile("},    # to write
    "common.pictures.figures": {"Image.open("},    # what matplotlib drew
    "common.workbench.testing": {"soundfile.read("},    # what tests wrote
    "data_cleansing.benchmark": {"imread("},    # what it wrote itself, as the published code reads it
    "d3net.scenes.segmenter": {"imread("},    # in an example
}


def test_audio_and_pictures_are_decoded_in_one_place_each():
    found = {name: set(DECODING.findall(path.read_text(encoding="utf-8"))) for name, path in MODULES.items()}
    assert {name: calls for name, calls in found.items() if calls} == DECODERS


# What `os` and `signal` have on Unix alone, as their documentation says.
UNIX = {
    *(f"os.{name}" for name in (
        "O_NOFOLLOW", "O_NONBLOCK", "chown", "chroot", "eventfd", "fchmod", "fchown", "fork", "forkpty", "geteuid",
        "getgid", "getgroups", "getloadavg", "getpgid", "getpriority", "getsid", "getuid", "killpg", "lchown", "mkfifo",
        "mknod", "nice", "openpty", "pathconf", "pipe2", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread",
        "preadv", "pwrite", "pwritev", "readv", "register_at_fork", "sched_getaffinity", "sched_setaffinity",
        "sched_yield", "sendfile", "setpgid", "setpriority", "setsid", "statvfs", "sync", "sysconf", "uname", "wait",
        "wait3", "wait4", "writev")),
    *(f"signal.{name}" for name in (
        "SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "pthread_sigmask", "setitimer", "sigwait")),
}
GUARDED = {    # behind `hasattr` or `except AttributeError`, with something else to do
    "common.machine.cores": {"os.sched_getaffinity", "os.sched_setaffinity"}, "common.machine.memory": {"os.sysconf"},
    "common.machine.files": {"os.posix_fallocate"}, "common.machine.processes": {"signal.pthread_sigmask"},
    "common.machine.threads": {"os.register_at_fork"}, "common.cpu.parallel": {"os.register_at_fork"},
    "common.inference.forks": {"os.register_at_fork"},
}


def test_what_other_systems_lack_is_used_where_something_else_is_done_without_it():
    found = {}
    for name, path in MODULES.items():
        if name != "common.workbench.testing":
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found[name] = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)} & UNIX
    assert {name: names for name, names in found.items() if names} == GUARDED
