import pickle

import nnabla as nn
import numpy as np
import pytest

from common.runs import training
from common.workbench.testing import fill_parameters
from mixed_precision_dnns import data

TRAIN, TEST = 40, 9    # images of the small data set


@pytest.fixture
def fill():
    """Set all parameters but scalars to the values that the reference cases were computed with."""
    def fill(seed):
        fill_parameters({name: parameter for name, parameter in nn.get_parameters(grad_only=False).items()
                         if name.rsplit("/", 1)[-1] not in ("d", "xmax", "xmin", "n", "Asize")}, seed)
    return fill


def write_batch(path, num, seed):
    rng = np.random.default_rng(seed)
    content = {b"data": rng.integers(0, 256, (num, 3072), dtype=np.uint8), b"labels": rng.integers(0, 10, num).tolist()}
    path.write_bytes(pickle.dumps(content, 2))


@pytest.fixture(scope="session")
def cifar(tmp_path_factory):
    """Folder of a data set in the format of CIFAR-10 with 40 images to train with and 9 to test."""
    folder = tmp_path_factory.mktemp("cifar")
    for number in range(1, 6):
        write_batch(folder / f"data_batch_{number}", TRAIN // 5, number)
    write_batch(folder / "test_batch", TEST, 0)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_evaluation():
    """Batches for evaluation that fit the small data set; they are filled up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "VALIDATION_BATCH", 5)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_curves():
    """An empty file in place of the plot, which takes a third of the time of a run of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plot_curves", lambda path, rows, panels: path.write_bytes(b""))
        yield
