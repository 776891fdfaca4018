"""Two processes that mpirun starts train as one with twice the batch."""
import sys

import pytest

from common.machine.launching import find_mpirun, start_ranks
from common.workbench.testing import log_of, script_of
from mixed_precision_dnns import train_imagenet, train_resnet

pytestmark = pytest.mark.skipif(find_mpirun() is None, reason="no mpirun: pip install -r requirements-distributed.txt")


def start(script, *arguments):
    """Run a script on two processes; returns what they print."""
    done = start_ranks(2, [sys.executable, script_of(script), *map(str, arguments)], "--oversubscribe")
    assert done.returncode == 0, done.stderr
    return done.stdout


# The last layers of MobileNetV2 see one pixel here, so that normalization over 4 values magnifies roundings. Steps are
# small, so that these change no answer afterwards.
@pytest.mark.slow
@pytest.mark.parametrize("script, experiment, flags, tolerance", [
    (train_resnet, "DEFAULT", ("--initial-learning-rate", "1e-3"), 1e-5),
    (train_imagenet, "MOBILENETV2", ("--initial-learning-rate", "5e-4", "--image-size", "32", "--limit", "20",
                                     "--held-out", "0.1"), 1e-4)])
def test_the_log_is_that_of_one_process(script, experiment, flags, tolerance, cifar, tmp_path):
    data_dir = cifar if script is train_resnet else "synthetic"
    common = (experiment, "--epochs", 1, "--steps-per-epoch", 1, "--data-dir", data_dir, *flags, "-c", "cpu")
    script.main([*map(str, common), "--batch-size", "4", "-o", str(tmp_path / "one")])
    out = start(script, *common, "--batch-size", 2, "-o", tmp_path / "two")
    assert "2 processes" in out and out.count("epoch 1/1") == out.count("test error") == 1
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 1
    for name, value in one[0].items():
        assert two[0][name] == pytest.approx(value, rel=tolerance), name
