"""Networks in which nothing is float: their sizes, their training, and the same bits in all that computes them."""
import collections
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from common.inference.engines import is_installed
from common.machine.context import use_context
from common.machine.seeding import seed_everything
from common.quantizers.layers import SUM_BITS
from common.runs.config import load_section, section_names, to_dict
from common.workbench.testing import fill_normalizations
from mixed_precision_dnns import export, train_resnet
from mixed_precision_dnns.config import RELU, VALUES, Config, ImageNetConfig, config_from, to_shortest_dict
from mixed_precision_dnns.deployment import packed
from mixed_precision_dnns.deployment.integer_reference import IntegerNetwork
from mixed_precision_dnns.deployment.onnx_network import Kernels, OnnxNetwork, optimized, runtime_precisions
from mixed_precision_dnns.deployment.quantized_onnx import export_network
from mixed_precision_dnns.finished_run import FinishedRun, load_finished_run
from mixed_precision_dnns.layer_costs import cost_table, totals, trace_layers
from mixed_precision_dnns.network_size import activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.starting_weights import is_quantizer_parameter
from mixed_precision_dnns.tensor_table import tensor_table
from mixed_precision_dnns.train_resnet import build_loss, make_solver

CFG = Path(__file__).parent.parent / "train_resnet_integer.cfg"
U3, P3 = "PARAMETRIC_FP_IQ_DELTA_XMAX", "PARAMETRIC_POW2_IQ_XMIN_XMAX"
SMALL = (3, 8, 8), 10
ENGINES = ["onnxruntime", *(["openvino"] if is_installed("openvino") else [])]


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")
    seed_everything(0)


def section(name, **keys):
    return attrs.evolve(load_section(Config, CFG, name), **keys)


def random_network(cfg, settings, num, seed=0):
    """A network with random normalizations and quantizers of all kinds of ranges; pixels, and these as floats."""
    rng = np.random.default_rng(seed)
    build_network(cfg, num, False, *settings)
    fill_normalizations(nn.get_parameters(grad_only=False), rng)
    for tensor in quantized_tensors(cfg):
        for name, scalar in tensor.scalars.items():
            if tensor.kind == "values":
                scalar.d = scalar.d * (2.0 ** rng.integers(3) if name == "d" else rng.uniform(0.5, 1))
            elif tensor.kind == "activations":
                scalar.d = scalar.d * rng.uniform(0.7, 1.5)
    pixels = rng.integers(0, 256, (num, *settings[0]), dtype=np.uint8)
    return build_network(cfg, num, False, *settings), pixels, ((pixels / 255 - 0.5) * 2).astype(np.float32)


def floats(integers):
    return (integers.values * float(integers.scale)).astype(np.float32)


def kbytes(variable):
    variable.forward()
    return float(variable.d)


# Sizes --------------------------------------------------------------------------------------------------------------


def test_sizes_of_resnet_20_on_cifar():
    """268,336 weights of 4 bits; a scale of 5 and a shift of 24 bits for 688 channels, 24 for each of 10 classes.

    Of an image: 3 x 32 x 32 pixels of 8 bits; activations of 4 bits (7 x 16384, 6 x 8192, 6 x 4096); what is added to
    shortcuts, three times each, and 64 means, of 8 bits.
    """
    cfg = section(U3)
    build_network(cfg, 1, False)
    assert sum(t.numel for t in quantized_tensors(cfg) if t.kind == "weights") == 268336
    assert sum(t.numel for t in quantized_tensors(cfg) if t.kind == "scales") == 7 * 16 + 6 * 32 + 6 * 64 == 688
    expected = (268336 * 4 + 688 * (5 + 24) + 10 * 24) / 8 / 1024
    assert kbytes(weight_kbytes(cfg)) == pytest.approx(expected, rel=1e-6)
    values = 3072 + 3 * (16384 + 8192 + 4096) + 64
    everything = (188416 * 4 + values * 8) / 8 / 1024
    assert kbytes(activation_kbytes(cfg, "sum")) == pytest.approx(everything, rel=1e-6)
    assert kbytes(activation_kbytes(cfg, "max")) == 16384 / 1024    # the first sum: 8 bits
    rows = tensor_table(cfg)
    assert sum(row["kbytes"] for row in rows if row["kind"] in ("weights", "bias", "scales")) == pytest.approx(expected)
    costs = cost_table(cfg, trace_layers(cfg, (3, 32, 32), 10))
    assert totals(costs)["kbytes"] == pytest.approx(expected)
    assert [row["input_bits"] for row in costs] == [8, *[4] * 18, 8]


def test_powers_of_two_have_integers_of_8_bits_in_front():
    cfg = section(P3)
    build_network(cfg, 1, False)
    numels = collections.defaultdict(int)
    for tensor in quantized_tensors(cfg):
        if tensor.kind == "values":
            numels[tensor.name.rsplit("/", 1)[-1]] += tensor.numel
    assert numels == {"image": 3072, "value": 188416, "summand": 3 * (16384 + 8192 + 4096), "mean": 64}


def test_bits_of_a_scale_follow_its_range():
    """From 2^-10 to 2^5: 16 magnitudes and a sign, 5 bits; from 2^-11, 17 magnitudes, 6 bits."""
    cfg = section(U3)
    build_network(cfg, 1, False, *SMALL)
    tensor = next(t for t in quantized_tensors(cfg) if t.kind == "scales")
    assert kbytes(tensor.bits()) == 5
    tensor.scalars["xmin"].d = 2.0 ** -11
    assert kbytes(tensor.bits()) == 6


# Training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [U3, P3])
def test_a_step_reaches_all_parameters_and_keeps_everything_on_its_grid(name):
    cfg = section(name)
    graph = build_loss(cfg, build_network(cfg, 4, True, *SMALL))
    solver = make_solver(cfg)
    rng = np.random.default_rng(0)
    for key, parameter in nn.get_parameters().items():
        if any(f"{scope}/Aquant" in key for scope in VALUES) and key.endswith("/d"):
            parameter.d = parameter.d * (8 if "/value/" in key else 2)    # coarser than what is rounded
    graph.network.image.d, graph.label.d = rng.uniform(-1, 1, (4, *SMALL[0])), rng.integers(0, 10, (4, 1))
    graph.loss.forward()
    solver.zero_grad()
    graph.loss.backward()
    assert np.isfinite(graph.loss.d)
    gradients = {key: np.abs(parameter.g).max() for key, parameter in nn.get_parameters().items()}
    assert all(np.isfinite(value) for value in gradients.values())
    assert not [key for key, value in gradients.items()
                if value == 0 and key.endswith(("/W", "/b", "/beta", "/gamma"))]
    for scope in VALUES:
        assert not [key for key, value in gradients.items()
                    if value == 0 and f"{scope}/Aquant" in key and key.endswith("/d")]
    parameters = nn.get_parameters(grad_only=False)
    for key, parameter in parameters.items():
        if key.endswith("/scale_q"):
            assert (np.abs(np.frexp(parameter.d)[0]) == 0.5).all()    # powers of two
        if key.endswith(("/shift_q", "fc/quantized_affine/b_q")):
            integers = parameter.d.astype(np.float64) / float(parameters[f"{key.removesuffix('_q')}quant/step"].d)
            assert (integers == np.rint(integers)).all() and np.abs(integers).max() < 2 ** (SUM_BITS - 1)


def test_the_quantized_normalization_is_that_of_the_batch():
    """To the factor sqrt(2) of a scale, outputs of each channel have mean beta and deviation gamma."""
    from mixed_precision_dnns.network_layers import IntegerLayers

    cfg = section(U3)
    layers = IntegerLayers(cfg, train=True)
    image = nn.Variable.from_numpy_array(np.random.default_rng(0).uniform(-1, 1, (8, 3, 16, 16)))
    x = layers.image(image)
    layers.convolution(x, 16, 3)
    parameters = nn.get_parameters(grad_only=False)
    parameters["bn/beta"].d, parameters["bn/gamma"].d = np.linspace(-1, 1, 16).reshape(1, 16, 1, 1), 0.7
    y = layers.convolution(x, 16, 3)
    y.forward()
    found = y.d.transpose(1, 0, 2, 3).reshape(16, -1)
    np.testing.assert_allclose(found.mean(1), np.linspace(-1, 1, 16), atol=0.02)    # half a step of the sums
    assert (found.std(1) / 0.7 >= 2 ** -0.51).all() and (found.std(1) / 0.7 <= 2 ** 0.51).all()
    assert (parameters["bn/var"].d != 1).all()    # the running ones follow


def test_float_weights_start_them():
    cfg = section(U3)
    build_network(attrs.evolve(cfg, all_integer=False, w_quantize=None, a_quantize=None), 1, False, *SMALL)
    before = set(nn.get_parameters(grad_only=False))
    build_network(cfg, 1, False, *SMALL)
    added = set(nn.get_parameters(grad_only=False)) - before
    assert added and all(is_quantizer_parameter(name) for name in added)
    assert not any(is_quantizer_parameter(name) for name in before)


# Configurations -----------------------------------------------------------------------------------------------------


def test_sections():
    names = section_names(CFG)
    assert {U3, P3} <= set(names)
    for name in names:
        cfg = load_section(Config, CFG, name)
        assert cfg.all_integer == (cfg.w_quantize is not None) == (name != "DEFAULT")
        assert cfg.weightfile == ("DEFAULT/params_best.h5" if "INIT" in name else None)
    assert load_section(Config, CFG, "DEFAULT") == load_section(Config, CFG.with_name(Config.cfg_file), "DEFAULT")


BOUNDED = {"w_stepsize_min": 2 ** -7, "w_xmax_max": 127 / 128, "a_stepsize_min": 2 ** -5, "a_xmax_max": 255 / 32,
           "w_quantize": "parametric_fp_d_xmax", "a_quantize": "parametric_fp_d_xmax_relu"}


@pytest.mark.parametrize("keys, says", [
    ({"w_quantize": None}, "all_integer needs w_quantize: nothing is quantized"),
    ({"w_xmax_max": 1}, "all_integer: w_stepsize_min lets integers be as large as 128, 8 bits end at 127"),
    ({"a_xmax_max": 8}, "all_integer: a_stepsize_min lets integers be as large as 256, 8 bits end at 255"),
    ({"a_quantize": "parametric_fp_d_b_relu", "a_bitwidth_max": 9},
     "all_integer: a_bitwidth_max lets integers be as large as 511, 8 bits end at 255"),
    ({"w_quantize": "parametric_fp_b_xmax"},
     "all_integer: w_bitwidth_max lets integers be as large as 180, 8 bits end at 127"),
    ({"a_quantize": "pow2_relu", "a_bitwidth": 5},
     "all_integer: a_bitwidth lets integers be as large as 32768, 8 bits end at 255"),
    ({"w_quantize": "parametric_pow2_xmin_xmax", "w_xmin_min": 2 ** -7, "w_xmax_max": 1},
     "all_integer: w_xmin_min lets integers be as large as 128, 8 bits end at 127"),
    ({"scale_layer": True}, "all_integer: scale_layer multiplies by a float")])
def test_what_may_leave_8_bits_is_refused(keys, says):
    Config(all_integer=True, **BOUNDED)
    with pytest.raises(ValueError) as caught:
        Config(all_integer=True, **{**BOUNDED, **keys})
    assert str(caught.value) == says


def test_configurations_that_were_written_before_are_read():
    values = to_shortest_dict(Config())
    assert set(to_dict(Config())) - set(values) == {"all_integer"}
    assert config_from(values, "config.json") == Config()
    assert config_from(to_shortest_dict(section(U3)), "config.json") == section(U3)


def test_mobilenet_has_layers_without_a_quantizer():
    with pytest.raises(ValueError, match="needs model = resnet18"):
        ImageNetConfig(model="mobilenetv2", all_integer=True, **BOUNDED)


# Deployment ---------------------------------------------------------------------------------------------------------

# Kinds of nodes in the graph that onnxruntime makes. All of them but QGemm return integers.
INTEGER_KERNELS = {"QuantizeLinear", "QLinearConv", "QLinearAdd", "QLinearLeakyRelu", "QLinearGlobalAveragePool",
                   "QGemm"}
MOVES = {"Slice", "Concat", "Reshape", "Transpose", "MaxPool", "Gather", "Cast", "NhwcMaxPool"}


def fixed(**keys):
    return Config(all_integer=True, w_quantize="fp", a_quantize="fp" + RELU, w_stepsize=2 ** -4, a_stepsize=0.25,
                  **keys)


NETWORKS = {
    "U3": (section(U3), SMALL, 20), "P3": (section(P3), SMALL, 20), "fixed, convolved shortcuts": (
        fixed(shortcut_type="b"), SMALL, 20),
    "resnet18": (ImageNetConfig(model="resnet18", all_integer=True, w_stepsize=2 ** -6, a_stepsize=0.25, **BOUNDED),
                 ((3, 96, 96), 7), 2)}    # means of 3 x 3 pixels, which are no power of two


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_gives_the_same_bits_and_nothing_is_float(name):
    cfg, settings, num = NETWORKS[name]
    network, pixels, images = random_network(cfg, settings, num)
    run = FinishedRun(cfg, *settings)
    expected = floats(IntegerNetwork(run).predict(pixels))
    assert len(np.unique(expected, axis=0)) == num
    np.testing.assert_array_equal(network.predict(images), expected)
    exported = export_network(run, num)
    check_file(exported.model)
    content = exported.model.SerializeToString()
    kinds = {node.op_type for node in optimized(content).graph.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= kinds <= INTEGER_KERNELS | MOVES
    convolutions = sum(tensor.kind == "weights" for tensor in quantized_tensors(cfg)) - 1
    for engine in ENGINES:
        session = OnnxNetwork(content, engine)
        assert session.kernels() == Kernels(convolutions, convolutions)
        # The borders that kernels have elsewhere are counted; here there are none.
        assert exported.inexact == 0
        np.testing.assert_array_equal(session.predict(images), expected, engine)


def test_layers_that_a_cpu_without_vnni_may_compute_wrongly_are_counted():
    """Weights of 8 bits that read activations of 8 bits; the image and the mean have fewer codes here."""
    cfg, settings, num = NETWORKS["U3"]
    random_network(cfg, settings, num)
    assert export_network(FinishedRun(cfg, *settings), num).wide == 0
    rng = np.random.default_rng(0)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        if name.endswith("/W"):
            parameter.d = rng.uniform(-1, 1, parameter.shape)
    for tensor in quantized_tensors(cfg):
        step = {"weights": 2.0 ** -7, "activations": 2.0 ** -5}.get(tensor.kind)
        if step is not None:
            tensor.scalars["d"].d = step
            tensor.scalars["xmax"].d = step * (127 if tensor.kind == "weights" else 255)
    assert export_network(FinishedRun(cfg, *settings), num).wide == 18


def check_file(model):
    """Every float of a file stands between a DequantizeLinear, a kernel and a QuantizeLinear, but the logits."""
    onnx.checker.check_model(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    users = collections.defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            users[name].append(node)
    kernels = [node for node in model.graph.node if node.op_type in ("Conv", "Add", "LeakyRelu", "GlobalAveragePool",
                                                                     "Gemm")]
    for node in kernels:
        assert {makers[name].op_type for name in node.input} == {"DequantizeLinear"}
        after = {user.op_type for user in users[node.output[0]]}
        assert after == ({"Identity"} if node.op_type == "Gemm" else {"QuantizeLinear"})
    assert [node.op_type for node in kernels].count("Gemm") == 1
    assert [node.op_type for node in users["image"]] == ["QuantizeLinear"]
    others = {node.op_type for node in model.graph.node} - {node.op_type for node in kernels}
    # Cast and Mul make weights of 4 bits and their factors those of 8, before the network runs.
    assert others <= {"DequantizeLinear", "QuantizeLinear", "Slice", "Concat", "Reshape", "MaxPool", "Gather", "Cast",
                      "Mul", "Identity"}
    scalars = [constant for constant in model.graph.initializer if constant.data_type == TensorProto.FLOAT]
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert {constant.name for constant in scalars} <= scales


@pytest.mark.skipif("openvino" not in ENGINES, reason="no openvino")
@pytest.mark.parametrize("name", [U3, P3])
def test_openvino_multiplies_and_adds_integers_alone(name):
    cfg = section(name)
    random_network(cfg, SMALL, 1)
    precisions = runtime_precisions(export_network(FinishedRun(cfg, *SMALL), 1).model.SerializeToString())
    for kind in ("Convolution", "FullyConnected", "Reduce", "Concatenation", "StridedSlice"):
        assert {precision for other, precision in precisions if other == kind} == {"u8"}, kind


@pytest.mark.parametrize("name", [U3, P3])
def test_packed_networks_have_the_reported_size_and_the_same_bits(name, tmp_path):
    cfg = section(name)
    network, _, images = random_network(cfg, SMALL, 4)
    expected = network.predict(images)
    sizes = packed.save(tmp_path / "a.mpdnn", FinishedRun(cfg, *SMALL))
    assert sizes.reported == pytest.approx(1024 * kbytes(weight_kbytes(cfg)))
    assert 0 <= sizes.weights - sizes.reported < 1
    stored = {tensor.name: packed.quantized_values(tensor.name, nn.get_parameters(grad_only=False))
              for tensor in quantized_tensors(cfg) if tensor.is_stored}
    nn.clear_parameters()
    found = packed.load(tmp_path / "a.mpdnn")
    assert not any(key.endswith(("/gamma", "/beta", "/mean", "/var")) for key in found.parameters)
    for key, values in stored.items():
        np.testing.assert_array_equal(found.parameters[key], values)
    np.testing.assert_array_equal(found.install(4).predict(images), expected)


def test_a_trained_network_is_exported_with_the_same_answers(run_main, cifar, tmp_path):
    folder = tmp_path / "run"
    status, _, _ = run_main(train_resnet.main, U3, "--cfg", CFG, "--data-dir", cifar, "--batch-size", 4, "--epochs", 1,
                            "--steps-per-epoch", 3, "--initial-learning-rate", 3e-4, "--output", folder, "-c", "cpu")
    assert status == 0
    status, out, _ = run_main(export.main, folder, "--images", "25")
    assert status == 0 and "0 borders of levels are off" in out
    for engine in ENGINES:
        assert f"{engine}: 19 of 19 convolutions with integers\n  on 25 images: 25 with the same logits" in out
    nn.clear_parameters()
    run = load_finished_run(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *run.image_shape), dtype=np.uint8)
    images = ((pixels / 255 - 0.5) * 2).astype(np.float32)
    found = OnnxNetwork(folder / "export" / "network.onnx").predict(images)
    np.testing.assert_array_equal(found, floats(IntegerNetwork(run).predict(pixels)))
