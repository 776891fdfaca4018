"""Times that can be compared: what is measured takes turns, so that a busy machine slows all of it."""
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from common.audio.files import AudioWriter
from common.console.values import positive_int
from common.machine.files import write_json


def add_benchmark_flags(parser, rounds):
    """Add `--rounds`, which is `rounds` by default, and `--output`."""
    parser.add_argument("--rounds", type=positive_int, default=rounds,
                        help="how often each thing is measured (default: %(default)s)")
    parser.add_argument("--output", "-o", metavar="FILE", help="also write the numbers as JSON")


def measure_all(measures, output):
    """Measure one thing after the other; print each at once, and write all at the end.

    Parameters
    ----------
    measures : dict of str to callable
        Each returns what `show` prints.
    output : path or None
        JSON file of the numbers.
    """
    results = {}
    for name, measure in measures.items():
        results[name] = measure()
        show(name, results[name])
    if output:
        write_json(output, results)


def take_turns(functions, rounds):
    """Call functions one after the other, round by round, after a first call of each that is not counted.

    Parameters
    ----------
    functions : dict of str to callable
    rounds : int

    Returns
    -------
    dict of str to list of float
        Seconds of each function in each round.
    """
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()    # compiles, allocates
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(times, others):
    """Median over the rounds of the ratio of two times of the same round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def compare(functions, rounds, slow):
    """Time functions in turns.

    Returns
    -------
    dict of str to dict
        For each, the median of its seconds, and of the ratio to it of the time of `slow` in the same round.
    """
    seconds = take_turns(functions, rounds)
    return {name: {"s": statistics.median(times), "x faster": median_ratio(seconds[slow], times)}
            for name, times in seconds.items()}


def show(name, rows):
    """Print the numbers of one measurement: for each row a dict of numbers by their unit."""
    print(name, flush=True)
    for row, values in rows.items():
        print(f"  {row:44} " + "   ".join(f"{value:.3g} {unit}" for unit, value in values.items()), flush=True)


def decaying_noise(seconds, sample_rate):
    """Something like music: stereo noise that decays twice a second, float32 (samples, 2)."""
    samples = round(seconds * sample_rate)
    envelope = np.exp(-(np.arange(samples) % (sample_rate / 2)) / (0.18 * sample_rate))[:, None]
    return (np.random.default_rng(0).standard_normal((samples, 2)) * envelope * 0.2).astype(np.float32)


def separate_long_file(package, model, minutes, sample_rate):
    """Run the script `separate` of a package on a file, in a process of its own.

    Parameters
    ----------
    package, model : str
        Which has the module `separate`; what `--model` gets.
    minutes, sample_rate : int

    Returns
    -------
    dict
        Seconds, real-time factor and peak memory of that process.
    """
    script = (f"import sys; from common.machine.memory import peak_megabytes; from {package} import separate; "
              "separate.main(sys.argv[1:]); print(peak_megabytes())")
    with tempfile.TemporaryDirectory() as folder:
        song, minute = Path(folder) / "song.wav", decaying_noise(60, sample_rate)
        with AudioWriter(song, sample_rate, 2) as writer:
            for _ in range(minutes):
                writer.write(minute)
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", script, str(song), "--model", str(model), "--out-dir", folder],
                             check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    return {"s": seconds, "real-time factor": seconds / (60 * minutes), "MB peak": float(run.stdout.split()[-1])}
