"""The ImageNet command: what a run writes, how it goes on after an interrupt, and what it says to bad input."""
import json
import shutil

import nnabla as nn
import pytest
from PIL import Image

from common.machine.errors import UsageError, UserError
from common.workbench.testing import arrays_in, content, disturbed, same_arrays
from mixed_precision_dnns import data, eval, export, report, train_imagenet, train_resnet

FIXED, LEARNED = "MOBILENETV2_FP_W4A4Q_INIT", "MOBILENETV2_PARAMETRIC_FP_WAMQ_DELTA_XMAX_CON_INIT"
SHORT = ("--data-dir", "synthetic", "--image-size", "32", "--limit", "20", "--held-out", "0.1", "--batch-size", "4",
         "--steps-per-epoch", "2", "--epochs", "2", "-c", "cpu")


@pytest.fixture(autouse=True, scope="module")
def small_evaluation():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "ROUNDS", 1)
        patch.setattr(data, "PHOTOGRAPHS_BATCH", 10)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with the runs MOBILENETV2, float, and LEARNED, which starts from it; not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    train_imagenet.main([LEARNED, "--pretrain", *SHORT, "-o", str(folder / LEARNED)])
    nn.clear_parameters()
    return folder


@pytest.fixture
def photographs(tmp_path):
    """Two classes of 4 pictures to train with and 2 to validate, in other shapes and colours than networks take."""
    for split, num in (("train", 4), ("val", 2)):
        for label, wnid in enumerate(("n01", "n02")):
            (tmp_path / split / wnid).mkdir(parents=True)
            for k in range(num):
                Image.new(("RGB", "L", "CMYK", "RGB")[k], (40 + k, 50), 50 + 100 * label).save(
                    tmp_path / split / wnid / f"{k}.JPEG", "JPEG")
    return tmp_path


def test_a_run_writes_its_files(runs):
    assert set(content(runs / LEARNED)) == {"config.json", "log.csv", "curves.png", "params_best.h5",
                                            "checkpoint/latest.h5", "layers.json", "layers.csv", "result.json"}
    assert (runs / "MOBILENETV2" / "params_best.h5").is_file()
    header = (runs / LEARNED / "log.csv").read_text().splitlines()[0].split(",")
    assert {"train_error", "valid_error", "valid_top5_error", "weight_kbytes"} <= set(header)
    result = json.loads((runs / LEARNED / "result.json").read_text())
    assert 0 <= result["test_top5_error"] <= result["test_error"] <= 1
    assert result["weight_kbytes"] <= 1694.71


def test_it_starts_from_the_float_network_with_step_sizes_of_its_weights(runs):
    rows = json.loads((runs / LEARNED / "layers.json").read_text())
    assert len({row["step_size"] for row in rows if row["kind"] == "weights"}) > 2
    assert len(rows) == 53 + 1 + 35


def test_evaluation_prints_what_training_printed(runs, capsys):
    result = json.loads((runs / LEARNED / "result.json").read_text())
    eval.main([str(runs / LEARNED), "-c", "cpu"])
    out = capsys.readouterr().out
    assert f"test error {result['test_error']:.2%}, top5 {result['test_top5_error']:.2%} (validation" in out


def test_report_of_a_run(runs, capsys, tmp_path):
    report.main([str(runs / LEARNED), "-o", str(tmp_path / "costs.csv")])
    result = json.loads((runs / LEARNED / "result.json").read_text())
    assert f"weights {result['weight_kbytes']:.2f} kB" in capsys.readouterr().out
    assert len((tmp_path / "costs.csv").read_text().splitlines()) == 54


def test_exported_network_agrees(runs, capsys, tmp_path):
    export.main([str(runs / LEARNED), "-o", str(tmp_path), "--images", "20"])
    result = json.loads((tmp_path / "export.json").read_text())
    assert all(found["images"] == 20 for found in result["agreement"].values())
    # By default openvino computes in bfloat16 where the processor can, which may change the best class.
    assert all(found["same_top1"] == 20 for engine, found in result["agreement"].items() if engine != "openvino")
    assert result["agreement"]["onnxruntime"]["median_error"] < 1e-5
    assert 0 <= result["packed"]["weights"] - result["packed"]["reported"] < 1
    capsys.readouterr()
    eval.main([str(runs / LEARNED), "--engine", "onnxruntime", "--weights", str(tmp_path / "network.onnx")])
    expected = json.loads((runs / LEARNED / "result.json").read_text())
    assert f"test error top 1 {expected['test_error']:.2%}, top 5 {expected['test_top5_error']:.2%}" in (
        capsys.readouterr().out)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_bits(runs, tmp_path):
    shutil.copytree(runs / "MOBILENETV2", tmp_path / "MOBILENETV2")
    command = [LEARNED, *SHORT, "-o", str(tmp_path / LEARNED)]
    # The first step of the second epoch.
    with disturbed(train_resnet, "clipped_update", 3, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        train_imagenet.main(command)
    with pytest.raises(UsageError, match="holds a run already"):
        train_imagenet.main(command)
    train_imagenet.main([*command, "--resume"])
    for name in ("params_best.h5", "checkpoint/latest.h5"):
        assert same_arrays(arrays_in(tmp_path / LEARNED / name), arrays_in(runs / LEARNED / name)), name


def test_out_of_core_changes_no_bit(runs, tmp_path, capsys):
    train_imagenet.main(["MOBILENETV2", *SHORT, "-o", str(tmp_path / "run"), "--out-of-core", "64MB"])
    assert "no memory is saved" in capsys.readouterr().err
    a, b = (arrays_in(folder / "checkpoint/latest.h5") for folder in (tmp_path / "run", runs / "MOBILENETV2"))
    assert same_arrays(a, b)
    assert (tmp_path / "run" / "log.csv").read_text() == (runs / "MOBILENETV2" / "log.csv").read_text()


def test_photographs_of_all_kinds_and_damaged_ones(photographs, tmp_path, capsys):
    (photographs / "train" / "n02" / "3.JPEG").write_bytes(b"damaged")
    command = ["RESNET18", *SHORT[2:], "--data-dir", str(photographs), "--epochs", "1", "--batch-size", "7",
               "--steps-per-epoch", "1", "--held-out", "0.1", "-o", str(tmp_path / "run")]
    with pytest.raises(UserError, match="3.JPEG: not an image"):
        train_imagenet.main(command)
    train_imagenet.main([*command, "--overwrite", "--skip-damaged"])
    out = capsys.readouterr().out
    assert "1 damaged images were left out, the first" in out and "3.JPEG" in out
    assert json.loads((tmp_path / "run" / "layers.json").read_text())[-1]["elements"] == 2    # classes


def test_other_pictures_are_refused(photographs, tmp_path):
    command = ["RESNET18", *SHORT[2:], "--data-dir", str(photographs), "--epochs", "1", "--batch-size", "2",
               "--steps-per-epoch", "1", "--held-out", "0.1", "-o", str(tmp_path / "run")]
    train_imagenet.main(command)
    (photographs / "train/n02/3.JPEG").unlink()
    with pytest.raises(UsageError, match=r"other training images \(7, and now there are 6\)"):
        train_imagenet.main([*command, "--resume"])


@pytest.mark.parametrize("arguments, says", [
    (["RESNET18"], "--data-dir synthetic"), (["RESNET18", "--data-dir", "nowhere"], "no such folder"),
    (["RESNET50", "--data-dir", "synthetic"], "RESNET50"), (["RESNET18", "--image-size", "16"], "image-size"),
    (["RESNET18", "--model", "vgg"], "resnet18, mobilenetv2"), (["RESNET18", "--cfg", "missing.cfg"], "missing.cfg"),
    ([FIXED, *SHORT], "--pretrain does that first"), (["RESNET18", *SHORT, "--batch-size", "500"], "batch size 500"),
    (["RESNET18", *SHORT, "--per-class", "-1"], "per-class")])
def test_refuses(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says) as caught:
        train_imagenet.main(arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.h5"))
