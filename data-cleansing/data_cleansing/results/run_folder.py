"""The output folder of a run: its configuration, and what was made with which settings."""
from collections.abc import Iterable
from pathlib import Path

import attrs

from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, remove_tree, write_json
from common.reading.texts import read_json
from common.runs.comparison import holds_a_run, require_nothing_of_others, require_same
from common.runs.config import from_dict, to_dict
from data_cleansing.config import Config

CONFIG = "config.json"
# What a run makes. It is removed in this order: as long as there are trainings, they and their configuration are whole.
FILES = ("report.html", "detection.csv", "list_comparison.csv", "cache.csv", "leave_one_out.csv")
FOLDERS = ("influence", "score", "new_trainings", "summary", "fig", "cleaned", "training")
_ALWAYS = {"dataset", "n_epochs", "n_trials", "remove_n_list"}    # keys of the configuration in all versions
# Data may move while a run rests; the other keys only say how much there is to do.
MAY_DIFFER = ("data_dir", "valid_dir", "test_dir", "methods", "remove_n_list", "new_trainings", "n_trials", "jobs")


def open_run(folder: str | Path, cfg: Config, resume: bool = False, overwrite: bool = False) -> Path:
    """Make an output folder, or go on in it.

    Raises
    ------
    UsageError
        It holds a run and neither is asked for, or one of another configuration; or it holds none, but files and
        folders that are called like those of a run.
    UserError
        It cannot be written to, or its configuration cannot be read.
    """
    folder = Path(folder)
    path = folder / CONFIG
    begun = path.exists() and (folder / "training").exists()    # otherwise it stopped before there was data
    if begun and not overwrite:
        if not resume:
            raise holds_a_run(folder)
        require_same(folder, to_dict(read_config(folder)), to_dict(cfg), MAY_DIFFER)
    else:
        _require_nothing_of_others(folder)
    make_folder(folder)
    if overwrite:
        remove(folder, (*FILES, *FOLDERS, CONFIG))
    write_json(path, to_dict(cfg))
    return folder


def _require_nothing_of_others(folder):
    """Raise a UsageError if files called like those of a run lie where no run is: a new one would take their place."""
    if _is_configuration(folder / CONFIG):    # of a run that stopped early
        return
    require_nothing_of_others((folder / name for name in (*FILES, *FOLDERS, CONFIG)), folder / CONFIG)


def _is_configuration(path):
    """Whether a file is a configuration of data cleansing, of whatever version."""
    try:
        values = read_json(path)
    except UserError:
        return False
    return isinstance(values, dict) and values.keys() >= _ALWAYS


def remove(folder: str | Path, names: Iterable[str]) -> None:
    """Remove folders and files that a run has made, one after the other; a kill leaves each as it was, or nothing."""
    for name in names:
        path = Path(folder) / name
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def read_config(folder: str | Path, **changes: object) -> Config:
    """Read the configuration that a run was made with, changed by flags of the command line.

    Raises
    ------
    UsageError
        `folder` holds no run, or a change is not allowed.
    UserError
        Its config.json is damaged.
    """
    path = Path(folder) / CONFIG
    missing = f"{folder}: no {CONFIG} there; name the output folder of train.py or cleanse.py"
    values = read_json(path, "the configuration of a run", "run the experiment again", missing=missing)
    cfg = from_dict(Config, values, path)
    try:
        return attrs.evolve(cfg, **changes)
    except ValueError as error:
        raise UsageError(str(error)) from error
