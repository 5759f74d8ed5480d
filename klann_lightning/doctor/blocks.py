"""Recordings in short blocks: levels, what is heard, and errors that no single loud passage decides."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.floating[Any]]
Samples = NDArray[np.float64]

BLOCK = 1024  # samples of a block of `typical_error`
HEARD = 1e-4  # of the loudest block's power


def powers(x: Samples, size: int) -> Samples:
    """Mean squares of whole blocks, [T] -> [T // size]."""
    whole = x[: x.size // size * size].reshape(-1, size)
    return np.asarray(np.einsum("bt,bt->b", whole, whole) / size)


def typical_error(error: Samples, wanted: Samples, loudness: Samples) -> float:
    """Median error-to-signal ratio of the loudest third of blocks; nan where nothing is heard. [T] each.

    A device shows what it does where it is driven; but an attack, or one passage louder than all others,
    rules the sum of squared errors, and the median lets neither do so. `loudness` says which are loud.
    """
    errors, wants, levels = (powers(signal, BLOCK) for signal in (error, wanted, loudness))
    heard = (levels > HEARD * levels.max(initial=0)) & (wants > 0)
    if not heard.any():
        return float("nan")
    loud = heard & (levels >= np.quantile(levels[heard], 2 / 3))
    return float(np.median(errors[loud] / wants[loud]))
