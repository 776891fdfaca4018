"""Whole networks on every engine, the choice among engines, and the cache of what they compile."""
import importlib.util
import subprocess
import sys

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.console import cli
from common.inference import engines, network_cache, onnx_export
from common.inference.engines import compile_network
from common.inference.flags import Computation, add_computing_flags
from common.layers import basic as layers
from common.layers.recurrent import lstm
from common.machine.cache import CACHE_VARIABLE
from common.machine.context import wants_native
from common.machine.errors import UsageError

SPECTRUM = (6, 2, 2, 9)    # (frames, batch, channels, bins)
IMAGE = (2, 3, 16, 24)

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed (requirements-openvino.txt)")
compiled_engines = pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Folder of compiled networks, of this test alone."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def recurrent_network(x):
    """Two sources that are bridged, as in X-UMX: affine, batch norm, LSTM, a scaled mask."""
    frames, batch, channels, bins = x.shape
    encoded, states = [], []
    for source in "ab":
        with nn.parameter_scope(source):
            h = layers.affine(F.reshape(x[..., :7], (frames, batch, channels * 7)), 8)
            encoded.append(layers.tanh(layers.feature_normalization(h, train=False)))
    crossed = layers.average(*encoded)
    for source in "ab":
        with nn.parameter_scope(source):
            states.append(lstm(crossed, 4, 3))
    h = F.concatenate(crossed, layers.average(*states), axis=2)
    with nn.parameter_scope("mask"):
        h = layers.feature_normalization(layers.affine(h, channels * bins), train=False)
    scale = nn.parameter.get_parameter_or_create("scale", (bins,))
    return layers.scale_shift(F.reshape(h, x.shape), scale, scale, rectify=True)


def convolutional_network(x):
    """Dilated convolutions that feed a part of their channels on, pooling, upsampling, a gate, as in D3Net."""
    def unit(x, outmaps, dilation, name):
        with nn.parameter_scope(name):
            h = F.relu(PF.batch_normalization(x, batch_stat=False))
            return PF.convolution(h, outmaps, (3, 3), pad=(dilation, dilation), dilation=(dilation, dilation))

    first = unit(x, 12, 1, "first")
    chain = unit(first[:, :4], 8, 2, "second") + first[:, 4:]
    chain = unit(chain[:, :4], 4, 4, "third") + chain[:, 4:]
    with nn.parameter_scope("up"):
        low = PF.batch_normalization(F.average_pooling(chain, (2, 2)), batch_stat=False)
        high = F.concatenate(PF.deconvolution(low, 4, (2, 2), stride=(2, 2)), chain, axis=1)
    gate, value = (PF.convolution(high, 2, (1, 1), name=name) for name in ("gate", "value"))
    small = F.interpolate(F.sigmoid(gate) * value, output_size=(5, 7), mode="linear", align_corners=False,
                          half_pixel=True)
    return F.sigmoid(gate) * value, F.softmax(small, axis=1)


NETWORKS = {"recurrent": (recurrent_network, SPECTRUM), "convolutional": (convolutional_network, IMAGE)}
networks = pytest.mark.parametrize("build, shape", NETWORKS.values(), ids=NETWORKS)


def normal(shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def prepare(build, *shapes):
    """Make the parameters of a network, with values that no default hides behind."""
    build(*(nn.Variable(shape) for shape in shapes))
    rng = np.random.RandomState(3)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        values = rng.randn(*parameter.shape) * 0.5
        parameter.d = np.abs(values) + 0.5 if name.endswith("var") else values


def assert_same(ours, theirs, tolerance=1e-4):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype == np.float32
        assert a.std() > 0.01
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


# Numbers -----------------------------------------------------------------------------------------------------------


@compiled_engines
@networks
def test_engines_agree_with_nnabla(build, shape, engine):
    prepare(build, shape)
    x = normal(shape)
    assert_same(compile_network(build, [shape], engine)(x), compile_network(build, [shape], "nnabla")(x))


@pytest.mark.parametrize("engine", ["nnabla", "onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_results_are_kept_and_repeated(engine):
    prepare(convolutional_network, IMAGE)
    network = compile_network(convolutional_network, [IMAGE], engine)
    first = network(normal(IMAGE))
    before = [array.copy() for array in first]
    network(normal(IMAGE, seed=1))
    for a, b, c in zip(first, before, network(normal(IMAGE)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("engine", ["nnabla", "onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_several_inputs_and_an_output_within(engine):
    def build(x, y):
        h = F.tanh(x)
        return h, h - y
    x, y = normal((2, 3)), normal((2, 3), seed=1)
    h, difference = compile_network(build, [(2, 3), (2, 3)], engine)(x.astype(np.float64), np.asfortranarray(y))
    np.testing.assert_allclose(h, np.tanh(x), rtol=1e-5)
    np.testing.assert_allclose(difference, np.tanh(x) - y, rtol=1e-5, atol=1e-6)


def test_another_shape_than_compiled_is_a_bug():
    with pytest.raises(AssertionError, match=r"\(2, 3\)"):
        compile_network(F.relu, [(1, 3)], "nnabla")(np.zeros((2, 3)))


@compiled_engines
def test_parameters_are_those_of_the_time_of_compiling(engine):
    def build(x):
        return PF.affine(x, 2)
    prepare(build, (1, 3))
    network, x = compile_network(build, [(1, 3)], engine), normal((1, 3))
    before, = network(x)
    prepare(lambda x: build(x) * 2, (1, 3))
    nn.get_parameters()["affine/W"].d = 0
    np.testing.assert_array_equal(network(x)[0], before)
    np.testing.assert_allclose(compile_network(build, [(1, 3)], engine)(x)[0][0], nn.get_parameters()["affine/b"].d)


# Choice ------------------------------------------------------------------------------------------------------------


def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)


@needs_openvino
@pytest.mark.parametrize("network, expected", [("recurrent", "onnxruntime"), ("convolutional", "openvino")])
def test_auto_is_what_was_measured_to_be_fastest(network, expected):
    build, shape = NETWORKS[network]
    prepare(build, shape)
    assert compile_network(build, [shape]).engine == expected


@networks
def test_auto_without_openvino_is_onnxruntime(build, shape, monkeypatch):
    without_openvino(monkeypatch)
    prepare(build, shape)
    assert compile_network(build, [shape]).engine == "onnxruntime"


def test_auto_on_a_gpu_is_nnabla(monkeypatch):
    monkeypatch.setattr(engines, "on_gpu", lambda: True)
    assert compile_network(F.relu, [(1, 3)]).engine == "nnabla"


@pytest.mark.parametrize("engine, native", [("nnabla", False), ("onnxruntime", True)])
def test_compiled_functions_are_for_nnabla_alone(engine, native):
    seen = []

    def build(x):
        seen.append(wants_native())
        return F.relu(x)
    compile_network(build, [(1, 3)], engine)
    assert seen == [native]


@pytest.mark.parametrize("arguments, message", [
    (("tensorrt",), "--engine 'tensorrt': choose one of auto, nnabla, onnxruntime, openvino"),
    (("auto", "int8"), "--precision 'int8': choose one of float32, bf16"),
    (("onnxruntime", "bf16"), "--precision bf16: only openvino computes with it; add --engine openvino"),
    (("auto", "bf16"), "add --engine openvino"),
    (("nnabla", "bf16"), "add --engine openvino"),
])
def test_what_does_not_exist_is_a_usage_error(arguments, message):
    with pytest.raises(UsageError) as error:
        compile_network(F.relu, [(1, 3)], *arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("engine, message", [
    ("openvino", "openvino is not installed: run 'pip install -r requirements-openvino.txt' or choose --engine "
                 "onnxruntime"),
    ("onnxruntime", "onnxruntime is not installed: run 'pip install -r requirements.txt' or choose --engine nnabla"),
])
def test_a_missing_engine_is_a_usage_error(engine, message, monkeypatch):
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(UsageError) as error:
        compile_network(F.relu, [(1, 3)], engine)
    assert str(error.value) == message


def has_bf16():
    return "BF16" in engines.openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@needs_openvino
def test_bf16_is_less_exact_or_refused():
    prepare(convolutional_network, IMAGE)
    if not has_bf16():
        with pytest.raises(UsageError, match="--precision bf16: this CPU has no instructions for it"):
            compile_network(convolutional_network, [IMAGE], "openvino", "bf16")
        return
    x, exact = normal(IMAGE), compile_network(convolutional_network, [IMAGE], "openvino")
    rough = compile_network(convolutional_network, [IMAGE], "openvino", "bf16")
    assert 1e-4 < np.abs(rough(x)[0] - exact(x)[0]).max() / np.abs(exact(x)[0]).max() < 0.1


def test_flags():
    parser = cli.parser("")
    add_computing_flags(parser)
    assert Computation.of_flags(parser.parse_args([])) == Computation("auto", "0", "auto", "float32")
    args = parser.parse_args(["--engine", "openvino", "--precision", "bf16", "-c", "cpu", "-d", "1"])
    assert Computation.of_flags(args) == Computation("cpu", "1", "openvino", "bf16")
    with pytest.raises(UsageError):
        parser.parse_args(["--engine", "tensorrt"])


# Cache -------------------------------------------------------------------------------------------------------------


def compiled(engine):
    """Result of the convolutional network, compiled now or before."""
    return compile_network(convolutional_network, [IMAGE], engine)(normal(IMAGE))


def no_export(*args):
    raise AssertionError("exported again")


@compiled_engines
def test_a_compiled_network_is_found_again(engine, cache, monkeypatch):
    prepare(convolutional_network, IMAGE)
    first = compiled(engine)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(onnx_export, "export", no_export)
    assert_same(compiled(engine), first, tolerance=1e-6)


@compiled_engines
def test_other_parameters_are_another_network(engine, cache):
    prepare(convolutional_network, IMAGE)
    first = compiled(engine)
    nn.get_parameters()["value/conv/b"].d += 1
    assert np.abs(compiled(engine)[0] - first[0]).max() > 0.1
    assert len(list(cache.iterdir())) == 2


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "one bit": lambda content: content[:len(content) // 2] + bytes([content[len(content) // 2] ^ 1])
    + content[len(content) // 2 + 1:],
    "another file": lambda content: b"no model" * 100,
}


@compiled_engines
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(damage, engine, cache, monkeypatch):
    prepare(convolutional_network, IMAGE)
    first = compiled(engine)
    path, = cache.iterdir()
    damaged = DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    assert_same(compiled(engine), first, tolerance=1e-6)
    path, = cache.iterdir()
    assert path.read_bytes() != damaged
    monkeypatch.setattr(onnx_export, "export", no_export)
    assert_same(compiled(engine), first, tolerance=1e-6)


@compiled_engines
def test_no_cache_is_no_error(engine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    prepare(convolutional_network, IMAGE)
    assert_same(compiled(engine), compiled("nnabla"))


def test_a_file_that_another_process_removes_is_none(cache, monkeypatch):
    assert network_cache.store("key", b"network") is not None
    opened = network_cache.open_regular

    def remove(path):
        path.unlink()
        return opened(path)
    monkeypatch.setattr(network_cache, "open_regular", remove)
    assert network_cache.find("key") is None


def test_networks_used_last_are_kept(cache, monkeypatch):
    def network(n):
        compile_network(F.relu, [(1, n)], "onnxruntime")
        return {path.name for path in cache.iterdir()}
    first, both = network(1), network(2)
    second = both - first
    network(1)
    monkeypatch.setattr(network_cache, "LIMIT", sum(path.stat().st_size for path in cache.iterdir()) + 20)
    third = network(3)
    assert first < third and not second & third and len(third) == 2


def test_the_newest_network_is_kept_even_above_the_limit(cache, monkeypatch):
    monkeypatch.setattr(network_cache, "LIMIT", 1)
    for n in (1, 2):
        compile_network(F.relu, [(1, n)], "onnxruntime")
        assert len(list(cache.iterdir())) == 1


DROPPED = """
import gc, signal, sys, threading
import common
import nnabla.functions as F
from common.inference.engines import compile_network

networks = [compile_network(F.relu, [(2, 4)], sys.argv[1])]
def drop():
    networks.clear()
    gc.collect()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
signal.raise_signal(signal.SIGINT)
"""


@compiled_engines
def test_an_interrupt_finds_its_stack_after_another_thread_has_dropped_a_network(engine):
    done = subprocess.run([sys.executable, "-c", DROPPED, engine], capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr, (done.returncode, done.stderr)
