"""Make the numbers of the READMEs again, and say what differs.

    python tools/results.py quick [--within 60] [--jobs 2]    # minutes: run the commands, compare with what is stated
    python tools/results.py day --only x-umx/compare --write
    python tools/results.py day --path mnist=/data/mnist        # what needs other data, or a GPU, is left out
    python tools/results.py --check                 # seconds: READMEs and pages beside the data, nothing is run

`results/` has for each README a file of claims, which `common/workbench/results.py` describes, and one of what the
commands gave, when, and on what. Levels: quick, ten minutes on two cores in all; day, all that takes longer, or needs
data or idle cores; gpu. Where a command needs what is not part of this repository, a line says which --path would run
it. Status 1 where a command fails or gives something else, or a README differs from the data. --write puts what the
commands give into the data, the READMEs, and the pages of what is reproduced, REPRODUCTION.md and reproduction.html,
whose claims `results/reproductions/` has (`common/workbench/reproductions.py`).
"""
import argparse
import contextlib
import datetime
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.console import cli
from common.console.values import number_above_0, positive_int
from common.machine.cores import num_threads
from common.machine.errors import UsageError, UserError
from common.machine.files import write_text
from common.workbench import reproductions, results
from common.workbench.reproduction_pages import markdown, page

TOP = Path(__file__).resolve().parents[1]
FOLDER = TOP / "results"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    papers = {path.stem: results.load(path, measured_of(path.stem), TOP / path.stem / "README.md")
              for path in sorted(FOLDER.glob("*.yaml"))}
    known = {f"{paper}/{name}" for paper, stated in papers.items() for name in stated.claims}
    if unknown := set(args.only or ()) - known:
        raise UsageError(f"--only {min(unknown)}: no such claim; there are {', '.join(sorted(known))}")
    paths = given_paths(args.path or (), papers.values())
    wrong = run_wanted(args, papers, paths)
    for stated in papers.values():
        if args.write:
            results.write_blocks(stated)
        for line in results.wrong_blocks(stated):
            print(line)
            wrong += 1
    for line in wrong_pages(papers, args.write):
        print(line)
        wrong += 1
    return int(wrong > 0)


def wrong_pages(papers: Mapping[str, results.Stated], write: bool) -> list[str]:
    """Say which pages of what is reproduced are not what the data give; write them before, if `write`."""
    found = sorted((paper for path in (FOLDER / "reproductions").glob("*.yaml")
                    for paper in reproductions.load(path, papers[path.stem])), key=lambda paper: paper.arxiv)
    wrong = []
    for name, text in (("REPRODUCTION.md", markdown(found)), ("reproduction.html", page(found))) if found else ():
        if write:
            write_text(TOP / name, text)
        elif not (TOP / name).is_file() or (TOP / name).read_text(encoding="utf-8") != text:
            wrong.append(f"{name} differs from the data; python tools/results.py --write makes it again")
    return wrong


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, needs_arguments=True)
    parser.add_argument("level", nargs="?", choices=results.LEVELS, help="whose commands to run")
    parser.add_argument("--only", nargs="+", metavar="PAPER/NAME", help="run these of the level alone")
    parser.add_argument("--within", type=number_above_0, metavar="SECONDS", help="run what is known to take no longer")
    parser.add_argument("--path", nargs="+", action="extend", metavar="NAME=PATH",
                        help="where something is that commands need, such as mnist=FOLDER")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N",
                        help="commands to run at a time; not with --write, which measures them (default: %(default)s)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="run nothing, compare the READMEs with the data")
    action.add_argument("--write", action="store_true", help="change the data and the READMEs")
    args = parser.parse_args(argv)
    if args.write and args.jobs > 1:
        parser.error("--jobs and --write: what is written down are seconds of commands that run alone")
    if args.level is None and not (args.check or args.write):
        parser.error("name a level, or --check")
    return args


def wanted(args: argparse.Namespace, name: str, claim: results.Claim, stated: results.Stated) -> bool:
    """Whether the command line asks for the command of a claim, which may take those before it."""
    chain = results.in_order(stated.claims, [name.partition("/")[2]])
    seconds = sum(stated.measured.get(link, {}).get("seconds", math.inf) for link in chain)
    return (not args.check and claim.level == args.level and (args.only is None or name in args.only)
            and (args.within is None or seconds <= args.within))


def given_paths(pairs: Iterable[str], papers: Iterable[results.Stated]) -> dict[str, Path]:
    """Read what follows --path.

    Raises
    ------
    UsageError
        No command has such a name in braces, or nothing is there.
    """
    known = {name for stated in papers for name in stated.paths}
    paths = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if name not in known:
            raise UsageError(f"--path {pair}: not NAME=PATH with one of the names {', '.join(sorted(known))}")
        found = Path(path).expanduser()
        if not path or not found.exists():
            raise UsageError(f"--path {pair}: there is nothing at {path or 'the empty path'}")
        paths[name] = found.absolute()    # not resolved: a Python finds its environment by its link
    return paths


def runnable(paper: str, stated: results.Stated, names: Sequence[str], paths: Mapping[str, Path]) -> list[str]:
    """Leave out claims whose commands, or those before them, need a path that is not given, with a line for each."""
    kept = []
    for name in names:
        chain = results.in_order(stated.claims, [name])
        missing = list(dict.fromkeys(path for link in chain for path in stated.claims[link].paths if path not in paths))
        if missing:
            what = ", ".join(f"{path}: {stated.paths[path]}" for path in missing)
            flags = " ".join(f"{path}=PATH" for path in missing)
            print(f"{paper}/{name}: left out; --path {flags} runs it ({what})", flush=True)
        else:
            kept.append(name)
    return kept


def run_wanted(args: argparse.Namespace, papers: Mapping[str, results.Stated], paths: Mapping[str, Path]) -> int:
    """Run what the command line asks for, `args.jobs` commands at a time; returns how many are not as stated."""
    with ThreadPoolExecutor(args.jobs) as pool:    # threads that wait for processes
        running = []
        for paper, stated in papers.items():
            chosen = [name for name, claim in stated.claims.items() if wanted(args, f"{paper}/{name}", claim, stated)]
            running += [pool.submit(run_group, paper, stated, group, args.write, paths) for group in results.apart(
                stated.claims, runnable(paper, stated, chosen, paths))]
        try:
            return sum(group.result() for group in running)
        except BaseException:    # Ctrl-C, too, ends what waits
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_group(paper: str, stated: results.Stated, names: Sequence[str], write: bool, paths: Mapping[str, Path]) -> int:
    """Run the commands of claims in one folder, and print a line for each; what they give is the data, if `write`.

    Returns
    -------
    int
        How many commands fail, or do not give what is stated.
    """
    wrong = 0
    with working_folder() as folder:
        for name in names:
            claim = stated.claims[name]
            try:
                values, seconds = results.run_claim(claim, folder, environment(), paths)
            except UserError as error:
                wrong += 1
                print(f"{paper}/{name}: {error}", flush=True)
                continue
            differ = results.differences_of_claim(claim, stated.measured.get(name, {}).get("values", {}), values)
            other = other_processor(claim, stated.measured.get(name, {}).get("machine", ""))
            print(f"{paper}/{name}: {verdict(claim, differ, other)} ({seconds:.0f} s)", flush=True)
            if write:
                stated.measured[name] = {"values": values, "seconds": round(seconds, 1), **circumstances()}
                results.save(stated.measured, measured_of(paper))
            else:
                wrong += bool(differ) and other is None
    return wrong


def other_processor(claim: results.Claim, machine: str) -> str | None:
    """The processor that gave the stated values, if it is not this one and may have its own."""
    there = processor(machine)
    return there if claim.by_processor and there != processor(circumstances()["machine"]) else None


def verdict(claim: results.Claim, differences: Sequence[str], other: str | None) -> str:
    """Say how the values of a claim compare with those stated; `other` is what `other_processor` returns."""
    if not differences:
        return "as stated" if claim.values else "no value of it is stated"
    return "; ".join(differences) + (f", as may be on another processor than {other}" if other else "")


def measured_of(paper: str) -> Path:
    return FOLDER / f"{paper}.json"


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """Make a folder in which the commands of the READMEs run as they stand, and leave their results; it vanishes."""
    with tempfile.TemporaryDirectory() as name:
        for part in ("common", "tools", *(path.stem for path in FOLDER.glob("*.yaml"))):
            (Path(name) / part).symlink_to(TOP / part)
        yield Path(name)


def environment() -> dict[str, str]:
    """The variables of this process, with its Python before all others."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def processor(machine: str) -> str:
    """The name of the processor in "2 cores, NAME, busy", which is what data say of a machine."""
    return (machine.split(", ") + [""])[1]


def circumstances() -> dict[str, str]:
    """When and on what the commands run."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] or [platform.machine()]
    return {"as of": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "machine": f"{num_threads()} cores, {names[0]}"}


if __name__ == "__main__":
    cli.run(main)
