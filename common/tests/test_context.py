"""The choice of where nnabla computes."""
import importlib.util
import os
import subprocess
import sys

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.machine import context
from common.machine.context import on_gpu, use_context
from common.machine.errors import UsageError
from common.machine.gpu_trial import _REDUCTIONS, try_reductions

COMMAND = """
import sys
from common.console.cli import run
from common.machine.context import on_gpu, use_context
run(lambda: print(use_context(*sys.argv[1:]), on_gpu()))
"""

# A driver of CUDA without a GPU: the extension loads, and fails when asked.
NO_DEVICE = '''
def get_device_count():
    raise RuntimeError("""target_specific error in cuda_get_device_count
/src/nbla/cuda/init.cpp:1725
(cudaGetDeviceCount(&count)) failed with "no CUDA-capable device is detected" (cudaErrorNoDevice).
""")
'''
# An extension that could not register its functions: nnabla takes those of the CPU without a word.
NO_FUNCTIONS = """
def get_device_count():
    return 2

def array_classes():
    return ["CpuCachedArray"]
"""
# A GPU on which the trial of reductions traps.
TRAPPING = '''
def get_device_count():
    return 1

def array_classes():
    raise RuntimeError("""target_specific error in synchronize
/src/nbla/cuda/array/cuda_array.cu:54
(cudaGetLastError()) failed with "an illegal instruction was encountered" (cudaErrorIllegalInstruction).
""")
'''
# What the extension says beside its errors.
NOISY = """
from nnabla import logger
print("GPU compatibility could not be verified due to a problem getting the GPU list.")
logger.warning("CUDA initialization failed. Please make sure that the CUDA is correctly installed.")
"""


pytestmark = pytest.mark.usefixtures("cache")    # how trials of reductions went is remembered there


@pytest.fixture(autouse=True)
def _keep_context():
    before = nn.get_current_context()
    yield
    nn.set_default_context(before)


@pytest.fixture
def no_gpu():
    try:
        chosen = use_context("cudnn")
    except UsageError:
        return
    pytest.skip(f"this machine has a working GPU ({chosen})")


def choose(*arguments, extension, folder):
    """Run `use_context(*arguments)` where `extension` is the source of nnabla's CUDA extension."""
    (folder / "nnabla_ext").mkdir()
    (folder / "nnabla_ext" / "cudnn.py").write_text(extension)
    (folder / "nnabla_ext" / "cuda").mkdir()    # in the place of an installed one, whose library can be corrected
    (folder / "nnabla_ext" / "cuda" / "__init__.py").touch()
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([sys.executable, "-c", COMMAND, *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=60)


def test_cpu():
    assert use_context("cpu") == "cpu"
    assert nn.get_current_context().backend == ["cpu:float"]
    assert not on_gpu()


def test_auto_without_extension_is_the_cpu_without_a_word(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert use_context("auto") == "cpu"
    assert not on_gpu()
    assert capsys.readouterr() == ("", "")


def test_cudnn_without_extension_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^-c cudnn: .*pip install -r requirements-cuda\.txt'.* -c cpu$"):
        use_context("cudnn")


def test_cudnn_without_gpu_is_refused_in_one_line(no_gpu):
    with pytest.raises(UsageError, match="^-c cudnn: .* -c cpu$") as refused:
        use_context("cudnn")
    assert "\n" not in str(refused.value)


def test_auto_without_gpu_is_the_cpu(no_gpu):
    assert use_context("auto") == "cpu"
    assert not on_gpu()


@pytest.mark.parametrize("extension, words", [
    ('raise ImportError("libcudnn.so.8: cannot open shared object file")', "libcudnn.so.8: cannot open"),
    ('raise ImportError("libcuda.so.1: cannot open shared object file")', "no NVIDIA driver (libcuda.so.1"),
    ('raise RuntimeError("value error\\nthe GPU is lost.\\n")', "no working GPU (the GPU is lost)"),
    ("raise RuntimeError", "no working GPU (RuntimeError)"),
    (NO_DEVICE, "no working GPU (no CUDA-capable device is detected)"),
    (NO_FUNCTIONS, "no working GPU (cuDNN could not be started)"),
    (TRAPPING, "nnabla's reductions fail on this GPU (an illegal instruction was encountered): use -c cpu\n"),
])
def test_broken_extension_is_told_in_one_line(extension, words, tmp_path):
    for name, folder in (("cudnn", tmp_path / "cudnn"), ("auto", tmp_path / "auto")):
        folder.mkdir()
        done = choose(name, extension=NOISY + extension, folder=folder)
        start = "error: -c cudnn: " if name == "cudnn" else "warning: computing on the CPU: "
        assert done.stderr.startswith(start) and words in done.stderr
        assert done.stderr.count("\n") == 1
        assert (done.returncode, done.stdout) == ((2, "") if name == "cudnn" else (0, "cpu False\n"))


@pytest.mark.parametrize("name", ["auto", "cudnn"])
def test_gpu_that_does_not_exist_is_refused(name, tmp_path):
    done = choose(name, "2", extension=NO_FUNCTIONS, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --device-id 2: no such GPU, the highest number here is 1\n"


@pytest.mark.parametrize("name", context.CONTEXTS)
@pytest.mark.parametrize("device_id", ["x", "-1", "", "1.5", "²", -1])
def test_bad_device_id_is_refused(name, device_id):
    with pytest.raises(UsageError, match="--device-id"):
        use_context(name, device_id)


def test_unknown_context_is_refused():
    with pytest.raises(UsageError, match="'gpu'.*auto, cpu, cudnn"):
        use_context("gpu")


@pytest.mark.parametrize("backend, expected", [
    (["cpu:float"], False), (["cuda:float", "cpu:float"], True), (["cudnn:half", "cuda:float", "cpu:float"], True)])
def test_on_gpu_follows_the_current_context(backend, expected):
    with nn.context_scope(nn.Context(backend, "CpuCachedArray", "0")):
        assert on_gpu() == expected


@pytest.mark.cuda
def test_convolution_on_the_gpu_agrees_with_the_cpu(gpu):
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((2, 3, 8, 8)), rng.standard_normal((4, 3, 3, 3))
    assert on_gpu()
    on_device = convolve(image, kernel)
    use_context("cpu")
    # cuDNN may compute float32 convolutions with the shorter mantissa of TF32.
    np.testing.assert_allclose(on_device, convolve(image, kernel), rtol=0, atol=2e-2)


def test_reductions_that_are_right_pass_the_trial():
    try_reductions(nn.get_current_context())


@pytest.mark.parametrize("name", _REDUCTIONS)
def test_a_reduction_that_leaves_numbers_out_fails_the_trial(name, monkeypatch):
    """As if the last four of 32 lanes counted for nothing."""
    right, on_cpu = _REDUCTIONS[name], iter([False, True])
    lanes = nn.Variable.from_numpy_array(np.arange(40)[None, None, None] % 32 < 28)
    monkeypatch.setitem(_REDUCTIONS, name, lambda x: right(x if next(on_cpu) else x * lanes))
    with pytest.raises(RuntimeError, match=f"^{name}: differs from the CPU's$"):
        try_reductions(nn.get_current_context())


@pytest.mark.cuda
def test_auto_takes_the_gpu(gpu):
    assert use_context("auto") == "cudnn, GPU 0"


def convolve(image, kernel):
    y = F.convolution(nn.Variable.from_numpy_array(image), nn.Variable.from_numpy_array(kernel), pad=(1, 1))
    y.forward()
    return y.d.copy()
