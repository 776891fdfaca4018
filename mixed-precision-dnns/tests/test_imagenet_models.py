"""The ImageNet networks and what they cost, against the published numbers."""
import json

import nnabla as nn
import numpy as np
import pytest

from common.machine.context import use_context
from common.machine.errors import UsageError
from common.machine.files import beside_scripts
from common.runs.config import load_section, section_names
from mixed_precision_dnns import report
from mixed_precision_dnns.clipping import clip_values, learned_tensors
from mixed_precision_dnns.config import Config, ImageNetConfig
from mixed_precision_dnns.evaluation import ranks_of_labels
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.layer_costs import cost_table, totals, trace_layers
from mixed_precision_dnns.network_size import activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.train_resnet import build_loss, clipped_update, make_solver

CFG = beside_scripts("mixed_precision_dnns", "train_imagenet.cfg")
SHAPE, CLASSES = (3, 224, 224), 1000
U3 = {"w_quantize": "parametric_fp_d_xmax", "a_quantize": "parametric_fp_d_xmax_relu"}
# Weights with the bias of the last layer; trainable parameters of the float network; MB of the largest activations.
WEIGHTS = {"resnet18": 11679912, "mobilenetv2": 3470760}
TRAINABLE = {"resnet18": 11689512, "mobilenetv2": 3504872}
MEGABYTES = {"resnet18": (44.56, 3.06), "mobilenetv2": (13.24, 4.59)}
TENSORS = {"resnet18": (21, 17), "mobilenetv2": (53, 35)}    # of weights, and of activations


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")


def build(model, batch=1, train=False, shape=SHAPE, num_classes=CLASSES, **keys):
    cfg = ImageNetConfig(model=model, **keys)
    return cfg, build_network(cfg, batch, train, shape, num_classes)


@pytest.mark.parametrize("model", MODELS)
def test_sizes_are_the_published_ones(model):
    cfg, built = build(model)
    assert sum(p.size for p in nn.get_parameters().values()) == TRAINABLE[model]
    sizes = weight_kbytes(cfg), activation_kbytes(cfg, "max")
    nn.forward_all(sizes)
    assert sum(t.numel for t in quantized_tensors(cfg) if t.kind != "activations") == WEIGHTS[model]
    assert tuple(round(float(size.d) / 1024, 2) for size in sizes) == MEGABYTES[model]
    assert built.logits.shape == (1, CLASSES)


@pytest.mark.parametrize("model", MODELS)
def test_layers_are_the_published_ones_in_their_order(model):
    cfg, _ = build(model, **U3)
    published = json.loads(report.PUBLISHED_BITWIDTHS.read_text())[model]
    tensors = quantized_tensors(cfg)
    weights = [t.numel for t in tensors if t.kind == "weights"]
    assert weights[:-1] + [weights[-1] + CLASSES] == [layer["weights"] for layer in published]
    assert (len(weights), sum(t.kind == "activations" for t in tensors)) == TENSORS[model]
    assert all(len(t.scalars) == 2 for t in tensors)
    if model == "resnet18":
        names = [layer["layer"].replace(".", "/") for layer in published]
        assert [t.name.split("/quantized_")[0] for t in tensors if t.kind == "weights"] == names


@pytest.mark.parametrize("model", MODELS)
def test_activations_are_counted_where_they_are(model):
    """The tensors that a trace finds are those that budgets count, in the same order."""
    cfg, _ = build(model)
    layers = trace_layers(cfg, SHAPE, CLASSES)
    weights = [t for t in quantized_tensors(cfg) if t.kind == "weights"]
    sizes = [t.numel for t in quantized_tensors(cfg) if t.kind == "activations"]
    assert len(layers) == len(weights)
    assert layers[0].source is None and layers[-1].source is None    # the image, and averages
    assert max(layer.source for layer in layers if layer.source is not None) < len(sizes)
    if model == "resnet18":
        # conv1 feeds the first block; the output of a block both the next one and, where it shrinks, the shortcut.
        assert [layer.source for layer in layers[:9]] == [None, 0, 1, 2, 3, 4, 5, 4, 6]
    else:
        # A linear bottleneck feeds the convolution that expands, in float.
        assert [layer.source for layer in layers[:7]] == [None, 0, 1, None, 2, 3, None]


def test_published_bits_give_the_published_size(capsys):
    rows = report.published_costs("resnet18")
    assert round(totals(rows)["kbytes"] / 1024, 2) == 5.40
    assert totals(rows)["macs"] == 1814073344    # 1.8e9, as arXiv 1512.03385 says
    assert rows[0]["bit_operations"] == 9408 * 112 * 112 * 9 * 32
    nn.clear_parameters()
    report.main(["--published", "mobilenetv2"])
    out = capsys.readouterr().out
    # Published: 1.55 MB; the bars of the figure give 2 % more.
    assert "1.59 MB" in out and len(out.splitlines()) == 1 + 53 + 3
    assert "300.77" in out.splitlines()[-3]    # millions; 300 in arXiv 1801.04381


def test_costs_of_a_cifar_network():
    cfg = Config(**U3, shortcut_type="b", w_bitwidth=3, a_bitwidth=5)
    settings = (3, 32, 32), 10
    build_network(cfg, 1, False, *settings)
    for tensor in quantized_tensors(cfg):
        tensor.scalars["xmax"].d = tensor.scalars["d"].d * (2 ** (3 - 1) - 1 if tensor.spec.sign else 2 ** 5 - 1)
    rows = cost_table(cfg, trace_layers(cfg, *settings))
    assert [row["layer"] for row in rows[:2]] == ["conv1", "res1/layer1/basicblock1"]
    assert [row["input_bits"] for row in rows] == [32, *[5] * 20, 32]    # 18 and 2 of shortcuts, and the last
    assert rows[0]["macs"] == 3 * 16 * 9 * 32 * 32 and rows[-1]["macs"] == 640
    assert {row["bits"] for row in rows} == {3} and rows[-1]["weights"] == 650
    sizes = weight_kbytes(cfg)
    sizes.forward()
    assert totals(rows)["kbytes"] == pytest.approx(float(sizes.d))


@pytest.mark.parametrize("model", MODELS)
def test_a_quantized_step_at_full_size(model):
    cfg, built = build(model, batch=2, train=True, w_stepsize=2 ** -6, **U3)
    graph, solver, tensors = build_loss(cfg, built), make_solver(cfg), learned_tensors(cfg)
    clip_values(tensors)
    before = {name: p.d.copy() for name, p in nn.get_parameters().items()}
    image = np.random.default_rng(0).standard_normal((2, *SHAPE), dtype=np.float32)
    values = clipped_update(graph, solver, tensors, cfg, image, np.array([[1], [2]]))
    assert all(np.isfinite(read()) for read in values.values())
    after = nn.get_parameters()
    assert all(np.isfinite(p.d).all() for p in after.values())
    moved = [name for name, p in after.items() if name.endswith("/W") and not np.array_equal(p.d, before[name])]
    assert len(moved) == TENSORS[model][0]


def test_float_activations_of_mobilenet_are_limited():
    _, built = build("mobilenetv2", shape=(3, 32, 32), num_classes=5)
    nn.get_parameters()["conv2/bn/beta"].d = 100
    built.predict(np.zeros((1, 3, 32, 32), np.float32))
    weights, bias = (nn.get_parameters()[f"fc/quantized_affine/{key}"].d for key in ("W", "b"))
    np.testing.assert_allclose(built.logits.d[0], 6 * weights.sum(0) + bias, rtol=1e-4, atol=1e-5)


# Experiments ------------------------------------------------------------------------------------------------------


def test_five_rows_of_the_table_for_each_network():
    experiments = {name: load_section(ImageNetConfig, CFG, name) for name in section_names(CFG) if name != "DEFAULT"}
    assert len(experiments) == 10 and len(set(experiments.values())) == 10
    for model in MODELS:
        rows = [cfg for cfg in experiments.values() if cfg.model == model]
        assert [(cfg.w_quantize, cfg.a_quantize) for cfg in rows] == [
            (None, None), ("fp", "fp_relu"), ("parametric_fp_b_xmax", "parametric_fp_b_xmax_relu"),
            *2 * [("parametric_fp_d_xmax", "parametric_fp_d_xmax_relu")]]
        assert {cfg.weightfile for cfg in rows} == {None, f"{model.upper()}/params_best.h5"}


@pytest.mark.parametrize("model", MODELS)
def test_budgets_are_those_of_four_bits_and_lambda_is_scaled(model):
    cfg = load_section(ImageNetConfig, CFG, f"{model.upper()}_PARAMETRIC_FP_WAMQ_DELTA_XMAX_CON_INIT")
    largest = {"resnet18": 64, "mobilenetv2": 96}[model] * 112 * 112
    assert WEIGHTS[model] / 2 / 1024 == pytest.approx(cfg.target_weight_kbytes, rel=1e-5)
    assert WEIGHTS[model] / 2 / 1024 <= cfg.target_weight_kbytes    # the network with 4 bits is within them
    assert largest / 2 / 1024 == cfg.target_activation_kbytes
    assert cfg.initial_cost_lambda2 == pytest.approx(0.1 * (268346 / WEIGHTS[model]) ** 2, rel=1e-4)
    assert cfg.initial_cost_lambda3 == pytest.approx(0.1 * (16384 / largest) ** 2, rel=1e-4)


# Errors -----------------------------------------------------------------------------------------------------------


def test_ranks_count_what_comes_before_the_label():
    logits = np.array([[3, 1, 2], [1, 1, 1], [np.nan, 5, 0]], np.float32)
    assert ranks_of_labels(logits, np.array([0, 2, 1])).tolist() == [0, 2, 1]
    assert ranks_of_labels(logits, np.array([1, 0, 0])).tolist() == [2, 0, 3]


@pytest.mark.parametrize("arguments, says", [
    ([], "no arguments are given"), (["--weights", "x"], "either a RUN_DIR or"),
    (["run", "--published", "resnet18"], "either a RUN_DIR or"),
    (["--published", "resnet50"], "resnet50"), (["--published", "resnet18", "--weights", "x"], "leave it out"),
    (["nowhere"], "no config.json")])
def test_report_refuses(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says) as caught:
        report.main(arguments)
    assert "\n" not in str(caught.value)
