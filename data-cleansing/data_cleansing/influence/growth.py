"""How much u grows on the way back: with a u that explodes, scores say nothing of the images."""
import math
import warnings

import attrs
import numpy as np

# Times the length of u at the end of the training. A training that converges does not multiply a small change of the
# parameters, so u does not grow. It does where the linear model of the steps fails: SGD is stable up to a curvature of
# 2 / learning rate, the curvature of a batch at fixed parameters is often larger, and u then grows with each step.
LIMIT = 2.0


@attrs.frozen
class Growth:
    """The longest u of a walk back.

    Attributes
    ----------
    start : float
        Length of u at the end of the training.
    largest : float
        Length of the longest u over `start`; infinite where u is not finite.
    step : int
        Before which u was that long.
    """

    start: float
    largest: float = attrs.field(converter=float)
    step: int = attrs.field(converter=int)

    @classmethod
    def begin(cls, u: np.ndarray, step: int) -> "Growth":
        """Begin with u before a step, float32 (size,)."""
        return cls(_length(u), 1.0, step)

    def with_(self, u: np.ndarray, step: int) -> "Growth":
        """Go on with u before an earlier step."""
        now = _length(u) / self.start if self.start else 1.0
        return attrs.evolve(self, largest=now, step=step) if now > self.largest else self

    def values(self) -> np.ndarray:
        """Return the attributes as float64 (3,)."""
        return np.array(attrs.astuple(self))

    @property
    def is_bounded(self) -> bool:
        """Whether u has stayed within `LIMIT`."""
        return self.largest <= LIMIT

    def warn(self, what: str, remedy: str) -> None:
        """Say in a line how much u grew and where.

        Parameters
        ----------
        what : str
            Was computed.
        remedy : str
            What is done about it, or can be.
        """
        grown = f"u grew {self.largest:.3g} times on the way back to step {self.step + 1}"
        warnings.warn(f"{what}: {grown}, as the learning rate is too high for the curvature there; {remedy}",
                      RuntimeWarning, stacklevel=2)


def _length(u):
    length = float(np.linalg.norm(u.astype(np.float64)))
    return length if math.isfinite(length) else math.inf
