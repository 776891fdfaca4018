"""Times that can be compared: what is measured takes turns, so that a busy machine slows all of it."""
import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.audio.files import AudioWriter
from common.console.cli import add_context_flags
from common.console.values import positive_int
from common.machine.context import on_gpu
from common.machine.files import temporary_folder, writable_file, write_json
from common.out_of_core.device import synchronize

Numbers = Mapping[str, Mapping[str, float]]    # row -> unit -> number


def add_benchmark_flags(parser: argparse.ArgumentParser, rounds: int, parts: Collection[str] = ()) -> None:
    """Add `--rounds`, which is `rounds` by default, `--output`, and those of `add_context_flags`.

    With names of `parts` also `--only`, so that each can be measured while the machine is idle.
    """
    if parts:
        parser.add_argument("--only", nargs="+", choices=tuple(parts), default=tuple(parts), metavar="PART",
                            help=f"measure these alone, of {', '.join(parts)}")
    parser.add_argument("--rounds", type=positive_int, default=rounds,
                        help="how often each thing is measured (default: %(default)s)")
    parser.add_argument("--output", "-o", metavar="FILE", type=writable_file, help="also write the numbers as JSON")
    add_context_flags(parser)


def measure_all(measures: Mapping[str, Callable[[], Numbers]], output: str | Path | None,
                cpu_only: Collection[str] = ()) -> None:
    """Measure one thing after the other; print each at once, and write all at the end.

    Parameters
    ----------
    measures
        Each returns what `print_numbers` takes.
    output
        JSON file of the numbers.
    cpu_only
        Names of measures that say nothing about a GPU; where one computes, they are left out.
    """
    results = {}
    for name, measure in measures.items():
        if name in cpu_only and on_gpu():
            say_left_out(name)
            continue
        results[name] = measure()
        print_numbers(name, results[name])
    if output:
        write_json(output, results)


def say_left_out(name: str) -> None:
    """Print that something is not measured while a GPU computes."""
    print(f"{name}: left out, it computes on the CPU alone; add -c cpu to measure it", flush=True)


def take_turns(functions: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Call functions one after the other, round by round, after a first call of each that is not counted.

    A GPU does what it is told later; a function has ended when the GPU has done all of it.

    Parameters
    ----------
    functions
    rounds
    calls
        Of each function in its turn, one right after the other.

    Returns
    -------
    dict of str to list of float
        Seconds of a call of each function in each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()    # compiles, allocates
    synchronize()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of the ratio of two times of the same round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def compare(functions: Mapping[str, Callable[[], object]], rounds: int, slow: str) -> dict[str, dict[str, float]]:
    """Time functions in turns.

    Returns
    -------
    dict of str to dict
        For each, the median of its seconds, and of the ratio to it of the time of `slow` in the same round.
    """
    seconds = take_turns(functions, rounds)
    return {name: {"s": statistics.median(times), "x faster": median_ratio(seconds[slow], times)}
            for name, times in seconds.items()}


def print_numbers(name: str, numbers: Numbers) -> None:
    """Print the numbers of one measurement."""
    print(name, flush=True)
    for row, values in numbers.items():
        print(f"  {row:44} " + "   ".join(f"{value:.3g} {unit}" for unit, value in values.items()), flush=True)


def decaying_noise(seconds: float, sample_rate: int) -> np.ndarray:
    """Something like music: stereo noise that decays twice a second, float32 (samples, 2)."""
    samples = round(seconds * sample_rate)
    envelope = np.exp(-(np.arange(samples) % (sample_rate / 2)) / (0.18 * sample_rate))[:, None]
    return (np.random.default_rng(0).standard_normal((samples, 2)) * envelope * 0.2).astype(np.float32)


def separate_long_file(package: str, model: str | Path, minutes: int, sample_rate: int,
                       flags: Sequence[str] = ()) -> dict[str, float]:
    """Run the script `separate` of a package on a file, in a process of its own.

    Parameters
    ----------
    package
        It has the module `separate`.
    model
        The value of `--model`.
    minutes
        Length of the file.
    sample_rate
    flags
        Further flags of the script.

    Returns
    -------
    dict
        Seconds, real-time factor and peak memory of that process.
    """
    script = (f"import sys; from common.machine.memory import peak_megabytes; from {package} import separate; "
              "separate.main(sys.argv[1:]); print(peak_megabytes())")
    with temporary_folder() as folder:
        song, minute = folder / "song.wav", decaying_noise(60, sample_rate)
        with AudioWriter(song, sample_rate, 2) as writer:
            for _ in range(minutes):
                writer.write(minute)
        start = time.perf_counter()
        command = [sys.executable, "-c", script, str(song), "--model", str(model), "--out-dir", str(folder), *flags]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    return {"s": seconds, "real-time factor": seconds / (60 * minutes), "MB peak": float(run.stdout.split()[-1])}
