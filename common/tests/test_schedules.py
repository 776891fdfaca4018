"""Learning rates that follow the validation loss, and early stopping."""
import json
from pathlib import Path

import numpy as np
import pytest

from common.runs.schedules import epochs_without_gain, plateau_decay, poly_decay

# What the published training code of X-UMX does.
REFERENCE = json.loads((Path(__file__).parent / "data" / "schedulers.json").read_text())
NAMES = {"min_lr": "min_rate"}


def beginnings(values):
    """What was known after each epoch."""
    return [values[:epochs] for epochs in range(1, len(values) + 1)]


@pytest.mark.parametrize("case", REFERENCE["lr"], ids=lambda case: f"{case['settings']}, {len(case['metrics'])}")
def test_rates_are_those_of_the_published_code(case):
    settings = {NAMES.get(name, name): value for name, value in case["settings"].items()}
    initial = settings.pop("lr")
    rates = [plateau_decay(initial, values, **settings) for values in beginnings(case["metrics"])]
    np.testing.assert_allclose(rates, case["lr"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", REFERENCE["early_stopping"],
                         ids=lambda case: f"{case['settings']}, {case['metrics'][0]}")
def test_early_stopping_is_that_of_the_published_code(case):
    for values, (stop, best, bad) in zip(beginnings(case["metrics"]), case["stop_best_bad"], strict=True):
        assert epochs_without_gain(values) == bad
        assert min(values) == best
        assert (epochs_without_gain(values) >= case["settings"]["patience"]) == stop


def test_before_the_first_epoch():
    assert plateau_decay(0.5, []) == 0.5
    assert epochs_without_gain([]) == 0


def test_the_rate_stays_while_the_loss_falls():
    assert plateau_decay(0.5, [0.99 ** k for k in range(100)], patience=0, cooldown=0) == 0.5


@pytest.mark.parametrize("ratio, rate", [(1 - 2e-4, 0.5), (1 - 3e-5, 0.05)])
def test_a_gain_below_the_threshold_is_none(ratio, rate):
    assert plateau_decay(0.5, [ratio ** k for k in range(4)], patience=2, cooldown=9) == pytest.approx(rate)


def test_the_rate_drops_after_more_than_patience_epochs_and_rests_in_between():
    # 1 better epoch, patience + 1 = 3 worse ones, 2 that are not counted, 3 worse ones, ...
    rates = [plateau_decay(1.0, values, factor=0.5, patience=2, cooldown=2) for values in beginnings([1.0] * 14)]
    assert rates == [1.0] * 3 + [0.5] * 5 + [0.25] * 5 + [0.125]


def test_the_rate_never_falls_below_the_lowest():
    assert plateau_decay(1.0, [1.0] * 100, factor=0.3, patience=0, cooldown=0, min_rate=0.2) == 0.2


def test_a_tiny_drop_is_left_out():
    assert plateau_decay(1e-7, [1.0] * 2, patience=0, cooldown=0) == pytest.approx(1e-8)
    assert plateau_decay(1e-8, [1.0] * 2, patience=0, cooldown=0) == 1e-8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_never_better(bad):
    assert plateau_decay(1.0, [bad, bad, 1.0, 0.9], patience=1, cooldown=0) == 0.1
    assert plateau_decay(1.0, [1.0, bad, 0.9, bad, 0.8], patience=1, cooldown=0) == 1.0


def test_the_first_of_equal_losses_counts():
    assert epochs_without_gain([2.0, 1.0, 1.0, 1.0]) == 2
    assert epochs_without_gain([2.0, 1.0, 1.0, 0.5]) == 0


@pytest.mark.parametrize("time, rate", [(0, 0.5), (100, 0.1), (101, 0.1), (1000, 0.1)])
def test_a_rate_stays_where_its_way_ends(time, rate):
    assert poly_decay(0.5, 0.1, 0.9, time, 100) == pytest.approx(rate, rel=1e-12)
