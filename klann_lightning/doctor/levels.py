"""Where two recordings of any length lie against each other, roughly, by how their levels rise."""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from klann_lightning.doctor.source import Source

Samples = NDArray[np.float64]

WINDOW_SECONDS = 0.01
BLOCK = 3000  # windows that are read at once
TOP = 3  # offsets that are proposed
DEPTH = 1e-5  # of the loudest window's power: below, there is silence


def levels(source: Source) -> Samples:
    """Mean square of every 10 ms -> [windows], from start to end; nothing is resampled for that."""
    source = source.unchanged
    size = source.sample_rate * WINDOW_SECONDS
    count = max(int(source.frames / size), 1)
    edges = np.rint(np.arange(count + 1) * size).astype(np.int64)
    parts = []
    for first in range(0, count, BLOCK):
        own = edges[first : first + BLOCK + 1]
        samples = source.read(int(own[0]), int(own[-1] - own[0]))
        sums = np.add.reduceat(np.square(samples), own[:-1] - own[0])
        parts.append(sums / np.maximum(np.diff(own), 1))
    return np.concatenate(parts)


def rises(power: Samples) -> Samples:
    """How much the level rises from window to window, in nepers; falls count as 0: [W] -> [W]."""
    level = np.log(power + DEPTH * power.max() + 1e-30)
    return np.maximum(np.diff(level, prepend=level[0]), 0)


def offsets(x_levels: Samples, y_levels: Samples) -> list[int]:
    """Windows by which y may be late, the likeliest first: over the whole lengths, of any sign."""
    x, y = (one - one.mean() for one in (rises(x_levels), rises(y_levels)))
    size = next_fast_len(len(x) + len(y), real=True)
    correlation = irfft(rfft(x, size).conj() * rfft(y, size), size)
    correlation[len(y) : size - len(x) + 1] = 0  # where they do not meet
    found = []
    for _ in range(TOP):
        index = int(np.argmax(correlation))
        if correlation[index] <= 0:
            break
        found.append(index if index < len(y) else index - size)
        correlation[np.arange(index - 3, index + 4) % size] = 0
    return found


def busiest(x_levels: Samples, y_levels: Samples, offset: int, windows: int) -> int:
    """The window where the stretch of `windows` begins in which most rises, in both; y is `offset` late."""
    first, last = max(0, -offset), min(len(x_levels), len(y_levels) - offset)
    if last - first <= windows:
        return first
    both = np.sqrt(rises(x_levels)[first:last] * rises(y_levels)[first + offset : last + offset])
    sums = np.concatenate([[0.0], np.cumsum(both + 1e-9)])
    return first + int(np.argmax(sums[windows:] - sums[:-windows]))
