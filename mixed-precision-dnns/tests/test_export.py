"""The export command on small images, and the evaluation of what it writes."""
import itertools
import json
import shutil
from pathlib import Path

import nnabla as nn
import numpy as np
import onnx
import pytest
from PIL import Image

from common.inference.engines import is_installed
from common.machine.errors import UsageError, UserError
from common.machine.files import write_json
from common.machine.output_folders import claimed
from mixed_precision_dnns import eval, export, train_resnet
from mixed_precision_dnns.config import Config, ImageNetConfig
from mixed_precision_dnns.data import all_images
from mixed_precision_dnns.deployment import packed
from mixed_precision_dnns.deployment.onnx_network import openvino_default_precision
from mixed_precision_dnns.deployment.quantized_onnx import export_network
from mixed_precision_dnns.evaluation import evaluate_run
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.quantized_network import build_network

SMALL = ("--epochs", "1", "--steps-per-epoch", "2", "--batch-size", "4", "-c", "cpu")
# Small steps: weights keep the 4 bits that they start with, which leave room for factors.
RATE = ("--initial-learning-rate", "3e-4")
EXPERIMENTS = {"uniform": ("PARAMETRIC_FP_WAQ_DELTA_XMAX", *RATE),
               "float": ("DEFAULT", "--initial-learning-rate", "1e-3"),
               "pow2": ("PARAMETRIC_POW2_WAQ_XMIN_XMAX", "--cfg", "train_resnet_quant_pow2.cfg", *RATE)}


@pytest.fixture(autouse=True, scope="module")
def short_timing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cifar):
    """A folder with a run of each kind, which are exported."""
    folder = tmp_path_factory.mktemp("runs")
    for name, experiment in EXPERIMENTS.items():
        train_resnet.main([*experiment, *SMALL, "--w-stepsize", "0.0625", "--a-stepsize", "0.25", "--data-dir",
                           str(cifar), "-o", str(folder / name)])
        export.main([str(folder / name), "--batch-size", "2"])
    nn.clear_parameters()
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_sizes_and_answers(name, runs):
    folder = runs / name / "export"
    result = json.loads((folder / "export.json").read_text())
    reported = 1024 * json.loads((runs / name / "result.json").read_text())["weight_kbytes"]
    assert result["packed"]["reported"] == pytest.approx(reported)
    assert 0 <= result["packed"]["weights"] - reported < 1
    assert (folder / "weights.mpdnn").stat().st_size == result["packed"]["header"] + result["packed"]["weights"]
    assert list(result["agreement"]) == list(result["kernels"]) == list(export.consumers())
    for engine, agreement in result["agreement"].items():
        assert agreement["images"] == 49    # 9 to test, 40 to train
        if engine != "openvino" or openvino_default_precision() == "float32":    # bfloat16 is less exact
            assert agreement["same_top1"] == 49 and agreement["median_error"] < 1e-5
            assert agreement["error"] == agreement["error_exported"]
        assert result["kernels"][engine] == {"integer": 18 if name == "uniform" else 0, "all": 19}
    assert (result["integer_share"] > 0.9) == (name == "uniform")
    assert result["inexact_borders"] == result["wide_layers"] == 0
    networks = result["networks"]
    assert networks["quantized, onnxruntime"]["bytes"] == (folder / "network.onnx").stat().st_size
    assert (networks["quantized, onnxruntime"]["bytes"] < 0.2 * networks["float, onnxruntime"]["bytes"]) == (
        name == "uniform")
    assert all(0 < row["seconds"] < 60 for row in networks.values())


def test_says_what_cpus_without_vnni_may_compute_wrongly(runs, capsys):
    folder = runs / "uniform" / "export"
    result = json.loads((folder / "export.json").read_text())
    export.show(result, folder)
    assert "VNNI" not in capsys.readouterr().out
    export.show(result | {"wide_layers": 3}, folder)
    assert "3 layers may have sums of two products beyond 16 bits: x86 CPUs without VNNI" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_packed_network_is_the_trained_one(name, runs, cifar):
    stored = packed.load(runs / name / "export" / "weights.mpdnn")
    built = stored.install(5)
    _, valid, test = eval.load_data(stored.run.cfg)
    expected = json.loads((runs / name / "result.json").read_text())
    assert evaluate_run(built, stored.run.cfg, valid, test) == expected


@pytest.mark.parametrize("engine", ["auto", *(name for name in ("onnxruntime", "openvino") if is_installed(name))])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_evaluation_of_the_exported_network(name, engine, runs, capsys):
    eval.main([str(runs / name), "--engine", engine])
    expected = json.loads((runs / name / "result.json").read_text())
    out = capsys.readouterr().out
    fastest = "openvino" if is_installed("openvino") else "onnxruntime"
    assert f"computing in {fastest if engine == 'auto' else engine}, float32" in out
    assert f"test error top 1 {expected['test_error']:.2%}; validation error top 1 {expected['valid_error']:.2%}" in out


def test_the_fastest_engine_of_what_is_not_exported_is_nnabla(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "float", tmp_path / "run")
    shutil.rmtree(run / "export")
    eval.main([str(run), "--engine", "auto", "-c", "cpu"])
    assert "computing on cpu" in capsys.readouterr().out


def test_a_model_that_is_named_runs_in_an_engine_that_reads_it_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(eval, "on_gpu", lambda: True)
    named, other = (eval.parse_args(["run", "--weights", name, "-c", "cpu"]) for name in ("x.onnx", "x.h5"))
    assert eval.fastest_engine(Path("run"), named) != "nnabla" == eval.fastest_engine(Path("run"), other)


def test_the_model_takes_the_batch_that_was_asked_for(runs):
    model = onnx.load(runs / "uniform" / "export" / "network.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 32, 32]


def test_without_images_no_data_are_needed(runs, tmp_path, capsys):
    run = Path(shutil.copytree(runs / "uniform", tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", config | {"data_dir": str(tmp_path / "gone")})
    export.main([str(run), "-o", str(tmp_path / "out"), "--images", "0"])
    assert "best class" not in capsys.readouterr().out
    assert (tmp_path / "out" / "network.onnx").read_bytes()[:100] != b""
    with pytest.raises(UsageError, match="gone"):
        export.main([str(run), "-o", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_two_processes_do_not_export_to_one_folder(runs, tmp_path):
    with claimed(tmp_path / "out"), pytest.raises(UserError, match="is writing to this folder"):
        export.main([str(runs / "uniform"), "-o", str(tmp_path / "out"), "--images", "0"])


def test_refuses_a_range_that_is_not_finite():
    cfg = Config(a_quantize="parametric_pow2_b_xmin_relu")
    build_network(cfg, 1, False, (3, 8, 8))
    export.refuse_infinite_ranges(cfg, "run")
    scalars = nn.get_parameters()
    scalars["conv1/Aquant/parametric_pow2_b_xmin/n"].d = 8
    scalars["conv1/Aquant/parametric_pow2_b_xmin/xmin"].d = 4    # 4 x 2^127
    with pytest.raises(UserError, match="run: activations of conv1: .* is not finite"):
        export.refuse_infinite_ranges(cfg, "run")


def test_take_ends_in_the_middle_of_a_batch():
    batches = [(np.full((3, 1), k), np.full((3, 1), k)) for k in range(4)]
    images, labels = export.take(iter(batches), 5)
    assert images[:, 0].tolist() == labels[:, 0].tolist() == [0, 0, 0, 1, 1]
    assert len(export.take(iter(batches), 100)[0]) == 12


def test_images_of_another_answer_are_counted():
    answers = np.eye(4, dtype=np.float32)
    images, labels = np.arange(4)[:, None], np.array([[0], [1], [2], [0]])
    other = answers.copy()
    other[3] = [1, 0, 0, 0]
    found = export.agreement(answers[images[:, 0]], other[images[:, 0]], labels)
    assert found == {"images": 4, "same_bits": 3, "same_top1": 3, "max_error": 1, "median_error": 0, "apart": 1,
                     "error": 0.25, "error_exported": 0}


def test_networks_that_answer_0_agree():
    zeros = np.zeros((3, 10), np.float32)
    found = export.agreement(zeros, zeros, np.zeros((3, 1), np.int32))
    assert (found["same_bits"], found["max_error"], found["apart"]) == (3, 0, 0)


def test_data_of_other_classes_are_refused(tmp_path):
    model = export_network(FinishedRun(Config(), (3, 32, 32), 10), 1).model
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    for split, wnid, k in itertools.product(("train", "val"), ("n01", "n02"), range(2)):
        (tmp_path / split / wnid).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), 50 + k).save(tmp_path / split / wnid / f"{k}.JPEG")
    cfg = ImageNetConfig(image_size=32, batch_size=1, data_dir=str(tmp_path))
    says = "the data have 2 classes, the network has 10; name the data that it was trained on"
    with pytest.raises(UsageError, match=says):
        next(all_images(cfg, 10))
    with pytest.raises(UsageError, match=says):
        eval.evaluate_exported(tmp_path / "network.onnx", cfg, "onnxruntime", "float32")


@pytest.mark.parametrize("script, arguments, error, says", [
    (export, ["nowhere"], UsageError, "no config.json"),
    (export, ["uniform", "--weights", "missing.h5"], UsageError, "missing.h5"),
    (export, ["uniform", "--weights", "float/params_best.h5"], UserError, "weights of another network"),
    (export, ["uniform", "--weights", "uniform/config.json"], UserError, "cannot be read"),
    (export, ["uniform", "--images", "-3"], UsageError, "--images"),
    (export, ["uniform", "--batch-size", "0"], UsageError, "--batch-size"),
    (export, ["uniform", "--output", "uniform/config.json"], UserError, "cannot be written"),
    (eval, ["uniform", "--engine", "tensorrt"], UsageError, "tensorrt"),
    (eval, ["uniform", "--engine", "winograd"], UsageError, "run on onnxruntime or openvino"),
    (eval, ["uniform", "--engine", "onnxruntime", "--precision", "bf16"], UsageError, "add --engine openvino"),
    (eval, ["uniform", "--engine", "onnxruntime", "--weights", "missing.onnx"], UsageError, "export.py makes it"),
    (eval, ["uniform", "--engine", "onnxruntime", "--weights", "uniform/config.json"], UserError, "as an ONNX model"),
    (eval, ["mnist", "--engine", "onnxruntime", "--weights", "uniform/export/network.onnx"], UserError, "of shape")])
def test_refuses(script, arguments, error, says, runs, tmp_path, monkeypatch):
    for name in ("uniform", "float"):
        shutil.copytree(runs / name, tmp_path / name)
    config = json.loads((runs / "uniform" / "config.json").read_text())
    (tmp_path / "mnist").mkdir()
    write_json(tmp_path / "mnist" / "config.json", config | {"dataset": "mnist"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says) as caught:
        script.main(arguments)
    assert "\n" not in str(caught.value)
