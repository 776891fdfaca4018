"""The comparison of dilations: alike but for these, reproducible, and a table."""
import json
import shutil

import nnabla as nn
import numpy as np
import pytest

from common.console import cli
from common.machine.errors import UsageError
from common.machine.files import write_json
from common.workbench.testing import content, train_until_killed
from d3net import compare, marked_regions
from d3net.blocks import DILATIONS


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(compare, "SIZE", (16, 32))
    monkeypatch.setattr("common.datasets.synthetic_scenes.NUM", {"train": 3, "val": 2})


@pytest.mark.parametrize("name, channels, classes", [("scenes", 3, 19), ("marks", 1, 4)])
def test_variants_differ_in_their_dilations_alone(name, channels, classes):
    image = nn.Variable.from_numpy_array(np.random.default_rng(0).standard_normal((1, channels, 16, 32)))
    outputs, parameters = [], {}
    for variant in DILATIONS:
        logits = compare.network(compare.TASKS[name], image, variant, test=True)
        found = nn.get_parameters(grad_only=False)
        assert parameters in ({}, found)    # the next one makes no others
        parameters = found
        logits.forward()
        assert logits.shape == (1, classes, 16, 32)
        outputs.append(logits.d.copy())
    assert not any(np.allclose(outputs[0], other) for other in outputs[1:])


def test_a_training_follows_from_its_seed_and_its_loss_falls():
    images, labels = compare.load_scenes("synthetic", "train")
    assert images.shape == (3, 3, 16, 32) and labels.shape == (3, 1, 16, 32)
    assert labels.min() >= -1 and labels.max() < 19
    task = compare.TASKS["scenes"]
    first, again, other = (compare.train(task, "multidilated", images, labels, seed, 12) for seed in (0, 0, 1))
    assert first == again != other
    assert np.mean(first[-3:]) < 0.8 * np.mean(first[:3])


def test_a_network_that_is_right_scores_1(monkeypatch):
    images, labels = compare.load_scenes("synthetic", "val")
    answers = iter(labels)

    class Perfect:
        def forward(self, **flags):
            label = np.maximum(next(answers)[0], 0)
            self.d = np.eye(19)[label].transpose(2, 0, 1)[None]

    monkeypatch.setattr(compare, "network", lambda *args, **flags: Perfect())
    assert compare.evaluate(compare.TASKS["scenes"], "none", images, labels) == {"miou": 1, "pixel_accuracy": 1}


def test_marks_alone_tell_the_classes_of_regions():
    (images, labels), again, other = (marked_regions.make_pictures("train", seed) for seed in (0, 0, 1))
    assert images.shape == labels.shape == (256, 1, 48, 48) and set(np.unique(labels)) == {0, 1, 2, 3}
    assert np.array_equal(images, again[0]) and not np.array_equal(images, other[0])
    marks = marked_regions.CONTRAST * np.random.default_rng(0).choice((-1, 1), (4, 5, 5))
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0], (5, 5), axis=(1, 2))
    for kind, mark in enumerate(marks):
        found = np.argwhere(np.abs(windows - mark).mean(axis=(-2, -1)) < 0.5)    # pictures, places
        assert len(found) > 100
        assert np.mean([labels[picture, 0, y + 2, x + 2] == kind for picture, y, x in found]) > 0.95
    # Without its marks, a region says nothing: brightness and class are drawn apart.
    brightness = [images[labels == kind].mean() for kind in range(4)]
    assert np.ptp(brightness) < 0.2


def test_the_table_shows_mean_and_deviation():
    scores = [{"miou": 0.25, "pixel_accuracy": 0.5}, {"miou": 0.35, "pixel_accuracy": 0.5}]
    head, first, *rest = compare.format_table(dict.fromkeys(DILATIONS, scores)).splitlines()
    assert "2 trainings" in head and "mean IoU" in head and len(rest) == 2
    assert "multidilated" in first and "30.00 ± 7.07 %" in first and "50.00 ± 0.00 %" in first


def test_variants_are_compared_seed_by_seed():
    scores = [[{"miou": 0.5, "pixel_accuracy": 0}, {"miou": 0.4, "pixel_accuracy": 0}],
              [{"miou": 0.3, "pixel_accuracy": 0}, {"miou": 0.3, "pixel_accuracy": 0}]]
    first, second = compare.format_differences(dict(zip(DILATIONS, (*scores, scores[0]), strict=True))).splitlines()
    # t = 12.706 of one degree of freedom, times the deviation 7.071 by the root of 2
    assert first == ("mean IoU, multidilated - one dilation per layer: +15.00 ± 63.53 points (95 % confidence), "
                     "pair by pair +20.00 +10.00")
    assert "no dilation: +0.00 ± 0.00 points" in second


def test_one_training_has_no_deviation():
    table = compare.format_table(dict.fromkeys(DILATIONS, [{"miou": 0.25, "pixel_accuracy": 0.5}]))
    assert "one training each" in table and "25.00 %" in table and "±" not in table


@pytest.mark.parametrize("task", compare.TASKS)
def test_the_command_writes_its_scores_and_prints_the_table(task, tmp_path, capsys):
    compare.main(["--task", task, "--seeds", "1", "--steps", "1", "--jobs", "1", "--output", str(tmp_path / "out"),
                  "-c", "cpu"])
    out = capsys.readouterr().out
    assert "no dilation" in out and "pair by pair" not in out    # of one seed
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert {variant: [set(score) for score in scores] for variant, scores in result.items()} == \
        {variant: [{"miou", "pixel_accuracy"}] for variant in DILATIONS}


FEW = ("--task", "marks", "--steps", "1", "-c", "cpu")


def test_a_comparison_that_was_killed_goes_on_to_the_same_numbers(tmp_path, capsys):
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    compare.main([*FEW, "--seeds", "2", "--jobs", "1", "-o", str(quiet)])
    flags = [*FEW, "--seeds", "1", "--jobs", "1", "-o", killed]
    train_until_killed("d3net.compare", "d3net.compare evaluate", 3, flags)
    done = {path: path.stat().st_ino for path in killed.glob("trainings/*-0.json")}
    assert len(done) == 2 and not (killed / "result.json").exists()
    capsys.readouterr()
    compare.main([*FEW, "--seeds", "2", "--jobs", "2", "-o", str(killed), "--resume"])    # of more seeds, too
    assert content(killed) == content(quiet)
    assert done.items() <= {path: path.stat().st_ino for path in killed.glob("trainings/*")}.items()
    out = capsys.readouterr().out
    assert "2 trainings each" in out and "pair by pair" in out


def test_a_training_that_diverges_is_one_line_and_leaves_no_scores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "RATE", 1e30)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: compare.main([*FEW[:2], "--steps", "3", "-c", "cpu", "--seeds", "1", "--jobs", "1", "-o",
                                      str(tmp_path / "out")]))
    err = capsys.readouterr().err
    assert caught.value.code == 1 and "seed 0: the loss is not finite in step 2" in err and err.count("\n") == 1
    assert not list(tmp_path.glob("out/trainings/*-0.json"))


@pytest.mark.parametrize("flags, word", [((), "holds a run already; add --resume"),
                                         (("--resume", "--steps", "2"), "was trained with steps = 1, not 2"),
                                         (("--resume", "--task", "scenes"), "was trained with task = 'marks'")])
def test_another_comparison_does_not_go_on(flags, word, one_comparison, capsys):
    before = content(one_comparison)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: compare.main([*FEW, "--seeds", "1", "-o", str(one_comparison), *flags]))
    err = capsys.readouterr().err
    assert caught.value.code == 2 and word in err and err.count("\n") == 1
    assert content(one_comparison) == before


def test_a_comparison_of_an_earlier_version_goes_on_and_other_pictures_do_not(one_comparison, tmp_path):
    copy = shutil.copytree(one_comparison, tmp_path / "copy")
    settings = json.loads((copy / "trainings/settings.json").read_text())
    arguments = [*FEW, "--seeds", "1", "-o", str(copy), "--resume"]
    write_json(copy / "trainings/settings.json", {"task": "marks", "steps": 1, "data_dir": "somewhere"})
    compare.main(arguments)
    write_json(copy / "trainings/settings.json", settings | {"pictures": "of others"})
    with pytest.raises(UsageError, match="was trained with pictures = 'of others', not "):
        compare.main(arguments)


def test_a_comparison_is_begun_anew_where_that_is_asked_for(one_comparison, tmp_path):
    copy = shutil.copytree(one_comparison, tmp_path / "copy")
    compare.main([*FEW, "--steps", "2", "--seeds", "1", "--jobs", "1", "-o", str(copy), "--overwrite"])
    assert content(copy).keys() == content(one_comparison).keys()
    assert all(content(copy)[name] != text for name, text in content(one_comparison).items())


def test_a_folder_of_others_is_not_removed(tmp_path):
    (tmp_path / "trainings").mkdir()
    (tmp_path / "trainings/shoulders.txt").write_text("3 x 10")
    with pytest.raises(UsageError, match="trainings: holds no trainings of this comparison"):
        compare.main([*FEW, "--seeds", "1", "-o", str(tmp_path), "--overwrite"])
    assert content(tmp_path) == {"trainings/shoulders.txt": b"3 x 10"}


@pytest.fixture(scope="module")
def one_comparison(tmp_path_factory):
    """Folder of a comparison of one seed and one step."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    compare.main([*FEW, "--seeds", "1", "--jobs", "1", "-o", str(folder)])
    return folder


@pytest.mark.parametrize("flags, word", [(("--data-dir", "nowhere"), "nowhere: no such folder"),
                                         (("--task", "marks", "--data-dir", "x"), "--task marks computes its pictures"),
                                         (("--seeds", "0"), "'0' is not an integer from 1")])
def test_bad_input_is_one_line(flags, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: compare.main([*flags, "-c", "cpu", "--seeds" if "--seeds" not in flags else "--steps", "1"]))
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and word in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
