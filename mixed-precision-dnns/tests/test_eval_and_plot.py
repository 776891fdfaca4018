import json
import os
import shutil

import attrs
import h5py
import matplotlib.image
import nnabla as nn
import nnabla.solvers as S
import pytest

from common.machine.errors import UsageError, UserError
from common.machine.files import write_json
from common.runs.checkpoint import save_checkpoint
from common.runs.config import find_cfg, load_section, overrides_of, to_dict
from common.runs.training import CHECKPOINT
from mixed_precision_dnns import benchmark, demo, eval, export, plot, report, train_resnet
from mixed_precision_dnns.command_line import make_parser
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.finished_run import LAST_BIAS, load_finished_run

SMALL = ("--epochs", "2", "--steps-per-epoch", "1", "--batch-size", "4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cifar):
    """A folder with a quantized run, and a float run."""
    folder = tmp_path_factory.mktemp("runs")
    for experiment, name in (("PARAMETRIC_FP_WAQ_DELTA_XMAX", "quantized"), ("DEFAULT", "float")):
        train_resnet.main([experiment, *SMALL, "--data-dir", str(cifar), "-o", str(folder / name)])
    nn.clear_parameters()
    return folder


def test_evaluation_prints_what_training_printed(cifar, capsys, tmp_path):
    train_resnet.main(["PARAMETRIC_POW2_WAQ_XMIN_XMAX", "--cfg", "train_resnet_quant_pow2.cfg", *SMALL,
                       "--data-dir", str(cifar), "-o", str(tmp_path / "run")])
    trained = capsys.readouterr().out
    nn.clear_parameters()
    eval.main([str(tmp_path / "run")])
    evaluated = capsys.readouterr().out
    assert evaluated.splitlines()[1:] == trained.splitlines()[3:]    # after the context, and a line for each epoch


def test_a_checkpoint_serves_as_weights(runs, capsys):
    eval.main([str(runs / "quantized"), "--weights", str(runs / "quantized" / "checkpoint" / "latest.h5")])
    assert "test error" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, error, says", [
    (["nowhere"], UsageError, "config.json"),
    (["quantized", "--weights", "missing.h5"], UsageError, "missing.h5"),
    (["quantized", "--weights", "float/params_best.h5"], UserError, "weights of another network"),
    (["float", "--weights", "quantized/params_best.h5"], UserError, "weights of another network")])
def test_evaluation_refuses(arguments, error, says, runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(error, match=says) as caught:
        eval.main(arguments)
    assert "\n" not in str(caught.value)


def test_evaluation_refuses_a_damaged_configuration(runs, tmp_path):
    shutil.copytree(runs / "float", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: cannot be read as the configuration of a run"):
        eval.main([str(tmp_path / "run")])


@pytest.mark.parametrize("command", [eval, export, report])
def test_a_run_that_was_interrupted_before_it_had_parameters_is_one_line(command, runs, tmp_path):
    shutil.copytree(runs / "float", tmp_path / "run")
    (tmp_path / "run/params_best.h5").unlink()
    with pytest.raises(UsageError, match="params_best.h5: no such file; a run has it from its best epoch on"):
        command.main([str(tmp_path / "run")])


@pytest.mark.parametrize("shape", [(), (1, 10)])
def test_a_bias_of_another_shape_is_refused_in_a_line(shape, tmp_path):
    write_json(tmp_path / "config.json", to_dict(Config()))
    with h5py.File(tmp_path / "params_best.h5", "w") as file:
        file.create_dataset(LAST_BIAS, shape, "f4")
    with pytest.raises(UserError, match="weights of another network: no 'fc/quantized_affine/b' of shape") as caught:
        load_finished_run(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what, names", [
    ("bits", ["quantized"]), ("scalars", ["quantized"]), ("tradeoff", ["quantized", "float"])])
def test_plots_are_pictures(what, names, runs, tmp_path):
    plot.main([what, *(str(runs / name) for name in names), "-o", str(tmp_path / "plot.png")])
    picture = matplotlib.image.imread(tmp_path / "plot.png")
    assert picture.shape[0] > 200 and picture.shape[1] > 200
    assert picture[..., :3].std() > 0.01    # something is drawn


@pytest.mark.parametrize("name", [os.fsdecode(b"quantized \xff"), "$quantized^$", "a$b$ \\", "\x1b[31m\n"], ids=repr)
def test_a_folder_of_any_name_can_be_drawn(name, runs, tmp_path):
    (tmp_path / name).symlink_to(runs / "quantized")
    for what in ("bits", "scalars", "tradeoff"):
        plot.main([what, str(tmp_path / name), *([str(runs / "float")] if what == "tradeoff" else []), "-o",
                   str(tmp_path / f"{what}.png")])
        assert matplotlib.image.imread(tmp_path / f"{what}.png")[..., :3].std() > 0.01


def test_bars_are_the_bits_of_the_layers(runs):
    rows = [row for row in json.loads((runs / "quantized" / "layers.json").read_text()) if row["kind"] == "weights"]
    axes = plot.draw_bits(runs / "quantized").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [row["bits"] for row in rows]
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["conv1", "res1/layer1/block1"]


def test_a_line_of_scalars_has_a_point_for_each_epoch(runs):
    figure = plot.draw_scalars(runs / "quantized")
    assert {len(line.get_xdata()) for axes in figure.axes for line in axes.get_lines()} == {2}
    assert len(figure.axes) == 4    # d and xmax, of weights and of activations


def test_scalars_of_weights_and_activations_may_be_different_ones(tmp_path):
    rows = [{"tensor": "conv1/quantized_conv/W", "kind": "weights", "quantizer": "parametric_fp_d_xmax"},
            {"tensor": "conv1", "kind": "activations", "quantizer": "parametric_pow2_xmin_xmax"}]
    scalars = [{"d": 0.125, "xmax": 1.0}, {"xmin": 0.25, "xmax": 4.0}]
    write_json(tmp_path / "layers.json", rows)
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(tmp_path / CHECKPOINT, {}, S.Sgd(), {
        "epoch": 2, "step": 0, "sums": {}, "last": {}, "best": None, "rows": [], "extras": [scalars] * 2, "config": {}})
    figure = plot.draw_scalars(tmp_path)
    drawn = [[line.get_ydata()[0] for line in axes.get_lines()] for axes in figure.axes]
    assert drawn == [[0.125], [0.25], [1.0], [4.0]]    # a column for the weights, and one for the activations


@pytest.mark.parametrize("arguments, error, says", [
    (["bits", "float"], UserError, "no bit widths"),
    (["scalars", "float"], UserError, "nothing was learned"),
    (["bits", "nowhere"], UsageError, "layers.json"),
    (["bits", "quantized", "float", "-o", "x.png"], UsageError, "leave it out"),
    (["tradeoff", "nowhere"], UsageError, "result.json")])
def test_plots_refuse(arguments, error, says, runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(error, match=says) as caught:
        plot.main(arguments)
    assert "\n" not in str(caught.value)


BITS = {"tensor": "conv1", "kind": "weights", "quantizer": "parametric_fp_d_xmax", "bits": 4, "elements": 9,
        "kbytes": 0.1}


@pytest.mark.parametrize("content, says", [
    ("", "cannot be read"), ("[", "cannot be read"), ("{}", "holds a dict, no list"), ("null", "no list"),
    ("[3]", "holds a int, no fields"), (json.dumps([BITS, {}]), "'tensor' is missing"),
    *((json.dumps([{**BITS, name: [1]}]), f"'{name}' is list") for name in ("tensor", "kind", "quantizer"))])
@pytest.mark.parametrize("picture", ["bits", "scalars"])
def test_a_damaged_table_of_layers_is_one_line(picture, content, says, tmp_path):
    (tmp_path / "layers.json").write_text(content)
    message = refused_plot(picture, tmp_path)
    assert message.startswith(f"{tmp_path / 'layers.json'}: ") and says in message


def refused_plot(picture, folder):
    """The one line that refuses a run, of which nothing is drawn."""
    with pytest.raises(UserError) as caught:
        plot.main([picture, str(folder), "-o", str(folder / "plot.png")])
    assert "\n" not in str(caught.value) and not (folder / "plot.png").exists()
    return str(caught.value)


@pytest.mark.parametrize("name, value", [("bits", None), ("bits", "4"), ("bits", float("nan")), ("kbytes", {})])
def test_bits_that_are_none_are_one_line(name, value, tmp_path):
    write_json(tmp_path / "layers.json", [{**BITS, name: value}])
    assert f"{name!r} is " in refused_plot("bits", tmp_path)


@pytest.mark.parametrize("values", [[], {}, {"test_error": 0.1}, {"test_error": "x", "weight_kbytes": 1},
                                    {"test_error": float("nan"), "weight_kbytes": 1},
                                    {"test_error": 0.1, "weight_kbytes": 0}, {"test_error": 2, "weight_kbytes": 1}])
def test_a_damaged_result_is_one_line(values, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert refused_plot("tradeoff", tmp_path).startswith(f"{tmp_path / 'result.json'}: ")


@pytest.mark.parametrize("extras", [[{}], [[]], [[{"d": 1.0}, {"d": 1.0}]], [["d"]], [[{"d": "x"}]], [[{"d": -1.0}]],
                                    [[{"d": float("nan")}]], [[{"d": 1.0}], [{"xmax": 1.0}]], [3]])
def test_scalars_of_another_network_are_one_line(extras, tmp_path):
    write_json(tmp_path / "layers.json", [BITS])
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(tmp_path / CHECKPOINT, {}, S.Sgd(), {
        "epoch": 2, "step": 0, "sums": {}, "last": {}, "best": None, "rows": [], "extras": extras, "config": {}})
    assert "does not have the scalars of the 1 quantizers" in refused_plot("scalars", tmp_path)


def test_the_demo_is_an_experiment_with_a_budget():
    args = make_parser(None, Config).parse_args(demo.EXPERIMENT)
    cfg = load_section(Config, find_cfg(args.cfg, "mixed_precision_dnns"), args.experiment, overrides_of(args, Config))
    assert cfg.target_weight_kbytes == 90 and cfg.dataset == "digits"


def test_benchmark_on_a_gpu_tells_what_is_taken_of_it_and_leaves_processes_on_cores_out(monkeypatch, capsys):
    benchmark.use_context("cpu")
    free = iter([10 << 20, 7 << 20])
    monkeypatch.setattr(benchmark, "on_gpu", lambda: True)
    monkeypatch.setattr(benchmark, "device_memory", lambda: (next(free), 12 << 20))
    assert benchmark.peak_memory(attrs.evolve(benchmark.NETWORKS["resnet20"], memory_batch=1), "float") == 3
    assert benchmark.process_throughput(1, 1) == {}
    assert "left out" in capsys.readouterr().out


def test_benchmark_of_a_network_for_imagenet(monkeypatch):
    benchmark.use_context("cpu")
    small = attrs.evolve(benchmark.NETWORKS["resnet18"], image_shape=(3, 32, 32), num_classes=3)
    monkeypatch.setattr(benchmark, "QUANTIZERS", {name: benchmark.QUANTIZERS[name] for name in ("float", "W uniform")})
    times = benchmark.step_times(small, 1, 1)
    assert list(times) == ["float", "W uniform", "float, nnabla's functions", "W uniform, nnabla's functions"]


def test_benchmark_without_pytorch_says_so_in_a_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    benchmark.main(["--torch-only", "-c", "cpu", "-o", str(tmp_path / "out.json")])
    assert "name a Python that has it by --torch-python" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["step"] == {}


@pytest.mark.parametrize("python, message", [("no such file", "No such file"), ("true", "no Python that can import")])
def test_benchmark_refuses_a_python_without_pytorch(python, message):
    with pytest.raises(UsageError, match=message):
        benchmark.main(["--torch-only", "-c", "cpu", "--torch-python", python, "--batch-size", "1"])


@pytest.mark.parametrize("flags, message", [
    (["--deployed-only", "--torch-only"], "--deployed-only and --torch-only measure different things"),
    (["--deployed-only", "--network", "resnet18"], "--deployed-only and --network resnet18 measure different things"),
    (["--deployed-only", "--batch-size", "4"], "--batch-size changes nothing with --deployed-only"),
    (["--network", "resnet18", "--torch-python", "python"], "--torch-python changes nothing with --network resnet18")])
def test_benchmark_refuses_flags_without_effect(flags, message):
    with pytest.raises(UsageError, match=message):
        benchmark.parse_args(flags)


def test_benchmark_beside_pytorch(tmp_path, capsys):
    pytest.importorskip("torch")
    benchmark.main(["--torch-only", "-c", "cpu", "--batch-size", "2", "--rounds", "1"])
    assert "PyTorch" in capsys.readouterr().out


@pytest.mark.slow
def test_benchmark_of_exported_networks(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "DEPLOYED", dict(list(benchmark.DEPLOYED.items())[:1]))
    benchmark.main(["--deployed-only", "--rounds", "1", "--output", str(tmp_path / "deployed.json"), "-c", "cpu"])
    rows = json.loads((tmp_path / "deployed.json").read_text())["deployed"]["ResNet-20, 32 x 32"]
    assert (rows["quantized, onnxruntime"]["integer"], rows["float, onnxruntime"]["integer"]) == (18, 0)
    assert all(row["ms"] > 0 and row["all"] == 19 for row in rows.values())
    assert "18 of 19 convolutions with integers" in capsys.readouterr().out


def test_benchmark_compares_all_networks(monkeypatch, capsys, tmp_path):
    small = {name: attrs.evolve(network, memory_batch=1) for name, network in benchmark.NETWORKS.items()}
    monkeypatch.setattr(benchmark, "NETWORKS", small)
    two = {name: benchmark.QUANTIZERS[name] for name in ("float", "W+A uniform")}
    monkeypatch.setattr(benchmark, "QUANTIZERS", two)
    benchmark.main(["--batch-size", "1", "--rounds", "1", "-c", "cpu", "-o", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["step"]["float"]["ratio"] == 1 and results["peak_memory_mb"]["float"] > 50
    assert "W+A uniform, nnabla's functions" in capsys.readouterr().out
