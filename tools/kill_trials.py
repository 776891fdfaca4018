"""Kill small runs of every paper at random moments, let each go on, and compare its files with those of a quiet run.

    python tools/kill_trials.py [CASE ...] [--kills 20] [--signal KILL] [--seed 0] [--at-once 2] [--keep DIR]

Of four kills one comes at a random time, one just before and one just after a file gets its name, and one while a file
is being written. Then the same command runs again, a training with --resume. All its files have to be the same to the
last bit as those of a run that nobody disturbed; only what a run says of its own speed is not compared. Exit status 1
if a file differs, or if something is left over. --signal TERM and INT stop runs as a batch system and Ctrl-C do.
"""
import argparse
import atexit
import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import h5py
import numpy as np
import soundfile
import yaml

TOP = Path(__file__).resolve().parents[1]
UNFINISHED, LOCK = ".unfinished-*", ".in-use"    # of common.machine: files that are being written, folders in use
KINDS = ("at a time", "before a rename", "after a rename", "while writing")
RATE, SAMPLES = 8000, 8000    # Hz, and samples of each song
SOURCES = ("bass", "drums", "other", "vocals")
SIGNALS = {"KILL": -signal.SIGKILL, "TERM": 130, "INT": 130}    # with the exit status that follows from it
MUSIC = "--is-wav --seq-dur 0.1 --valid-dur 0.2 --batch-size 2 --samples-per-track 2 --epochs 2 -c cpu"
TIMINGS = "training-time"    # how the names of the files begin that tell the speed of a run


@attrs.frozen
class Case:
    """A command; WORK stands for the folder of all, OUT for that of its results.

    Attributes
    ----------
    command, again
        The command, and what is added to it when it goes on.
    after
        Another case, whose results lie in OUT before.
    needs
        Cases whose results the command reads, as WORK/quiet/CASE.
    """

    command: str
    again: str = ""
    after: str | None = None
    needs: tuple[str, ...] = ()


CASES = {
    "mixed-precision": Case("mixed-precision-dnns/train_resnet.py PARAMETRIC_FP_WAQ_DELTA_XMAX --dataset digits "
                            "--batch-size 8 --steps-per-epoch 2 --epochs 3 -c cpu -o OUT", "--resume"),
    "x-umx": Case(f"x-umx/train.py XUMX --root WORK/songs {MUSIC} --nfft 64 --nhop 16 --hidden-size 8 --sample-rate "
                  f"{RATE} --bandwidth 3000 -o OUT", "--resume"),
    "d3net mss": Case(f"d3net/train.py mss vocals --root WORK/songs {MUSIC} --hparams WORK/mss.yaml -o OUT",
                      "--resume"),
    "d3net segmentation": Case("d3net/train.py segmentation SYNTHETIC --batch-size 2 --image-height 32 --image-width "
                               "64 --max-iter 2 --epoch-length 4 --save-interval 3 --log-interval 2 --valid-images 2 "
                               "-c cpu -o OUT", "--resume"),
    "d3net compare": Case("d3net/compare.py --task marks --seeds 1 --steps 1 --jobs 1 -c cpu -o OUT", "--resume"),
    "out-of-core": Case("out-of-core-training/train.py SMALL --image-size 32 --data random --steps-per-epoch 2 "
                        "--epochs 3 -c cpu -o OUT", "--resume"),
    "cleansing": Case("data-cleansing/train.py DIGITS --side 8 --width 0.1 --n-epochs 3 --batch-size 64 --n-trials 2 "
                      "--jobs 1 -c cpu -o OUT", "--resume"),
    "cleansing scores": Case("data-cleansing/score.py OUT --methods final checkpoints -c cpu", after="cleansing"),
    "cleansing eval": Case("data-cleansing/eval.py OUT --remove-n-list 0 10 -c cpu", after="cleansing scores"),
    "x-umx separate": Case("x-umx/separate.py WORK/songs/test/one/vocals.wav WORK/songs/test/two/bass.wav --model "
                           "WORK/quiet/x-umx -c cpu --out-dir OUT", "--resume", needs=("x-umx",)),
    "d3net separate": Case("d3net/separate.py WORK/songs/test/one/vocals.wav WORK/songs/test/two/bass.wav --model "
                           "WORK/quiet/d3net-mss -c cpu --out-dir OUT", "--resume", needs=("d3net mss",)),
    "x-umx eval": Case("x-umx/eval.py --root WORK/songs --is-wav --model WORK/quiet/x-umx -c cpu --out-dir OUT",
                       needs=("x-umx",)),
    "d3net eval": Case("d3net/eval.py segmentation --data-dir synthetic --limit 3 --model "
                       "WORK/quiet/d3net-segmentation -c cpu --out-dir OUT", needs=("d3net segmentation",)),
}


def folder_of(name: str) -> str:
    return name.replace(" ", "-")


# The process that is killed -------------------------------------------------------------------------------------------


def run_as_child(kind: str, where: str, name: str, script: str, *arguments: str) -> None:
    """Run a script that sends itself a signal `kind` ("before", "after") rename number `where`.

    With `kind` "count", it writes the number of renames to the file `where` instead.
    """
    renames, rename = itertools.count(1), Path.replace

    def replace(self, target):
        number = next(renames)
        if (kind, str(number)) == ("before", where):
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        result = rename(self, target)
        if (kind, str(number)) == ("after", where):
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        return result

    if kind == "count":
        atexit.register(lambda: Path(where).write_text(str(next(renames) - 1)))
    Path.replace = replace
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


@attrs.frozen
class Process:
    """A command that runs: its process, and the file of what it prints."""

    popen: subprocess.Popen
    output: Path

    def said(self) -> str:
        return " / ".join(self.output.read_text().strip().splitlines()[-3:])

    def end(self) -> int:
        """Wait until it has ended, with all processes that it has started; returns its exit status."""
        status = self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.read()    # which ends when none of them has it open any more
        return status


def start(work: Path, out: Path, words: Sequence[str], kind: str = "", where: str = "", name: str = "") -> Process:
    """Start a command in a process of its own; see `run_as_child` for the last three."""
    words = [word.replace("WORK", str(work)).replace("OUT", str(out)) for word in words]
    path = os.pathsep.join([str(TOP), os.environ.get("PYTHONPATH", "")])
    output = out.with_suffix(".txt")
    with output.open("a") as stream:
        popen = subprocess.Popen(
            [sys.executable, __file__, "--child", kind, where, name, str(TOP / words[0]), *words[1:]], stderr=stream,
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True, cwd=work,
            env={**os.environ, "PYTHONPATH": path, "SONY_PAPERS_CACHE": str(work / "cache")})
    return Process(popen, output)


# A case ---------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Quiet:
    """A run that nobody disturbed: its files, what is compared of them, how long it wrote, and how often it renamed."""

    folder: Path
    products: dict[str, object]
    seconds: float
    renames: int


def run_quietly(work: Path, name: str) -> Quiet:
    """Make the results of a case as they should be."""
    case, out = CASES[name], work / "quiet" / folder_of(name)
    prepare(work, case, out)
    counted = out.with_suffix(".renames")
    process = start(work, out, shlex.split(case.command), "count", str(counted))
    began = wait_for(process, lambda: in_use(out))
    if process.end():
        raise SystemExit(f"error: {name} does not run undisturbed: {process.said()}")
    return Quiet(out, products(out), time.monotonic() - began, int(counted.read_text()))


def prepare(work: Path, case: Case, out: Path) -> None:
    """Make the folder around OUT, and in OUT what was there before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if case.after:
        shutil.copytree(work / "quiet" / folder_of(case.after), out)


def in_use(out: Path) -> bool:
    return any(out.rglob(LOCK))    # of two targets in one folder each has one of its own


def wait_for(process: Process, condition) -> float:
    """Wait until a condition holds or the process has ended; returns when that was."""
    while not condition() and process.popen.poll() is None:
        time.sleep(0.001)
    return time.monotonic()


@attrs.frozen
class Trial:
    """What became of a run that was killed: leftovers of the kill, leftovers at the end, names of files that differ."""

    kind: str
    killed: bool
    leftovers: int = 0
    at_end: int = 0
    differing: tuple[str, ...] = ()
    failure: str = ""


def kill_and_go_on(work: Path, name: str, quiet: Quiet, by: str, number: int, kind: str, rng: random.Random) -> Trial:
    """Stop a run of a case by a signal at a moment of a kind, go on with it, and compare."""
    case, out = CASES[name], work / "kills" / folder_of(name) / f"run{number:03d}"
    prepare(work, case, out)
    if not kill(work, case, out, by, kind, quiet, rng):
        shutil.rmtree(out, ignore_errors=True)
        return Trial(kind, False)
    leftovers = len(list(out.rglob(UNFINISHED)))
    if leftovers and by != "KILL":
        return Trial(kind, True, leftovers, failure="something is left over, though it could have been removed")
    process = start(work, out, shlex.split(f"{case.command} {case.again}"))
    if process.end():
        return Trial(kind, True, leftovers, failure=process.said())
    at_end = sum(1 for pattern in (UNFINISHED, LOCK) for _ in out.rglob(pattern))
    found = products(out)
    differing = tuple(sorted(path for path in found.keys() | quiet.products.keys()
                             if not same(found.get(path), quiet.products.get(path))))
    if not (differing or at_end):
        shutil.rmtree(out)
    return Trial(kind, True, leftovers, at_end, differing)


def kill(work: Path, case: Case, out: Path, by: str, kind: str, quiet: Quiet, rng: random.Random) -> bool:
    """Start a command and stop it by a signal; tells whether that came before it had ended."""
    words = shlex.split(case.command)
    rename, share = rng.randint(1, quiet.renames), rng.random()
    if "rename" in kind:
        process = start(work, out, words, kind.split()[0], str(rename), by)
    else:
        process = start(work, out, words)
        wait_for(process, lambda: in_use(out))
        if kind == KINDS[0]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(share * quiet.seconds)
        else:
            seen = set()

            def writes() -> bool:
                seen.update(path.name for path in out.rglob(UNFINISHED))
                return len(seen) > share * min(quiet.renames, 8)

            wait_for(process, writes)
        process.popen.send_signal(getattr(signal, f"SIG{by}"))
    return process.end() == SIGNALS[by]


# What is compared -----------------------------------------------------------------------------------------------------


def products(folder: Path) -> dict[str, object]:
    """{path: content} of all files of a run, but for what its speed was."""
    return {path.relative_to(folder).as_posix(): content(path) for path in folder.rglob("*")
            if path.is_file() and not path.name.lower().startswith(TIMINGS)}


def content(path: Path) -> object:
    if path.parent.name != "checkpoint":
        return path.read_bytes()
    found = {}

    def visit(name, item):
        found[f"{name} attributes"] = dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    state = json.loads(found.pop("state"))
    if all(isinstance(extra, float) for extra in state["extras"]):    # seconds or images per second of each epoch
        del state["extras"]
    for rows in ("series", "pending"):    # segmentation: seconds of each update come last
        state[rows] = [row[:-1] for row in state.get(rows, [])]
    return found | {"state": state}


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)    # so that NaN is NaN


# Inputs ---------------------------------------------------------------------------------------------------------------


def write_inputs(work: Path) -> None:
    """Write short songs, and the description of a small network."""
    rng = np.random.default_rng(0)
    for song in ("train/one", "train/two", "valid/one", "test/one", "test/two"):
        folder = work / "songs" / song
        folder.mkdir(parents=True)
        tones = {source: 0.1 * np.sin(np.arange(SAMPLES)[:, None] * (k + 1) * rng.uniform(0.05, 0.15)) * [1, 0.7]
                 + 0.02 * rng.standard_normal((SAMPLES, 2)) for k, source in enumerate(SOURCES)}
        for source, audio in (tones | {"mixture": np.sum(list(tones.values()), axis=0)}).items():
            soundfile.write(folder / f"{source}.wav", audio, RATE, subtype="FLOAT")
    tiny = yaml.safe_load((TOP / "d3net" / "hparams" / "mss" / "tiny.yaml").read_text())
    small = {"fft_size": 64, "hop_size": 16, "fs": RATE, "valid_signal_idx": 24, "band_split_idxs": [8],
             "patch_length": 8, "test_patch_len": 8, "out_shift": 4}
    (work / "mss.yaml").write_text(yaml.safe_dump(tiny | small))


# Command line ---------------------------------------------------------------------------------------------------------


def with_needs(names: Sequence[str]) -> list[str]:
    """Cases with those that they need, which come first."""
    found = []
    for name in names:
        case = CASES[name]
        found += with_needs([*case.needs, *([case.after] if case.after else [])]) + [name]
    return list(dict.fromkeys(found))


def try_case(work: Path, name: str, quiet: Quiet, args: argparse.Namespace) -> list[Trial]:
    """Kill a case as often as the flags say; kills that came too late are tried again at other moments."""
    rng, trials, numbers = random.Random(f"{args.seed} {name}"), [], itertools.count()
    wanted = [KINDS[number % len(KINDS)] for number in range(args.kills)]
    with concurrent.futures.ThreadPoolExecutor(args.at_once) as pool:
        while wanted and len(trials) < 4 * args.kills:
            new = list(pool.map(lambda one: kill_and_go_on(work, name, quiet, args.signal, *one), [
                (next(numbers), kind, random.Random(rng.random())) for kind in wanted]))
            wanted = [trial.kind for trial in new if not trial.killed]
            trials += new
    return trials


def report(name: str, quiet: Quiet, trials: Sequence[Trial]) -> bool:
    """Print the row of a case, and what went wrong; tells whether anything did."""
    killed = [trial for trial in trials if trial.killed]
    bad = [trial for trial in killed if trial.differing or trial.failure or trial.at_end]
    kinds = ", ".join(f"{sum(trial.kind == kind for trial in killed)} {kind}" for kind in KINDS)
    print(f"{name:<20}{len(killed):>6}{len(killed) - len(bad):>6}{sum(t.leftovers for t in killed):>10}"
          f"{sum(t.at_end for t in killed):>8}{len(quiet.products):>7}  {kinds}", flush=True)
    for trial in bad:
        print(f"    killed {trial.kind}: {trial.failure or ', '.join(trial.differing) or 'something is left over'}")
    return bool(bad)


@contextlib.contextmanager
def working_folder(keep: str | None) -> Iterator[Path]:
    if keep:
        Path(keep).mkdir(parents=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []],
                        help=f"which of {', '.join(map(repr, CASES))} (default: all)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="of each case (default: %(default)s)")
    parser.add_argument("--signal", choices=tuple(SIGNALS), default="KILL",
                        help="what a run gets (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="trials at a time (default: %(default)s)")
    parser.add_argument("--keep", metavar="DIR", help="a new folder that gets the files of runs that went wrong")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    names, failed = args.cases or list(CASES), False
    with working_folder(args.keep) as work:
        write_inputs(work)
        print(f"{'':<20}{'kills':>6}{'same':>6}{'left over':>10}{'at end':>8}{'files':>7}")
        for name in with_needs(names):
            quiet = run_quietly(work, name)
            if name in names:
                failed |= report(name, quiet, try_case(work, name, quiet, args))
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_as_child(*sys.argv[2:])
    else:
        sys.exit(main())
