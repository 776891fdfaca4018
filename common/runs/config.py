"""An experiment: a section of an INI file, overridden on the command line, as a checked attrs class.

A configuration class lists its keys; each knows its default, what it allows and how to say so:

    @attrs.frozen(kw_only=True)
    class Config:
        epochs = integer(160, at_least=1, help="passes over the training images")

    add_config_flags(parser, Config)
    cfg = load_section(Config, args.cfg, args.experiment, overrides_of(args, Config))

In the file, `[DEFAULT]` is inherited by every section and is an experiment itself; `like = OTHER` takes over what OTHER
says, and the keys beside it win. Conditions that tie several keys together belong into `__attrs_post_init__` of the
class, which raises a ValueError with a one-line message.
"""
import argparse
import configparser
import difflib
import re
from pathlib import Path

import attrs

from common.console.values import to_integer, to_number
from common.machine.errors import UsageError, UserError
from common.machine.files import beside_scripts

INHERITED = "DEFAULT"
ALIAS = "like"
FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class _NotAllowedError(ValueError):
    """A value that its key does not allow; knows both, for a message that names the place where it was given."""

    def __init__(self, field, value):
        self.field, self.value, self.allowed = field, value, field.metadata["allowed"]
        super().__init__(f"{field.name} = {value!r} is not allowed ({self.allowed})")


def integer(default, *, at_least=None, at_most=None, help=""):
    """Make a field for whole numbers.

    Parameters
    ----------
    default : int
    at_least, at_most : int or None
        Limits, themselves allowed.
    help : str
        What the key means; `--help` shows it with what is allowed and the default.

    Returns
    -------
    attrs field
        Takes an int, or a str in decimal digits. Anything else makes the class raise a ValueError that says what is
        allowed; so do the fields of the other kinds.
    """
    def parse(value):
        return _within(to_integer(value), at_least, None, at_most)

    return _field(parse, _range_text("an integer", at_least, None, at_most), default, help, "N")


def number(default, *, at_least=None, above=None, at_most=None, help=""):
    """Make a field for finite numbers, held as float.

    Parameters
    ----------
    default : float
    at_least, at_most : float or None
        Limits, themselves allowed.
    above : float or None
        Lower limit, itself not allowed.
    help : str

    Returns
    -------
    attrs field
    """
    def parse(value):
        return _within(to_number(value), at_least, above, at_most)

    return _field(parse, _range_text("a number", at_least, above, at_most), default, help, "X")


def choice(default, options, *, help=""):
    """Make a field for one of a few values.

    Parameters
    ----------
    default : one of `options`
    options : sequence of str, int or None
        None is written as nothing at all or as `none`.
    help : str

    Returns
    -------
    attrs field
    """
    spelled = {str(option): option for option in options if option is not None}
    if None in options:
        spelled = {"": None, "none": None} | spelled

    def parse(value):
        if isinstance(value, str):
            name = value.strip()
            name = name.lower() if name.lower() == "none" else name
            if name in spelled:
                return spelled[name]
        elif any(type(value) is type(option) and value == option for option in options):
            return value
        raise ValueError(value)

    return _field(parse, "one of " + ", ".join(_shown(option) for option in options), default, help, "NAME")


def flag(default, *, help=""):
    """Make a field for yes or no; a file or a flag says true, yes, on, 1 or false, no, off, 0 in any case.

    The flag alone means true.

    Parameters
    ----------
    default : bool
    help : str

    Returns
    -------
    attrs field
    """
    def parse(value):
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.strip().lower() not in FLAGS:
            raise ValueError(value)
        return FLAGS[value.strip().lower()]

    return _field(parse, "true or false", default, help, "BOOL", nargs="?", const="true")


def text(default, *, help=""):
    """Make a field for one line of text, such as a path.

    Parameters
    ----------
    default : str or None
        With None, nothing at all and `none` mean None.
    help : str

    Returns
    -------
    attrs field
    """
    def parse(value):
        if default is None and (value is None or isinstance(value, str) and value.strip().lower() in ("", "none")):
            return None
        # An indented line of an INI file continues the value above it: a key would vanish in a path.
        if not isinstance(value, str) or "\n" in value:
            raise ValueError(value)
        return value

    return _field(parse, "one line of text" + (" or none" if default is None else ""), default, help, "TEXT")


def names(default, *, options=None, help=""):
    """Make a field for one or more names, held as a tuple of str.

    Parameters
    ----------
    default : sequence of str
    options : sequence of str or None
        What may be named; with None, anything without blanks and commas. With options, `none` means no name at all.
    help : str

    Returns
    -------
    attrs field
        Takes a sequence of str, or names with blanks or commas between them. None may come twice.
    """
    def parse(value):
        given = (value,) if isinstance(value, str) else value
        if not isinstance(given, (list, tuple)) or not all(isinstance(part, str) for part in given):
            raise ValueError(value)
        found = tuple(filter(None, re.split(r"[\s,]+", " ".join(given))))
        if options is not None and found in ((), ("none",)):
            return ()
        if not found or len(set(found)) < len(found) or options and set(found) - set(options):
            raise ValueError(value)
        return found

    allowed = f"some of {', '.join(options)}, or none" if options else "different names"
    return _field(parse, allowed, default, help, "NAME", nargs="+")


def load_section(cls, path, section, overrides=None):
    """Read an experiment.

    Parameters
    ----------
    cls : attrs class
        Its fields, made by the helpers of this module, are the keys that exist.
    path : path of an INI file
    section : str
    overrides : dict or None
        {key: value} from the command line, as `overrides_of` returns it; wins over the file.

    Returns
    -------
    cls

    Raises
    ------
    UsageError
        There is no such file or section, a key is unknown, or a value is not allowed; says where.
    """
    overrides = overrides or {}
    found = _resolve(_read(path), path, section)
    keys = attrs.fields_dict(cls)
    for key, (_, origin) in found.items():
        if key not in keys:
            raise UsageError(f"{path}, [{origin}]: unknown key {key!r}{_suggestion(key, keys)}")
    try:
        return cls(**{key: value for key, (value, _) in found.items()} | overrides)
    except _NotAllowedError as error:
        key = error.field.name
        if key in overrides:
            raise UsageError(f"{_flag_given(key, error.value)}: not allowed ({error.allowed})") from error
        raise UsageError(f"{path}, [{found[key][1]}]: {error}") from error
    except ValueError as error:
        given = "".join(f" {_flag_given(*item)}" for item in overrides.items())
        raise UsageError(f"{path}, [{section}]{' with' if given else ''}{given}: {error}") from error


def find_cfg(name, package):
    """Return the path of a .cfg file: relative to the current folder, or else beside the scripts of `package`."""
    beside = beside_scripts(package, name)
    return Path(name) if Path(name).exists() or not beside.exists() else beside


def section_names(path):
    """List the experiments of an INI file in their order, `DEFAULT` included where it stands.

    Returns
    -------
    list of str

    Raises
    ------
    UsageError
        The file cannot be read as an INI file.
    """
    return list(_read(path))


def add_config_flags(parser, cls):
    """Add a flag for every key of the configuration class `cls`, `--w-bitwidth` for `w_bitwidth`.

    A flag that is not given leaves no trace in the parsed arguments.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    cls : attrs class
    """
    group = parser.add_argument_group("override the section")
    for field in attrs.fields(cls):
        about, allowed, default = field.metadata["help"], field.metadata["allowed"], _shown(field.default)
        group.add_argument(_flag_name(field.name), dest=field.name, default=argparse.SUPPRESS,
                           **field.metadata["argument"],
                           help=f"{about} ({allowed}; default: {default})".replace("%", "%%"))


def overrides_of(args, cls):
    """Return {key: str, or list of str} of the flags of `add_config_flags` that were given.

    Parameters
    ----------
    args : argparse.Namespace
    cls : attrs class
    """
    return {name: vars(args)[name] for name in attrs.fields_dict(cls) if name in vars(args)}


def to_dict(cfg):
    """Return the configuration as {key: value} that JSON can hold and `from_dict` reads back."""
    return attrs.asdict(cfg)


def from_dict(cls, values, source):
    """Read a configuration back that `to_dict` gave.

    Parameters
    ----------
    cls : attrs class
    values : dict
    source : str or path
        Where the values come from, for the error.

    Returns
    -------
    cls

    Raises
    ------
    UserError
        A key is unknown or missing, or a value is not allowed.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: not a configuration: its keys and values should stand in one object")
    keys = attrs.fields_dict(cls)
    for key in values:
        if key not in keys:
            raise UserError(f"{source}: unknown key {key!r}{_suggestion(key, keys)}")
    missing = [key for key in keys if key not in values]
    if missing:
        raise UserError(f"{source}: no {missing[0]!r} in it ({len(missing)} of {len(keys)} keys are missing)")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _field(parse, allowed, default, help, metavar, **argument):
    """Make an attrs field whose values, the default included, go through `parse`, which raises ValueError.

    `argument` is what its flag takes beside, as for argparse.
    """
    return attrs.field(default=parse(default), converter=attrs.Converter(_convert, takes_field=True),
                       metadata={"parse": parse, "allowed": allowed, "help": help,
                                 "argument": {"metavar": metavar, **argument}})


def _convert(value, field):
    try:
        return field.metadata["parse"](value)
    except ValueError as error:
        raise _NotAllowedError(field, value) from error


def _within(value, at_least, above, at_most):
    below = at_least is not None and value < at_least or above is not None and value <= above
    if below or at_most is not None and value > at_most:
        raise ValueError(value)
    return value


def _range_text(noun, at_least, above, at_most):
    if at_least is not None and at_most is not None:
        return f"{noun} from {at_least} to {at_most}"
    limits = (("of at least", at_least), ("above", above), ("of at most", at_most))
    return " ".join([noun, " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None)]).strip()


def _shown(value):
    """Spell a value as a file or a flag would; what cannot be seen there gets a word."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return {None: "none", "": "'' (empty)"}.get(value, str(value))


def _flag_name(key):
    return "--" + key.replace("_", "-")


def _flag_given(key, value):
    value = " ".join(value) if isinstance(value, list) else value
    plain = re.fullmatch(r"[^\s'\"]+", str(value))
    return f"{_flag_name(key)} {value if plain else repr(value)}"


def _suggestion(name, names):
    """Say in parentheses which of `names` was probably meant, otherwise which there are."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f" (did you mean {by_lower[close[0]]!r}?)"
    first = list(names)[:4]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return f" (there are: {', '.join(first)}{more})" if first else ""


def _read(path):
    """Return {section: {key: value}} as they stand in the file, nothing inherited; keys in lower case."""
    # With no default section of its own, configparser treats [DEFAULT] as any other, and reports it if it comes twice.
    ini = configparser.RawConfigParser(default_section="", inline_comment_prefixes=("#",))
    try:
        ini.read_string(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
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


def _resolve(sections, path, section):
    """Return {key: (value, the section where it stands)}: own keys before those of `like`, those before [DEFAULT]."""
    if section not in sections:
        raise UsageError(f"{path}: no section [{section}]{_suggestion(section, sections)}")
    if ALIAS in sections.get(INHERITED, {}):
        raise UsageError(f"{path}, [{INHERITED}]: '{ALIAS}' does not belong here: every section inherits [{INHERITED}]")
    origins = [section]
    while ALIAS in sections[origins[-1]]:
        target = sections[origins[-1]][ALIAS]
        here = f"{path}, [{origins[-1]}]: {ALIAS} = {target!r}"
        if target not in sections:
            raise UsageError(f"{here}: no such section{_suggestion(target, sections)}")
        if target in origins:
            raise UsageError(f"{here} goes in a circle: {' -> '.join([*origins, target])}")
        origins.append(target)
    return {key: (value, origin) for origin in reversed([*origins, INHERITED])
            for key, value in sections.get(origin, {}).items() if key != ALIAS}
