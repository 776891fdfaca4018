"""The export as ONNX: stems by numpy and onnxruntime alone, in a process that has no nnabla, as in the README."""
import re
import subprocess
import sys
from pathlib import Path

import nnabla as nn
import numpy as np
import onnx
import pytest
import soundfile

from common.inference import exporting
from common.machine.errors import UsageError
from common.runs.checkpoint import save_parameters
from common.workbench.testing import run_without_nnabla, signal_to_error, tones_and_noise
from x_umx import export, onnx_separator
from x_umx.model import SOURCES, CrossNetOpenUnmix, OpenUnmix, Sizes
from x_umx.onnx_separator import OnnxSeparator
from x_umx.separator import Separator

RATE, SIZES = 44100, Sizes(n_fft=256, hidden_size=16, max_bin=94)
MONO = Sizes(n_fft=256, nb_channels=1, hidden_size=16, max_bin=94)
README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.usefixtures("own_folder")


def save(path, network, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nn.clear_parameters()
    nn.random.seed(seed)
    network.masks(nn.Variable((2, 1, network.sizes.nb_channels, network.sizes.bins)))
    rng = np.random.default_rng(seed)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        if "fc3" in name and name.endswith(("beta", "gamma")):    # masks far from one another
            parameter.d = rng.uniform(-0.3, 1) + 0.3 * rng.standard_normal(parameter.shape)
    save_parameters(path)
    nn.clear_parameters()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(folder / "xumx.h5", CrossNetOpenUnmix(SIZES))
    save(folder / "mono.h5", CrossNetOpenUnmix(MONO))
    for seed, source in enumerate(SOURCES):
        save(folder / f"umx/{source}.h5", OpenUnmix(SIZES), seed)
    return folder


@pytest.mark.parametrize("model", ["xumx.h5", "umx", "mono.h5"])
@pytest.mark.parametrize("frames, chunk", [(129, 16), (20_000, 16), (20_000, 0.1), (20_000, 0.2)])
def test_stems_are_those_of_the_separator(model, frames, chunk, models):
    export.main(["--model", str(models / model), "-o", "x.onnx"])
    wanted = Separator(models / model, chunk_seconds=chunk, engine="nnabla").separate(tones_and_noise(frames), RATE)
    assert signal_to_error(wanted, OnnxSeparator("x.onnx").separate(tones_and_noise(frames), chunk)) > 120


@pytest.mark.parametrize("sizes", [{"n_fft": 120, "max_bin": 61}, {"n_fft": 132, "max_bin": 61}, {"hidden_size": 122}])
def test_sizes_that_are_primes(sizes):
    save(Path("primes.h5"), CrossNetOpenUnmix(Sizes(**{"n_fft": 256, "hidden_size": 16, "max_bin": 94} | sizes), 20))
    export.main(["--model", "primes.h5", "-o", "x.onnx"])
    wanted = Separator("primes.h5", engine="nnabla").separate(tones_and_noise(2000), RATE)
    assert signal_to_error(wanted, OnnxSeparator("x.onnx").separate(tones_and_noise(2000))) > 120


@pytest.mark.parametrize("audio, says", [
    (np.ones((100, 1)), r"audio of shape \(100, 1\)"), (np.ones((100, 2), np.int16), "audio of type int16"),
    (np.full((100, 2), np.nan), "finite")], ids=["mono", "integers", "nan"])
def test_what_is_no_stereo_audio_is_refused(audio, says, models):
    export.main(["--model", str(models / "xumx.h5"), "-o", "x.onnx"])
    with pytest.raises(ValueError, match=says):
        OnnxSeparator("x.onnx").separate(audio)


@pytest.mark.parametrize("precision, least, most", [("float16", 55, 100), ("int8", 40, 90)])
def test_fewer_bits_are_measured(precision, least, most, models, capsys):
    for name in ("float32", precision):
        export.main(["--model", str(models / "xumx.h5"), "-o", f"{name}.onnx", "--precision", name])
    said = re.search(rf"{precision}: masks of noise are (\d+\.\d) dB from those in float32", capsys.readouterr().out)
    assert said and least < float(said[1]) < most
    one, two = (OnnxSeparator(f"{name}.onnx").separate(tones_and_noise(20_000)) for name in ("float32", precision))
    assert least < signal_to_error(one, two) < most
    assert Path(f"{precision}.onnx").stat().st_size < 0.75 * Path("float32.onnx").stat().st_size


def test_cpus_without_vnni_add_products_exactly(models):
    """Which shows on such CPUs alone."""
    export.main(["--model", str(models / "xumx.h5"), "-o", "int8.onnx", "--precision", "int8"])
    options = OnnxSeparator("int8.onnx").session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_the_file_says_what_its_input_is(models):
    export.main(["--model", str(models / "xumx.h5"), "-o", "x.onnx"])
    model = onnx.load("x.onnx")
    onnx.checker.check_model(model)
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert described["sources"] == ",".join(SOURCES) and described["sample_rate"] == "44100"
    assert (described["n_fft"], described["hop_length"], described["max_bin"]) == ("256", "64", "94")
    assert described["input"].startswith("magnitude, float32 (frames, 1, 2 channels, 94 bins)")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "frames" and [dim.dim_value for dim in dims[1:]] == [1, 2, 94]


def test_the_example_of_the_readme_runs_without_nnabla(models):
    export.main(["--model", str(models / "xumx.h5"), "-o", "xumx.onnx"])
    soundfile.write("song.wav", tones_and_noise(20_000), RATE, subtype="FLOAT")
    run_without_nnabla(README, "import soundfile")
    wanted = Separator(models / "xumx.h5", engine="nnabla").separate(tones_and_noise(20_000), RATE)
    found = {name: soundfile.read(f"{name}.wav", dtype="float32")[0] for name in SOURCES}
    assert signal_to_error(wanted, found) > 120


@pytest.mark.parametrize("argv, error", [
    (["--model", "none.h5"], "no such file"), (["-o", "x.txt"], "end in .onnx"), (["-o", "no/x.onnx"], "folder that"),
    (["--model", "{}/xumx.h5", "--targets", "bass", "drums"], "belong together"),
    (["--model", "{}/umx/bass.h5"], "one source, which the filter cannot tell from the rest")])
def test_wrong_usage_is_one_line(argv, error, models):
    with pytest.raises(UsageError, match=error):
        export.main([word.format(models) for word in argv])
    assert not list(Path().iterdir())


def test_a_module_that_stands_alone_holds_what_it_imports(tmp_path):
    path = exporting.write_companion(onnx_separator, tmp_path)
    assert path.name == "onnx_separator.py"
    script = "import sys; sys.modules['common'] = None; import onnx_separator; print(onnx_separator.stft.__module__)"
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "onnx_separator\n"


@pytest.mark.parametrize("chunks", [(0, 0.1), (-1, 0.1), (16, 1.5), (16, -0.1), (float("nan"), 0.1)], ids=str)
def test_chunks_that_leave_samples_out_are_refused(chunks, models):
    """With an overlap of more than a chunk, most samples were NaN."""
    export.main(["--model", str(models / "xumx.h5"), "-o", "x.onnx"])
    with pytest.raises(ValueError, match=f"chunks of {chunks[0]} s with an overlap of {chunks[1]}"):
        OnnxSeparator("x.onnx").separate(tones_and_noise(2000), *chunks)


def test_a_network_of_another_program_is_told():
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value],
                                   [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), "y.onnx")
    with pytest.raises(ValueError, match="y.onnx: not a network of x-umx/export.py: its metadata lack sources"):
        OnnxSeparator("y.onnx")
