"""ResNet-20 against a full solver step of the published graphs."""
import json
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np
import pytest

from common.machine.context import native_functions
from common.runs.config import load_section
from mixed_precision_dnns.clipping import clip_gradients, clip_values, learned_tensors
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.network_size import activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.train_resnet import build_loss, make_solver

HERE = Path(__file__).parent
CASES = sorted((HERE / "data").glob("net_*.json"))


def experiment(case):
    cfg = load_section(Config, HERE.parent / f"train_resnet_quant_{case['cfg']}.cfg", case["section"])
    return attrs.evolve(cfg, **case["overrides"])


def forward(network, image):
    network.image.d = image
    network.logits.forward()
    return network.logits.d.copy()


def build(case, ref, fill):
    """Build the training and the test graph, with parameters initialised as `case` says."""
    cfg, batch = experiment(case), case["batch"]
    if case["initialisation"] == "float":
        build_network(Config(), batch, train=True)
        fill(case["seed"])
    graphs = build_loss(cfg, build_network(cfg, batch, train=True)), build_network(cfg, batch, train=False)
    if case["initialisation"] != "float":
        fill(case["seed"])
    if case["initialisation"] == "set":
        for name, parameter in nn.get_parameters(grad_only=False).items():
            if f"scalar/{name}" in ref:
                parameter.d = ref[f"scalar/{name}"]
    return cfg, *graphs


def put_on_borders(parameters):
    """Move a tenth of all weights to the floats next to sqrt(2) 2^k, where logarithms decide the level."""
    for name, parameter in parameters.items():
        if name.endswith("/W"):
            values = parameter.d.ravel()
            border = np.float32(2 ** 0.5) * np.exp2(np.floor(np.log2(np.abs(values[::10]) + 1e-9)))
            offsets = np.arange(len(border)) % 11 - 5
            moved = (border.astype(np.float32).view(np.int32) + offsets.astype(np.int32)).view(np.float32)
            values[::10] = np.copysign(moved, values[::10])
            parameter.d = values.reshape(parameter.shape)


@pytest.mark.parametrize("section", ["PARAMETRIC_POW2_WAQ_B_XMIN", "PARAMETRIC_POW2_WAQ_XMIN_XMAX"])
def test_a_network_with_weights_on_borders_agrees_with_nnabla(section, fill):
    cfg = load_section(Config, HERE.parent / "train_resnet_quant_pow2.cfg", section)
    image = np.random.RandomState(0).randn(2, 3, 32, 32).astype(np.float32)
    network = build_network(cfg, 2, train=False)
    fill(5)
    put_on_borders(nn.get_parameters())
    logits = forward(network, image)
    quantized = {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items() if name.endswith("/W_q")}
    with native_functions():
        expected = forward(build_network(cfg, 2, train=False), image)
    assert len(quantized) == 20
    for name, values in quantized.items():
        np.testing.assert_array_equal(values, nn.get_parameters(grad_only=False)[name].d)
    assert_close(logits, expected, 1e-4)


def assert_close(value, expected, relative, scale=None):
    """Within `relative` of the largest entry."""
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(value, expected, rtol=0, atol=relative * scale)


def group(ref, prefix):
    """Entries `prefix/<parameter name>` of a reference file by parameter name."""
    return {key.removeprefix(f"{prefix}/"): ref[key] for key in ref.files if key.startswith(f"{prefix}/")}


def is_scalar(name):
    return name.rsplit("/", 1)[-1] in ("d", "xmax", "xmin", "n")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_step_agrees_with_the_reference(path, fill):
    case, ref = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    cfg, train, test = build(case, ref, fill)
    parameters = nn.get_parameters(grad_only=False)
    for name, value in group(ref, "scalar").items():
        np.testing.assert_array_equal(parameters[name].d, value)
    check_sizes(cfg, ref)
    assert_close(forward(test, ref["x"]), ref["logits_test"], 1e-4)

    check_forward(train, ref)
    solver = make_solver(cfg)
    check_backward(train, solver, ref)
    check_update(cfg, solver, ref)

    assert_close(forward(test, ref["x"]), ref["logits_test_after_step"], 1e-4)
    nn.forward_all([test.weight_kbytes, test.activation_kbytes])
    assert float(test.weight_kbytes.d) == ref["kbytes_weights_after_step"]
    for kind in ("max", "sum"):
        assert evaluate(activation_kbytes(cfg, kind)) == ref[f"kbytes_activations_{kind}_after_step"]


def evaluate(variable):
    variable.forward()
    return variable.d


def check_sizes(cfg, ref):
    assert evaluate(weight_kbytes(cfg)) == ref["kbytes_weights"]
    for kind in ("max", "sum"):
        assert evaluate(activation_kbytes(cfg, kind)) == ref[f"kbytes_activations_{kind}"]
    tensors = quantized_tensors(cfg)
    assert sum(t.numel for t in tensors if t.kind != "activations") == ref["num_weights"]
    assert sum(t.numel for t in tensors if t.kind == "activations") == ref["num_activations"]


def check_forward(train, ref):
    train.network.image.d, train.label.d = ref["x"], ref["t"]
    train.loss.forward(clear_no_need_grad=True)
    assert_close(train.network.logits.d, ref["logits_train"], 1e-4)
    for variable, key in ((train.loss, "loss"), (train.cross_entropy, "loss_ce"),
                          (train.weights_over_budget, "loss_weights"),
                          (train.activations_over_budget, "loss_activations")):
        np.testing.assert_allclose(variable.d, ref[key], rtol=1e-5)
    parameters = nn.get_parameters(grad_only=False)
    for name, value in group(ref, "after_forward").items():
        assert_close(parameters[name].d, value, 1e-5)


def check_backward(train, solver, ref):
    solver.zero_grad()
    train.loss.backward(clear_buffer=True)
    parameters, expected = nn.get_parameters(), group(ref, "grad")
    largest = max((np.abs(g).max() for name, g in expected.items() if is_scalar(name)), default=0)
    for name, value in expected.items():
        assert_close(parameters[name].g, value, 1e-4, largest if is_scalar(name) else None)


def check_update(cfg, solver, ref):
    parameters, tensors = nn.get_parameters(), learned_tensors(cfg)
    solver.weight_decay(cfg.weight_decay)
    if cfg.has_budget:
        clip_gradients(tensors)
    used = group(ref, "grad_used")
    largest = max((np.abs(g).max() for g in used.values()), default=0)
    for name, value in used.items():
        assert_close(parameters[name].g, value, 1e-4, largest)
    solver.update()
    for name, value in group(ref, "updated").items():
        np.testing.assert_allclose(parameters[name].d, value, rtol=1e-5, atol=1e-5)
    clip_values(tensors)
    for name, value in group(ref, "stepped").items():
        np.testing.assert_allclose(parameters[name].d, value, rtol=1e-5, atol=1e-5)
