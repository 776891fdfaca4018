"""The blocks of both networks: numbers and gradients of reference cases, and what a dilation means."""
import json
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.workbench.testing import same_arrays
from d3net.blocks import DILATIONS, Style, convolution, d2_block, d3_block, dense_chain, multi_scale, unit, upsample
from d3net.hyperparameters import MultiScale, load_segmentation
from d3net.segmentation_model import backbone, head, reduced_d2_block, transition

DATA = Path(__file__).parent / "data"


def in_scope(name, build):
    def scoped(x, style):
        with nn.parameter_scope(name):
            return build(x, style)
    return scoped


def head_of_three(x, style):
    return F.softmax(head([x, x[:, :5, ::2, ::2], x[:, 1:7, ::4, ::4]], 9, 4, (32, 48)), axis=1)


MUSIC = {
    "bn_conv": in_scope("unit", lambda x, style: unit(x, 5, 3, style)),
    "dense_L4": lambda x, style: dense_chain(x, 3, style),
    "dense_L4_all": lambda x, style: dense_chain(x, 3, style, kept=4),
    "dense_L4_train": lambda x, style: dense_chain(x, 3, style),
    "d2_mss": in_scope("final_dense", lambda x, style: d2_block(x, 4, 3, style)),
    "d3_mss_n1": lambda x, style: d3_block(x, 2, 1, 1, style),
    "d3_mss_n2": lambda x, style: d3_block(x, 4, 3, 2, style),
    "d3_mss_n3_train": lambda x, style: d3_block(x, 3, 2, 3, style),
    "up": lambda x, style: upsample(x, 5, style),
    "md3": in_scope("dense_band/0", lambda x, style: multi_scale(
        x, MultiScale((0, 16), 6, (3, 4, 5, 4, 3), (2, 3, 2, 2, 2), (2,) * 5, (1.,) * 4), style)),
}
SEGMENTATION = {
    "d2_seg_no_bc": lambda x, style: reduced_d2_block(x, 4, 3, 3, 2, style),
    "d2_seg_bc": lambda x, style: reduced_d2_block(x, 3, 4, 4, 6, style),
    "d2_seg_train": lambda x, style: reduced_d2_block(x, 3, 4, 2, 3, style),
    "transition": lambda x, style: transition(x, 5, style),
    "head": head_of_three,
    "backbone_tiny": lambda x, style: backbone(x, load_segmentation("tiny")),
}
UNITS = {"mss": {"dense_L4": "unit", "dense_L4_all": "unit", "dense_L4_train": "unit"}, "seg": {}}
CASES = [("mss", name) for name in MUSIC] + [("seg", name) for name in SEGMENTATION]


def worst(value, wanted):
    """Largest difference relative to the largest magnitude."""
    return np.abs(value - wanted).max() / np.abs(wanted).max()


@pytest.fixture(params=CASES, ids=" ".join)
def case(request):
    kind, name = request.param
    facts = json.loads((DATA / f"{kind}_blocks.json").read_text())[name]
    with np.load(DATA / f"{kind}_blocks.npz") as arrays:
        stored = {key.removeprefix(f"{name}_"): arrays[key] for key in arrays if key.startswith(f"{name}_")}
    # Names of cases are prefixes of others: keep what follows the whole name.
    stored = {key: value for key, value in stored.items() if key in ("x", "y", "gx") or key[:-1] in ("y", "run")}
    scope = "backbone" if name == "backbone_tiny" else "blk"
    build = in_scope(scope, (MUSIC if kind == "mss" else SEGMENTATION)[name])
    unit_name = UNITS[kind].get(name, "bottleneck" if kind == "mss" else "bottle_neck")
    return build, Style(unit_name, train=not facts["test"]), facts, stored


def test_agrees_with_the_reference(case, functions, fill):
    build, style, facts, stored = case
    x = nn.Variable.from_numpy_array(stored["x"], need_grad=True)
    outputs = build(x, style)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    loss = sum((F.mean(y * y) for y in outputs[1:]), F.mean(outputs[0] * outputs[0]))
    parameters = fill(facts["seed"])
    for variable in (x, *parameters.values()):
        variable.grad.zero()
    nn.forward_all([loss, *outputs])
    for key, y in zip(["y"] if "y" in stored else [f"y{k}" for k in range(len(outputs))], outputs, strict=True):
        assert y.shape == stored[key].shape
        assert worst(y.d, stored[key]) < 1e-5
    for k, name in enumerate(facts.get("running_stat_names", [])):
        assert worst(parameters[name].d, stored[f"run{k}"]) < 1e-5
    loss.backward()
    wanted = facts.get("loss_mean_square", facts.get("loss_sum_of_mean_squares"))
    assert abs(loss.d / wanted - 1) < 1e-5
    assert worst(x.g, stored["gx"]) < 1e-4
    norms = {name: np.linalg.norm(p.g) for name, p in nn.get_parameters().items()}
    assert norms.keys() == facts["grad_norm"].keys()
    assert norms == pytest.approx(facts["grad_norm"], rel=1e-4, abs=1e-4 * max(norms.values()))


# What each connection of a block sees ---------------------------------------------------------------------------------


def reach(dilation, source, num_layers=3):
    """Steps between the pixels of layer `source` of a block (0: its input) that each later layer reads directly."""
    nn.clear_parameters()
    style = Style("unit", dilation=dilation)
    x = nn.Variable((1, 1 if source == 0 else num_layers, 33, 33), need_grad=True)
    block = (lambda: d2_block(x, 1, num_layers, style, kept=num_layers)) if source == 0 else (
        lambda: dense_chain(x, 1, style, kept=num_layers))
    y = block()
    for name, parameter in nn.get_parameters().items():
        scope = "initial_layer" if source == 0 else f"layer{source}/"
        parameter.d = 1 if scope in name else 0
    x.d = 1
    steps = []
    for layer in range(source, num_layers):
        x.grad.zero()
        pick = np.zeros(y.shape, np.float32)
        pick[0, layer, 16, 16] = 1
        y.forward()
        y.backward(pick)
        channel = 0 if source == 0 else source - 1
        seen = np.flatnonzero(x.g[0, channel, 16])
        steps.append(set(np.diff(seen)))
    return steps


@pytest.mark.parametrize("dilation, expected", [
    ("multidilated", [[1, 1, 1], [2, 2], [4]]),
    ("per_layer", [[1, 2, 4], [2, 4], [4]]),
    ("none", [[1, 1, 1], [1, 1], [1]]),
])
def test_a_connection_has_the_dilation_of_its_kind(dilation, expected):
    for source, steps in enumerate(expected):
        assert reach(dilation, source) == [{step} for step in steps]


def test_kinds_of_dilation_have_the_same_parameters():
    found = []
    for dilation in DILATIONS:
        nn.clear_parameters()
        d3_block(nn.Variable((1, 3, 8, 8)), 2, 3, 2, Style("unit", dilation=dilation))
        found.append({name: p.shape for name, p in nn.get_parameters().items()})
    assert found[0] == found[1] == found[2]


def test_recomputing_changes_no_gradient(functions, gradients):
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    found = []
    for recompute in (False, True):
        nn.clear_parameters()
        y = d2_block(nn.Variable.from_numpy_array(x), 3, 3, Style("unit", train=True, recompute=recompute))
        found.append(gradients(F.mean(y * y)))
    assert same_arrays(*found)


def test_an_unknown_kind_of_dilation_is_refused():
    with pytest.raises(ValueError, match="dilation"):
        Style("unit", dilation="double")


def test_strides_round_sizes_up():
    y = convolution(nn.Variable((1, 2, 7, 8)), 3, 3, Style("unit"), "conv", stride=2, with_bias=False)
    assert y.shape == (1, 3, 4, 4)
    assert list(nn.get_parameters()) == ["conv/conv/W"]
