"""Experiments: what each section says, its learning rate over the epochs, and what is refused."""

import pytest

from common.machine.errors import UsageError
from common.machine.files import beside_scripts
from common.runs.config import load_section, section_names
from out_of_core_training import models
from out_of_core_training.config import Config, learning_rate, parse_size

CFG = beside_scripts("out_of_core_training", "train.cfg")


def test_every_network_has_an_experiment():
    networks = {load_section(Config, CFG, section).network for section in section_names(CFG)}
    assert networks == set(models.NETWORKS)


@pytest.mark.parametrize("section, batch_size, rate, weight_decay", [
    ("RESNET50", 256, 0.1, 1e-4), ("DENSENET121", 256, 0.1, 1e-4), ("PIX2PIXHD", 1, 2e-4, 0),
    ("DEEPLABV3PLUS", 16, 0.007, 4e-5), ("DEEPLABV3PLUS-RESNET50", 16, 0.007, 1e-4)])
def test_published_recipes(section, batch_size, rate, weight_decay):
    cfg = load_section(Config, CFG, section)
    assert (cfg.batch_size, cfg.weight_decay) == (batch_size, weight_decay)
    assert max(learning_rate(cfg, epoch, 0, 10) for epoch in range(cfg.epochs)) == pytest.approx(rate)


def test_the_learning_rate_of_a_step():
    cfg = Config(epochs=90, warmup_epochs=5, batch_size=512, reference_batch=256)
    rates = [learning_rate(cfg, epoch, 0, 100) for epoch in (0, 2, 5, 29, 30, 60, 80, 89)]
    assert rates == pytest.approx([0.2 * 0.01 / 5.01, 0.2 * 2.01 / 5.01, 0.2, 0.2, 0.02, 2e-3, 2e-4, 2e-4])
    poly = Config(schedule="poly", epochs=10)
    assert learning_rate(poly, 5, 0, 4) == pytest.approx(0.1 * 0.5 ** 0.9)
    assert 0 < learning_rate(poly, 9, 3, 4) < 0.1 * 0.03 ** 0.8
    linear = Config(schedule="linear", epochs=200)
    assert [learning_rate(linear, epoch, 0, 5) for epoch in (0, 100, 150)] == pytest.approx([0.1, 0.1, 0.05])


@pytest.mark.parametrize("epochs, rates", [(1, [1]), (2, [1, 0.1]), (3, [1, 0.1, 0.01]), (4, [1, 1, 0.1, 0.01])])
def test_no_rate_falls_before_its_share_of_the_epochs(epochs, rates):
    cfg = Config(epochs=epochs, learning_rate=1)
    assert [learning_rate(cfg, epoch, 0, 10) for epoch in range(epochs)] == pytest.approx(rates)


def test_sizes_of_images():
    assert parse_size("224") == (224, 224)
    assert parse_size("1024x2048") == (1024, 2048)
    assert parse_size(None) is None
    assert Config(network="pix2pixhd").size == (1024, 2048)
    for wrong in ("", "x", "12x", "-5", "224.0", "1x2x3"):
        with pytest.raises(UsageError):
            parse_size(wrong)


@pytest.mark.parametrize("values, word", [
    ({"network": "resnet51"}, "resnet51"), ({"batch_size": 0}, "batch_size"), ({"image_size": "12"}, "at least 32"),
    ({"network": "pix2pixhd", "image_size": "100"}, "multiple of 32"), ({"image_size": "big"}, "'big'"),
    ({"backbone": "resnet50"}, "backbone"), ({"network": "deeplabv3plus", "backbone": "vgg"}, "vgg"),
    ({"width": 0}, "width"), ({"data": "nothing"}, "nothing"), ({"learning_rate": "nan"}, "learning_rate")])
def test_bad_values_are_named(values, word):
    with pytest.raises(ValueError, match=word):
        Config(**values)
