"""Threads that share a separator or make several, and forks: each gets the bits that it would get alone."""
import functools

import nnabla as nn
import numpy as np
import pytest

from common.inference.engines import compile_network
from common.machine.processes import for_each
from common.runs.checkpoint import save_parameters
from common.workbench.testing import (
    assert_forks_are_refused,
    assert_same_bits,
    assert_threads_make,
    assert_threads_share,
)
from x_umx import separator as module
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes
from x_umx.separator import Separator

RATE = 44100
SIZES = Sizes(n_fft=256, hidden_size=16, max_bin=94)
LENGTHS = (900, 3528, 10584, 14112)    # samples: less than a chunk of 3528, one, several
NETWORKS = {"xumx": CrossNetOpenUnmix(SIZES), "umx": OpenUnmix(SIZES)}
engines = pytest.mark.parametrize("engine", ["nnabla", "onnxruntime", "openvino"])
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files 0.h5 to 3.h5 of X-UMX with different weights, and a folder umx of UMX."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(4):
        _save(folder / f"{seed}.h5", NETWORKS["xumx"], seed)
    for seed, source in enumerate(SOURCES):
        _save(folder / "umx" / f"{source}.h5", NETWORKS["umx"], seed)
    return folder


def _save(path, network, seed):
    path.parent.mkdir(exist_ok=True)
    nn.clear_parameters()
    nn.random.seed(seed)
    network.masks(nn.Variable((2, 1, 2, SIZES.bins)))
    rng = np.random.default_rng(seed)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        if "fc3" in name and name.endswith(("beta", "gamma")):    # masks far from one another
            parameter.d = rng.uniform(0, 1, parameter.shape)
    save_parameters(path)
    nn.clear_parameters()


@functools.cache
def music(samples):
    return (0.1 * np.random.default_rng(samples).standard_normal((samples, 2))).astype(np.float32)


def stems_of(separator, samples):
    return separator.separate(music(samples), RATE)


def separator(models, model="0.h5", engine="auto", chunk_seconds=0.08):
    if engine == "openvino":
        pytest.importorskip("openvino")
    return Separator(models / model, chunk_seconds=chunk_seconds, engine=engine)


@pytest.mark.parametrize("engine, model, chunk", [
    ("nnabla", "0.h5", 0.08), ("nnabla", "umx", None), ("onnxruntime", "umx", None), ("openvino", "0.h5", 0.08)])
def test_threads_share_a_separator(models, engine, model, chunk):
    assert_threads_share(lambda: separator(models, model, engine, chunk), stems_of, LENGTHS)


@engines
def test_threads_make_their_own(models, engine):
    assert_threads_make([lambda k=k: stems_of(separator(models, f"{k}.h5", engine), LENGTHS[k]) for k in range(4)])


def test_what_was_separated_before_does_not_matter(models, monkeypatch):
    shapes = []
    monkeypatch.setattr(module, "compile_network", lambda build, given, *options: (
        shapes.append(given[0][:2]), compile_network(build, given, *options))[1])
    for _ in range(2):
        stems_of(used := separator(models, engine="nnabla"), 3528)    # a chunk alone is computed as one of a batch
    stems_of(used, 14112)
    stems_of(used, 900)
    assert shapes == [(56, 2), (56, 2), (15, 1)]


@engines
def test_a_fork_does_not_hang(models, engine):
    shared = separator(models, engine=engine)
    stems_of(shared, 7000)
    assert_forks_are_refused([lambda: stems_of(shared, 7000),
                              lambda: stems_of(separator(models, engine=engine), 7000)], engine)


def test_our_own_processes_can_compute(models, tmp_path):
    stems_of(separator(models, engine="onnxruntime"), 7000)
    for_each(_separate_apart, {str(k): (models, tmp_path / f"{k}.npz") for k in range(2)}, at_once=2)
    for k in range(2):
        with np.load(tmp_path / f"{k}.npz") as stored:
            assert_same_bits(dict(stored), stems_of(separator(models, engine="onnxruntime"), 7000))


def _separate_apart(models, path):
    np.savez(path, **stems_of(separator(models, engine="onnxruntime"), 7000))
