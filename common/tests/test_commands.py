"""The commands of the packages: on the path, by `python -m`, and as scripts."""
import importlib
import json
import re
from pathlib import Path

import pytest

from common.console.commands import commands_of, launch
from common.machine.errors import UsageError
from common.workbench.testing import assert_one_line, run_python

TOP = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent for path in TOP.glob("*/*/__main__.py") if (path.parent / "__init__.py").exists())


# What does its work without any argument; all else says what there is to give.
ALONE = {*(f"{package}/benchmark" for package in ("d3net", "data_cleansing", "mixed_precision_dnns", "x_umx")),
         "out_of_core_training/benchmark", "d3net/compare", "x_umx/compare", "x_umx/export", "data_cleansing/cleanse",
         "data_cleansing/leave_one_out", "data_cleansing/planted_noise", "data_cleansing/train",
         "mixed_precision_dnns/demo", "mixed_precision_dnns/fit_gaussian"}
COMMANDS = [f"{path.name}/{command}" for path in PACKAGES for command in commands_of(path.name)]


def call(monkeypatch, capsys, *argv, command=None, package="x_umx"):
    """Exit status, stdout and stderr of `launch` for a process that was started with `argv`."""
    monkeypatch.setattr("sys.argv", list(argv))
    with pytest.raises(SystemExit) as caught:
        launch(package, command)
    return caught.value.code or 0, *capsys.readouterr()


def test_commands_are_modules_with_a_main_and_are_not_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_paper").mkdir()
    sources = {"__init__": "", "train": '"""Train.\n\nLong."""\n1 / 0\ndef main(): pass',
               "model": "def build(): pass", "eval": "class Main: pass\ndef main(argv=None): pass"}
    for name, text in sources.items():
        (tmp_path / "some_paper" / f"{name}.py").write_text(text)
    assert commands_of("some_paper") == {"eval": "", "train": "Train."}


def test_all_papers_have_commands():
    assert len(PACKAGES) == 5


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_command_has_a_script_that_starts_it(package):
    commands = commands_of(package.name)
    assert set(commands) == {path.stem for path in package.parent.glob("*.py")}
    for command in commands:
        script = (package.parent / f"{command}.py").read_text()
        assert f"from {package.name}.__main__ import launch\n" in script
        assert script.endswith(f'if __name__ == "__main__":\n    launch("{command}")\n')


def test_what_works_without_arguments_exists():
    assert set(COMMANDS) >= ALONE


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ALONE])
def test_without_arguments_a_script_says_what_it_does_and_what_to_try_first(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    package, command = name.split("/")
    result = call(monkeypatch, capsys, f"{command}.py", command=command, package=package)
    assert_one_line(result, 2, "(see --help)")
    doc = importlib.import_module(f"{package}.{command}").__doc__.strip()
    assert result[1].startswith(doc + "\n\n")
    assert re.search(r"python (?:.|\\\n)*#.*\b(seconds?|minutes?)\b", doc), "no command with the time it takes"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, task, sections", [
    ("mixed_precision_dnns/train_resnet", (), ["DEFAULT", "PARAMETRIC_FP_WQ_DELTA_XMAX", "and"]),
    ("mixed_precision_dnns/train_imagenet", (), ["RESNET18", "MOBILENETV2", "and"]),
    ("x_umx/train", (), ["DEFAULT", "XUMX", "UMX", "SYNTHETIC", "SMALL"]),
    ("out_of_core_training/train", (), ["RESNET50", "DENSENET121", "PIX2PIXHD", "DEEPLABV3PLUS", "SMALL"]),
    ("d3net/train", ("mss",), ["vocals", "drums", "bass", "other", "SYNTHETIC", "SMALL"]),
    ("d3net/train", ("segmentation",), ["D3Net_L", "D3Net_S", "SYNTHETIC"]),
])
def test_without_arguments_a_training_lists_its_sections(name, task, sections, monkeypatch, capsys):
    package, command = name.split("/")
    status, out, _ = call(monkeypatch, capsys, f"{command}.py", *task, command=command, package=package)
    listed = [line.split()[0] for line in out.rpartition("Sections of ")[2].splitlines()[1:] if line]
    assert status == 2 and set(listed) >= set(sections), listed
    assert max(map(len, out.splitlines())) <= 150


def test_a_flag_without_what_is_required_is_one_line(monkeypatch, capsys):
    result = call(monkeypatch, capsys, "train_resnet.py", "--resume", command="train_resnet",
                  package="mixed_precision_dnns")
    assert_one_line(result, 2, "required: CONFIG")
    assert not result[1]


@pytest.mark.parametrize("argv", [["x-umx"], ["x-umx", "--help"], ["x-umx", "-h"]])
def test_without_a_command_all_are_listed(argv, monkeypatch, capsys):
    status, out, err = call(monkeypatch, capsys, "/usr/bin/" + argv[0], *argv[1:])
    assert status == 0 and not err
    usage, _, *rows, _, hint = out.splitlines()
    assert usage == "usage: x-umx COMMAND ..." and hint == "Arguments of a command: x-umx COMMAND --help"
    assert [row.split()[0] for row in rows] == list(commands_of("x_umx"))
    assert ["train", "Train", "X-UMX,"] in [row.split()[:3] for row in rows]


def test_a_command_that_does_not_exist_is_one_line(monkeypatch, capsys):
    result = call(monkeypatch, capsys, "x-umx", "tain")
    assert_one_line(result, 2, "x-umx tain: no such command; there are benchmark, ")


@pytest.mark.parametrize("argv, command, usage", [
    (["/usr/bin/x-umx", "train"], None, "usage: x-umx train "),
    (["/checkout/x_umx/__main__.py", "train"], None, "usage: python -m x_umx train "),
    (["x-umx/train.py"], "train", "usage: train.py ")])
def test_help_names_what_was_typed(argv, command, usage, monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, *argv, "--help", command=command)
    assert status == 0 and out.startswith(usage) and "--umx-train" in out


def test_python_runs_a_package():
    status, out, err = run_python("-m", "x_umx", "train", "--help", cwd=TOP / "x-umx")
    assert status == 0 and not err and out.startswith("usage: python -m x_umx train ")


def test_an_installation_knows_all_packages():
    table = (TOP / "pyproject.toml").read_text().partition("[project.scripts]\n")[2].partition("\n\n")[0]
    assert set(table.splitlines()) == {
        f'{package.parent.name} = "{package.name}.__main__:launch"' for package in PACKAGES}


def test_an_error_leaves_the_process_with_its_status():
    assert_one_line(run_python("-m", "d3net", "fly", cwd=TOP / "d3net"), 2, "python -m d3net fly: no such command")


# Libraries that take long to load, and that the text of --help does not need.
HELP = """
import contextlib, importlib, io, json, sys
import nnabla
heavy = set("av cv2 librosa matplotlib museval norbert onnx onnxruntime PIL scipy.signal sklearn soundfile".split())
loaded = {}
for package, command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        importlib.import_module(f"{package}.{command}").main(["--help"])
    for library in heavy & sys.modules.keys():
        loaded.setdefault(library, f"{package} {command}")
print(json.dumps(loaded))
"""


def test_help_loads_no_library_that_takes_long():
    commands = [(package.name, command) for package in PACKAGES for command in commands_of(package.name)]
    status, out, err = run_python("-c", HELP, json.dumps(commands))
    assert status == 0, err
    assert json.loads(out) == {}    # library -> the first command that loads it


# Trainings whose data nobody may hand on, or that are random by default: what they are without --root or --data-dir.
WITHOUT_DATA = {
    ("x_umx", "train"): [[], ["XUMX"], ["UMX"], ["--root", "none"]],
    ("d3net", "train"): [["mss"], ["mss", "drums"], ["segmentation"], ["segmentation", "D3Net_S"]],
    ("mixed_precision_dnns", "train_imagenet"): [["RESNET18"]],
    ("out_of_core_training", "train"): [["RESNET50"], ["DEEPLABV3PLUS"]],
}
DOWNLOADED = {("mixed_precision_dnns", "train_resnet"), ("data_cleansing", "train")}    # CIFAR-10


def test_every_training_is_known_by_its_data():
    trainings = {(package.name, command) for package in PACKAGES for command in commands_of(package.name)
                 if command.startswith("train")}
    assert trainings == set(WITHOUT_DATA) | DOWNLOADED


@pytest.mark.parametrize("package, command, argv", [
    (*key, argv) for key, calls in WITHOUT_DATA.items() for argv in calls], ids=str)
def test_a_training_without_data_is_one_line_and_generates_none(package, command, argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"{package}.{command}").main
    with pytest.raises(UsageError, match="--(root|data-dir).*synthetic") as caught:
        main([*argv, "-c", "cpu", "-o", "run"])
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
