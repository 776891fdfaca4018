"""The paired test and its correction, against scipy and published values."""
import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from common.runs.significance import holm, paired_difference


@pytest.mark.parametrize("pairs", [2, 3, 8, 40])
def test_the_paired_test_is_that_of_scipy(pairs):
    rng = np.random.default_rng(pairs)
    values, others = rng.normal(0.1, 1, pairs), rng.normal(0, 0.3, pairs)
    found, band = paired_difference(values, others), ttest_1samp(values - others, 0).confidence_interval(0.95)
    assert found.pairs == pairs and found.mean == pytest.approx(np.mean(values - others), rel=1e-12)
    assert found.p == pytest.approx(ttest_rel(values, others).pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((band.low, band.high), rel=1e-9)


def test_sleep_data_of_student():
    """Cushny and Peebles' hours of sleep, in Student's paper of 1908: t = 4.06 with 9 degrees, p = 0.00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_difference(second, first)
    assert (found.mean, found.p) == pytest.approx((1.58, 0.002833), rel=1e-3)
    assert (found.low, found.high) == pytest.approx((0.70, 2.46), abs=5e-3)


def test_what_says_nothing():
    single = paired_difference([1.0], [0.5])
    assert single.mean == 0.5 and np.isnan([single.low, single.high, single.p]).all()
    equal = paired_difference([0.3, 0.4, 0.5], [0.1, 0.2, 0.3])    # by 0.2 but for rounding: no deviation to test by
    assert equal.mean == pytest.approx(0.2) and np.isnan(equal.p)
    assert paired_difference([0.3, 0.4], [0.3, 0.4]).p == 1


def test_the_correction_of_holm():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.7, 0.6, 0.01]) == pytest.approx([1, 1, 0.03])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert holm([]) == []


def test_the_correction_holds_its_level():
    """Under no difference at all, some comparison is significant in 5 % of experiments at most."""
    rng = np.random.default_rng(0)
    errors = [min(holm([paired_difference(values, np.zeros(8)).p for values in rng.normal(size=(5, 8))])) < 0.05
              for _ in range(400)]
    assert np.mean(errors) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
