"""The numbers that READMEs state, as data: the command that gives each, how to find it in what the command prints, and
the text in which it stands.

A file of claims is YAML:

    paths:                                             # what the commands name in braces, which whoever runs them has
      mnist: a folder with the four files of MNIST
    claims:
      demo:
        claim: A ResNet-20 learns its bit widths within 90 kB.
        level: quick                                   # or day, gpu
        command: python mixed-precision-dnns/demo.py   # runs in a folder of its own, in which the papers' folders lie
        after: other                                   # a claim whose command has to run there before, if any
        by_processor: true                             # a training, or a speed; false where it is left out
        values:
          error: {pattern: 'test error ([0-9.]+)%', tolerance: 1}
          size: {file: runs/demo/result.json, path: weights_kb, tolerance: 1 %}
      noise:
        claim: Wrong labels are found.
        level: day
        command: python data-cleansing/train.py MNIST --data-dir {mnist}
    blocks:
      demo: |
        The demo ends with an error of {demo[error]} % and {demo[size]:.1f} kB.

A pattern with several groups gives a list of their texts. One with a group named `row` gives all of its matches, as
{text of row: text of the other group, or list of their texts}. A block is the text between `<!-- results: NAME -->` and
`<!-- end of results -->` of a README, with the values in the places where `str.format` puts them;
`{demo[seconds]:.0f}` is what the command took.
"""
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from common.console.values import to_number
from common.machine.errors import UserError
from common.machine.files import write_json, write_text

LEVELS = "quick", "day", "gpu"
_PATH = re.compile(r"(?<!\$)\{([a-z][a-z0-9_]*)\}")    # ${...} is the shell's
_BLOCK = r"(<!-- results: {} -->\n)(.*?)(<!-- end of results -->)"
Value = Any    # text, a number of a JSON file, or lists and dicts of them


@attrs.frozen(kw_only=True)
class Claim:
    """What a command shows.

    `by_processor`: a processor of another kind may give other values. Speeds are its own, and it sums gradients in an
    order of its own: trainings that differ in the last bit go apart.
    """

    claim: str
    level: str = attrs.field(validator=attrs.validators.in_(LEVELS))
    command: str
    after: str | None = None
    by_processor: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    values: dict[str, dict[str, Any]] = attrs.field(factory=dict)

    @property
    def paths(self) -> list[str]:
        """The names that stand in braces in the command."""
        return list(dict.fromkeys(_PATH.findall(self.command)))


@attrs.frozen
class Stated:
    """The claims about the content of a README, the texts of its blocks, and what the commands gave last.

    `paths` says what each name in braces of a command stands for.
    `measured` is {claim: {"values": {name: value}, "as of": date, "machine": text, "seconds": number}}; without
    seconds where a run was stopped and resumed.
    """

    readme: Path
    claims: dict[str, Claim]
    blocks: dict[str, str]
    measured: dict[str, dict[str, Any]]
    paths: dict[str, str] = attrs.field(factory=dict)


def load(claims: Path, measured: Path, readme: Path) -> Stated:
    """Read the claims about a README.

    Raises
    ------
    UserError
        A claim lacks something, or has something that no claim has; names file and claim.
    """
    import yaml

    document = yaml.safe_load(claims.read_text(encoding="utf-8"))
    found, paths = {}, document.get("paths") or {}
    for name, entry in document["claims"].items():
        try:
            found[name] = Claim(**entry)
        except (TypeError, ValueError) as error:
            raise UserError(f"{claims}, {name}: {error}") from error
        if unknown := set(found[name].paths) - paths.keys():
            raise UserError(f"{claims}, {name}: {{{min(unknown)}}} is not among the paths of this file")
    values = json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else {}
    return Stated(readme, found, document.get("blocks") or {}, values, paths)


def run_claim(claim: Claim, folder: Path, environment: Mapping[str, str],
              paths: Mapping[str, Path] | None = None) -> tuple[dict[str, Value], float]:
    """Run the command of a claim, and find its values in what it prints and writes.

    Parameters
    ----------
    paths
        Absolute ones, for each of `claim.paths`.

    Returns
    -------
    values : dict of str to text, number, list or dict
    seconds : float

    Raises
    ------
    UserError
        The command failed, or a value is not in its output.
    """
    command = _PATH.sub(lambda match: shlex.quote(str((paths or {})[match[1]])), claim.command)
    start = time.monotonic()
    done = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    seconds = time.monotonic() - start
    if done.returncode:
        last = done.stdout.strip().rpartition("\n")[2]
        raise UserError(f"the command ended with status {done.returncode}: {last}")
    return {name: find_value(place, done.stdout, folder) for name, place in claim.values.items()}, seconds


def find_value(place: Mapping[str, Any], output: str, folder: Path) -> Value:
    """Find a value in the output of a command, or in a file that it has written into `folder`.

    Parameters
    ----------
    place
        `pattern`, or for a JSON file `path`: keys and indices with slashes between them; `file`, relative to `folder`.

    Raises
    ------
    UserError
        It is not there.
    """
    where = place.get("file", "the output")
    try:
        text = (folder / place["file"]).read_text(encoding="utf-8") if "file" in place else output
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from error
    if "path" in place:
        return _in_json(json.loads(text), place["path"], where)
    pattern = re.compile(place["pattern"], re.MULTILINE)
    matches = list(pattern.finditer(text))
    if not matches:
        raise UserError(f"{where}: nothing like {place['pattern']!r} in it")
    if "row" not in pattern.groupindex:
        return _alone(matches[-1].groups())
    row = pattern.groupindex["row"] - 1
    return {" ".join(match["row"].split()): _alone(match.groups()[:row] + match.groups()[row + 1:])
            for match in matches}


def _in_json(found, path, where):
    for key in path.split("/"):
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"{where}: no {path!r} in it") from error
    return found


def _alone(texts):
    return texts[0] if len(texts) == 1 else list(texts)


def differences(stated: Value, found: Value, tolerance: float | str = 0) -> list[str]:
    """Say where two values differ by more than the tolerance: a number, or per cent of what is stated as "5 %".

    Rows that are not stated may be anything.

    Examples
    --------
    >>> differences("6.13", "6.2", 0.1), differences(["1", "x"], ["1.5", "x"], "10 %")
    ([], ['is 1.5, stated 1'])
    """
    if isinstance(stated, dict) and isinstance(found, dict) and stated.keys() <= found.keys():
        return [f"{key}: {text}" for key in stated for text in differences(stated[key], found[key], tolerance)]
    if isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        return [text for pair in zip(stated, found, strict=True) for text in differences(*pair, tolerance)]
    return [] if _same(stated, found, tolerance) else [f"is {found}, stated {stated}"]


def _same(stated, found, tolerance):
    try:
        stated, found = (to_number(value.replace(",", "") if isinstance(value, str) else value)
                         for value in (stated, found))
    except ValueError:
        return stated == found
    if isinstance(tolerance, str):
        tolerance = abs(stated) * to_number(tolerance.removesuffix("%").strip()) / 100
    return abs(stated - found) <= tolerance * (1 + 1e-9)


def differences_of_claim(claim: Claim, stated: Mapping[str, Value], found: Mapping[str, Value]) -> list[str]:
    """Say which values of a claim are not what is stated, within the tolerance of each."""
    return [f"{name} {text}" for name, value in found.items()
            for text in (differences(stated[name], value, claim.values[name].get("tolerance", 0))
                         if name in stated else ["is not stated"])]


def wrong_blocks(stated: Stated) -> list[str]:
    """Say which blocks of the README are missing, or differ from the data."""
    text, wrong = stated.readme.read_text(encoding="utf-8"), []
    for name in stated.blocks:
        found = re.findall(_BLOCK.format(re.escape(name)), text, re.DOTALL)
        if len(found) != 1:
            wrong.append(f"{stated.readme}: {len(found)} blocks <!-- results: {name} -->, and not one")
        elif found[0][1] != _filled(stated, name):
            wrong.append(f"{stated.readme}: block {name} differs from the data")
    unknown = set(re.findall(r"<!-- results: (.*?) -->", text)) - stated.blocks.keys()
    return wrong + [f"{stated.readme}: block {name} is of no file of claims" for name in sorted(unknown)]


def write_blocks(stated: Stated) -> None:
    """Fill the blocks of the README with the data."""
    text = stated.readme.read_text(encoding="utf-8")
    for name in stated.blocks:
        filled = _filled(stated, name)
        text = re.sub(_BLOCK.format(re.escape(name)), lambda match, filled=filled: match[1] + filled + match[3], text,
                      flags=re.DOTALL)
    write_text(stated.readme, text)


def _filled(stated, name):
    values = {claim: {"seconds": entry.get("seconds"), **entry["values"]} for claim, entry in stated.measured.items()}
    try:
        return stated.blocks[name].format_map(values)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{stated.readme}, block {name}: {type(error).__name__} {error} in the data") from error


def save(measured: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Write what the commands gave."""
    write_json(path, dict(measured))


def in_order(claims: Mapping[str, Claim], names: Iterable[str]) -> list[str]:
    """Put the claims that others come after before these, without doubles."""
    ordered: list[str] = []
    for name in names:
        chain = [name]
        while (before := claims[chain[-1]].after) is not None and before not in chain:
            chain.append(before)
        ordered += [link for link in reversed(chain) if link not in ordered]
    return ordered


def apart(claims: Mapping[str, Claim], names: Iterable[str]) -> list[list[str]]:
    """Group claims, and those that they come after, so that commands of different groups need nothing of each other."""
    groups: dict[str, list[str]] = {}
    for name in in_order(claims, names):
        groups.setdefault(in_order(claims, [name])[0], []).append(name)
    return list(groups.values())
