"""What a user meets at the edges of every script: exit statuses, one-line errors, files that appear whole."""
import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nnabla as nn
import nnabla.parametric_functions as PF
import numpy as np
import pytest
from nnabla.monitor import Monitor, MonitorSeries

from common.audio.spool import Spool
from common.console import cli
from common.machine.errors import UsageError, UserError
from common.machine.files import (
    link,
    make_folder,
    replacing,
    temporary_folder,
    temporary_place,
    write_csv,
    write_json,
    write_text,
)
from common.machine.seeding import derived_seed, seed_everything
from common.runs.curves import write_series
from common.runs.schedules import step_decay

TOP = Path(__file__).parents[2]
PACKAGES = "common", *(path.name for path in TOP.iterdir() if list(path.glob("*/__main__.py")))
SCRIPT = """
import errno, os, signal, sys
from common.console import cli
from common.machine.errors import UsageError, UserError

def main():
    {}

cli.run(main)
"""


def run_script(*lines):
    """Run a script with these lines as its main function; return its exit status and the lines on stderr."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format("\n    ".join(lines))], text=True, capture_output=True,
                          check=False, cwd=Path(__file__).parents[2])
    return done.returncode, done.stderr.splitlines()


# Exit statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines, status, stderr", [
    (["pass"], 0, []),
    (["return 3"], 3, []),
    (["raise UserError('song.mp3: no audio')"], 1, ["error: song.mp3: no audio"]),
    (["raise UsageError('--seed x: not a number')"], 2, ["error: --seed x: not a number"]),
    (["raise KeyboardInterrupt"], 130, ["interrupted"]),
    (["raise KeyboardInterrupt('stopped in epoch 3')"], 130, ["stopped in epoch 3"]),
    (["os.kill(os.getpid(), signal.SIGINT)"], 130, ["interrupted"]),
    (["os.kill(os.getpid(), signal.SIGTERM)"], 130, ["interrupted"]),
    (["raise PermissionError(errno.EACCES, 'Permission denied', 'out/log.csv')"], 1,
     ["error: out/log.csv: Permission denied"]),
    (["raise OSError(errno.EROFS, 'Read-only file system', 'out')"], 1, ["error: out: Read-only file system"]),
    (["with open('/dev/full', 'w') as stream:", "    stream.write('x' * 100000)"], 1,
     ["error: output: No space left on device"]),
    (["open('/nowhere/file')"], 2, ["error: /nowhere/file: No such file or directory"]),
    (["open('a' * 300)"], 2, [f"error: {'a' * 300}: File name too long"]),
    (["open(b'\\xff\\x1b[31m/a')"], 2, ["error: \\xff\\x1b[31m/a: No such file or directory"]),
    (["import pathlib; pathlib.Path('~nosuch').expanduser()"], 2, ["error: Could not determine home directory."]),
    (["raise ImportError('initialization failed') from KeyboardInterrupt()"], 130, ["interrupted"]),
    (["raise MemoryError"], 1, ["error: too little memory; ask for less at once"]),
])
def test_exit_status_and_one_line(lines, status, stderr):
    assert run_script(*lines) == (status, stderr)


@pytest.mark.parametrize("line, last", [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("raise ValueError('shapes')", "ValueError: shapes"),
    ("raise OSError(errno.EINVAL, 'Invalid argument')", "OSError: [Errno 22] Invalid argument"),
])
def test_bugs_keep_their_traceback(line, last):
    status, stderr = run_script(line)
    assert status == 1
    assert stderr[0].startswith("Traceback")
    assert stderr[-1] == last


def test_a_termination_signal_waits_for_nothing():
    script = SCRIPT.format("print('ready', flush=True); import time; time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, cwd=Path(__file__).parents[2])
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.terminate()
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 130
    assert time.monotonic() - started < 30


WRITING = re.compile(r"(?<!\btemporary)(?<!\breplacing\(path\)\))\.write_(?:text|bytes)\(")    # not whole


def test_files_are_written_whole_everywhere():
    found = [path.relative_to(TOP).as_posix() for path in TOP.glob("*/*/**/*.py")
             if path.relative_to(TOP).parts[0] in PACKAGES and "tests" not in path.parts
             and WRITING.search(path.read_text(encoding="utf-8"))]
    assert found == ["common/workbench/browser.py"]    # a picture of a page, for tests


# Temporary files ------------------------------------------------------------------------------------------------------


def test_a_temporary_folder_vanishes_with_what_is_in_it():
    with temporary_folder(room=10) as folder:
        assert folder.parent == Path(temporary_place()) and not list(folder.iterdir())
        (folder / "file").touch()
    assert not folder.exists()


@pytest.mark.parametrize("place, room, reason", [
    ("nowhere", 0, "No such file or directory"), ("file", 0, "Not a directory"),
    (".", 1 << 62, "(File too large|No space left on device|Invalid argument)")])
def test_where_there_is_no_room_for_temporary_files_a_line_says_what_to_do(place, room, reason, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
    with pytest.raises(UserError, match=rf"^{tmp_path}/?{'' if place == '.' else place}: temporary files cannot be "
                                        rf"written \({reason}\); set TMPDIR to ") as caught, temporary_folder(room):
        pass
    assert "\n" not in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_system_without_any_folder_for_temporary_files_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="^No usable temporary directory found in .*; set TMPDIR to "):
        temporary_place()
    with pytest.raises(UserError, match="^No usable temporary directory found in .*; set TMPDIR to "):
        Spool(None, (2,))


TEMPORARY = re.compile(r"\btempfile\.\w+")


def test_temporary_files_are_made_in_one_place():
    allowed = {"common/machine/files.py": {"tempfile.TemporaryDirectory", "tempfile.TemporaryFile",
                                           "tempfile.gettempdir"},
               "common/audio/spool.py": {"tempfile.TemporaryFile"},
               "common/workbench/browser.py": {"tempfile.TemporaryDirectory"}}    # a browser may still write there
    found = {path.relative_to(TOP).as_posix(): set(TEMPORARY.findall(path.read_text(encoding="utf-8")))
             for path in TOP.glob("*/*/**/*.py") if path.relative_to(TOP).parts[0] in PACKAGES
             and "tests" not in path.parts}
    assert {name: calls for name, calls in found.items() if calls} == allowed


# Flags ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parser():
    parser = cli.parser("Do something.\n\n    python script.py", prog="script.py")
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    return parser


def test_defaults_of_the_shared_flags(parser):
    assert parser.parse_args([]) == argparse.Namespace(context="auto", device_id="0", output=None, resume=False,
                                                       overwrite=False)


def test_short_forms_of_the_shared_flags(parser):
    args = parser.parse_args(["-c", "cudnn", "-d", "1", "-o", "out", "--resume"])
    assert args == parser.parse_args(["--context", "cudnn", "--device-id", "1", "--output", "out", "--resume"])
    assert parser.parse_args(["--gpu", "2"]).device_id == "2"


@pytest.mark.parametrize("argv, message", [
    (["--resume", "--overwrite"], "not allowed with argument"),
    (["--over"], "unrecognized arguments: --over"),    # no abbreviations
    (["-c", "tpu"], "invalid choice: 'tpu'"),
])
def test_wrong_flags_are_one_line(parser, argv, message):
    with pytest.raises(UsageError, match=message) as caught:
        parser.parse_args(argv)
    assert "\n" not in str(caught.value)


def test_help_keeps_the_lines_of_the_docstring(parser):
    assert "Do something.\n\n    python script.py\n" in parser.format_help()


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        # No reader takes it for a product, whatever the product is called.
        assert temporary.name.startswith(".") and not temporary.suffix
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_names_can_be(tmp_path):
    write_text(tmp_path / f"{'x' * 251}.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == [f"{'x' * 251}.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_is_one_line_with_the_final_name(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError) as caught, replacing(path):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == f"{path}: could not be written (No space left on device)"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode, monkeypatch):
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.delattr("os.umask")    # which would change that of other threads, too
            write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"a\.txt: a folder, a pipe or a device"):
        write_text(tmp_path / "a.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name}: a folder, a pipe or a device, .*choose another --output"):
            write_text(tmp_path / name, "text")
        assert (tmp_path / name).is_fifo()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("below", ["nowhere/a.txt", "file/a.txt"])
def test_a_file_in_a_folder_that_is_none_is_one_line(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(.*\); choose another --output") as caught:
        write_text(tmp_path / below, "text")
    assert "\n" not in str(caught.value)


def test_make_folder_makes_parents_and_leaves_contents_alone(tmp_path):
    folder = make_folder(str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b"
    (folder / "file").write_text("text")
    make_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("below", ["file", "file/folder", "file/folder/folder"])
def test_make_folder_refuses_what_cannot_be_a_folder(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output folder cannot be written") as caught:
        make_folder(tmp_path / below)
    assert str(caught.value).startswith(f"{tmp_path / below}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_make_folder_refuses_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="output folder cannot be written"):
        make_folder(tmp_path)


def test_write_csv(tmp_path):
    write_csv(tmp_path / "log.csv", ["epoch", "name, quoted"], [[1, 0.1], [2, None]])
    assert (tmp_path / "log.csv").read_bytes() == b'epoch,"name, quoted"\n1,0.1\n2,\n'


def test_write_json(tmp_path):
    value = {"a": [1, 0.1, None, "x"], "b": {}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == text


@pytest.mark.parametrize("links", [True, False])
def test_another_name_of_a_file_outlives_it(tmp_path, links, monkeypatch):
    def refuse(*args):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    path, target = tmp_path / "a.txt", tmp_path / "b.txt"
    target.write_text("older")
    write_text(path, "one")
    link(path, target)
    assert path.samefile(target) == links
    write_text(path, "two")    # replaces the file behind one name
    assert (path.read_text(), target.read_text()) == ("two", "one")
    link(path, target)
    assert target.read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_another_name_of_no_file_is_one_line_and_leaves_the_old_file(tmp_path):
    (tmp_path / "b.txt").write_text("older")
    with pytest.raises(UserError, match="b.txt: could not be written") as caught:
        link(tmp_path / "a.txt", tmp_path / "b.txt")
    assert "\n" not in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("b.txt", "older")]


def test_a_series_is_written_as_monitors_of_nnabla_do(tmp_path):
    values = [0.5, 1e-7, -12345.678]
    monitor = MonitorSeries("Validation loss", Monitor(str(tmp_path / "nnabla")), verbose=False)
    for epoch, value in enumerate(values):
        monitor.add(epoch, value)
    path = tmp_path / "Validation-loss.series.txt"
    write_series(tmp_path, "Validation loss", values)
    assert path.read_text() == (tmp_path / "nnabla" / path.name).read_text() == "0 0.5\n1 1e-07\n2 -12345.7\n"
    write_series(tmp_path, "Validation loss", [])
    assert path.read_text() == ""


# Schedules and seeds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch, drops, expected", [
    (0, (80, 120), 1), (79, (80, 120), 1), (80, (80, 120), 0.1), (119, (80, 120), 0.1), (120, (80, 120), 0.01),
    (159, (80, 120), 0.01), (5, (), 1), (0, (0,), 0.1), (1, (1, 1), 0.01),
])
def test_learning_rate_drops(epoch, drops, expected):
    assert step_decay(0.5, epoch, drops) == pytest.approx(0.5 * expected)


def test_learning_rate_drops_by_a_factor():
    assert [step_decay(8, epoch, (2, 3), factor=0.5) for epoch in range(5)] == [8, 8, 4, 2, 2]


def initial_parameters(seed):
    nn.clear_parameters()
    seed_everything(seed)
    PF.affine(PF.convolution(nn.Variable((1, 2, 5, 5)), 3, (3, 3)), 4)
    return np.concatenate([p.d.ravel() for p in nn.get_parameters().values()])


def test_one_seed_gives_the_same_first_parameters():
    np.testing.assert_array_equal(initial_parameters(3), initial_parameters(3))
    assert not np.array_equal(initial_parameters(3), initial_parameters(4))


def test_a_derived_seed_follows_from_all_its_numbers():
    # Never other ones: a run that is resumed with another version must go on alike.
    assert [derived_seed(42, 0, 0), derived_seed(42, 1, 2), derived_seed(42, 2, 1)] == [
        1722418523, 1218218947, 692935514]
    numbers = list(itertools.product((0, 1, 2 ** 31 - 1), range(20), range(50)))
    seeds = {derived_seed(*each) for each in numbers}
    assert len(seeds) == len(numbers)
    assert all(type(seed) is int and 0 <= seed < 2 ** 31 for seed in seeds)
    assert max(seeds) > 2 ** 30    # the whole range is used
