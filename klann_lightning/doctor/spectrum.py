"""The long-term spectrum of a recording, and whether it ends at a cliff."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZE = 4096  # samples of a frame
SMOOTH_HZ = 200.0
WIDEST = 255  # frequencies that are smoothed over, at rates too low for audio
CLIFF_DB = 30.0  # a drop that no analogue filter has within CLIFF_HZ
CLIFF_HZ = 600.0
CLIFF_FROM_DB = -90.0  # what falls from less is leakage, or noise
LOWEST_CLIFF_HZ = 3000.0
HIGHEST_CLIFF = 0.87  # of the Nyquist frequency: above, every converter has its own


class Cliff(NamedTuple):
    """A frequency above which nothing is left."""

    hz: float
    drop_db: float


class Spectrum:
    """Mean power on a grid of frequencies, of the blocks that were fed."""

    def __init__(self, sample_rate: int) -> None:
        self._window = np.hanning(SIZE + 1)[:-1]
        self._power = np.zeros(SIZE // 2 + 1)
        self.hz = np.fft.rfftfreq(SIZE, 1 / sample_rate)

    def feed(self, x: NDArray[np.float64]) -> None:
        """Whole frames of `x` alone, or one that zeros fill where it has none."""
        if len(x) < SIZE:
            x = np.pad(x, (0, SIZE - len(x)))
        frames = x[: len(x) // SIZE * SIZE].reshape(-1, SIZE) * self._window
        self._power += np.square(np.abs(np.fft.rfft(frames))).sum(axis=0)

    def levels(self) -> NDArray[np.float64]:
        """In dB, 0 at the highest; the median over SMOOTH_HZ, so that single lines vanish."""
        width = min(max(int(SMOOTH_HZ / self.hz[1]) // 2 * 2 + 1, 3), WIDEST)
        padded = np.pad(self._power, width // 2, mode="edge")
        smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
        highest = smooth.max()
        if not highest > 0:
            return np.zeros_like(smooth)
        return np.asarray(10 * np.log10(np.maximum(smooth / highest, 1e-20)))

    def cliff(self) -> Cliff | None:
        """The steepest end of the spectrum, if it is too steep for a device."""
        levels, step = self.levels(), float(self.hz[1])
        half, reach = max(round(CLIFF_HZ / 2 / step), 2), max(round(1000 / step), 4)
        end = int(HIGHEST_CLIFF * (len(levels) - 1))
        places = np.arange(max(round(LOWEST_CLIFF_HZ / step), half + reach), end)
        if len(places) == 0:
            return None
        stop = len(levels) - max(2, len(levels) // 100)
        highest_above = np.maximum.accumulate(levels[:stop][::-1])[::-1]
        below = np.median(np.lib.stride_tricks.sliding_window_view(levels, reach), axis=1)
        below = below[places - half - reach]
        drops = below - highest_above[np.minimum(places + half, stop - 1)]
        drops[below < CLIFF_FROM_DB] = 0
        best = int(np.argmax(drops))
        if drops[best] < CLIFF_DB:
            return None
        return Cliff(float(self.hz[places[best]]), float(drops[best]))
