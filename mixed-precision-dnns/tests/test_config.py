import json
from configparser import RawConfigParser
from pathlib import Path

import attrs
import pytest

from common.machine.errors import UsageError
from common.quantizers import QUANTIZERS, STATIC_QUANTIZERS
from common.runs.config import from_dict, load_section, section_names, to_dict
from mixed_precision_dnns.config import RELU, Config

HERE = Path(__file__).parent
PAPER = ("U1", "U2", "U3", "P1", "P2", "P3")    # names of its quantizers
FLOAT_RUN = "DEFAULT/params_best.h5"
FILES = {family: HERE.parent / f"train_resnet_quant_{family}.cfg" for family in ("fp", "pow2")}
PUBLISHED = {family: json.loads((HERE / "data" / f"experiments_{family}.json").read_text()) for family in FILES}
EXPERIMENTS = [(family, section) for family in FILES for section in PUBLISHED[family]]


def spelled_out(family):
    """{section: {key: value}} as they stand in the file, without inheritance."""
    ini = RawConfigParser(default_section="")
    ini.read(FILES[family])
    return {name: dict(ini.items(name)) for name in ini.sections()}


def weightfile_here(section, published):
    """Where the published `weightfile` of a section lies here: every run writes NAME/params_best.h5."""
    if published is None:
        return None
    if section == "POW2_W2A4Q_INIT":    # published: starts from its own result
        return FLOAT_RUN
    return published.removeprefix("params_")


@pytest.mark.parametrize("family", FILES)
def test_sections_are_the_published_ones(family):
    assert sorted(section_names(FILES[family])) == sorted(PUBLISHED[family])


@pytest.mark.parametrize("family, section", EXPERIMENTS)
def test_values_are_the_published_ones(family, section):
    published = PUBLISHED[family]["DEFAULT"] | PUBLISHED[family][section]
    published["weightfile"] = weightfile_here(section, published.get("weightfile"))
    assert load_section(Config, FILES[family], section) == Config(**published)


@pytest.mark.parametrize("family", FILES)
def test_no_two_sections_spell_out_the_same_values(family):
    resolved = {}
    for section, values in spelled_out(family).items():
        resolved.setdefault(load_section(Config, FILES[family], section), []).append(set(values) == {"like"})
    # Of several sections with the same values, all but one are nothing but `like = OTHER`.
    assert all(aliases.count(False) == 1 for aliases in resolved.values())


@pytest.mark.parametrize("family", FILES)
def test_no_section_repeats_a_value_that_it_inherits(family):
    sections = spelled_out(family)
    for section, values in sections.items():
        origin, inherited = values.get("like"), {}
        while origin:
            inherited = sections[origin] | inherited
            origin = sections[origin].get("like")
        inherited = inherited if section == "DEFAULT" else sections["DEFAULT"] | inherited
        assert [key for key in values if key != "like" and values[key] == inherited.get(key)] == [], section


@pytest.mark.parametrize("family, section", EXPERIMENTS)
def test_every_start_is_the_result_of_another_run_and_in_the_end_of_the_float_run(family, section):
    seen = []
    while weightfile := load_section(Config, FILES[family], section).weightfile:
        seen.append(section)
        section, name = weightfile.split("/")
        assert name == "params_best.h5" and section not in seen
    assert not seen or section == "DEFAULT"


def test_every_quantizer_of_the_paper_is_used_in_a_published_experiment():
    of_paper = {*STATIC_QUANTIZERS, *(name for name, row in QUANTIZERS.items() if row.label[:2] in PAPER)}
    assert len(of_paper) == len(STATIC_QUANTIZERS) + len(PAPER)
    used = [load_section(Config, FILES[family], section) for family, section in EXPERIMENTS]
    assert {cfg.w_quantize for cfg in used} == {None, *of_paper}
    assert {cfg.a_quantize for cfg in used} == {None, *(name + RELU for name in of_paper)}


def test_defaults_are_the_published_ones():
    cfg = Config()
    for kind, xmin_min, range_max, bitwidth_min in (("w", 2 ** -16, 127, 2), ("a", 2 ** -14, 255, 1)):
        published = {"stepsize": 2 ** -3, "stepsize_min": 2 ** -8, "stepsize_max": 1, "xmin_min": xmin_min,
                     "xmin_max": range_max, "xmax_min": 2 ** -8, "xmax_max": range_max, "bitwidth": 4,
                     "bitwidth_min": bitwidth_min, "bitwidth_max": 8, "quantize": None}
        assert {key: getattr(cfg, f"{kind}_{key}") for key in published} == published
    assert (cfg.target_weight_kbytes, cfg.target_activation_kbytes, cfg.target_activation_type) == (-1, -1, "max")
    assert (cfg.initial_cost_lambda2, cfg.initial_cost_lambda3, cfg.scale_layer) == (0.1, 0.1, False)
    assert (cfg.epochs, cfg.batch_size, cfg.weight_decay) == (160, 128, 2e-4)


@pytest.mark.parametrize("values, message", [
    ({"w_stepsize_min": 2}, "w_stepsize_min = 2 is above w_stepsize_max = 1"),
    ({"a_stepsize_max": 1e-3}, "a_stepsize_min = 0.00390625 is above a_stepsize_max = 0.001"),
    ({"w_xmin_min": 128}, "w_xmin_min = 128 is above w_xmin_max = 127"),
    ({"a_xmax_max": 1e-3}, "a_xmax_min = 0.00390625 is above a_xmax_max = 0.001"),
    ({"w_bitwidth_min": 9}, "w_bitwidth_min = 9 is above w_bitwidth_max = 8"),
    ({"w_bitwidth": 9}, "w_bitwidth = 9 is not between w_bitwidth_min = 2 and w_bitwidth_max = 8"),
    ({"a_bitwidth": 1, "a_bitwidth_min": 2}, "a_bitwidth = 1 is not between a_bitwidth_min = 2 and a_bitwidth_max = 8"),
    ({"w_bitwidth": 1}, "w_bitwidth = 1 is not allowed (an integer from 2 to 16)"),
    ({"w_quantize": "pow2", "w_bitwidth_max": 9},
     "w_bitwidth_max = 9 is above 8, the most that powers of two can have in float32"),
    ({"a_quantize": "parametric_pow2_b_xmax_relu", "a_bitwidth_max": 16},
     "a_bitwidth_max = 16 is above 8, the most that powers of two can have in float32"),
    ({"w_quantize": "parametric_fp_b_xmax", "w_bitwidth_min": 1},
     "w_bitwidth_min = 1 leaves nothing beside the sign; parametric_fp_b_xmax needs 2 or more"),
    ({"target_weight_kbytes": 70.1}, "target_weight_kbytes = 70.1 needs w_quantize: nothing is quantized"),
    ({"target_activation_kbytes": 8, "w_quantize": "fp"},
     "target_activation_kbytes = 8 needs a_quantize: nothing is quantized"),
])
def test_values_that_contradict_each_other(values, message):
    with pytest.raises(ValueError) as caught:
        Config(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("key, value", [
    ("num_layers", "18"), ("shortcut_type", "a"), ("initial_learning_rate", "0"), ("optimizer", "sgd"),
    ("w_quantize", "parametric_fp_d_xmax_relu"), ("a_quantize", "parametric_fp_d_xmax"), ("seed", "-1"),
    ("w_stepsize", "0"), ("initial_cost_lambda2", "-0.1"), ("target_activation_type", "mean"), ("dataset", "cifar100"),
    ("epochs", "0"), ("batch_size", "0"), ("held_out", "0"), ("scale_layer", "2")])
def test_flag_with_a_bad_value(key, value):
    with pytest.raises(UsageError, match=f"^--{key.replace('_', '-')} {value}: not allowed \\("):
        load_section(Config, FILES["fp"], "DEFAULT", {key: value})


@pytest.mark.parametrize("field", attrs.fields(Config), ids=lambda field: field.name)
def test_every_key_has_a_help_text(field):
    assert field.metadata["help"]


def test_config_json_reads_back():
    cfg = load_section(Config, FILES["pow2"], "PARAMETRIC_POW2_WASQ_XMIN_XMAX_CON_INIT_RLR_FT4")
    assert from_dict(Config, json.loads(json.dumps(to_dict(cfg))), "config.json") == cfg
