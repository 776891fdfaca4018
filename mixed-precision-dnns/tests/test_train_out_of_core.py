"""`--out-of-core` of the train script changes where arrays are kept and nothing else."""
import pytest

from common.machine.errors import UsageError, UserError
from common.workbench.testing import assert_same_files
from mixed_precision_dnns import train_resnet

SHORT = ("--batch-size", "2", "--steps-per-epoch", "4", "--epochs", "1", "-c", "cpu")
WAQ = "PARAMETRIC_FP_WAQ_DELTA_XMAX"


def train(output, cifar, *flags):
    train_resnet.main([WAQ, "--output", str(output), *SHORT, "--data-dir", str(cifar), *flags])


def test_the_run_is_the_same_bit_for_bit(tmp_path, cifar, capsys):
    train(tmp_path / "in", cifar)
    train(tmp_path / "out", cifar, "--out-of-core", "64MB")
    assert "no memory is saved" in capsys.readouterr().err
    assert_same_files(tmp_path / "in", tmp_path / "out", ("checkpoint/latest.h5",), ("log.csv",))


def test_too_small_a_budget_is_told_in_one_line(tmp_path, cifar):
    with pytest.raises(UserError, match="too small for this training iteration: the smallest feasible one is") as error:
        train(tmp_path, cifar, "--out-of-core", "1kB")
    assert "\n" not in str(error.value)


def test_a_bad_budget_is_told_in_one_line(tmp_path, cifar):
    with pytest.raises(UsageError, match="not an amount of memory"):
        train(tmp_path, cifar, "--out-of-core", "much")
