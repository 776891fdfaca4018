"""Weights from and to PyTorch: names and layouts with NumPy alone, the files where PyTorch is installed."""
import importlib.util
import sys
from collections import OrderedDict

import h5py
import nnabla as nn
import numpy as np
import pytest

from common.layers.recurrent import lstm
from common.machine.errors import UsageError, UserError
from common.machine.files import write_json
from common.runs.checkpoint import parameter_shapes, save_parameters
from x_umx import convert
from x_umx.asteroid import listed_sources, not_kept
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes
from x_umx.torch_layout import from_torch, sizes_of, sources_of, to_torch, torch_shapes
from x_umx.weights import find_weights

UMX = (None,)
SIZES = {
    "stereo": Sizes(n_fft=32, nb_channels=2, hidden_size=6, nb_layers=3, max_bin=11),
    "mono, one layer": Sizes(n_fft=32, nb_channels=1, hidden_size=6, nb_layers=1, max_bin=17),
    "unidirectional": Sizes(n_fft=32, nb_channels=2, hidden_size=6, nb_layers=2, max_bin=11, unidirectional=True),
}
NETWORKS = {"UMX": UMX, "X-UMX": SOURCES, "X-UMX of two": ("speech", "music")}
each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
each_network = pytest.mark.parametrize("sources", NETWORKS.values(), ids=NETWORKS)


def state_dict(sizes, sources=UMX):
    """Random weights under PyTorch's names; variances are positive."""
    rng = np.random.default_rng(1)
    state = {name: rng.standard_normal(shape).astype(np.float32) / 2
             for name, shape in torch_shapes(sizes, sources).items()}
    return {name: np.abs(value) + np.float32(0.5) if name.endswith("running_var") else value
            for name, value in state.items()}


def network_of(sizes, sources):
    return OpenUnmix(sizes) if sources == UMX else CrossNetOpenUnmix(sizes, sources=sources)


def magnitudes(sizes):
    return np.random.default_rng(2).random((5, 2, sizes.nb_channels, sizes.bins)).astype(np.float32)


# What the layers of PyTorch compute, as their documentation defines it ----------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def torch_lstm(x, weights, sizes):
    """Run torch.nn.LSTM, of which `weights(name)` returns the weights, over x (frames, batch, features)."""
    for layer in range(sizes.nb_layers):
        x = np.concatenate([direction_of_lstm(x, lambda name, s=suffix, k=layer: weights(f"{name}_l{k}{s}"), suffix)
                            for suffix in ("", "_reverse")[:2 - sizes.unidirectional]], axis=-1)
    return x


def direction_of_lstm(x, weights, suffix):
    h = c = np.zeros((x.shape[1], weights("weight_hh").shape[1]))
    outputs = []
    for frame in x[::-1] if suffix else x:
        gates = (frame @ weights("weight_ih").T + weights("bias_ih") + h @ weights("weight_hh").T + weights("bias_hh"))
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs[::-1] if suffix else outputs)


def torch_masks(state, names, sizes, magnitude):
    """Compute the masks of all sources; `names` maps the parts of the network to those of the state dict."""
    def linear_and_normalization(x, k, names):
        y = x @ state[f"{names[f'fc{k}']}.weight"].T
        weight, bias, mean, var = (state[f"{names[f'bn{k}']}.{name}"]
                                   for name in ("weight", "bias", "running_mean", "running_var"))
        return (y - mean) / np.sqrt(var + 1e-5) * weight + bias

    x = magnitude[..., :sizes.max_bin].astype(np.float64)
    encoded = [np.tanh(linear_and_normalization(
        ((x + state[n["input_mean"]]) * state[n["input_scale"]]).reshape(*x.shape[:2], -1), 1, n)) for n in names]
    squeezed = sum(encoded) / len(names)
    states = sum(torch_lstm(squeezed, lambda name, n=n: state[f"{n['lstm']}.{name}"], sizes) for n in names)
    joined = np.concatenate([squeezed, states / len(names)], axis=-1)
    decoded = [linear_and_normalization(np.maximum(linear_and_normalization(joined, 2, n), 0), 3, n)
               .reshape(*magnitude.shape[:3], -1) for n in names]
    return np.concatenate([np.maximum(y * state[n["output_scale"]] + state[n["output_mean"]], 0)
                           for y, n in zip(decoded, names, strict=True)], axis=2)


PARTS = ("fc1", "bn1", "lstm", "fc2", "bn2", "fc3", "bn3", "input_mean", "input_scale", "output_scale", "output_mean")


def names_of(sources):
    """The names of the two projects, spelled out: open-unmix-pytorch 1.3, asteroid 0.7."""
    if sources == UMX:
        return [{part: part for part in PARTS}]
    return [dict(zip(PARTS, (f"layer_enc.{s}.enc.0", f"layer_enc.{s}.enc.1", f"layer_lstm.{s}", f"layer_dec.{s}.dec.0",
                             f"layer_dec.{s}.dec.1", f"layer_dec.{s}.dec.3", f"layer_dec.{s}.dec.4",
                             f"mean_scale.input_mean_{s}", f"mean_scale.input_scale_{s}",
                             f"mean_scale.output_scale_{s}", f"mean_scale.output_mean_{s}"), strict=True))
            for s in sources]


# Names and layouts --------------------------------------------------------------------------------------------------


@each_size
def test_an_lstm_computes_what_that_of_pytorch_does(sizes):
    state = state_dict(sizes)
    for name, value in from_torch(state, sizes).items():
        if name.startswith("lstm/lstm/"):
            nn.parameter.set_parameter(name.removeprefix("lstm/"), nn.Variable.from_numpy_array(value))
    x = np.random.default_rng(3).standard_normal((7, 2, sizes.hidden_size)).astype(np.float32)
    y = lstm(nn.Variable.from_numpy_array(x), sizes.lstm_size, sizes.nb_layers, not sizes.unidirectional)
    y.forward()
    np.testing.assert_allclose(y.d, torch_lstm(x, lambda name: state[f"lstm.{name}"], sizes), atol=1e-6)


@each_network
@each_size
def test_a_network_computes_what_that_of_pytorch_does(sizes, sources):
    state, magnitude = state_dict(sizes, sources), magnitudes(sizes)
    expected = torch_masks(state, names_of(sources), sizes, magnitude)
    assert 0.2 < np.mean(expected > 0) < 0.9    # the rectifiers have something to do
    np.testing.assert_allclose(masks_of(from_torch(state, sizes, sources), sizes, sources), expected, atol=2e-5)


def masks_of(parameters, sizes, sources):
    with nn.parameter_scope("ours", OrderedDict()):
        for name, value in parameters.items():
            nn.parameter.set_parameter(name, nn.Variable.from_numpy_array(value))
        masks = network_of(sizes, sources).masks(nn.Variable.from_numpy_array(magnitudes(sizes)))
        assert len(nn.get_parameters(grad_only=False)) == len(parameters)    # the network has made none
    masks.forward()
    return masks.d.copy()


@each_network
@each_size
def test_names_and_shapes_are_those_of_the_network(sizes, sources):
    magnitude = nn.Variable((1, 1, sizes.nb_channels, sizes.max_bin))
    shapes = parameter_shapes(lambda: network_of(sizes, sources).masks(magnitude))
    ours = from_torch(state_dict(sizes, sources), sizes, sources)
    assert {name: value.shape for name, value in ours.items()} == shapes


@each_network
@each_size
def test_there_and_back_gives_the_same_bits(sizes, sources):
    state = state_dict(sizes, sources)
    ours = from_torch(state, sizes, sources)
    back = to_torch(ours, sizes, sources)
    assert {name: x.shape for name, x in back.items() if "batches" not in name} == torch_shapes(sizes, sources)
    for name, value in back.items():
        if "bias_hh" in name:
            assert not value.any()
        elif "bias_ih" in name:
            np.testing.assert_array_equal(value, state[name] + state[name.replace("_ih_", "_hh_")])
        elif "batches" in name:
            assert (value.dtype, value.shape) == (np.int64, ())
        else:
            np.testing.assert_array_equal(value, state[name])
    again = from_torch(back, sizes, sources)
    assert list(again) == list(ours)
    for name in ours:
        np.testing.assert_array_equal(again[name], ours[name])


def test_the_published_sizes_have_the_published_number_of_values():
    counted = [shape for name, shape in torch_shapes(Sizes(), SOURCES).items()
               if "running" not in name and "bias_hh" not in name]
    assert sum(np.prod(shape, dtype=int) for shape in counted) == 35548816


@each_network
@each_size
def test_sizes_and_sources_follow_from_names_and_shapes(sizes, sources):
    state = state_dict(sizes, sources)
    assert sources_of(state, sources) == sources
    assert sizes_of(state, sources[0]) == sizes


def test_sources_come_in_the_order_listed_and_others_at_the_end():
    state = state_dict(SIZES["stereo"], ("vocals", "flute", "bass", "harp"))
    assert sources_of(state) == ("bass", "vocals", "flute", "harp")
    assert sources_of(state, ["harp", "bass", "flute", "vocals"]) == ("harp", "bass", "flute", "vocals")


@pytest.mark.parametrize("change", [{}, {"fc1.weight": np.ones(3)}, {"input_mean": np.ones(0)}, {"fc1.weight": None}])
def test_other_state_dicts_are_refused(change):
    state = {**state_dict(SIZES["stereo"]), **change} if change else {"layer.weight": np.ones((2, 2))}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(UserError, match="neither weights of UMX, .* nor of X-UMX"):
        sizes_of(state)


# What else a checkpoint says ----------------------------------------------------------------------------------------

NO_NUMBERS = (-1, 0, float("nan"), float("inf"), 10 ** 5000, "8", [8], {"a": 8}, np.ones(2), 1e-400j)


def refused(check, *arguments):
    with pytest.raises(UserError) as caught:
        check(*arguments)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("listed", [0, -1, float("nan"), "vocals", [], [1], [["vocals"]], {"vocals": 1}, np.ones(2),
                                    [None], True, 10 ** 5000], ids=lambda listed: type(listed).__name__)
def test_sources_that_are_no_list_of_names_are_refused(listed):
    assert "sources of model_args = " in refused(listed_sources, {"sources": listed})


def test_the_sources_listed_or_else_the_published_ones():
    assert listed_sources({"sources": ["b", "a"]}) == ("b", "a")
    assert listed_sources({}) == listed_sources({"sources": None}) == SOURCES


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["n_hop", "sample_rate", "spec_power", "window_length", "in_chan", "hidden_size",
                                  "nb_channels", "nb_layers", "max_bin", "bidirectional"])
def test_numbers_that_make_no_sense_are_refused(name, value):
    assert f"{name} of model_args = " in refused(not_kept, {name: value}, SIZES["stereo"])


@pytest.mark.parametrize("settings, found", [
    ({}, {}), ({"n_hop": None, "max_bin": None}, {}), ({"n_hop": 8, "sample_rate": 44100.0, "spec_power": 1}, {}),
    ({"n_hop": 4, "sample_rate": 16000, "spec_power": 2},
     {"n_hop": (4, 8), "sample_rate": (16000, 44100), "spec_power": (2, 1)}),
    ({"window_length": 32, "in_chan": 32, "hidden_size": 6, "nb_channels": 2, "nb_layers": 3, "max_bin": 11,
      "bidirectional": True}, {})])
def test_numbers_that_files_of_ours_do_not_hold_are_found(settings, found):
    assert not_kept(settings, SIZES["stereo"]) == found


@pytest.mark.parametrize("change, said", [
    ({"output_mean": np.ones(16)}, "n_fft = 30"), ({"output_mean": np.ones(1)}, "n_fft = 0 is not allowed"),
    ({"fc1.weight": np.ones((7, 22))}, "hidden_size = 7 must be even"),
    ({"fc1.weight": np.ones((0, 22))}, "hidden_size = 0 is not allowed"),
    ({"fc1.weight": np.ones((6, 33))}, "nb_channels = 3 is not allowed (an integer from 1 to 2)"),
    ({"input_mean": np.ones(18), "fc1.weight": np.ones((6, 36))}, "max_bin = 18")])
def test_weights_of_sizes_that_no_network_has_are_refused(change, said):
    state = {**state_dict(SIZES["stereo"]), **change}
    if said == "n_fft = 30":    # a network may have these, but its other weights are of another one
        assert sizes_of(state).n_fft == 30
    else:
        assert said in refused(sizes_of, state)


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(b"none")
    (tmp_path / "a.h5").write_bytes(b"none")
    return tmp_path


@pytest.mark.parametrize("arguments, message", [
    (["a.pth", "b.onnx"], r"b\.onnx: the extension of OUTPUT must be one of \.h5, \.pth, \.pt, \.th"),
    (["a.pth", "b.pt"], r"a\.pth to b\.pt: one of them must be \.h5"),
    (["a.h5", "b.h5"], r"a\.h5 to b\.h5: one of them must be \.h5"),
    (["none.pth", "b.h5"], r"none\.pth: no such file"),
    (["a.pth", "none/b.h5"], r"none/b\.h5: no such folder"),
    (["a.pth"], "required: OUTPUT"),
])
def test_wrong_arguments_are_one_line(folder, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        convert.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["a.pth", "b.h5"], ["a.h5", "b.pth"]])
def test_without_pytorch_one_line_says_how_to_get_it(folder, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="^torch is not installed: pip install torch$"):
        convert.main(arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["a.h5", "a.pth"]


# Files, where PyTorch is installed -----------------------------------------------------------------------------------


@pytest.fixture
def torch():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed; only convert.py uses it")
    import torch  # pyright: ignore[reportMissingImports] - optional
    return torch


def checkpoint(torch, state, sources, **args):
    """What the two projects save, with entries that are no weights."""
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    window = torch.hann_window(32)
    if sources == UMX:
        return {**tensors, "stft.window": window, "transform.0.window": window, "sample_rate": torch.tensor(44100.0)}
    return {"model_name": "XUMX", "model_args": {"sources": list(sources), "n_hop": 8, "spec_power": 1, **args},
            "state_dict": {**tensors, "encoder.0.window": window, "decoder.window": window},
            "infos": {"software_versions": {"torch_version": torch.__version__}}}


@each_network
@each_size
def test_files_go_there_and_back(torch, tmp_path, sizes, sources, capsys):
    state = state_dict(sizes, sources)
    first, second, third, fourth = (tmp_path / name for name in ("a.pth", "b.h5", "c.pt", "d.h5"))
    torch.save(checkpoint(torch, state, sources), first)
    for path, target in ((first, second), (second, third), (third, fourth)):
        convert.main([str(path), str(target)])
    assert second.read_bytes() == fourth.read_bytes()
    file, = find_weights(second)
    assert file.network == network_of(sizes, sources).__class__(
        sizes, 8, **({} if sources == UMX else {"sources": sources}))
    with h5py.File(second) as stored:
        not_learnt = [name for name in from_torch(state, sizes, sources) if not stored[name].attrs["need_grad"]]
    assert len(not_learnt) == 6 * len(sources)    # running means and variances
    assert all("/bn/" in name for name in not_learnt)
    kind = "UMX" if sources == UMX else f"X-UMX for {', '.join(sources)}"
    captured = capsys.readouterr()
    assert captured.out == f"{second}: {kind}\n{third}: {kind}\n{fourth}: {kind}\n"
    assert captured.err == ""


def test_layers_of_pytorch_compute_the_same(torch, tmp_path):
    sizes = SIZES["stereo"]
    layers = torch.nn.ModuleDict({
        "fc1": torch.nn.Linear(22, 6, bias=False), "bn1": torch.nn.BatchNorm1d(6),
        "lstm": torch.nn.LSTM(6, 3, 3, bidirectional=True),
        "fc2": torch.nn.Linear(12, 6, bias=False), "bn2": torch.nn.BatchNorm1d(6),
        "fc3": torch.nn.Linear(6, 34, bias=False), "bn3": torch.nn.BatchNorm1d(34)}).eval()
    vectors = {name: torch.rand(17 if name.startswith("output") else 11) for name in PARTS[-4:]}
    with torch.no_grad():
        for layer in (layers["bn1"], layers["bn2"], layers["bn3"]):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                value.uniform_(0.5, 1.5)
        magnitude = torch.from_numpy(magnitudes(sizes))
        x = ((magnitude[..., :11] + vectors["input_mean"]) * vectors["input_scale"]).reshape(10, 22)
        h = torch.tanh(layers["bn1"](layers["fc1"](x))).reshape(5, 2, 6)
        h = torch.cat([h, layers["lstm"](h)[0]], -1).reshape(10, 12)
        y = layers["bn3"](layers["fc3"](torch.relu(layers["bn2"](layers["fc2"](h))))).reshape(5, 2, 2, 17)
        expected = torch.relu(y * vectors["output_scale"] + vectors["output_mean"]).numpy()
    torch.save({**layers.state_dict(), **vectors}, tmp_path / "a.pth")
    convert.main([str(tmp_path / "a.pth"), str(tmp_path / "a.h5")])
    with h5py.File(tmp_path / "a.h5") as file:
        parameters = {name: file[name][()] for name in from_torch(state_dict(sizes), sizes)}
    np.testing.assert_allclose(masks_of(parameters, sizes, UMX), expected, atol=1e-5)
    convert.main([str(tmp_path / "a.h5"), str(tmp_path / "b.pth")])
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    layers.load_state_dict({name: value for name, value in state.items() if name not in vectors})    # all are there


def refusal(tmp_path):
    """The one line that refuses a checkpoint, of which nothing is written."""
    with pytest.raises(UserError) as caught:
        convert.main([str(tmp_path / "a.pth"), str(tmp_path / "a.h5")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.pth'}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("change, message", [
    ({"bn2.weight": None}, "1 missing (bn2.weight)"),
    ({"fc3.bias": np.zeros(34)}, "1 unexpected (fc3.bias)"),
    ({"fc2.weight": np.zeros((6, 11))}, "1 of another shape (fc2.weight of shape (6, 11), here (6, 12))"),
    ({"lstm.weight_ih_l2": None}, "7 unexpected (lstm.weight_hh_l2, "),    # taken for two layers
    ({"fc1.weight": None}, "neither weights of UMX"),
    ({"fc1.weight": np.full((6, 22), np.nan)}, "fc1.weight holds values that are not finite"),
])
def test_what_does_not_fit_is_named(torch, tmp_path, change, message):
    state = {**state_dict(SIZES["stereo"]), **change}
    torch.save({name: torch.from_numpy(value) for name, value in state.items() if value is not None},
               tmp_path / "a.pth")
    assert message in refusal(tmp_path)


def test_a_source_that_lacks_weights_is_named(torch, tmp_path):
    state = state_dict(SIZES["stereo"], SOURCES)
    del state["layer_dec.vocals.dec.4.bias"]
    torch.save(checkpoint(torch, state, SOURCES), tmp_path / "a.pth")
    assert "1 missing (layer_dec.vocals.dec.4.bias)" in refusal(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"fc1.weight": print}, {}])
def test_other_contents_are_refused(torch, tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_files_are_refused(torch, tmp_path, content):
    torch.save(checkpoint(torch, state_dict(SIZES["stereo"]), UMX), tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:-500] if content is None else content)
    assert "a damaged one" in refusal(tmp_path)


@pytest.mark.parametrize("args, message", [
    (3, "its model_args are no dict, but of type int"), ({"sources": 3}, "sources of model_args = 3: a list of names"),
    ({"n_hop": float("nan")}, "n_hop of model_args = nan: a number from 1 to 10 is wanted"),
    ({"hidden_size": -1}, "hidden_size of model_args = -1, but 6 by its weights")])
def test_settings_that_make_no_sense_are_refused(torch, tmp_path, args, message):
    content = checkpoint(torch, state_dict(SIZES["stereo"], SOURCES), SOURCES)
    content["model_args"] = {**content["model_args"], **args} if isinstance(args, dict) else args
    torch.save(content, tmp_path / "a.pth")
    assert message in refusal(tmp_path)


def test_a_tensor_that_promises_more_than_the_file_holds_is_refused(torch, tmp_path):
    state = {name: torch.from_numpy(value) for name, value in state_dict(SIZES["stereo"]).items()}
    torch.save({**state, "fc3.bias": torch.ones(1).half().expand(10 ** 6, 10 ** 6)}, tmp_path / "a.pth")
    assert "fc3.bias promises 1000000000000 numbers" in refusal(tmp_path)


def test_nothing_in_a_checkpoint_is_executed(torch, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "caught").mkdir, ()

    torch.save({"state_dict": Trap()}, tmp_path / "a.pth")
    refusal(tmp_path)    # which finds nothing beside the checkpoint


def test_settings_that_the_file_does_not_hold_are_named(torch, tmp_path, capsys):
    sizes = SIZES["stereo"]
    torch.save(checkpoint(torch, state_dict(sizes, SOURCES), SOURCES, n_hop=4, sample_rate=44100), tmp_path / "a.pth")
    convert.main([str(tmp_path / "a.pth"), str(tmp_path / "a.h5")])
    assert capsys.readouterr().err == (
        f"warning: {tmp_path / 'a.pth'}: n_hop = 4, which .h5 files do not hold: it will be taken for 8\n")


def test_a_checkpoint_for_asteroid_says_what_the_network_is(torch, tmp_path):
    sizes = SIZES["unidirectional"]
    magnitude = nn.Variable((1, 1, sizes.nb_channels, sizes.max_bin))
    CrossNetOpenUnmix(sizes, sources=("speech", "music")).masks(magnitude)
    save_parameters(tmp_path / "best_xumx.h5")
    write_json(tmp_path / "config.json", {"nhop": 4, "sample_rate": 16000})
    convert.main([str(tmp_path / "best_xumx.h5"), str(tmp_path / "a.th")])
    content = torch.load(tmp_path / "a.th", weights_only=True)
    assert content["model_name"] == "XUMX"
    assert content["model_args"] == {
        "sources": ["speech", "music"], "window_length": 32, "in_chan": 32, "n_hop": 4, "hidden_size": 6,
        "nb_channels": 2, "sample_rate": 16000, "nb_layers": 2, "input_mean": None, "input_scale": None, "max_bin": 11,
        "bidirectional": False, "spec_power": 1, "return_time_signals": False}
    for name in ("encoder.0.window", "decoder.window"):
        assert torch.equal(content["state_dict"][name], torch.hann_window(32))


def test_a_network_without_crossing_is_refused(torch, tmp_path):
    sizes = SIZES["stereo"]
    CrossNetOpenUnmix(sizes, crossing=False).masks(nn.Variable((1, 1, sizes.nb_channels, sizes.max_bin)))
    save_parameters(tmp_path / "best_xumx.h5")
    write_json(tmp_path / "config.json", {"crossing": False})
    with pytest.raises(UserError, match="best_xumx.h5: trained without crossing"):
        convert.main([str(tmp_path / "best_xumx.h5"), str(tmp_path / "a.pth")])
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize("content, message", [(b"none", "cannot be read"), (None, "weights of another network")])
def test_files_of_ours_that_do_not_fit_are_refused(torch, tmp_path, content, message):
    for name, value in from_torch(state_dict(SIZES["stereo"]), SIZES["stereo"]).items():
        if name != "fc2/bn/gamma":
            nn.parameter.set_parameter(name, nn.Variable.from_numpy_array(value))
    save_parameters(tmp_path / "a.h5")
    if content:
        (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert.main([str(tmp_path / "a.h5"), str(tmp_path / "a.pth")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_older_versions_of_pytorch_are_refused(torch, folder, monkeypatch):
    monkeypatch.delattr(torch.serialization, "safe_globals")
    with pytest.raises(UsageError, match="is older than 2.5: pip install --upgrade torch"):
        convert.main(["a.pth", "b.h5"])
