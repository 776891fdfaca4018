"""INI files of experiments: sections that inherit from `[DEFAULT]`, and from one that `like` names."""
import configparser
import difflib
import itertools
import re
from collections.abc import Collection
from pathlib import Path

from common.machine.errors import UsageError, UserError
from common.reading.texts import read_text

INHERITED = "DEFAULT"
ALIAS = "like"


def suggestion(name: str, names: Collection[str]) -> str:
    """Say in parentheses which of `names` was probably meant, otherwise which there are."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f" (did you mean {by_lower[close[0]]!r}?)"
    first = list(names)[:4]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return f" (there are: {', '.join(first)}{more})" if first else ""


def read_sections(path: str | Path) -> dict[str, dict[str, str]]:
    """Return {section: {key: value}} as they stand in the file, nothing inherited; keys in lower case."""
    # With no default section of its own, configparser treats [DEFAULT] as any other, and reports it if it comes twice.
    ini = configparser.RawConfigParser(default_section="", inline_comment_prefixes=("#",))
    try:
        ini.read_string(read_text(path, remedy="name a file of experiments"))
    except UserError as error:
        raise UsageError(str(error)) from error
    except configparser.DuplicateSectionError as error:
        raise UsageError(f"{path}, line {error.lineno}: section [{error.section}] for the second time") from error
    except configparser.DuplicateOptionError as error:
        where = f"{path}, line {error.lineno}, [{error.section}]"
        raise UsageError(f"{where}: key {error.option!r} for the second time") from error
    except configparser.MissingSectionHeaderError as error:
        raise UsageError(f"{path}, line {error.lineno}: not an INI file: text before the first [section]") from error
    except configparser.ParsingError as error:
        raise UsageError(f"{path}, line {error.errors[0][0]}: neither a [section] nor `key = value`") from error
    return {name: dict(ini.items(name)) for name in ini.sections()}


def comments_of_sections(path: str | Path) -> dict[str, str]:
    """Return {section: the comment directly above its [name], otherwise the one directly below} as one line each.

    A section without such a comment has an empty text.
    """
    lines = [line.strip() for line in read_text(path, remedy="name a file of experiments").splitlines()]
    found = {}
    for index, line in enumerate(lines):
        if name := re.fullmatch(r"\[([^]]+)\](\s+#.*)?", line):
            comment = _comment(reversed(lines[:index]))[::-1] or _comment(lines[index + 1:])
            found[name[1]] = " ".join(line.lstrip("# ") for line in comment)
    return found


def _comment(lines):
    """The lines that are comments, up to the first that is none; a rule of dashes is none."""
    return list(itertools.takewhile(lambda line: line.startswith("#") and not line.startswith("# ---"), lines))


def resolve(sections: dict[str, dict[str, str]], path: str | Path, section: str) -> dict[str, tuple[str, str]]:
    """Return {key: (value, the section where it stands)}: own keys before those of `like`, those before [DEFAULT]."""
    if section not in sections:
        raise UsageError(f"{path}: no section [{section}]{suggestion(section, sections)}")
    if ALIAS in sections.get(INHERITED, {}):
        raise UsageError(f"{path}, [{INHERITED}]: '{ALIAS}' does not belong here: every section inherits [{INHERITED}]")
    origins = [section]
    while ALIAS in sections[origins[-1]]:
        target = sections[origins[-1]][ALIAS]
        here = f"{path}, [{origins[-1]}]: {ALIAS} = {target!r}"
        if target not in sections:
            raise UsageError(f"{here}: no such section{suggestion(target, sections)}")
        if target in origins:
            raise UsageError(f"{here} goes in a circle: {' -> '.join([*origins, target])}")
        origins.append(target)
    return {key: (value, origin) for origin in reversed([*origins, INHERITED])
            for key, value in sections.get(origin, {}).items() if key != ALIAS}
