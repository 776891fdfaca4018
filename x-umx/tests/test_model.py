"""The networks: the published parameters, and what they compute, spelled out once more in NumPy."""
import contextlib
import json
import zlib
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.machine.context import native_functions
from common.machine.errors import UserError
from common.machine.seeding import seed_everything
from common.separation import istft, stft
from x_umx.loss import mse_combination_loss, sdr_combination_loss
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes, initialize_statistics, max_bin, sizes_from_shapes

DATA = Path(__file__).parent / "data"
MANIFESTS = {
    "manifest_umx.json": OpenUnmix(),
    "manifest_xumx.json": CrossNetOpenUnmix(),
    "manifest_umx_small.json": OpenUnmix(Sizes(n_fft=256, hidden_size=16, max_bin=94), 64),
    "manifest_umx_mono_small.json": OpenUnmix(Sizes(n_fft=256, hidden_size=16, max_bin=94, nb_channels=1), 64),
    "manifest_xumx_small.json": CrossNetOpenUnmix(Sizes(n_fft=256, hidden_size=16, max_bin=94), 64),
}
HOP = 8


def small(sources=None, dropout=0.0, crossing=True, **changes):
    """A network with frames of 32 samples, of which 11 bins enter; UMX if no sources are given."""
    sizes = Sizes(**{"n_fft": 32, "hidden_size": 6, "max_bin": 11, **changes})
    return CrossNetOpenUnmix(sizes, HOP, dropout, sources, crossing) if sources else OpenUnmix(sizes, HOP, dropout)


NETWORKS = {
    "UMX": small(),
    "UMX, mono": small(nb_channels=1),
    "UMX, one layer": small(nb_layers=1),
    "UMX, unidirectional": small(unidirectional=True, nb_layers=2),
    "X-UMX": small(SOURCES),
    "X-UMX of one source": small(("vocals",)),
    "X-UMX of two sources, mono": small(("vocals", "rest"), nb_channels=1),
    "X-UMX of three sources": small(("a", "b", "c"), unidirectional=True),
    "X-UMX without crossing": small(SOURCES, crossing=False),
}
NAMES = pytest.mark.parametrize("name", NETWORKS)


def normal(name, *shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def audio(network, samples=72, batch=2):
    return normal("audio", batch, network.sizes.nb_channels, samples)


def set_parameters():
    """Values that follow from the names and are as large as those of trained networks."""
    for name, parameter in nn.get_parameters(grad_only=False).items():
        value = normal(name, *parameter.shape)
        leaf = name.rsplit("/", 1)[-1]
        if leaf == "var":
            value = np.abs(value) + 0.5
        elif leaf == "W":
            value /= np.sqrt(len(value))
        elif leaf in ("weight_l0", "weight", "bias", "beta", "mean"):
            value *= 0.5
        parameter.d = 1 + 0.3 * value if leaf == "gamma" or "scale" in leaf else value


def run(network, x, **kwargs):
    """Return the network's outputs for the array `x`, with parameters that follow from their names."""
    outputs = network(nn.Variable.from_numpy_array(x), **kwargs)
    set_parameters()
    nn.forward_all(outputs)
    return [y.d.copy() for y in outputs]


def parameters_of(suffix):
    """Parameters of one source, float64, under their names in UMX."""
    heads = {name: name.partition("/") for name in nn.get_parameters(grad_only=False)}
    return {head.removesuffix(suffix) + "".join(rest): nn.get_parameters(grad_only=False)[name].d.astype(np.float64)
            for name, (head, *rest) in heads.items() if head.endswith(suffix)}


def normalized(x, p, layer, train):
    mean, var = (x.mean((0, 1)), x.var((0, 1))) if train else (p[f"{layer}/bn/mean"], p[f"{layer}/bn/var"])
    return (x - mean) / np.sqrt(var + 1e-5) * p[f"{layer}/bn/gamma"] + p[f"{layer}/bn/beta"]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def one_way(x, w, b):
    """An LSTM in one direction; x (frames, batch, features), w (4, hidden, features + hidden), b (4, hidden)."""
    h = c = np.zeros((x.shape[1], b.shape[1]))
    outputs = []
    for frame in x:
        i, f, g, o = np.einsum("ghk,bk->gbh", w, np.concatenate([frame, h], axis=1)) + b[:, None]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def lstm(x, p):
    for w, b in zip([p["lstm/lstm/weight_l0"], *p.get("lstm/lstm/weight", ())], p["lstm/lstm/bias"], strict=True):
        ways = zip((1, -1), w, b, strict=len(w) == 2)
        x = np.concatenate([one_way(x[::step], *direction)[::step] for step, *direction in ways], axis=2)
    return x


def encode(x, p, train):
    h = (x[..., :len(p["input_mean"])] + p["input_mean"]) * p["input_scale"]
    return np.tanh(normalized(h.reshape(*x.shape[:2], -1) @ p["fc1/affine/W"], p, "fc1", train))


def decode(h, x, p, train):
    h = np.maximum(normalized(h @ p["fc2/affine/W"], p, "fc2", train), 0)
    h = normalized(h @ p["fc3/affine/W"], p, "fc3", train).reshape(x.shape)
    return np.maximum(h * p["output_scale"] + p["output_mean"], 0)


def masks_of(network, x, train):
    """The masks as arXiv 2010.04228 draws them: one mean across the sources behind fc1, one behind the skip."""
    crossing = getattr(network, "crossing", False)
    sources = [parameters_of(f"_{source}" if source else "") for source in getattr(network, "sources", [None])]

    def bridge(hs):
        return [np.mean(hs, axis=0)] * len(hs) if crossing else hs

    squeezed = bridge([encode(x, p, train) for p in sources])
    joined = bridge([np.concatenate([h, lstm(h, p)], axis=2) for h, p in zip(squeezed, sources, strict=True)])
    return np.concatenate([decode(h, x, p, train) for h, p in zip(joined, sources, strict=True)], axis=2)


def assert_close(ours, expected, tolerance=1e-4):
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def shapes(parameters):
    return {name: p.shape for name, p in parameters.items()}


def test_every_manifest_is_in_the_table():
    assert {path.name for path in DATA.glob("manifest_*.json")} == MANIFESTS.keys()


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_parameters_are_the_published_ones(manifest, engine):
    network = MANIFESTS[manifest]
    network(nn.Variable((1, network.sizes.nb_channels, 2 * network.sizes.n_fft)))
    made = {name: {"shape": list(p.shape), "need_grad": p.need_grad}
            for name, p in nn.get_parameters(grad_only=False).items()}
    assert made == json.loads((DATA / manifest).read_text())


@pytest.mark.parametrize("manifest, count", [("manifest_umx.json", 8887204), ("manifest_xumx.json", 35548816)])
def test_number_of_learnable_values(manifest, count):
    content = json.loads((DATA / manifest).read_text())
    assert sum(np.prod(value["shape"]) for value in content.values() if value["need_grad"]) == count


@NAMES
def test_sizes_follow_from_the_shapes(name):
    network = NETWORKS[name]
    network(nn.Variable(audio(network).shape))
    made = shapes(nn.get_parameters())
    for source in getattr(network, "sources", [None]):
        assert sizes_from_shapes(made, source) == network.sizes


def test_published_sizes_are_the_defaults():
    manifest = json.loads((DATA / "manifest_umx.json").read_text())
    assert sizes_from_shapes({name: tuple(value["shape"]) for name, value in manifest.items()}) == Sizes()
    assert (OpenUnmix().hop_length, OpenUnmix().dropout) == (1024, 0.4)
    assert CrossNetOpenUnmix().sources == ("bass", "drums", "vocals", "other")


@pytest.mark.parametrize("source, what", [(None, "UMX"), ("piano", "the source piano")])
def test_shapes_of_another_network(source, what):
    small(("bass", "drums"))(nn.Variable((1, 2, 100)))
    for other in ({}, shapes(nn.get_parameters())):
        with pytest.raises(UserError, match=f"weights of another network: .* of {what} in it"):
            sizes_from_shapes(other, source)


@pytest.mark.parametrize("case", json.loads((DATA / "bandwidth.json").read_text()), ids=str)
def test_number_of_bins_up_to_a_bandwidth(case):
    assert max_bin(case["sample_rate"], case["n_fft"], case["bandwidth"]) == case["max_bin"]


@NAMES
def test_the_skip_doubles_the_features(name):
    network = NETWORKS[name]
    network(nn.Variable(audio(network).shape))
    rows = {p.shape[0] for key, p in nn.get_parameters().items() if key.startswith("fc2") and key.endswith("/W")}
    assert rows == {2 * network.sizes.hidden_size}


@NAMES
@pytest.mark.parametrize("train", [False, True])
def test_network_computes_what_the_papers_say(name, train, engine):
    network = NETWORKS[name]
    x = audio(network)
    magnitude, masks, *estimates = run(network, x, train=train)
    spectrogram = stft(x, 32, HOP)    # (batch, channels, bins, frames)
    assert_close(magnitude, np.abs(spectrogram).transpose(3, 0, 1, 2))
    assert_close(masks, masks_of(network, magnitude, train))
    assert 0.1 < (masks > 0).mean() < 0.95 and (masks >= 0).all()    # the comparison sees both sides of the last ReLU
    for index, estimate in enumerate(estimates[0] if estimates else ()):
        channels = network.sizes.nb_channels
        mask = masks[:, :, index * channels:(index + 1) * channels].transpose(1, 2, 3, 0)
        assert_close(estimate, istft(mask * spectrogram, HOP))


def test_frames_need_not_be_centred(engine):
    network, x = small(), audio(small())
    magnitude, masks = run(network, x, center=False)
    assert_close(magnitude, np.abs(stft(x, 32, HOP, center=False)).transpose(3, 0, 1, 2))
    assert_close(masks, masks_of(network, magnitude, False))


def test_training_changes_the_running_statistics_alone(engine):
    network, x = small(SOURCES), audio(small())
    run(network, x)
    before = {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}
    run(network, x, train=True)
    changed = {name for name, p in nn.get_parameters(grad_only=False).items() if (p.d != before[name]).any()}
    assert changed == before.keys() - nn.get_parameters().keys()


def test_a_network_of_one_channel_averages_magnitudes(engine):
    network, x = small(nb_channels=1), audio(small())
    magnitude, masks = run(network, x)
    assert_close(magnitude, np.abs(stft(x, 32, HOP)).mean(1, keepdims=True).transpose(3, 0, 1, 2))
    assert_close(masks, masks_of(network, magnitude, False))


def test_the_mask_of_one_channel_is_that_of_all(engine):
    network, x = small(SOURCES, nb_channels=1), audio(small())
    magnitude, masks, estimates = run(network, x)
    spectra = stft(x, 32, HOP)    # (batch, 2, bins, frames)
    assert_close(magnitude, np.abs(spectra).mean(1, keepdims=True).transpose(3, 0, 1, 2))
    assert_close(masks, masks_of(network, magnitude, False))
    assert_close(estimates, istft(masks.transpose(2, 1, 3, 0)[:, :, None] * spectra, HOP))


@pytest.mark.parametrize("network, channels", [(small(), 1), (small(), 3), (small(SOURCES), 1)])
def test_audio_of_other_channels(network, channels):
    with pytest.raises(ValueError, match=f"a network of {network.sizes.nb_channels} channels, audio of {channels}"):
        network(nn.Variable((1, channels, 100)))


def test_more_bins_enter_than_there_are():
    with pytest.raises(ValueError):
        small().masks(nn.Variable((5, 1, 2, 10)))


def test_order_of_the_sources_is_that_of_the_masks(engine):
    x = audio(small())
    _, masks, estimates = run(small(SOURCES), x)
    order = [2, 0, 3, 1]
    _, other_masks, other_estimates = run(small([SOURCES[k] for k in order]), x)
    by_source = masks.reshape(*masks.shape[:2], 4, 2, -1)
    assert_close(other_masks.reshape(by_source.shape), by_source[:, :, order])
    assert_close(other_estimates, estimates[order])


def test_masks_need_no_more_bins_than_enter(engine):
    network = small(SOURCES)
    magnitude, masks, _ = run(network, audio(network))
    y = network.masks(nn.Variable.from_numpy_array(magnitude[..., :11]))
    y.forward()
    assert_close(y.d, masks, 1e-6)


@pytest.mark.parametrize("changed, reach", [
    ("fc1_drums/affine/W", SOURCES), ("lstm_drums/lstm/weight", SOURCES), ("input_scale_drums", SOURCES),
    ("fc2_drums/affine/W", ["drums"]), ("fc3_drums/bn/gamma", ["drums"]), ("output_mean_drums", ["drums"]),
])
def test_crossing_lets_sources_see_each_other(changed, reach):
    """The two bridges lie behind fc1 and behind the LSTMs."""
    network, x = small(SOURCES), audio(small())
    y = network(nn.Variable.from_numpy_array(x))[1]
    set_parameters()
    results = []
    for factor in (1, 1.5):
        nn.get_parameters()[changed].d = nn.get_parameters()[changed].d * factor
        y.forward()
        results.append(y.d.reshape(*y.shape[:2], 4, 2, -1).copy())
    differs = (results[0] != results[1]).any((0, 1, 3, 4))
    assert [source for source, different in zip(SOURCES, differs, strict=True) if different] == list(reach)


def test_items_of_a_batch_do_not_see_each_other(engine):
    network, x = small(SOURCES), audio(small(), batch=3)
    together = run(network, x)
    alone = [run(network, x[k:k + 1]) for k in range(3)]
    for whole, *items in zip(together, *alone, strict=True):
        assert_close(whole, np.concatenate(items, axis=1), 1e-5)


def test_silence_stays_silent(engine):
    magnitude, masks, estimates = run(small(SOURCES), np.zeros((1, 2, 100), np.float32), train=True)
    assert (magnitude == 0).all() and np.isfinite(masks).all() and (estimates == 0).all()


def test_dropout_acts_in_training_alone():
    network, x = small(SOURCES, dropout=0.5), nn.Variable.from_numpy_array(audio(small()))
    graphs = {train: network(x, train=train)[1] for train in (False, True)}
    set_parameters()

    def steps(train):
        seed_everything(1)
        results = []
        for _ in range(2):
            graphs[train].forward()
            results.append(graphs[train].d.copy())
        return results

    first, again = steps(True), steps(True)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(*steps(False))


@pytest.mark.parametrize("sources", [(None,), SOURCES])
def test_statistics_standardize_the_input(sources):
    sizes = small().sizes
    mean, std = np.abs(normal("mean", sizes.bins)), np.abs(normal("std", sizes.bins)) + 0.1
    initialize_statistics(sizes, mean, std, sources)
    small(sources if sources[0] else None)(nn.Variable((1, 2, 100)))    # finds them
    for source in sources:
        suffix = f"_{source}" if source else ""
        parameters = nn.get_parameters()
        np.testing.assert_allclose(parameters[f"input_mean{suffix}"].d, -mean[:11], rtol=1e-6)
        np.testing.assert_allclose(parameters[f"input_scale{suffix}"].d, 1 / std[:11], rtol=1e-6)


def test_first_values_without_statistics(engine):
    small(SOURCES)(nn.Variable((1, 2, 100)))
    for name, p in nn.get_parameters().items():
        if name.startswith(("input_mean", "input_scale", "output_mean", "output_scale")):
            assert (p.d == (0 if name.startswith("input_mean") else 1)).all(), name


def loss_of(network, x, target):
    """The loss of X-UMX, or of UMX."""
    outputs = network(nn.Variable.from_numpy_array(x), train=True)
    magnitudes = nn.Variable.from_numpy_array(np.abs(stft(target, 32, HOP)).transpose(3, 0, 1, 2))
    loss = mse_combination_loss(*outputs[:2], magnitudes)
    if len(outputs) == 3:
        args = (nn.Variable.from_numpy_array(array) for array in (x, target))
        loss = loss + 10 * sdr_combination_loss(next(args), outputs[2], next(args))
    return loss


@pytest.mark.parametrize("name", ["UMX", "X-UMX"])
def test_gradients_of_all_parameters_agree_with_nnabla(name):
    network = NETWORKS[name]
    sources = len(getattr(network, "sources", [None]))
    target = normal("target", 1, 2 * sources, 448)
    x = target.reshape(1, sources, 2, -1).sum(1)
    losses, gradients = [], []
    for native in (False, True):
        nn.clear_parameters()
        with native_functions() if native else contextlib.nullcontext():
            loss = loss_of(network, x, target)
        set_parameters()
        for parameter in nn.get_parameters().values():
            parameter.grad.zero()
        loss.forward(clear_no_need_grad=True)
        losses.append(float(loss.d))
        loss.backward(clear_buffer=True)
        gradients.append({key: p.g.copy() for key, p in nn.get_parameters().items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for key, expected in gradients[1].items():
        if key.startswith("input_mean"):    # the normalization takes out what it adds
            assert max(np.abs(gradients[0][key]).max(), np.abs(expected).max()) < 1e-6, key
        else:
            assert np.abs(expected).max() > 1e-6, key
            assert_close(gradients[0][key], expected, 1e-3)    # the SDR divides by small numbers


@pytest.mark.parametrize("name", ["UMX", "X-UMX of three sources"])
def test_a_dynamic_graph_has_the_gradients_of_a_static_one(name, engine):
    network = NETWORKS[name]
    sources = len(getattr(network, "sources", [None]))
    target = normal("target", 1, 2 * sources, 448)
    x = target.reshape(1, sources, 2, -1).sum(1)
    gradients = []
    for dynamic in (False, True):
        nn.clear_parameters()
        network.masks(nn.Variable((1, 1, network.sizes.nb_channels, network.sizes.max_bin)))
        set_parameters()
        for parameter in nn.get_parameters().values():
            parameter.g = 0
        with nn.auto_forward(dynamic):
            loss = loss_of(network, x, target)
        if not dynamic:
            loss.forward()
        loss.backward()
        gradients.append({key: p.g.copy() for key, p in nn.get_parameters().items()})
    for key, expected in gradients[0].items():
        np.testing.assert_array_equal(gradients[1][key], expected, err_msg=key)


def test_two_graphs_share_their_parameters():
    network = small(SOURCES)
    network(nn.Variable((2, 2, 100)), train=True)
    count = len(nn.get_parameters(grad_only=False))
    network(nn.Variable((1, 2, 300)))
    F.sum(network.masks(nn.Variable((5, 1, 2, 17))))
    assert len(nn.get_parameters(grad_only=False)) == count == 4 * 22


def test_a_name_in_place_of_a_list_of_sources_is_refused():
    """Its letters would be the sources."""
    with pytest.raises(ValueError, match=r"sources 'vocals': a list of names is wanted, as \['vocals'\]"):
        CrossNetOpenUnmix(sources="vocals")


@pytest.mark.parametrize("sources", [(), ("a", "a"), ("",), (1,), ("a/b",), ("..",), ("a b",), ("a\n",)])
def test_sources_that_cannot_be_names_are_refused(sources):
    with pytest.raises(ValueError, match="different names without blanks and slashes are wanted"):
        CrossNetOpenUnmix(sources=sources)


@pytest.mark.parametrize("values, says", [
    ({"n_fft": 15}, "n_fft = 15"), ({"n_fft": 33}, "n_fft = 33 must be even"), ({"n_fft": 0}, "n_fft = 0"),
    ({"n_fft": 1 << 21}, "n_fft = 2097152"), ({"hidden_size": 0}, "hidden_size = 0"),
    ({"hidden_size": 7}, "hidden_size = 7 must be even"), ({"hidden_size": 1 << 20}, "hidden_size = 1048576"),
    ({"nb_channels": 0}, "nb_channels = 0"), ({"nb_channels": 3}, "nb_channels = 3"),
    ({"nb_layers": 0}, "nb_layers = 0"), ({"nb_layers": 10 ** 6}, "nb_layers = 1000000"),
    ({"max_bin": 0}, "max_bin = 0"), ({"max_bin": 2050}, "has 2049 bins"), ({"unidirectional": 2}, "unidirectional"),
    *(({name: value}, f"{name} = ") for name in ("n_fft", "nb_channels", "hidden_size", "nb_layers", "max_bin")
      for value in (-2, 2.5, float("nan"), float("inf"), None, True, "x", [2]))])
def test_sizes_that_no_network_has_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Sizes(**values)


def test_one_direction_may_have_an_odd_size():
    assert Sizes(hidden_size=7, unidirectional=True).lstm_size == 7


@pytest.mark.parametrize("values", [{"hop_length": 0}, {"hop_length": 1.5}, {"dropout": 1}, {"dropout": float("nan")},
                                    {"sizes": None}])
def test_other_values_that_make_no_sense_are_refused(values):
    with pytest.raises((ValueError, TypeError), match=next(iter(values))):
        OpenUnmix(**values)
