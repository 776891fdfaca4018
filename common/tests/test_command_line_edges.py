"""What the shell and the system do to a command: closed streams, odd names, odd variables, interrupts, huge numbers."""
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from pathlib import Path

import attrs
import pytest

from common.console import cli
from common.console.values import int_from_0, largest, number_above_0
from common.machine.errors import UsageError, UserError, one_line, printable
from common.machine.files import write_csv, write_json
from common.machine.streams import printing, say
from common.out_of_core.device import parse_bytes
from common.runs.config import integer, number

TOP = Path(__file__).parents[2]
PLAN = "out-of-core-training/plan.py"


def shell(line, **variables):
    """Run a line of bash at the top folder; returns its exit status, stdout and stderr."""
    done = subprocess.run(["bash", "-c", line], cwd=TOP, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHON": sys.executable} | variables)
    return done.returncode, done.stdout, done.stderr


def code(text):
    return f"$PYTHON -c {shlex.quote(f'from common.console import cli; cli.run(lambda: {text})')}"


# Streams --------------------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_traceback():
    for text in ("print('x' * 10**6)", "print('few')"):
        status, _, err = shell(f"{{ sleep 0.1; {code(text)}; echo $? >&2; }} | true")
        assert (status, err) == (0, "1\n"), err


@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(closed, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from common.console import cli\nfrom common.console.progress import progress\n"
                      "def main():\n    print('text')\n    with open('file', 'w') as file:\n"
                      "        list(progress(range(3)))\n        print('text')\n        file.write('content')\n"
                      "        return file.fileno() < 3\ncli.run(main)\n")
    status, out, err = shell(f"cd {tmp_path} && $PYTHON script.py {closed}", PYTHONPATH=str(TOP))
    assert (status, err) == (0, "") and out in ("", "text\ntext\n")
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("text, ranks", [
    ("print(1)", "1"), ("print(1, flush=True)", "1"), ("print(1, flush=True)", "2")])
def test_a_full_disk_behind_stdout_is_one_line(text, ranks):
    status, _, err = shell(f"{code(text)} > /dev/full", PYTHONUNBUFFERED="", OMPI_COMM_WORLD_SIZE=ranks)
    assert (status, err) == (1, "error: output: No space left on device\n")


def test_a_limit_of_sizes_behind_stdout_is_one_line(tmp_path):
    status, _, err = shell(f"ulimit -f 0; {code('print(1)')} > {tmp_path / 'out.txt'}")
    assert (status, err) == (1, "error: output: File too large\n")


def test_names_move_no_cursor(capsys):
    with printing():
        print("a\x1b[2Jb\rc\tä\nd\udcff")
        print("e\x07", file=sys.stderr)
    assert capsys.readouterr() == ("a\\x1b[2Jb\\rc\tä\nd\\xff\n", "e\\x07\n")
    assert str(UserError("a\nb\x1b")) == "a\\nb\\x1b" == printable("a\nb\x1b")


@pytest.mark.parametrize("value", ["x" * 10000, "\n" * 10000, "\U000f0000" * 10000, "\udcff" * 10000])
@pytest.mark.parametrize("raised", [UserError, UsageError, FileNotFoundError])
def test_a_value_of_any_length_is_one_line_of_bounded_length(run_main, value, raised):
    def fail(argv):
        message = f"a.cfg: epochs = {value}: choose another"
        raise FileNotFoundError(2, "choose another", message[:-16]) if raised is FileNotFoundError else raised(message)

    _, out, err = run_main(fail)
    assert err.startswith("error: a.cfg: epochs = ") and err.endswith(": choose another\n") and not out
    assert len(err) <= 1001 and err[:-1].isprintable()


def test_an_ordinary_message_stays_as_it_is():
    for text in ("short", "a" * 1000):
        assert one_line(text) == str(UserError(text)) == text


def test_a_warning_is_one_line_of_bounded_length(capsys):
    say("note: W\n" + 10000 * "x")
    assert re.fullmatch(r"note: W\\nx{592} \[9108 characters\] x{300}\n", capsys.readouterr().err)


def test_deviations_are_readable_in_ascii():
    printed = shell(f"{code('print(chr(177) + chr(228) + chr(177))')}", PYTHONIOENCODING="ascii:strict")
    assert printed == (0, "+-\\xe4+-\n", "")


def test_bars_stand_apart_from_what_is_printed(monkeypatch, capsys):
    from common.console.progress import progress

    monkeypatch.setattr("sys.stdout", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    with printing():
        list(progress(range(3)))
    assert "\r" in capsys.readouterr().err


@pytest.mark.parametrize("out", [None, types.SimpleNamespace(write=len, flush=int)], ids=["none", "only writes"])
@pytest.mark.parametrize("error", [None, types.SimpleNamespace(write=len, flush=int)], ids=["none", "only writes"])
def test_programs_without_standard_streams_have_no_bars(monkeypatch, out, error):
    from common.console.progress import progress

    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", error)
    assert list(progress(range(3))) == [0, 1, 2]


def test_without_stderr_there_is_no_bar_on_a_terminal_either(monkeypatch, capsys):
    from common.console.progress import progress

    terminal = type("Terminal", (io.StringIO,), {"isatty": lambda self: True})()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", None)
    with progress(None, total=3) as bar:
        bar.update()
    assert bar.disable and not terminal.getvalue()


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_are_written_byte_by_byte(tmp_path):
    name = os.fsdecode(b"so\xffng")
    write_csv(tmp_path / "a.csv", ["name"], [[name]])
    assert (tmp_path / "a.csv").read_bytes() == b"name\nso\xffng\n"
    write_json(tmp_path / "a.json", {"name": name})
    assert b"so\\udcffng" in (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize("argv, files, inputs, device", [
    (["--", "-dash.wav"], ["-dash.wav"], [], "0"),
    (["a.wav", "-d", "1", "--", "-dash.wav", "--inputs", "--"], ["a.wav", "-dash.wav", "--inputs", "--"], [], "1"),
    (["-i", "b.wav", "-d1", "--", "-d"], ["-d"], ["b.wav"], "1"),
    (["a.wav", "-d", "1", "c.wav"], ["a.wav", "c.wav"], [], "1"),
])
def test_files_may_begin_with_a_dash(argv, files, inputs, device):
    parser = cli.parser("")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--inputs", "-i", nargs="+", default=[])
    cli.add_context_flags(parser)
    args = parser.parse_intermixed_args(argv)
    assert (args.files, args.inputs, args.device_id) == (files, inputs, device)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e30", "10" * 20, "9" * 5000, "nan", "inf", "-inf", "-1", "0x10", "1_0", "", "١"])
def test_numbers_have_limits(text):
    parser = cli.parser("")
    parser.add_argument("--niter", type=int_from_0)
    parser.add_argument("--alpha", type=number_above_0)
    for flag in ("--niter", "--alpha"):
        with pytest.raises(UsageError, match=flag) as caught:
            parser.parse_args([f"{flag}={text}"])
        assert "\n" not in str(caught.value)


def test_keys_have_the_limits_of_flags():
    cls = attrs.make_class("Config", {"batch_size": integer(1, at_least=1), "seq_dur": number(1)}, frozen=True)
    assert cls(batch_size=largest("batch_size")).batch_size == 65536
    for values in ({"batch_size": 65537}, {"seq_dur": "1e30"}, {"seq_dur": -1e30}):
        with pytest.raises(ValueError, match="not allowed"):
            cls(**values)


@pytest.mark.parametrize("text", ["1e999GB", "1e30", "9" * 400, "0", "0.5", "inf", "nan", "-1", "1e19"])
def test_amounts_of_memory_have_limits(text):
    with pytest.raises(UsageError, match="--gpu-memory"):
        parse_bytes(text, "--gpu-memory")


@pytest.mark.parametrize("argv", ["resnet50 --batch-size 1000000000000000000000000000000", "resnet50 -d 99999999999",
                                  "resnet50 --image-size 99999999999999999999", "resnet50 --gpu-memory 1e999GB"])
def test_a_plan_beyond_all_limits_is_one_line(argv):
    status, out, err = shell(f"$PYTHON {PLAN} {argv}")
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("error: "), err


# Variables and signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable, text", [
    ("OMPI_COMM_WORLD_SIZE", "two"), ("OMPI_COMM_WORLD_RANK", "-1"), ("OMPI_COMM_WORLD_SIZE", "9" * 5000)])
def test_malformed_variables_are_one_line(variable, text, tmp_path):
    line = "from common.machine.launching import launched_rank; launched_rank()"
    status, _, err = shell(code(f"exec({line!r})"), **{variable: text})
    assert status == 2 and err.startswith(f"error: {variable}={text[:500]}") and err.count("\n") == 1, err
    assert f"{text[-200:]}: not a number" in err and len(err) < 1010


@pytest.mark.parametrize("command, number", [
    ("x-umx/separate.py", signal.SIGINT), ("-m d3net segment", signal.SIGINT), ("-m x_umx", signal.SIGINT),
    ("x-umx/separate.py", signal.SIGTERM)])
def test_a_signal_while_modules_load(command, number):
    path = ["x-umx", "d3net"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(TOP / name) for name in ("", *path)), "PYTHONVERBOSE": "1"}
    process = subprocess.Popen([sys.executable, *command.split(), "nosuch.wav"], cwd=TOP, stderr=subprocess.PIPE,
                               text=True, errors="replace", env=env)
    assert process.stderr is not None
    for line in process.stderr:    # python names each module as it loads it
        if line.startswith("import 'numpy"):
            break
    process.send_signal(number)
    lines = [line for line in process.stderr if not line.startswith(("#", "import ", "Python ", "Type "))]
    assert process.wait() == 130
    assert "".join(lines).endswith("interrupted\n") and "Traceback" not in "".join(lines)


DIVERGING = """
import sys, warnings
import numpy as np
from common.console import cli
from common.machine.errors import UserError
from common.machine.processes import for_each

def work():
    x = np.float32([3e38, -3e38])
    (x * x - x * x).sum(), 1 / (x - x), np.float64([1e300]).astype(np.float32)
    warnings.warn("still said", RuntimeWarning)
    raise UserError("loss is inf")

if __name__ == "__main__":
    cli.run(work if len(sys.argv) == 1 else lambda: for_each(work, {"a": ()}, 2))
"""


@pytest.mark.parametrize("jobs", [[], ["--jobs"]])
def test_numbers_that_run_over_are_told_by_the_error_alone(tmp_path, jobs):
    (tmp_path / "diverging.py").write_text(DIVERGING)
    done = subprocess.run([sys.executable, "diverging.py", *jobs], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("error: loss is inf\n")
    assert done.stderr.count("RuntimeWarning: ") == 1 and "RuntimeWarning: still said" in done.stderr


TWO_SIGNALS = """
import os, sys
from common.console import cli
from common.machine.errors import UserError

def main():
    frame, left = sys._getframe(), moment
    def trace(*_):    # called on each line, call and return
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
        return trace
    while frame is not None:
        frame.f_trace, frame = trace, frame.f_back
    sys.settrace(trace)
    if how == "a signal":
        os.kill(os.getpid(), number)
    if how == "an error":
        raise UserError("no such song")

number, how, moment = int(sys.argv[1]), sys.argv[2], 0
while moment < 3000:    # by then Python has ended
    moment += 1 + moment // 10
    if not os.fork():
        cli.run(main)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    print("=", status, flush=True, file=sys.stderr)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how, told, status", [
    ("a signal", "interrupted\n", 130), ("an error", "error: no such song\n", 1), ("nothing", "", 0)])
def test_a_signal_at_any_moment_while_a_command_ends_is_one_line_at_most(number, how, told, status):
    done = subprocess.run([sys.executable, "-c", TWO_SIGNALS, str(int(number)), how], cwd=TOP, capture_output=True,
                          text=True, timeout=300)
    ends = re.findall(r"(?s)(.*?)= (-?\d+)\n", done.stderr)
    assert done.returncode == 0 and ends[-1] == (told, str(status)) and ("", "130") in ends, done.stderr
    # At the very end Python handles no signals any more, and the process ends by one.
    assert set(ends) <= {("", "130"), ("interrupted\n", "130"), *((told, str(end)) for end in (130, -number, status))}


def test_what_ignores_ctrl_c_goes_on_ignoring_it(tmp_path):
    line = f"trap '' INT; $PYTHON {PLAN} nosuch & sleep 0.3; kill -INT $!; wait $!"
    status, _, err = shell(line)
    assert status == 2 and err.startswith("error: "), err
