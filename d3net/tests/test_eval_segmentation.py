"""Scores of segmentation, with a small network and with made labels."""
import json
from pathlib import Path

import numpy as np
import pytest

from common.console import cli
from common.datasets.cityscapes import CLASSES, find_pairs, read_pair
from common.datasets.synthetic_scenes import make_scene
from common.machine.errors import UsageError
from common.pictures.image_files import write_png
from d3net.hyperparameters import load_segmentation
from d3net.scenes import evaluation as eval_segmentation
from d3net.scenes.flags import SegmenterFlags
from d3net.scenes.metrics import ConfusionMatrix
from d3net.scenes.published import PUBLISHED
from d3net.scenes.segmenter import Segmenter


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data set of three generated scenes."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        image, label = make_scene("val", number, 48, 64)
        for kind, pixels in (("leftImg8bit/val/ulm/{}_leftImg8bit.png", image),
                             ("gtFine/val/ulm/{}_gtFine_labelTrainIds.png", label)):
            path = tmp_path / "data" / kind.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, pixels)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def segmenter(segmentation_weights):
    return Segmenter(segmentation_weights, "tiny", engine="nnabla")


@pytest.fixture
def run(root, segmenter, monkeypatch):
    """Evaluate with the small network, which is made once, in the folder 'scores'; return status and scores."""
    monkeypatch.setattr(SegmenterFlags, "make", lambda flags: segmenter)

    def run(*argv, data_dir=root):
        parser = cli.parser("")
        eval_segmentation.add_arguments(parser)
        args = parser.parse_args(["--data-dir", str(data_dir), "-m", "tiny.h5", "-o", "scores", *argv])
        status = eval_segmentation.evaluate(args)
        return status, json.loads(Path("scores/scores.json").read_text())
    return run


class Oracle:
    """Segments a data set without a mistake; `wrong` classes are taken for the road."""

    def __init__(self, root, wrong=()):
        self.answers = {image.tobytes(): np.where(np.isin(label, wrong), 0, label)
                        for image, label in map(read_pair, find_pairs(root, "val"))}
        self.calls = 0

    def segment(self, image):
        self.calls += 1
        return self.answers[image.tobytes()]


def test_scores_are_those_of_the_labels_of_the_segmenter(run, root, segmenter, capsys):
    status, scores = run()
    matrix = ConfusionMatrix(19)
    for image, label in map(read_pair, find_pairs(root, "val")):
        matrix.add(segmenter.segment(image), label)
    assert status == 0 and scores["images"] == 3 and scores["failed"] == []
    assert scores["confusion"] == matrix.counts.tolist()
    assert scores["mean_iou"] == matrix.mean_iou() and scores["pixel_accuracy"] == matrix.pixel_accuracy()
    assert [*scores["classes"]] == [*CLASSES]
    shown = capsys.readouterr().out
    assert f"pixel accuracy {100 * matrix.pixel_accuracy():.1f} %" in shown and "published" not in shown


def test_perfect_labels_score_one_and_absent_classes_are_left_out(root, tmp_path):
    matrix, failed = eval_segmentation.score_images(find_pairs(root, "val"), Oracle(root), tmp_path / "s", {})
    absent = [name for name, count in zip(CLASSES, matrix.counts.sum(1), strict=True) if not count]
    summary = eval_segmentation.summary(matrix)
    assert failed == [] and summary["mean_iou"] == summary["pixel_accuracy"] == 1
    assert absent and all(summary["classes"][name]["iou"] is None for name in absent)
    table = eval_segmentation.format_table(matrix, {})
    assert f"neither in the labels nor in the predictions: {', '.join(absent)}" in table
    share = matrix.counts[0].sum() / matrix.counts.sum()
    assert table.splitlines()[1].split() == ["road", "100.0", "100.0", f"{100 * share:.1f}"]


def test_a_class_never_found_counts_as_zero(root, tmp_path):
    sky = CLASSES.index("sky")
    matrix, _ = eval_segmentation.score_images(find_pairs(root, "val"), Oracle(root, [sky]), tmp_path / "s", {})
    assert matrix.iou()[sky] == 0 and matrix.iou()[0] < 1 and matrix.mean_iou() < 1


def test_an_interrupted_run_goes_on_where_it_was(root, tmp_path):
    pairs, folder = find_pairs(root, "val"), tmp_path / "s"
    oracle, whole = Oracle(root, [8]), Oracle(root, [8])
    expected, _ = eval_segmentation.score_images(pairs, whole, tmp_path / "t", {"weights": 1})
    segment = oracle.segment

    def interrupted(image):
        if oracle.calls == 2:
            raise KeyboardInterrupt
        return segment(image)
    oracle.segment = interrupted
    with pytest.raises(KeyboardInterrupt, match="run again to go on"):
        eval_segmentation.score_images(pairs, oracle, folder, {"weights": 1})
    oracle.segment = segment
    matrix, _ = eval_segmentation.score_images(pairs, oracle, folder, {"weights": 1})
    assert oracle.calls == 3
    np.testing.assert_array_equal(matrix.counts, expected.counts)


def test_stored_counts_of_other_settings_or_labels_are_made_anew(root, tmp_path, capsys):
    pairs, oracle = find_pairs(root, "val"), Oracle(root)
    eval_segmentation.score_images(pairs, oracle, tmp_path / "s", {"weights": 1})
    eval_segmentation.score_images(pairs, oracle, tmp_path / "s", {"weights": 2})
    assert oracle.calls == 6
    write_png(pairs[0].label, np.zeros((48, 64), np.uint8))
    matrix, _ = eval_segmentation.score_images(pairs, oracle, tmp_path / "s", {"weights": 2})
    assert oracle.calls == 7 and matrix.pixel_accuracy() < 1
    (tmp_path / "s" / "ulm" / "1.json").write_text("{")
    eval_segmentation.score_images(pairs, oracle, tmp_path / "s", {"weights": 2})
    assert oracle.calls == 8 and "2 of 3 images were scored" in capsys.readouterr().out


def test_a_bad_image_is_said_and_left_out(run, root, capsys):
    (root / "leftImg8bit/val/ulm/1_leftImg8bit.png").write_bytes(b"no image")
    write_png(root / "gtFine/val/ulm/2_gtFine_labelTrainIds.png", np.zeros((4, 4), np.uint8))
    status, scores = run()
    assert status == 1 and scores["images"] == 1 and scores["failed"] == ["ulm/1", "ulm/2"]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "not an image" in errors[0] and "4 x 4 pixels" in errors[1]


def test_no_image_at_all_has_no_score(run, root):
    for path in root.glob("leftImg8bit/val/ulm/*.png"):
        path.write_bytes(b"")
    status, scores = run()
    assert status == 1 and scores["images"] == 0 and scores["mean_iou"] is None


def test_generated_scenes_and_a_limit(run):
    status, scores = run("--limit", "1", "--split", "train", data_dir="synthetic")
    assert status == 0 and scores["images"] == 1 and scores["split"] == "train"


def test_published_scores_stand_beside_those_of_the_published_networks():
    for name, model in PUBLISHED.items():
        assert eval_segmentation.published_miou(load_segmentation(name)) == model.miou
    assert eval_segmentation.published_miou(load_segmentation("tiny")) == {}
    table = eval_segmentation.format_table(ConfusionMatrix(19).add(np.arange(19), np.arange(19)), {"paper": 79.5})
    assert table.splitlines()[20].split() == ["mean", "100.0", "100.0", "79.5"]
    assert "absent" not in table and "500 validation images" in table


def test_wrong_root_is_one_line(run, tmp_path):
    with pytest.raises(UsageError, match="no leftImg8bit/val in it"):
        run(data_dir=tmp_path)
