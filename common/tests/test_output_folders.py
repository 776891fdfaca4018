"""Output folders: what a killed process leaves in them, and two processes that want to write to one."""
import contextlib
import errno
import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.console.commands import commands_of
from common.machine import distributed
from common.machine.errors import UsageError, UserError
from common.machine.files import UNFINISHED, make_folder, remove_leftovers, write_json, write_text
from common.machine.output_folders import LOCK, claimed
from common.runs.config import to_dict
from common.workbench.testing import needs_ffmpeg

WRITING = """
import sys, time
from common.machine.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""
HOLDING = """
import sys, time
from common.machine.output_folders import claimed
with claimed(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(600)
"""
TAKING_TURNS = """
import os, sys
from common.machine.errors import UserError
from common.machine.output_folders import claimed
inside = 0
while inside < 100:
    try:
        with claimed(sys.argv[1]) as folder:
            os.close(os.open(folder / "alone", os.O_CREAT | os.O_EXCL))    # fails if another process is inside
            os.unlink(folder / "alone")
            inside += 1
    except UserError as error:
        assert "is writing to this folder" in str(error), error
"""


@contextlib.contextmanager
def process(code, path):
    """Run Python code on a path in a process that has said `ready`; it is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What is left over ----------------------------------------------------------------------------------------------------


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    (tmp_path / "song.wav").write_text("old")
    (tmp_path / ".hidden").write_text("of the user")
    with process(WRITING, tmp_path / "song.wav") as running:
        first, second, third = names(tmp_path)
        assert (first, third) == (".hidden", "song.wav") and second.startswith(UNFINISHED)
        remove_leftovers(tmp_path)    # it is being written: it stays
        assert names(tmp_path) == [".hidden", second, "song.wav"]
        running.kill()
        assert running.wait() == -signal.SIGKILL
    assert names(tmp_path) == [".hidden", second, "song.wav"]
    write_text(tmp_path / "other.txt", "text")    # not the same file
    assert names(tmp_path) == [".hidden", "other.txt", "song.wav"]
    assert (tmp_path / "song.wav").read_text() == "old"


def test_what_only_looks_like_a_leftover_stays(tmp_path):
    (tmp_path / f"{UNFINISHED}folder").mkdir()
    (tmp_path / "text").write_text("text")
    (tmp_path / f"{UNFINISHED}link").symlink_to("text")
    before = names(tmp_path)
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert names(tmp_path) == before and (tmp_path / "text").read_text() == "text"


def test_writers_are_not_disturbed_by_those_who_clean_up(tmp_path):
    done, failures = threading.Event(), []

    def write(number):
        try:
            for count in range(100):
                write_text(tmp_path / f"{number}.txt", f"{count}")
        except UserError as error:
            failures.append(error)

    def clean_up():
        while not done.is_set():
            remove_leftovers(tmp_path)

    cleaner, *writers = [threading.Thread(target=clean_up), *(
        threading.Thread(target=write, args=(number,)) for number in range(4))]
    for thread in (cleaner, *writers):
        thread.start()
    for writer in writers:
        writer.join()
    done.set()
    cleaner.join()
    assert not failures
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{n}.txt": "99" for n in range(4)}


def test_without_locks_nothing_is_removed_that_may_be_in_use(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    leftover = tmp_path / f"{UNFINISHED}abcdefgh"
    leftover.write_text("half")
    write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == [leftover.name, "a.txt"]


def without_locks(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


# One at a time --------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_has_ended_however_it_does(tmp_path):
    folder = tmp_path / "run"
    with process(HOLDING, folder) as first:
        refusal = f"^{folder}: process {first.pid} on .* is writing to this folder; "
        with pytest.raises(UserError, match=refusal) as caught, claimed(folder):
            pass
        assert "\n" not in str(caught.value)
        assert names(folder) == [LOCK]    # and it has not lost it by that
        first.kill()
        first.wait()
    with claimed(folder):
        (folder / "result").touch()
    assert names(folder) == ["result"]


def test_only_one_process_is_ever_inside(tmp_path):
    argv = [sys.executable, "-c", TAKING_TURNS, str(tmp_path)]
    running = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for one in running:
        error = one.communicate()[1]
        assert one.returncode == 0, error
    assert names(tmp_path) == []


def test_a_claimed_folder_is_made_and_is_free_of_leftovers(tmp_path):
    folder = make_folder(tmp_path / "run")
    (folder / f"{UNFINISHED}abcdefgh").touch()
    with claimed(str(folder)) as found:
        assert found == folder and names(folder) == [LOCK]
    assert names(folder) == []    # it was there before


def test_a_new_folder_that_stays_empty_vanishes(tmp_path):
    with pytest.raises(UserError, match="no such song"), claimed(tmp_path / "a" / "b"):
        raise UserError("no such song")
    assert names(tmp_path) == []
    with claimed(tmp_path / "a" / "b") as folder:
        write_text(folder.parent / "result", "text")
    assert names(tmp_path / "a") == ["result"]


def test_where_there_are_no_locks_everybody_is_let_in(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    with claimed(tmp_path), claimed(tmp_path):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("rank", ["1", "3"])
def test_rank_0_holds_the_folder_for_all_ranks(tmp_path, monkeypatch, rank):
    with claimed(tmp_path):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", rank)
        with claimed(tmp_path) as folder:
            assert folder == tmp_path and names(folder) == [LOCK]
        assert names(tmp_path) == [LOCK]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="output folder cannot be written"), claimed(tmp_path):
        pass


# The commands ---------------------------------------------------------------------------------------------------------

# Arguments with which each command that writes a folder, RUN, comes to that.
WRITERS = {
    ("d3net", "compare"): ["-o", "RUN"],
    ("d3net", "eval"): ["segmentation", "--data-dir", "synthetic", "--model", "D3Net_S", "-o", "RUN"],
    ("d3net", "export"): ["mss", "-o", "RUN"],
    ("d3net", "segment"): ["synthetic", "-o", "RUN"],
    ("d3net", "separate"): ["song.wav", "--out-dir", "RUN"],
    ("d3net", "train"): ["segmentation", "SYNTHETIC", "-o", "RUN"],
    ("data_cleansing", "cleanse"): ["DIGITS", "-o", "RUN", "--resume"],
    ("data_cleansing", "compare_lists"): ["RUN"],
    ("data_cleansing", "eval"): ["RUN"],
    ("data_cleansing", "leave_one_out"): ["-o", "RUN"],
    ("data_cleansing", "planted_noise"): ["DIGITS", "-o", "RUN"],
    ("data_cleansing", "report"): ["RUN"],
    ("data_cleansing", "score"): ["RUN"],
    ("data_cleansing", "train"): ["DIGITS", "-o", "RUN", "--resume"],
    ("mixed_precision_dnns", "compare"): ["--weightfile", "RUN/config.json", "-o", "RUN"],
    ("mixed_precision_dnns", "demo"): ["-o", "RUN"],
    ("mixed_precision_dnns", "fit_gaussian"): ["-o", "RUN"],
    ("mixed_precision_dnns", "train_imagenet"): ["DEFAULT", "--data-dir", "synthetic", "-o", "RUN"],
    ("mixed_precision_dnns", "train_resnet"): ["DEFAULT", "-o", "RUN"],
    ("out_of_core_training", "benchmark"): ["--memory", "1GB", "-o", "RUN"],
    ("out_of_core_training", "train"): ["SMALL", "-o", "RUN"],
    ("x_umx", "compare"): ["-o", "RUN"],
    ("x_umx", "eval"): ["--root", "MUSDB18", "--out-dir", "RUN"],
    ("x_umx", "separate"): ["song.wav", "--out-dir", "RUN"],
    ("x_umx", "train"): ["SYNTHETIC", "-o", "RUN"],
}
# Those of commands that print, or replace a single file; `export` is in the tests of its own.
OTHERS = {
    ("d3net", "benchmark"): [], ("d3net", "plot_scene"): ["-o", "scene.png"],
    ("d3net", "plot_stems"): ["song.wav", "stems"], ("data_cleansing", "benchmark"): [],
    ("mixed_precision_dnns", "benchmark"): [], ("mixed_precision_dnns", "eval"): ["RUN"],
    ("mixed_precision_dnns", "export"): ["RUN"], ("mixed_precision_dnns", "plot"): ["bits", "RUN"],
    ("mixed_precision_dnns", "report"): ["RUN"], ("out_of_core_training", "plan"): ["resnet50"],
    ("x_umx", "benchmark"): [], ("x_umx", "convert"): ["a.h5", "b.pth"], ("x_umx", "export"): []}
# The processes of mpirun train together in these; all else is for one.
ON_RANKS = {("d3net", "train"), ("mixed_precision_dnns", "train_imagenet"), ("mixed_precision_dnns", "train_resnet"),
            ("out_of_core_training", "train"), ("x_umx", "train")}


def test_the_table_has_all_commands():
    packages = {package for package, _ in WRITERS}
    commands = {(package, command) for package in packages for command in commands_of(package)}
    assert commands == {*WRITERS, *OTHERS}


@pytest.mark.parametrize("package, command", [
    pytest.param(*key, marks=needs_ffmpeg if key == ("x_umx", "eval") else ()) for key in WRITERS])
def test_a_command_does_not_write_to_a_folder_that_another_process_writes_to(package, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("song.wav").touch()
    config = importlib.import_module("data_cleansing.config").Config()    # of the commands that go on with a run
    write_json(make_folder("RUN") / "config.json", to_dict(config))
    main = importlib.import_module(f"{package}.{command}").main
    with claimed("RUN"):
        before = Path("RUN/config.json").read_bytes()
        with pytest.raises(UserError, match="^RUN: process .* is writing to this folder") as caught:
            main(WRITERS[package, command])
        assert type(caught.value) is UserError    # status 1
        assert names(Path("RUN")) == [LOCK, "config.json"] and Path("RUN/config.json").read_bytes() == before


@pytest.mark.parametrize("package, command", [*WRITERS, *OTHERS])
def test_a_command_trains_on_all_ranks_or_says_that_it_is_for_one(package, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    # What joins the ranks notices that there are no others; nobody else asks.
    monkeypatch.setattr(distributed, "_world_of", lambda gpu: distributed.World())
    main = importlib.import_module(f"{package}.{command}").main
    says = "and MPI connects 1" if (package, command) in ON_RANKS else "is for one: .*; start without mpirun"
    with pytest.raises(UsageError, match=f"^mpirun started 2 processes, .*{says}"):
        main({**WRITERS, **OTHERS}[package, command])
    assert not list(tmp_path.iterdir())
