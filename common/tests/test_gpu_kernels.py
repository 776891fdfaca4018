"""Kernels for a GPU: compiled for three generations, and run by an emulated driver against nnabla's functions.

That they give the numbers of the published code, and keep the laws of quantizers, is tested beside the other ways to
compute, by the fixture `engine`.
"""
import concurrent.futures
import ctypes
import itertools
import locale
import os

import nnabla as nn
import numpy as np
import pytest

from common.gpu import driver, loading, nvrtc, quantizers, sizes
from common.gpu.quantizers import BLOCK, ROWS, SOURCE
from common.machine.context import find_library, native_functions, wants_gpu_kernels
from common.quantizers import POWER_OF_TWO, QUANTIZERS

KERNELS = loading.Path(loading.__file__).parent / "kernels"
needs_nvrtc = pytest.mark.skipif(find_library(nvrtc.LIBRARY) is None,
                                 reason="NVRTC is not installed (requirements-cuda.txt)")
VALUES = {"d": 0.125, "n": 4.0, "xmin": 0.0625, "xmax": 1.4}
EACH = [(name, sign, with_zero) for name, quantizer in QUANTIZERS.items() for sign in (True, False)
        for with_zero in ((False, True) if quantizer.grid is POWER_OF_TWO else (False,))]


@needs_nvrtc
@pytest.mark.parametrize("capability", [(7, 0), (8, 0), (9, 0)])
def test_all_kernels_compile(capability):
    for path in KERNELS.glob("*.cu"):
        image = nvrtc.compile_source(path, capability)
        assert image.startswith(b"\x7fELF")
        for line in path.read_text().splitlines():
            if "__global__" in line:
                assert line.split("void ")[1].split("(")[0].encode() in image


@needs_nvrtc
def test_a_gpu_that_is_newer_than_the_compiler_gets_code_for_the_driver_to_compile():
    assert b".target sm_90" in nvrtc.compile_source(KERNELS / SOURCE, (12, 1))


@needs_nvrtc
def test_errors_of_the_compiler_are_one_line(tmp_path):
    bad = tmp_path / "bad.cu"
    bad.write_text("extern \"C\" __global__ void f() { return missing; }\nint g() { return also; }")
    with pytest.raises(nvrtc.CompilationError, match=r'^NVRTC: bad.cu\(1\): error: .*"missing"[^\n]*$'):
        nvrtc.compile_source(bad, (9, 0))
    with pytest.raises(nvrtc.CompilationError, match=r"no GPU of compute capability 1.3"):
        nvrtc.compile_source(bad, (1, 3))


@pytest.fixture(params=["", pytest.param(nvrtc.LIBRARY, marks=needs_nvrtc)], ids=["emulated", "installed"])
def compiler(request, compile_library, monkeypatch):
    """NVRTC, and what behaves like an old one."""
    found = find_library(request.param) if request.param else compile_library("emulated_nvrtc.cpp")
    monkeypatch.setattr(nvrtc, "find_library", lambda name: found)


@pytest.mark.skipif(os.name != "posix", reason="there are no locales of threads")
def test_text_keeps_its_encoding(compiler):
    before = locale.getpreferredencoding(False)
    if before == "ANSI_X3.4-1968":
        pytest.skip("it is ASCII here")
    nvrtc.compile_source(KERNELS / SOURCE, (9, 0))
    assert locale.getpreferredencoding(False) == before


# Numbers --------------------------------------------------------------------------------------------------------------


def neighbours(values):
    """Values with the float32 numbers before and after them, of both signs."""
    values = np.atleast_1d(np.float32(values))
    ends = [np.nextafter(values, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([sign * array for array in (values, *ends) for sign in (np.float32(1), np.float32(-1))])


def probes():
    """Borders and ties of uniform levels and of powers of two, small and large numbers, and random ones."""
    exponents = np.arange(-20, 20, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.concatenate([
            neighbours(np.arange(0, 20, 0.5) * 0.125), neighbours([0.0625, 1.4, 0.0, 127.0, 1e-45, 1e-38, 3e38]),
            neighbours(2.0 ** exponents), neighbours(2.0 ** (exponents + 0.5)), neighbours(VALUES["xmin"] / np.sqrt(2)),
            np.float32([np.inf, -np.inf]), np.random.default_rng(0).standard_normal(5000).astype(np.float32)], None,
            dtype=np.float32)


def run(name, x, g, present, sign, with_zero, **scalars):
    """y, and the gradients of x and of the scalars, added to those that are `present`."""
    quantizer = QUANTIZERS[name]
    inputs = [nn.Variable.from_numpy_array(np.asarray(a, np.float32)).apply(need_grad=True)
              for a in (x, *((VALUES | scalars)[key] for key in quantizer.scalars))]
    for variable in inputs:
        variable.g = present
    settings = {"with_zero": with_zero} if quantizer.grid is POWER_OF_TWO else {}
    y = quantizer.quantize(*inputs, sign=sign, **settings)
    y.forward()
    y.backward(g)
    return y.d.copy(), *(variable.g.copy() for variable in inputs)


def both(*arguments, **scalars):
    """`run` by kernels, and by nnabla's functions."""
    ours = run(*arguments, **scalars)
    with native_functions():
        return ours, run(*arguments, **scalars)


@pytest.mark.parametrize("name, sign, with_zero", EACH)
def test_levels_are_nnablas_to_the_last_bit(name, sign, with_zero, gpu_kernels):
    x = probes()
    g = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    before = gpu_kernels()
    (y, *gradients), (expected, *wanted) = both(name, x, g, 0.5, sign, with_zero)
    assert gpu_kernels() - before == 3    # one pass forward, one backward, and the sum of the blocks
    np.testing.assert_array_equal(y.view(np.int32), expected.view(np.int32))
    np.testing.assert_allclose(gradients[0], wanted[0], rtol=1e-6, atol=1e-6)
    scale = np.abs(wanted[0][np.isfinite(x)]).sum()
    for found, value in zip(gradients[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("scalar", [0.0, 0.0039, 0.17, 1.0, 2.5, 3.5, 7.9, 200.0])
def test_ranges_are_nnablas_for_all_values_of_the_scalars(name, scalar, gpu_kernels):
    x = np.linspace(-3, 3.1, 301, dtype=np.float32)
    for key, sign in itertools.product(QUANTIZERS[name].scalars, (True, False)):
        (y, *gradients), (expected, *wanted) = both(name, x, np.ones_like(x), 0.0, sign, False, **{key: scalar})
        np.testing.assert_array_equal(y.view(np.int32), expected.view(np.int32))
        for found, value in zip(gradients, wanted, strict=True):
            assert np.isfinite(found).all()
            if np.isfinite(value).all():    # nnabla multiplies 0 by infinity where a range has no end
                np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [1, BLOCK - 1, 4 * BLOCK + 1, 50 * BLOCK + 5])
def test_sums_over_tensors_of_any_size(size, gpu_kernels, monkeypatch):
    """Of one thread, one block, two, and of more elements than the most blocks take in four rounds."""
    monkeypatch.setattr(quantizers, "_MOST_BLOCKS", 3)
    x = np.full(size, 9.0, np.float32)    # above the range: each element is a gradient to xmax
    x[::2] = 0.15
    g = np.ones(size, np.float32)
    _, _, to_d, to_xmax = run("parametric_fp_d_xmax", x, g, 0.0, True, False)
    assert to_xmax == size // 2
    inside, above = (np.float32(v) / np.float32(0.125) for v in (0.15, 1.4))
    expected = -(-size // 2) * float(1 - inside) + size // 2 * float(np.round(above) - above)
    np.testing.assert_allclose(to_d, expected, rtol=1e-5)


def test_gradients_that_are_not_asked_for_are_left_alone(gpu_kernels):
    x, d, xmax = (nn.Variable.from_numpy_array(np.float32(value)) for value in ([0.3, 9], 0.125, 1.0))
    for wanted in (x, d, xmax):
        for variable in (x, d, xmax):
            variable.need_grad = variable is wanted
            variable.g = 7
        y = QUANTIZERS["parametric_fp_d_xmax"].quantize(x, d, xmax)
        y.forward()
        y.backward(1)
        assert [np.all(variable.g == 7) for variable in (x, d, xmax)] == [v is not wanted for v in (x, d, xmax)]


# The way to the device ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module, missing", [(driver, "libcuda_that_is_not_there.so.1"),
                                             (nvrtc, "libnvrtc_that_is_not_there.so.12")])
def test_without_driver_or_compiler_nnablas_functions_compute_and_one_line_says_so(module, missing, gpu_kernels,
                                                                                   monkeypatch, capsys):
    monkeypatch.setattr(loading, "compile_source", nvrtc.compile_source)
    monkeypatch.setattr(module, "LIBRARY", missing)
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    ours, theirs = both("parametric_fp_d_xmax", x, x, 0.0, True, False)
    run("parametric_pow2_xmin_xmax", x, x, 0.0, True, False)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(found, expected)
    err = capsys.readouterr().err
    assert err.startswith("warning: computing with nnabla's functions") and err.count("\n") == 1
    assert missing in err and "requirements-cuda.txt" in err


def test_errors_of_the_driver_have_their_name_and_number(gpu_kernels):
    with pytest.raises(driver.DeviceError, match=r"^cuDeviceGet: emulated \(101\)$"):
        driver.Device(2)
    device = driver.Device(0)
    assert device.capability == (9, 0)
    with pytest.raises(driver.DeviceError, match=r"^cuModuleGetFunction: emulated \(500\)$"):
        device.kernel(device.load(b"image\0"), "no_kernel")


def test_kernels_run_on_the_gpu_of_their_context_from_any_thread(gpu_kernels):
    x, graphs = np.linspace(-1, 1, 7, dtype=np.float32), []
    for number in "0101":
        with nn.context_scope(nn.Context(["cpu:float"], "CpuCachedArray", number)):
            inputs = [nn.Variable.from_numpy_array(np.float32(value)) for value in (x, 0.25, 1)]
            graphs.append(QUANTIZERS["parametric_fp_d_xmax"].quantize(*inputs))

    def compute():
        for y in graphs:    # a forward of one leaves the context of its GPU behind
            y.forward()
        return [y.d.copy() for y in graphs]

    before = gpu_kernels()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = [*compute(), *pool.submit(compute).result()]
    assert gpu_kernels() - before == 8
    assert all(np.array_equal(y, found[0]) for y in found) and len(set(found[0])) > 3


def test_structures_fit_into_the_arguments_of_a_kernel():
    assert ctypes.sizeof(quantizers._Pairs) <= 4096 and ctypes.sizeof(sizes._Tensors) <= 4096
    source = (KERNELS / SOURCE).read_text()
    assert f"#define BLOCK {BLOCK} " in source and f"#define ROWS {ROWS} " in source


def test_kernels_are_for_a_gpu_and_not_inside_native_functions(gpu_kernels):
    assert wants_gpu_kernels()
    with native_functions():
        assert not wants_gpu_kernels() and loading.load(SOURCE) is None
    assert loading.load(SOURCE) is loading.load(SOURCE) is not None


@pytest.mark.cuda
@pytest.mark.parametrize("name, sign, with_zero", EACH)
def test_on_a_gpu_kernels_agree_with_nnablas_functions(name, sign, with_zero, gpu):
    assert loading.load(SOURCE) is not None
    x = np.random.default_rng(0).standard_normal((8, 3, 33, 31)).astype(np.float32)
    g = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    (y, *gradients), (expected, *wanted) = both(name, x, g, 0.5, sign, with_zero)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(gradients[0], wanted[0], rtol=1e-5, atol=1e-6)
    for found, value in zip(gradients[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-5 * np.abs(g).sum())
    again = run(name, x, g, 0.5, sign, with_zero)
    assert all(np.array_equal(a, b) for a, b in zip((y, *gradients), again, strict=True))
