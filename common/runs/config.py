"""An experiment: a section of an INI file, overridden on the command line, as a checked attrs class.

A configuration class lists its keys; each knows its default, what it allows and how to say so:

    @attrs.frozen(kw_only=True)
    class Config:
        epochs: int = integer(160, at_least=1, help="passes over the training images")

    add_config_flags(parser, Config)
    cfg = load_section(Config, args.cfg, args.experiment, overrides_of(args, Config))

In the file, `[DEFAULT]` is inherited by every section and is an experiment itself; `like = OTHER` takes over what OTHER
says, and the keys beside it win. Conditions that tie several keys together belong into `__attrs_post_init__` of the
class, which raises a ValueError with a one-line message.
"""
import argparse
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from common.console.values import largest, to_integer, to_number
from common.machine.errors import UsageError, UserError
from common.machine.files import beside_scripts, is_there
from common.reading.texts import read_json
from common.runs.ini import read_sections, resolve, suggestion

FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


C = TypeVar("C")    # an attrs class


class _NotAllowedError(ValueError):
    """A value that its key does not allow; knows both, for a message that names the place where it was given."""

    def __init__(self, field: attrs.Attribute, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field.name} = {value!r} is not allowed ({self.allowed})")


def integer(default: int, *, at_least: int | None = None, at_most: int | None = None, help: str = "") -> Any:
    """Make a field for whole numbers.

    Parameters
    ----------
    default
    at_least, at_most
        Limits, themselves allowed.
    help
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


def number(default: float, *, at_least: float | None = None, above: float | None = None, at_most: float | None = None,
           help: str = "") -> Any:
    """Make a field for finite numbers, held as float.

    Parameters
    ----------
    default
    at_least, at_most
        Limits, themselves allowed.
    above
        Lower limit, itself not allowed.
    help
    """
    def parse(value):
        return _within(to_number(value), at_least, above, at_most)

    return _field(parse, _range_text("a number", at_least, above, at_most), default, help, "X")


def choice(default: str | int | None, options: Collection[str | int | None], *, help: str = "") -> Any:
    """Make a field for one of a few values.

    Parameters
    ----------
    default
        One of `options`.
    options
        None is written as nothing at all or as `none`.
    help
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

    return _field(parse, "one of " + ", ".join(_spelled(option) for option in options), default, help, "NAME")


def flag(default: bool, *, help: str = "") -> Any:
    """Make a field for yes or no; a file or a flag says true, yes, on, 1 or false, no, off, 0 in any case.

    The flag alone means true.
    """
    def parse(value):
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.strip().lower() not in FLAGS:
            raise ValueError(value)
        return FLAGS[value.strip().lower()]

    return _field(parse, "true or false", default, help, "BOOL", nargs="?", const="true")


def text(default: str | None, *, help: str = "") -> Any:
    """Make a field for one line of text.

    Parameters
    ----------
    default
        With None, nothing at all and `none` mean None.
    help
    """
    return _text_field(default, lambda value: value, help)


def path(default: str | None, *, is_name: Callable[[str], bool] = lambda value: False, help: str = "") -> Any:
    """Make a field for a file or a folder.

    It is held as an absolute path if it exists, so that a run is found from wherever one goes on with it.

    Parameters
    ----------
    default
        As of `text`.
    is_name
        Tells whether a text stands for something else, whatever is called like it here.
    help
    """
    def placed(value):
        return str(Path(value).absolute()) if is_there(value) and not is_name(value) else value

    return _text_field(default, placed, help, is_path=True)


def _text_field(default, meaning, help, **marks):
    def parse(value):
        if default is None and (value is None or isinstance(value, str) and value.strip().lower() in ("", "none")):
            return None
        # An indented line of an INI file continues the value above it: a key would vanish in a path.
        if not isinstance(value, str) or "\n" in value or "\0" in value:
            raise ValueError(value)
        return meaning(value)

    return _field(parse, "one line of text" + (" or none" if default is None else ""), default, help, "TEXT", marks)


def names(default: Sequence[str], *, options: Collection[str] | None = None, help: str = "", noun: str = "names",
          metavar: str = "NAME") -> Any:
    """Make a field for one or more names, held as a tuple of str.

    Parameters
    ----------
    default
    options
        What may be named; with None, anything without blanks and commas. With options, `none` means no name at all.
    help
    noun, metavar
        What `--help` calls them, where they are no names.

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

    allowed = f"some of {', '.join(options)}, or none" if options else f"different {noun}"
    return _field(parse, allowed, default, help, metavar, nargs="+")


def load_section(cls: type[C], path: str | Path, section: str, overrides: Mapping[str, Any] | None = None) -> C:
    """Read an experiment.

    Parameters
    ----------
    cls : attrs class
        Its fields, made by the helpers of this module, are the keys that exist.
    path
        Of an INI file.
    section
    overrides
        {key: value} from the command line, as `overrides_of` returns it; wins over the file.

    Raises
    ------
    UsageError
        There is no such file or section, a key is unknown, or a value is not allowed; says where.
    """
    overrides = overrides or {}
    found = resolve(read_sections(path), path, section)
    keys = attrs.fields_dict(cls)
    for key, (_, origin) in found.items():
        if key not in keys:
            raise UsageError(f"{path}, [{origin}]: unknown key {key!r}{suggestion(key, keys)}")
    try:
        return cls(**{**{key: value for key, (value, _) in found.items()}, **overrides})
    except _NotAllowedError as error:
        key = error.field.name
        if key in overrides:
            raise UsageError(f"{_flag_given(key, error.value)}: not allowed ({error.allowed})") from error
        raise UsageError(f"{path}, [{found[key][1]}]: {error}") from error
    except ValueError as error:
        given = "".join(f" {_flag_given(*item)}" for item in overrides.items())
        raise UsageError(f"{path}, [{section}]{' with' if given else ''}{given}: {error}") from error


def find_cfg(name: str, package: str) -> Path:
    """Return the path of a .cfg file: relative to the current folder, or else beside the scripts of `package`."""
    beside = beside_scripts(package, name)
    return Path(name) if Path(name).exists() or not beside.exists() else beside


def section_names(path: str | Path) -> list[str]:
    """List the experiments of an INI file in their order, `DEFAULT` included where it stands.

    Raises
    ------
    UsageError
        The file cannot be read as an INI file.
    """
    return list(read_sections(path))


def add_config_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add a flag for every key of the configuration class `cls`, `--w-bitwidth` for `w_bitwidth`.

    A flag that is not given leaves no trace in the parsed arguments.
    """
    group = parser.add_argument_group("override the section")
    for field in attrs.fields(cls):
        about, allowed, default = field.metadata["help"], field.metadata["allowed"], _spelled(field.default)
        group.add_argument(_flag_name(field.name), dest=field.name, default=argparse.SUPPRESS,
                           **field.metadata["argument"],
                           help=f"{about} ({allowed}; default: {default})".replace("%", "%%"))


def overrides_of(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Return {key: str, or list of str} of the flags of `add_config_flags` that were given."""
    return {name: vars(args)[name] for name in attrs.fields_dict(cls) if name in vars(args)}


def to_dict(cfg: Any) -> dict[str, Any]:
    """Return the configuration as {key: value} that JSON can hold and `from_dict` reads back."""
    return attrs.asdict(cfg)


def defaults_of(cls: type) -> dict[str, Any]:
    """Return {key: default} of the keys of an attrs class that have one."""
    return {field.name: field.default for field in attrs.fields(cls) if field.default is not attrs.NOTHING}


def from_dict(cls: type[C], values: object, source: str | Path) -> C:
    """Read a configuration back that `to_dict` gave; keys that an earlier version did not have get their defaults.

    Parameters
    ----------
    cls : attrs class
    values
        A dict, or else an error.
    source
        Where the values come from, for the error.

    Raises
    ------
    UserError
        A key is unknown, one without a default or most of them are missing, or a value is not allowed.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: not a configuration: its keys and values should stand in one object")
    keys = attrs.fields_dict(cls)
    for key in values:
        if key not in keys:
            raise UserError(f"{source}: unknown key {key!r}{suggestion(key, keys)}")
    missing = [key for key in keys if key not in values]
    # Without a few keys it is one of an earlier version, without most it is none.
    if len(missing) > len(values) or any(keys[key].default is attrs.NOTHING for key in missing):
        raise UserError(f"{source}: no {missing[0]!r} in it ({len(missing)} of {len(keys)} keys are missing)")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def with_former_paths(cfg: C, path: str | Path) -> C:
    """Return a configuration that finds what a run was begun with, from another folder than that of then.

    Parameters
    ----------
    cfg : attrs class
        Of the run that goes on. A relative path that leads nowhere from here is taken as one from the former folder.
    path
        Of the configuration that the run has written, if it has.
    """
    try:
        before = read_json(path)
    except UserError:    # there is none, or who compares it says that it is damaged
        return cfg
    keys = [field.name for field in attrs.fields(type(cfg)) if field.metadata.get("is_path")]
    before = before if isinstance(before, dict) else {}
    return attrs.evolve(cfg, **{key: before[key] for key in keys if _is_from_there(getattr(cfg, key), before.get(key))})


def _is_from_there(value, before):
    """Whether a relative path that leads nowhere from here may have led from elsewhere to what it was before."""
    if not isinstance(value, str) or not isinstance(before, str) or Path(value).is_absolute() or is_there(value):
        return False
    steps = [part for part in Path(os.path.normpath(value)).parts if part != os.pardir]
    return bool(steps) and Path(before).is_absolute() and list(Path(before).parts[-len(steps):]) == steps


def _field(parse: Callable[[Any], Any], allowed: str, default: Any, help: str, metavar: str,
           marks: Mapping[str, bool] | None = None, **argument: Any) -> Any:
    """Make an attrs field whose values, the default included, go through `parse`, which raises ValueError.

    `argument` is what its flag takes beside, as for argparse, `marks` what its metadata have beside.
    """
    return attrs.field(default=parse(default), converter=attrs.Converter(_convert, takes_field=True),
                       metadata={"parse": parse, "allowed": allowed, "help": help,
                                 "argument": {"metavar": metavar, **argument}, **(marks or {})})


def _convert(value, field):
    try:
        parsed = field.metadata["parse"](value)
    except ValueError as error:
        raise _NotAllowedError(field, value, field.metadata["allowed"]) from error
    if isinstance(parsed, (int, float)) and abs(parsed) > largest(field.name):
        raise _NotAllowedError(field, value, f"at most {largest(field.name)}")
    return parsed


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


def _spelled(value):
    """Spell a value as it stands in a file or in a flag; None, no name and an empty text get a word."""
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
