"""How two recordings lie against each other in time."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Jump(NamedTuple):
    """A place where one recorder lost samples or wrote some twice."""

    at: int  # sample of the input
    by: float  # samples by which the target is later from there on; negative where it lost some


class Alignment(NamedTuple):
    """Where in the target a device's answer to the input lies.

    Sample n of the input is answered at  t(n) = delay + (1 + drift_ppm / 10^6) n + (sum of jumps up to n).
    """

    delay: float  # samples that the target is late, at the input's first sample
    confidence: float  # from 0 to 1, of the delay
    polarity: int  # 1, or -1 where the target is upside down
    polarity_confidence: float  # from 0 to 1
    drift_ppm: float = 0.0  # positive where the target falls behind more and more
    jumps: tuple[Jump, ...] = ()

    def at(self, samples: ArrayLike) -> NDArray[np.float64]:
        """Positions t(n) in the target, in samples, of positions n in the input."""
        n = np.asarray(samples, np.float64)
        later = np.zeros_like(n)
        for jump in self.jumps:
            later += jump.by * (n >= jump.at)
        return self.delay + (1 + self.drift_ppm * 1e-6) * n + later
