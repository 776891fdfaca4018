"""What the tests of several papers share; for tests only. Fixtures that they share are in conftest.py."""
import contextlib
import csv
import functools
import hashlib
import http.server
import itertools
import json
import multiprocessing
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
import soundfile

import common
from common.console import cli
from common.runs import training

SECOND = 44100    # samples of the songs to score
needs_ffmpeg = pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")),
                                  reason="museval cannot be imported without the programs ffmpeg and ffprobe")

# Commands -------------------------------------------------------------------------------------------------------------


def command_line(defaults, flags):
    """Join the flags that all runs of a test file have and those of one; a section among these, their first, leads."""
    num = 1 if flags and not str(flags[0]).startswith("-") else 0
    return [str(word) for word in (*flags[:num], *defaults, *flags[num:])]


def run_python(*argv, cwd=None):
    """Run Python in a process of its own; returns its exit status, stdout and stderr."""
    done = subprocess.run([sys.executable, *map(str, argv)], cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def script_of(module):
    """Path of the script that starts the command in a module."""
    file = Path(module.__file__)
    return file.parents[module.__name__.count(".")] / file.name


def run_without_packages(script, *argv, cwd=None):
    """Run a script where none of the installed packages can be found."""
    return run_python("-S", script, *argv, cwd=cwd)


def assert_one_line(result, status, *words):
    """Check exit status, stdout and stderr of a command: one line on stderr, with all the words in it."""
    code, _, err = result
    assert code == status, err
    start = "" if status == cli.INTERRUPTED else "error: "
    assert re.fullmatch(rf"{start}[^\n]+\n", err), err
    assert all(word in err for word in words), err


# Threads --------------------------------------------------------------------------------------------------------------


def in_threads(calls):
    """Make calls, each in a thread of its own and all at once; returns their results in order."""
    together = threading.Barrier(len(calls))

    def start(call):
        together.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


def assert_threads_share(make, use, inputs):
    """Check that four threads that share an object get the bits that each input gets from an object of its own.

    `use(make(), x)` returns {name: array} for each x of `inputs`, which the threads take in different orders.
    """
    expected = [use(make(), x) for x in inputs]
    shared = make()

    def work(first):
        order = [*range(first, len(inputs)), *range(first)]
        return order, [use(shared, inputs[k]) for k in order]

    for order, results in in_threads([functools.partial(work, k % len(inputs)) for k in range(4)]):
        for k, found in zip(order, results, strict=True):
            assert_same_bits(found, expected[k])


def assert_threads_make(calls):
    """Check that calls in threads, all at once, return the arrays {name: array} that they return alone."""
    expected = [call() for call in calls]
    for found, alone in zip(in_threads(calls), expected, strict=True):
        assert_same_bits(found, alone)


def assert_same_bits(found, expected):
    """Check that {name: array} are the same to the last bit, and that they are not constant."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=str(name))
        assert array.std() > 1e-6, name


def assert_forks_are_refused(calls, engine):
    """Check that calls of an engine that runs in this process end with an error of one line in a fork of it."""
    for call in calls:
        error = in_fork(call)
        assert error.startswith(f"UserError: {engine} already runs in the process"), error
        assert "\n" not in error, error


def in_fork(call):
    """Make a call in a fork of this process; returns the error that it ends with, as text, or "" where there is none.

    A fork that hangs is killed after two minutes, with the signal SIGALRM as error.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    if not (process := os.fork()):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)
        try:
            call()
            theirs.send("")
        except BaseException as error:    # noqa: BLE001 - the caller looks at it
            theirs.send(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    theirs.close()
    _, status = os.waitpid(process, 0)
    return ours.recv() if status == 0 else signal.Signals(os.WTERMSIG(status)).name


# Interrupts -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disturbed(owner, name, number, event):
    """Let call `number`, from 1, of the function `owner.name` begin with a signal to this process or with an error."""
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def disturbing(*args, **kwargs):
        if next(calls) == number:
            if isinstance(event, signal.Signals):
                signal.raise_signal(event)
            else:
                raise event
        return function(*args, **kwargs)

    with mock.patch.object(owner, name, disturbing):
        yield


def train_until_killed(script, step, number, arguments, save_every_step=False):
    """Train in a process that is killed at the beginning of a step.

    Parameters
    ----------
    script : str
        Module that trains, such as "x_umx.train".
    step : str
        Module or class of the function that takes a step, and its name: "module name" or "module:class name".
    number : int, from 1
        Which step it is that is not taken.
    arguments : list of str
    save_every_step : bool
        Write checkpoints within epochs too.
    """
    minutes = 0 if save_every_step else training._MINUTES_BETWEEN_CHECKPOINTS
    code = "import sys; from common.workbench import testing; testing._train_and_die(*sys.argv[1:])"
    status, _, err = run_python("-c", code, script, *step.split(), number, minutes, *arguments)
    assert status == -signal.SIGKILL, err


def _train_and_die(script, owner, name, number, minutes, *arguments):
    training._MINUTES_BETWEEN_CHECKPOINTS = float(minutes)
    with disturbed(pkgutil.resolve_name(owner), name, int(number), signal.SIGKILL):
        pkgutil.resolve_name(script).main(list(arguments))


# Files ----------------------------------------------------------------------------------------------------------------


def content(folder):
    """{path within the folder: bytes} of all its files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(path):
    """Rows of a CSV file, each {column: text}."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def log_of(folder):
    """Rows of the log of a run, each {column: number}."""
    return [{column: float(text) for column, text in row.items()} for row in rows_of(folder / "log.csv")]


def arrays_in(path, group="/"):
    """{name: array} of all that an HDF5 file holds in a group."""
    found = {}
    with h5py.File(path) as file:
        file[group].visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def parameters_in(path):
    """{name: array} of a parameter file or a checkpoint."""
    with h5py.File(path) as file:
        group = "parameters" if "parameters" in file else "/"
    return arrays_in(path, group)


def assert_weights_of_card(folder, most_bytes):
    """The weights in a folder are those whose digests its card states, and take less than so many bytes."""
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    digests = dict(re.findall(r"`(\S+)` \| \d+ \| `([0-9a-f]{64})`", card))
    files = [path for path in folder.iterdir() if path.suffix == ".h5"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == digests
    assert sum(path.stat().st_size for path in files) < most_bytes


def same_arrays(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def same_parameters(a, b):
    """Whether two parameter files or checkpoints hold the same parameters to the last bit."""
    return same_arrays(parameters_in(a), parameters_in(b))


def assert_same_files(a, b, parameters, texts):
    """Check that files of these names are the same in two folders: files of parameters, and texts."""
    for name in parameters:
        assert same_parameters(a / name, b / name), name
    for name in texts:
        assert (a / name).read_text() == (b / name).read_text(), name


# Reference cases ------------------------------------------------------------------------------------------------------


def reference_value(name, shape, seed):
    """The value that a parameter has in reference cases, float64: normal, scaled by its kind, from its name and a seed.

    Weights are scaled by the number of inputs of an output; means, offsets and biases are small, and scales and
    variances above 0.
    """
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    leaf = name.rsplit("/", 1)[-1]
    noise = rng.randn(*shape)
    if leaf == "var":
        return 0.5 + np.abs(noise)
    if leaf == "gamma" or "scale" in leaf:
        return 1 + 0.1 * noise
    if leaf not in ("mean", "beta") and len(shape) > 1:
        return noise / np.sqrt(np.prod(shape[1:]))
    return 0.1 * noise


def fill_parameters(parameters, seed):
    """Set parameters {name: nn.Variable} to those of a reference case, and return them."""
    for name, parameter in parameters.items():
        parameter.d = np.reshape(reference_value(name, parameter.shape, seed), parameter.shape)
    return parameters


# Graphs ---------------------------------------------------------------------------------------------------------------


def fill_normalizations(parameters, rng):
    """Draw what batch normalization has among nnabla's parameters, so that it keeps images apart."""
    for name, parameter in parameters.items():
        if name.endswith("/gamma"):
            parameter.d = rng.uniform(0.5, 1.5, parameter.shape) * rng.choice([1, 1, 1, -1], parameter.shape)
        elif name.endswith(("/beta", "/mean")):
            parameter.d = 0.3 * rng.standard_normal(parameter.shape)
        elif name.endswith("/var"):
            parameter.d = rng.uniform(0.3, 0.8, parameter.shape)


def host_arrays(*outputs):
    """[(function, shape)] of the arrays beyond one element that the host makes whenever a GPU runs a graph.

    They come from functions of nnabla without an implementation for CUDA, and from functions in Python. Build the graph
    inside `common.machine.context.native_functions()`, as a GPU would have it.
    """
    table = (Path(common.__file__).parent / "tests" / "data" / "cuda_functions.txt").read_text().splitlines()
    on_device = {line for line in table if not line.startswith("#")} | {"Unlink"}    # which hands on its input
    composed = {"MaxPoolingBackwardDataGrad"}    # of nnabla: in Python, but it calls functions of the device
    found = []

    def visit(function):
        name = function.info.type_name
        is_python = function.name == "Callback" and name not in composed
        if is_python or name not in on_device | composed:
            found.extend((name, variable.shape) for variable in function.outputs if variable.size > 1)

    for output in outputs:
        output.visit(visit)
    return found


# Music ----------------------------------------------------------------------------------------------------------------


def tones_and_noise(samples, rate=44100):
    """Stereo music of a kind, float32 (samples, 2), whose sides differ."""
    time = np.arange(samples)[:, None] / rate
    tones = sum(np.sin(2 * np.pi * f * time + np.arange(2)) for f in (220, 700, 1900, 3100))
    return (0.05 * tones + 0.05 * np.random.default_rng(0).standard_normal((samples, 2))).astype(np.float32)


def signal_to_error(wanted, found):
    """The smallest ratio of signal and error in dB between arrays of the same names."""
    return min(10 * np.log10((wanted[name] ** 2).sum() / ((wanted[name] - found[name]) ** 2).sum()) for name in wanted)


def run_without_nnabla(readme, first_line):
    """Run the example of a README that begins with a line, in this folder, with neither nnabla nor this repository."""
    text = readme.read_text(encoding="utf-8")
    example = text[text.index(f"    {first_line}\n"):].partition("\n\n")[0]
    script = "\n".join(line[4:] for line in example.splitlines())
    missing = ("nnabla", "common", "x_umx", "d3net", "scipy")
    forbidden = f"import sys\nfor name in {missing}:\n    sys.modules[name] = None\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", forbidden + script], check=True, env=environment)


def write_stems(folder, sources, rng, samples, rate):
    """Write a file <source>.wav for each source, in which a tone of its own lies over noise, louder on the left."""
    folder.mkdir(parents=True)
    for k, source in enumerate(sources):
        tone = np.sin(np.arange(samples)[:, None] * 0.1 * (k + 1) * rng.uniform(0.8, 1.2)) * [1, 0.7]
        audio = 0.1 * tone + 0.02 * rng.standard_normal((samples, 2))
        soundfile.write(folder / f"{source}.wav", audio, rate, subtype="FLOAT")


def stems_in(folder="stems/song"):
    """{name: audio (samples, channels)} of the files in a folder."""
    return {path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0] for path in Path(folder).iterdir()}


def write_songs_to_score(root):
    """Write a data set of two songs of 2 s, of which the mixture of one is not a number."""
    for song, fault in (("Good", 0), ("Bad", np.nan)):
        folder = root / "test" / song
        folder.mkdir(parents=True)
        drums, vocals = 0.1 * np.random.default_rng(0).standard_normal((2, 2 * SECOND, 2))
        for name, audio in (("drums", drums), ("vocals", vocals), ("mixture", drums + vocals + fault)):
            soundfile.write(folder / f"{name}.wav", audio, SECOND, subtype="FLOAT")
    return root


def score_twice(main, argv, songs, folder, capsys):
    """Score songs that `write_songs_to_score` wrote, and check that the bad one is reported and the good one kept.

    Returns
    -------
    (list of str, dict) : the lines that the first run prints, and the content of scores.json in `folder`
    """
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith(f"error: {songs / 'test' / 'Bad' / 'mixture.wav'}: ")
    lines, written = out.splitlines(), json.loads((folder / "scores.json").read_text())
    assert written["failed"] == ["Bad"]
    assert [path.name for path in (folder / "test").iterdir()] == ["Good.json"]

    assert main(argv) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [f"1 of 2 tracks are scored in {folder / 'test'} already",
                                                        *lines[2:]]
    return lines, written


# Downloads ------------------------------------------------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.asked.append(f"{self.command} {self.path}")


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
        self.folder, self.asked = folder, []

    def addresses(self, table):
        """{name: address here} of files that a table {name: address} of published files names."""
        return {name: f"http://127.0.0.1:{self.server_port}/{url.rsplit('/', 1)[-1]}" for name, url in table.items()}

    def gets(self):
        """How many files were asked for."""
        return sum(line.startswith("GET") for line in self.asked)


@contextlib.contextmanager
def served(folder):
    """Serve the files in a new folder from this machine; yields the server, which knows what it was `asked`."""
    folder.mkdir()
    with _Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
