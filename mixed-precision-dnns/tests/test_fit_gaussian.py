import json
import subprocess
import sys

import nnabla as nn
import numpy as np
import pytest

from common.machine.context import use_context
from common.machine.errors import UsageError
from common.quantizers import GRIDS, QUANTIZERS, UNIFORM
from common.workbench.testing import assert_one_line, rows_of, run_without_packages, script_of
from mixed_precision_dnns import fit_gaussian
from mixed_precision_dnns.fit_gaussian import LIMITS, STARTS, best_error, first_scalars, fit

SCRIPT = script_of(fit_gaussian)


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).standard_normal(10000).astype(np.float32)


def run(name, x, steps, start="2 bits", learning_rate=1.0):
    return fit(name, x, first_scalars(start, QUANTIZERS[name].grid), learning_rate, steps)


def nearest(x):
    """Round, halves away from zero."""
    return np.sign(x) * np.floor(np.abs(x) + 0.5)


def power_of_two(value):
    return 2.0 ** nearest(np.log2(value))


def range_of(name, scalars):
    """(step size or smallest magnitude, largest) of a quantizer; common's tests compare them with the definitions."""
    ends = QUANTIZERS[name].range(*map(nn.Variable.from_numpy_array, scalars.values()), LIMITS, True)
    nn.forward_all(ends)
    return tuple(float(end.d) for end in ends)


def half_mse(name, x, scalars):
    low, high = range_of(name, scalars)
    if QUANTIZERS[name].grid is not UNIFORM:
        y = np.sign(x) * power_of_two(np.clip(np.abs(x), low, high))
    else:
        y = low * nearest(np.clip(x, -high, high) / low)
    return 0.5 * np.mean((y - x) ** 2)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_error_is_that_of_the_recorded_scalars(name, samples):
    result = run(name, samples[:1000], steps=12)
    x = samples[:1000].astype(np.float64)
    for step, error in enumerate(result.error):
        scalars = {scalar: float(values[step]) for scalar, values in result.scalars.items()}
        assert error == pytest.approx(half_mse(name, x, scalars), rel=1e-4), (step, scalars)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_scalars_stay_inside_of_their_limits(name, samples):
    result = run(name, samples[:500], steps=30, start="4 bits", learning_rate=30.0)
    for scalar, values in result.scalars.items():
        assert (values > LIMITS[scalar][0]).all() and (values < LIMITS[scalar][1]).all()
    assert (result.bits >= 2).all() and (result.bits <= 8).all()


@pytest.mark.parametrize("start", STARTS)
def test_all_parametrizations_start_from_the_same_quantizer(start, samples):
    for grid in GRIDS.values():
        fits = [run(name, samples, 1, start) for name in QUANTIZERS if QUANTIZERS[name].grid is grid]
        np.testing.assert_allclose([f.error[0] for f in fits], fits[0].error[0], rtol=1e-4)
        assert len({f.bits[0] for f in fits}) == 1


# The power-of-two ones end close together: this order shows after the last of them has found its range.
@pytest.mark.parametrize("grid, steps", [("uniform", 60), ("pow2", 160)])
def test_scalars_of_a_range_end_with_the_least_error(grid, steps, samples):
    grid = GRIDS[grid]
    fits = {name: run(name, samples, steps) for name in QUANTIZERS if QUANTIZERS[name].grid is grid}
    with_range, = (f for name, f in fits.items() if QUANTIZERS[name].is_range)
    others = [f for name, f in fits.items() if not QUANTIZERS[name].is_range]
    assert all(with_range.final < f.final for f in others)
    assert with_range.oscillation < 1e-6
    assert best_error(grid, samples) <= with_range.error.min() * (1 + 1e-6)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_the_best_of_some_bits_is_found_by_none_with_fewer(grid, samples):
    best = [fit_gaussian.best_of_bits(grid, bits, samples[:2000]) for bits in (2, 3, 4, 5)]
    assert best == sorted(best, reverse=True)
    assert best[0] > 1.2 * best[1]
    assert best[-1] >= best_error(grid, samples[:2000]) * (1 - 1e-3)


def test_several_seeds_have_deviations(tmp_path, capsys):
    fit_gaussian.main(["--steps", "3", "--samples", "200", "--seeds", "2", "--seed", "5", "-o", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out/fit.json").read_text())
    assert [row["seed"] for row in report["results"]] == [5] * 12 + [6] * 12
    assert all(row["times_best"] > 0.99 for row in report["results"])
    assert capsys.readouterr().out.count("±") == 2 * len(STARTS) * len(QUANTIZERS)


def test_command_writes_its_files(tmp_path, capsys):
    fit_gaussian.main(["--steps", "3", "--samples", "200", "--output", str(tmp_path / "out")])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"fit.png", "fit.csv", "fit.json"}
    rows = rows_of(tmp_path / "out/fit.csv")
    assert len(rows) == len(STARTS) * len(QUANTIZERS) * 4
    report = json.loads((tmp_path / "out/fit.json").read_text())
    assert report["settings"]["steps"] == 3 and len(report["results"]) == len(STARTS) * len(QUANTIZERS)
    for result in report["results"]:
        last = [row for row in rows if all(row[key] == result[key] for key in ("parametrization", "start"))][-1]
        assert float(last["error"]) == result["error"]
    printed = capsys.readouterr().out
    assert all(quantizer.label in printed for quantizer in QUANTIZERS.values())


@pytest.mark.parametrize("flag, value", [("--steps", "-3"), ("--steps", "0"), ("--steps", "many"), ("--samples", "0"),
                                         ("--seed", "-1"), ("--learning-rate", "0"), ("--learning-rate", "inf")])
def test_bad_values_of_flags(flag, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"{flag}: '{value}' is not an? (integer|number)"):
        fit_gaussian.main([flag, value])
    assert not list(tmp_path.iterdir())


def test_bad_flag_is_one_line(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--steps", "-3"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "error: argument --steps: '-3' is not an integer from 1 (see --help)"
    assert sum("error" in line for line in done.stderr.splitlines()) == 1


def test_missing_install_is_one_line(tmp_path):
    result = run_without_packages(SCRIPT, cwd=tmp_path)
    assert_one_line(result, 2, "pip install -r requirements.txt", "make demo")
