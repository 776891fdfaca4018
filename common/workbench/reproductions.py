"""The claims of the papers beside what this repository shows: as data, with verdicts that the numbers have to bear out.

A file is YAML, and belongs to the file of claims that has its name (see `results.py`), whose values fill its texts:

    papers:
      - name: X-UMX
        title: All for One and One for All
        arxiv: '2010.04228'
        summary: What the paper says, and how much of it this repository shows.
        claims:
          - claim: X-UMX separates better than one UMX for each source.
            published: 5.79 dB beside 5.33 dB
            where: table 1              # of the paper, or what else has the number
            ours: '{compare[sdr][X-UMX][4]} dB beside {compare[sdr][UMX][4]} dB'
            holds: ['{compare[sdr][X-UMX][4]} > {compare[sdr][UMX][4]}']
            deviation:                  # within: what the verdict allows, if it depends on the number
              {ours: '{compare[sdr][X-UMX][4] - compare[sdr][UMX][4]}', published: '0.46', unit: dB, within: 50 %}
            scale: six computed songs, hidden size 64
            seeds: '1'
            verdict: at small scale
            by: [compare]               # whose commands give the values
            note: What else has to be said.

Instead of `by`, or beside it, `tests` names files of tests, `command` a command that stands in the README, `readme` a
heading of it, and `quoted` texts that stand in it as they are here, for `{quoted[0]}`. Numbers in braces may be
combined by ` + `, ` - `, ` * ` and ` / `, from left to right.
"""
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from common.console.values import to_number
from common.machine.errors import UserError
from common.workbench.results import Stated, differences, in_order

REPRODUCED, SMALL, NOT_SHOWN, NEEDS_MORE = "reproduced", "at small scale", "not shown", "needs more than we have"
VERDICTS = {
    REPRODUCED: "What the paper says holds here as it is published, within the deviation that is stated.",
    SMALL: "It holds with less data, a smaller network or a shorter training. Sizes of effects do not carry over.",
    NOT_SHOWN: "It was tried here, and does not show, or shows otherwise.",
    NEEDS_MORE: "Data, published weights, a machine or time that we lack. The command is there for those who have it.",
}
_COMPARED = re.compile(r"(\S+) ([<>]) (\S+)")


@attrs.frozen(kw_only=True)
class Deviation:
    """A number of ours beside the published one, both as text; `within` is what the verdict allows, as "5 %" or 0.1."""

    ours: str
    published: str = attrs.field(validator=attrs.validators.instance_of(str))    # its decimals count
    unit: str = ""
    within: float | str | None = None

    def text(self) -> str:
        """The difference with as many decimals as the published number has, and in per cent of it.

        Examples
        --------
        >>> Deviation(ours="1.59", published="1.55", unit="MB").text(), Deviation(ours="2", published="2").text()
        ('+0.04 MB (+2.6 %)', 'none')
        """
        decimals = len(self.published.partition(".")[2])
        difference = _number(self.ours) - _number(self.published)
        shown = f"{difference:+.{decimals}f}"
        if not _number(shown):
            return "none"
        if self.unit == "%":
            return f"{shown} points"
        share = f"({100 * difference / _number(self.published):+.1f} %)"
        return " ".join(part for part in (shown, self.unit, share) if part)

    def is_within(self) -> bool:
        """Whether the difference is allowed; only where `within` is given."""
        assert self.within is not None
        return not differences(self.published, self.ours, self.within)


@attrs.frozen(kw_only=True)
class Claim:
    """What a paper says, beside ours; the texts are those of the file, or with the values in their places."""

    claim: str
    published: str
    verdict: str = attrs.field(validator=attrs.validators.in_(VERDICTS))
    where: str = ""
    ours: str = ""
    deviation: Deviation | None = attrs.field(
        default=None, converter=lambda entry: Deviation(**entry) if isinstance(entry, dict) else entry)
    holds: list[str] = attrs.field(factory=list)
    scale: str = ""
    seeds: str = ""
    by: list[str] = attrs.field(factory=list)
    tests: list[str] = attrs.field(factory=list)
    command: str = ""
    readme: str = ""
    quoted: list[str] = attrs.field(factory=list)
    note: str = ""

    @property
    def judged(self) -> str:
        """How ours lies to the published value, in a few words."""
        if self.deviation is not None:
            return self.deviation.text()
        if self.holds:
            return "holds" if all(map(holds, self.holds)) else "does not hold"
        return "within the tests' tolerances" if self.tests else ""


@attrs.frozen(kw_only=True)
class Paper:
    """A paper with its claims, filled, and the file of claims of its folder."""

    name: str
    title: str
    arxiv: str
    summary: str
    claims: list[Claim]
    stated: Stated

    @property
    def folder(self) -> str:
        """Of the paper, in the repository."""
        return self.stated.readme.parent.name

    def commands(self, claim: Claim) -> list[str]:
        """The commands that give the values of a claim, those that have to run before them first.

        They run in the folder of the repository. What whoever runs them has to have stands in them in capitals: `MNIST`
        for {mnist}.
        """
        lines = [line for name in in_order(self.stated.claims, claim.by)
                 for line in self.stated.claims[name].command.strip().splitlines()]
        for path in self.paths(claim):
            lines = [line.replace(f"{{{path}}}", path.upper()) for line in lines]
        if claim.command:
            lines.append(claim.command if f" {self.folder}/" in claim.command else f"cd {self.folder}; {claim.command}")
        return lines + ([f"python -m pytest {' '.join(claim.tests)}"] if claim.tests else [])

    def paths(self, claim: Claim) -> dict[str, str]:
        """What the names in braces of the commands of a claim stand for."""
        return {path: self.stated.paths[path] for name in in_order(self.stated.claims, claim.by)
                for path in self.stated.claims[name].paths}

    def measured(self, claim: Claim) -> str:
        """When, on what and in which time the commands of a claim gave the values; empty if none has run.

        Where one of them was stopped and resumed, its time is not known.
        """
        entries = [self.stated.measured[name] for name in in_order(self.stated.claims, claim.by)
                   if name in self.stated.measured]
        if not entries:
            return ""
        last = max(entries, key=lambda entry: entry["as of"])
        timed = all("seconds" in entry for entry in entries)
        took = _duration(sum(entry["seconds"] for entry in entries)) if timed else "stopped and resumed"
        return f"{last['as of']}, {last['machine']}, {took}"


def load(path: Path, stated: Stated) -> list[Paper]:
    """Read the papers of a file, and put the values that commands gave into their texts.

    Raises
    ------
    UserError
        A claim lacks something, or has something that no claim has; a value, a file or a text that it names is not
        there; or its verdict is not what its numbers say. Names file and claim.
    """
    import yaml

    found = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["papers"]:
        claims = []
        for number, text in enumerate(entry.pop("claims"), 1):
            try:
                claims.append(_filled(Claim(**text), stated))
                _check(claims[-1], stated)
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(f"{path}, {entry['name']}, claim {number}: {type(error).__name__}: {error}") from error
        found.append(Paper(claims=claims, stated=stated, **entry))
    return found


class _Formatter(string.Formatter):
    """`str.format` with sums, differences, products and quotients in the braces."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        first, *rest = re.split(r" ([-+*/]) ", field_name)
        if not rest:
            return super().get_field(first, args, kwargs)
        number = self._operand(first, args, kwargs)
        for sign, other in zip(rest[::2], rest[1::2], strict=True):
            right = self._operand(other, args, kwargs)
            number = {"+": number + right, "-": number - right, "*": number * right,
                      "/": number / right if right else float("nan")}[sign]
        return number, first

    def _operand(self, text, args, kwargs):
        try:
            return to_number(text)
        except ValueError:
            return _number(super().get_field(text, args, kwargs)[0])

    def format_field(self, value: Any, format_spec: str) -> str:
        return super().format_field(_number(value) if format_spec and isinstance(value, str) else value, format_spec)


def _filled(claim: Claim, stated: Stated) -> Claim:
    values = {name: entry["values"] for name, entry in stated.measured.items()} | {"quoted": claim.quoted}

    def fill(text):
        return _Formatter().vformat(text, (), values)

    deviation = claim.deviation and attrs.evolve(claim.deviation, ours=fill(claim.deviation.ours))
    return attrs.evolve(claim, ours=fill(claim.ours), note=fill(claim.note), holds=[fill(text) for text in claim.holds],
                        deviation=deviation)


def _check(claim: Claim, stated: Stated) -> None:
    """Raise LookupError where a claim names what is not there, and ValueError where its verdict is not borne out."""
    readme = stated.readme.read_text(encoding="utf-8")
    if missing := set(claim.by) - stated.claims.keys():
        raise LookupError(f"no claim {min(missing)!r} gives values")
    if missing := [test for test in claim.tests if not (stated.readme.parents[1] / test).is_file()]:
        raise LookupError(f"there is no {missing[0]}")
    if claim.readme and claim.readme not in anchors(readme):
        raise LookupError(f"no heading {claim.readme!r} in {stated.readme.parent.name}/README.md")
    words = " ".join(readme.split())
    if missing := [text for text in (*claim.quoted, claim.command) if " ".join(text.split()) not in words]:
        raise LookupError(f"{missing[0]!r} does not stand in {stated.readme.parent.name}/README.md")
    if not (claim.by or claim.tests or claim.command or claim.readme):
        raise ValueError("none of by, tests, command and readme says where ours comes from")
    if reason := _contradiction(claim):
        raise ValueError(f"{claim.verdict!r}, but {reason}")


def _contradiction(claim: Claim) -> str:
    """Say what speaks against the verdict of a claim, if anything does."""
    met = [*map(holds, claim.holds)]
    if claim.deviation is not None and claim.deviation.within is not None:
        met.append(claim.deviation.is_within())
    if claim.verdict in (NOT_SHOWN, NEEDS_MORE) and not claim.note:
        return "no note says why"
    if claim.verdict == NEEDS_MORE:
        return ""
    if not claim.ours:
        return "there is nothing of ours"
    if not met and not claim.tests:
        return "nothing to hold, no deviation to be within, and no tests"
    if claim.verdict == NOT_SHOWN:
        return "all that is to hold does" if all(met) else ""
    return "" if all(met) else f"not all is so: {'; '.join(claim.holds) or claim.judged}"


def holds(comparison: str) -> bool:
    """Whether a comparison of two numbers is true.

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> holds("5.42 > 4.64"), holds("1,048.2 < 70")
    (True, False)
    """
    match = _COMPARED.fullmatch(comparison)
    if match is None:
        raise ValueError(f"{comparison!r} is no comparison of two numbers by < or >")
    left, right = _number(match[1]), _number(match[3])
    return left < right if match[2] == "<" else left > right


def _number(value):
    """The first number of a text: 2.14 of "2.14 ± 0.09", 1.9 of the band "[+1.9, +4.5]"."""
    return to_number(value.split()[0].strip("[],").replace(",", "") if isinstance(value, str) else value)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a Markdown text, as GitHub makes them."""
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def anchor(heading: str) -> str:
    """Return the anchor of a heading.

    Examples
    --------
    >>> anchor("D3Net, street scenes")
    'd3net-street-scenes'
    """
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
