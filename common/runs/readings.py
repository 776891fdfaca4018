"""Values of a step that stay on the device until somebody asks for them: to read one waits for all that was started."""
from collections.abc import Callable

import nnabla as nn
import numpy as np


def read_later(variable: nn.Variable) -> Callable[[], np.ndarray]:
    """Copy the values of a variable where they are; the result reads the copy, whatever the variable holds by then."""
    copy = nn.NdArray(variable.shape)
    copy.copy_from(variable.data)
    return lambda: copy.data


def scalar_later(variable: nn.Variable) -> Callable[[], float]:
    """`read_later` of a variable of one element, as a number."""
    read = read_later(variable)
    return lambda: float(read())
