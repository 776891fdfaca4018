"""The command line of training scripts: which experiment is run, what overrides it, where it is computed."""
from pathlib import Path

import attrs
import pytest

from common.console import cli
from common.machine.errors import UsageError
from common.out_of_core import InCore, OutOfCore
from common.runs.config import integer
from common.runs.experiments import add_experiment_flags, list_sections, open_experiment


@attrs.frozen(kw_only=True)
class Config:
    epochs = integer(2, at_least=1, help="passes over the data")


@pytest.fixture
def parse(own_folder):
    """Add the flags, parse a command line, and begin; with `chosen`, the script names the experiment itself."""
    Path("short.cfg").write_text("[DEFAULT]\nepochs = 3\n[LONG]\nepochs = 300\n")

    def parse(*words, chosen=None, **choices):
        parser = cli.parser(None)
        add_experiment_flags(parser, Config, "short.cfg", **choices)
        return open_experiment(parser.parse_args([*words, "-c", "cpu"]), Config, "common", chosen)
    return parse


def test_a_section_is_loaded_and_said(parse, capsys):
    cfg, memory = parse("LONG")
    assert cfg == Config(epochs=300) and isinstance(memory, InCore)
    assert capsys.readouterr().out == "LONG: computing on cpu\n"


def test_flags_override_the_section(parse):
    assert parse("LONG", "--epochs", "7")[0] == Config(epochs=7)


def test_the_default_is_run_where_none_is_named(parse):
    assert parse(default="LONG")[0] == Config(epochs=300)


def test_the_script_may_choose(parse):
    assert parse(default_text="LONG or DEFAULT", chosen="LONG")[0] == Config(epochs=300)


def test_without_a_default_one_has_to_be_named(parse):
    with pytest.raises(UsageError, match="required: CONFIG"):
        parse()


def test_a_budget_makes_arrays_swap(parse):
    assert isinstance(parse("LONG", "--out-of-core", "2GB")[1], OutOfCore)


@pytest.mark.parametrize("words, says", [
    (["SHORT"], "no section [SHORT]"), (["LONG", "--cfg", "nowhere.cfg"], "nowhere.cfg: no such file"),
    (["LONG", "--epochs", "0"], "--epochs 0: not allowed")])
def test_what_is_wrong_is_said(parse, words, says):
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert says in str(caught.value)


def test_sections_are_listed_with_the_comment_above_or_below(tmp_path):
    (tmp_path / "some.cfg").write_text(
        "# About the file.\n\n[DEFAULT]\nepochs = 1\n\n# Above,\n# on two lines.\n[A]\n# Not this.\nepochs = 2\n"
        "# -----\n[B]\n# Below.\nepochs = 3\n\n[C]\nepochs = 4    # nor this\n# nor this\n\n[D]    # nor this\n")
    assert list_sections(tmp_path / "some.cfg").splitlines() == [
        "Sections of some.cfg:", "  A  Above, on two lines.", "  B  Below.", "  and 3 more, as the file says"]
