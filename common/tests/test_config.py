import argparse
import json
from pathlib import Path

import attrs
import pytest

from common.machine.errors import UsageError, UserError
from common.machine.files import write_json
from common.runs.config import (
    add_config_flags,
    choice,
    find_cfg,
    flag,
    from_dict,
    integer,
    load_section,
    names,
    number,
    overrides_of,
    path,
    section_names,
    text,
    to_dict,
    with_former_paths,
)


@attrs.frozen(kw_only=True)
class Config:
    w_bitwidth = integer(4, at_least=2, at_most=16, help="bits per weight, 100% of them")
    bits_max = integer(16, at_least=1)
    rate = number(0.1, above=0, at_most=10)
    decay = number(0, at_least=0)
    budget = number(-1)
    optimizer = choice(None, (None, "momentum", "adam"))
    shortcut = choice("", ("", "b", "c"))
    layers = choice(20, (20, 32))
    scale = flag(False)
    weights = text(None)
    title = text("run")
    sources = names(("bass", "drums"), help="what is in the music")
    changes = names(("gain",), options=("gain", "swap"))

    def __attrs_post_init__(self):
        if self.w_bitwidth > self.bits_max:
            raise ValueError(f"w_bitwidth = {self.w_bitwidth} is above bits_max = {self.bits_max}")


@pytest.fixture
def cfg_file(tmp_path, monkeypatch):
    """Write text as `x.cfg` in the current folder and return that name."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        (tmp_path / "x.cfg").write_text(content)
        return "x.cfg"

    return write


def error_of(path, section="A", overrides=None, error=UsageError):
    with pytest.raises(error) as caught:
        load_section(Config, path, section, overrides)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_default_is_inherited_and_an_experiment_itself(cfg_file):
    path = cfg_file("[DEFAULT]\nrate = 0.5\nW_Bitwidth = 3\n[A]\nrate = 0.25  # half of it\n")
    assert load_section(Config, path, "A") == Config(rate=0.25, w_bitwidth=3)
    assert load_section(Config, path, "DEFAULT") == Config(rate=0.5, w_bitwidth=3)
    assert section_names(path) == ["DEFAULT", "A"]


def test_a_percent_sign_is_a_percent_sign_and_a_byte_order_mark_is_nothing(cfg_file):
    path = cfg_file("\ufeff[A]\nweights = %(rate)s/50%.h5\n")
    assert load_section(Config, path, "A").weights == "%(rate)s/50%.h5"


def test_like_takes_over_a_chain_and_own_keys_win(cfg_file):
    path = cfg_file("[DEFAULT]\nrate = 1\nlayers = 32\nscale = yes\n[A]\nlike = B\nrate = 2\n"
                    "[B]\nlike = C\nrate = 3\ndecay = 3\n[C]\ndecay = 4\nbudget = 4\nscale = no\n[D]\nlike = DEFAULT\n")
    assert load_section(Config, path, "A") == Config(rate=2, decay=3, budget=4, layers=32, scale=False)
    assert load_section(Config, path, "D") == load_section(Config, path, "DEFAULT")


@pytest.mark.parametrize("content, message", [
    ("[A]\nlike = PARAMETRI\n[PARAMETRIC]\n",
     "x.cfg, [A]: like = 'PARAMETRI': no such section (did you mean 'PARAMETRIC'?)"),
    ("[A]\nlike = A\n", "x.cfg, [A]: like = 'A' goes in a circle: A -> A"),
    ("[A]\nlike = B\n[B]\nlike = C\n[C]\nlike = B\n",
     "x.cfg, [C]: like = 'B' goes in a circle: A -> B -> C -> B"),
    ("[DEFAULT]\nlike = A\n[A]\n",
     "x.cfg, [DEFAULT]: 'like' does not belong here: every section inherits [DEFAULT]"),
])
def test_wrong_likes(cfg_file, content, message):
    assert error_of(cfg_file(content)) == message


@pytest.mark.parametrize("content, message", [
    ("[A]\nrate = 1\n[B]\n[A]\n", "x.cfg, line 4: section [A] for the second time"),
    ("[DEFAULT]\n[A]\n[DEFAULT]\n", "x.cfg, line 3: section [DEFAULT] for the second time"),
    ("[A]\nrate = 1\nRATE = 2\n", "x.cfg, line 3, [A]: key 'rate' for the second time"),
    ("rate = 1\n[A]\n", "x.cfg, line 1: not an INI file: text before the first [section]"),
    ("[A]\nrate\n", "x.cfg, line 2: neither a [section] nor `key = value`"),
    ("", "x.cfg: no section [A]"),
])
def test_not_an_ini_file(cfg_file, content, message):
    assert error_of(cfg_file(content)) == message


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_of("x.cfg") == "x.cfg: no such file"
    assert error_of(".") == ".: a folder, not a text file"
    (tmp_path / "x.cfg").write_bytes(b"[A]\nrate = \xff\n")
    assert error_of("x.cfg") == "x.cfg: cannot be read as a text file (no UTF-8 at byte 11); name a file of experiments"


def test_unknown_section(cfg_file):
    path = cfg_file("[DEFAULT]\n[FP_W2Q]\n[FP_W4Q]\n[POW2_W2Q]\n[POW2_W4Q]\n[POW2_W8Q]\n")
    assert error_of(path, "fp_w2") == "x.cfg: no section [fp_w2] (did you mean 'FP_W2Q'?)"
    assert error_of(path, "XUMX") == (
        "x.cfg: no section [XUMX] (there are: DEFAULT, FP_W2Q, FP_W4Q, POW2_W2Q and 2 more)")


@pytest.mark.parametrize("content, origin", [
    ("[A]\nw_bitwith = 2\n", "A"),
    ("[DEFAULT]\nw_bitwith = 2\n[A]\n", "DEFAULT"),
    ("[A]\nlike = B\n[B]\nw_bitwith = 2\n", "B"),
])
def test_unknown_key_names_where_it_stands(cfg_file, content, origin):
    assert error_of(cfg_file(content)) == f"x.cfg, [{origin}]: unknown key 'w_bitwith' (did you mean 'w_bitwidth'?)"


@pytest.mark.parametrize("key, value, allowed", [
    ("w_bitwidth", "four", "an integer from 2 to 16"),
    ("w_bitwidth", "1", "an integer from 2 to 16"),
    ("w_bitwidth", "17", "an integer from 2 to 16"),
    ("w_bitwidth", "4.0", "an integer from 2 to 16"),
    ("w_bitwidth", "1_0", "an integer from 2 to 16"),
    ("w_bitwidth", "", "an integer from 2 to 16"),
    ("bits_max", "0", "an integer of at least 1"),
    ("rate", "0", "a number above 0 and of at most 10"),
    ("rate", "nan", "a number above 0 and of at most 10"),
    ("rate", "10.5", "a number above 0 and of at most 10"),
    ("decay", "-1e-9", "a number of at least 0"),
    ("decay", "inf", "a number of at least 0"),
    ("budget", "2**3", "a number"),
    ("budget", "-inf", "a number"),
    ("optimizer", "Adam", "one of none, momentum, adam"),
    ("shortcut", "none", "one of '' (empty), b, c"),
    ("layers", "21", "one of 20, 32"),
    ("layers", "", "one of 20, 32"),
    ("scale", "maybe", "true or false"),
    ("scale", "", "true or false"),
    ("sources", "", "different names"),
    ("sources", "bass,bass", "different names"),
    ("changes", "flip", "some of gain, swap, or none"),
    ("changes", "gain,gain", "some of gain, swap, or none"),
    ("changes", "none,gain", "some of gain, swap, or none"),
])
def test_bad_value(cfg_file, key, value, allowed):
    path = cfg_file(f"[A]\n{key} = {value}\n")
    assert error_of(path) == f"x.cfg, [A]: {key} = {value!r} is not allowed ({allowed})"
    shown = value or "''"
    assert error_of(cfg_file("[A]\n"), overrides={key: value}) == (
        f"--{key.replace('_', '-')} {shown}: not allowed ({allowed})")


def test_bad_value_names_where_it_stands(cfg_file):
    path = cfg_file("[DEFAULT]\nrate = 0\n[A]\nlike = B\n[B]\nw_bitwidth = 0\n")
    assert error_of(path, "DEFAULT").startswith("x.cfg, [DEFAULT]: rate = '0' ")
    assert error_of(path, overrides={"rate": "1"}).startswith("x.cfg, [B]: w_bitwidth = '0' ")


def test_an_indented_key_does_not_vanish_in_the_text_above(cfg_file):
    assert error_of(cfg_file("[A]\nweights = a.h5\n  scale = true\n")) == (
        r"x.cfg, [A]: weights = 'a.h5\nscale = true' is not allowed (one line of text or none)")


@pytest.mark.parametrize("key, value, read", [
    ("w_bitwidth", " 7 ", 7), ("budget", "1e-3", 1e-3), ("budget", "2", 2.0), ("layers", "32", 32),
    ("optimizer", "adam", "adam"), ("optimizer", "", None), ("optimizer", "None", None), ("shortcut", "", ""),
    ("weights", "", None), ("weights", "none", None), ("weights", "a b.h5", "a b.h5"), ("title", "none", "none"),
    ("scale", "True", True), ("scale", "YES", True), ("scale", "on", True), ("scale", "1", True),
    ("scale", "False", False), ("scale", "no", False), ("scale", "OFF", False), ("scale", "0", False),
    ("sources", "vocals", ("vocals",)), ("sources", " b a,c ,  d ", ("b", "a", "c", "d")),
    ("sources", "none", ("none",)), ("changes", "swap gain", ("swap", "gain")), ("changes", "none", ()),
])
def test_values_mean_the_same_in_the_file_and_on_the_command_line(cfg_file, key, value, read):
    for cfg in (load_section(Config, cfg_file(f"[A]\n{key} = {value}\n"), "A"),
                load_section(Config, cfg_file("[A]\n"), "A", {key: value})):
        assert getattr(cfg, key) == read
        assert type(getattr(cfg, key)) is type(read)


@pytest.mark.parametrize("key, value", [
    ("w_bitwidth", True), ("w_bitwidth", 4.0), ("rate", True), ("rate", None), ("layers", 20.0), ("scale", 1),
    ("optimizer", 0), ("weights", 3), ("title", None), ("sources", [1]), ("sources", [["a"]]),
    ("sources", 3), ("changes", None)])
def test_a_value_of_another_type_is_refused(key, value):
    with pytest.raises(ValueError, match=f"^{key} = .* is not allowed "):
        Config(**{key: value})


def test_keys_that_contradict_each_other(cfg_file):
    path = cfg_file("[A]\nbits_max = 8\n")
    message = "w_bitwidth = 12 is above bits_max = 8"
    assert error_of(path, overrides={"w_bitwidth": "12"}) == f"x.cfg, [A] with --w-bitwidth 12: {message}"
    assert error_of(cfg_file("[A]\nbits_max = 8\nw_bitwidth = 12\n")) == f"x.cfg, [A]: {message}"


def parse(*argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment")
    add_config_flags(parser, Config)
    return parser.parse_args(["A", *argv])


def test_only_given_flags_override(cfg_file):
    path = cfg_file("[A]\nrate = 2\nscale = true\n")
    assert overrides_of(parse(), Config) == {}
    overrides = overrides_of(parse("--scale", "false", "--w-bitwidth", "3", "--budget", "-5", "--weights", ""), Config)
    assert overrides == {"scale": "false", "w_bitwidth": "3", "budget": "-5", "weights": ""}
    assert load_section(Config, path, "A", overrides) == Config(rate=2, scale=False, w_bitwidth=3, budget=-5)


@pytest.mark.parametrize("argv, key, value", [
    (["--scale"], "scale", True), (["--scale", "--rate", "3"], "scale", True), (["--scale", "no"], "scale", False),
    (["--sources", "b", "a"], "sources", ("b", "a")),
    (["--sources", "b,a"], "sources", ("b", "a")), (["--sources", "b", "--scale"], "sources", ("b",)),
    (["--changes", "none"], "changes", ()), (["--changes", "swap", "gain"], "changes", ("swap", "gain")),
])
def test_flags_with_no_value_or_several(cfg_file, argv, key, value):
    path = cfg_file("[A]\nscale = false\nsources = c\n")
    assert getattr(load_section(Config, path, "A", overrides_of(parse(*argv), Config)), key) == value


@pytest.mark.parametrize("argv, message", [
    (["--sources", "a", "a"], "--sources 'a a': not allowed (different names)"),
    (["--changes", "gain", "flip"], "--changes 'gain flip': not allowed (some of gain, swap, or none)"),
    (["--changes", "flip"], "--changes flip: not allowed (some of gain, swap, or none)"),
    (["--scale", "A"], "--scale A: not allowed (true or false)"),
])
def test_flags_with_wrong_values_are_quoted(cfg_file, argv, message):
    assert error_of(cfg_file("[A]\n"), overrides=overrides_of(parse(*argv), Config)) == message


@pytest.mark.parametrize("argv", [["--sources"], ["--rate"]])
def test_flags_that_lack_their_value(argv, capsys):
    with pytest.raises(SystemExit):
        parse(*argv)
    assert f"argument {argv[0]}: expected" in capsys.readouterr().err


def test_help_says_what_is_allowed_and_the_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    words = " ".join(capsys.readouterr().out.split())
    assert "override the section" in words
    assert "--w-bitwidth N bits per weight, 100% of them (an integer from 2 to 16; default: 4)" in words
    assert "(one of none, momentum, adam; default: none)" in words
    assert "--scale [BOOL] (true or false; default: false)" in words
    assert "--sources NAME [NAME ...] what is in the music (different names; default: bass drums)" in words
    assert "(some of gain, swap, or none; default: gain)" in words


def test_dict_and_back():
    cfg = Config(rate=0.3, optimizer="adam", weights="a.h5", scale=True, sources=["a", "b"], changes=[])
    assert (cfg.sources, cfg.changes) == (("a", "b"), ())
    assert from_dict(Config, json.loads(json.dumps(to_dict(cfg))), "config.json") == cfg
    assert from_dict(Config, to_dict(Config()), "config.json") == Config()


@pytest.mark.parametrize("change, message", [
    ({"ratee": 1}, "unknown key 'ratee' (did you mean 'rate'?)"),
    ({"rate": -1}, "rate = -1 is not allowed (a number above 0 and of at most 10)"),
    ({"bits_max": 2}, "w_bitwidth = 4 is above bits_max = 2"),
])
def test_wrong_dict(change, message):
    with pytest.raises(UserError) as caught:
        from_dict(Config, to_dict(Config()) | change, "runs/config.json")
    assert str(caught.value) == f"runs/config.json: {message}"


def test_a_dict_of_an_earlier_version_gets_defaults():
    values = to_dict(Config(rate=0.3))
    for key in ("bits_max", "scale"):
        del values[key]
    assert from_dict(Config, values, "config.json") == Config(rate=0.3)


def test_dict_with_keys_missing_or_no_dict():
    with pytest.raises(UserError, match=r"^config.json: no 'bits_max' in it \(12 of 13 keys are missing\)$"):
        from_dict(Config, {"w_bitwidth": 4}, "config.json")
    with pytest.raises(UserError, match="^config.json: not a configuration"):
        from_dict(Config, [1], "config.json")


@attrs.frozen(kw_only=True)
class Places:
    root = path(None, is_name="synthetic".__eq__)
    weights = path(None)
    title = text("run")


def test_a_path_is_absolute_where_it_leads_somewhere(own_folder):
    for name in ("songs", "synthetic", "run"):
        (own_folder / name).mkdir()
    cfg = Places(root="./songs", weights="no.h5", title="run")
    assert (cfg.root, cfg.weights, cfg.title) == (str(own_folder / "songs"), "no.h5", "run")
    cfg_of_names = Places(root="synthetic", weights="synthetic")
    assert (cfg_of_names.root, cfg_of_names.weights) == ("synthetic", str(own_folder / "synthetic"))
    assert attrs.evolve(cfg, title="b").root == cfg.root and Places(root="none").root is None
    assert Places(root="a" * 5000).root == "a" * 5000


@pytest.mark.parametrize("given, found", [
    ("songs", True), ("./songs", True), ("../here/songs", True), ("../songs", True), ("other", False),
    ("here/other", False), ("../..", False), (None, False)])
def test_a_relative_path_leads_where_it_did_when_the_run_began(own_folder, monkeypatch, given, found):
    for name in ("here/songs", "there", "run"):
        (own_folder / name).mkdir(parents=True)
    monkeypatch.chdir("here")
    write_json("../run/config.json", to_dict(Places(root="songs")))
    monkeypatch.chdir("../there/.." if given == "../here/songs" else "../there")
    cfg = Places(root=given)
    former = with_former_paths(cfg, own_folder / "run/config.json")
    assert former == (Places(root=str(own_folder / "here/songs")) if found else cfg)


def test_a_path_that_leads_somewhere_is_that_of_now(own_folder, monkeypatch):
    for name in ("here/songs", "there/songs"):
        (own_folder / name).mkdir(parents=True)
    write_json("config.json", to_dict(Places(root="here/songs")))
    monkeypatch.chdir("there")
    assert with_former_paths(Places(root="songs"), "../config.json").root == str(own_folder / "there/songs")


@pytest.mark.parametrize("before", [None, "{", "[]", '{"root": 1}', '{"root": "songs"}'])
def test_without_a_former_path_a_configuration_stays(own_folder, before):
    if before is not None:
        Path("config.json").write_text(before)
    assert with_former_paths(Places(root="songs"), "config.json") == Places(root="songs")


def test_a_default_that_is_not_allowed_is_a_bug_of_the_class():
    with pytest.raises(ValueError):
        integer(1, at_least=2)


def test_a_cfg_file_is_looked_for_here_and_then_beside_the_script(tmp_path, monkeypatch):
    scripts, here, package = tmp_path / "scripts", tmp_path / "here", tmp_path / "scripts" / "some_paper"
    for folder in (here, package):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(scripts)
    assert find_cfg("x.cfg", "some_paper.train") == Path("x.cfg")    # in neither: an error will name it as it was given
    (scripts / "x.cfg").write_text("")
    assert find_cfg("x.cfg", "some_paper.train") == scripts / "x.cfg"
    (package / "x.cfg").write_text("")    # as in a wheel
    assert find_cfg("x.cfg", "some_paper.train") == package / "x.cfg"
    (here / "x.cfg").write_text("")
    assert find_cfg("x.cfg", "some_paper.train") == Path("x.cfg")
    assert find_cfg(str(scripts / "x.cfg"), "some_paper.train") == scripts / "x.cfg"
