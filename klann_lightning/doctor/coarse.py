"""Where in the target a device's answer may lie: candidates from several methods, and what each explains.

None of the methods is right for every device. Plain correlation is drawn to a filter's own peak, whitened
correlation (the generalised cross-correlation of Knapp and Carter 1976, IEEE Trans. ASSP 24(4)) drowns in the
harmonics of a distortion, onsets are coarse. So all of them propose, and one judges: how much of the target a
linear combination of a few memoryless distortions of the input explains at each candidate, in nats.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import lfilter

Samples = NDArray[np.float64]

NAMES = ("white", "soft", "hard", "bright", "size")  # of whitened correlations, one for each feature
CLICKS = "clicks"
BRIGHT = 0.9  # pole of a high-pass at 740 Hz, at 44.1 kHz
WIDTH = 0.05  # of the smoothing of a spectrum before it is divided out, relative to the frequency
GUARD = 40  # samples around a peak that belong to it
SEGMENT = 1024  # samples of the spectra that judge
SEGMENTS = 400  # at most
HOP = 64  # samples between two moments of the onsets
FRAME = 512
BANDS = 8
TOP = 3  # candidates from each correlation
ONSET_TOP = 4


class Candidate(NamedTuple):
    """A delay of whole samples."""

    delay: int
    information: float  # nats for each frequency that the input gives of the target; 0 for none
    votes: frozenset[str]  # methods that propose it


def features(x: Samples) -> Samples:
    """What distortions make of x: [T] -> [5, T], itself first, the odd ones before the even one.

    The fourth clips what a high-pass has left, as many overdrives do: their bass would hide it.
    """
    u = x / (np.sqrt(np.mean(np.square(x))) + 1e-30)
    bright = lfilter([1, -1], [1, -BRIGHT], u)
    bright /= np.sqrt(np.mean(np.square(bright))) + 1e-30
    size = np.abs(u)
    return np.stack([u, np.tanh(3 * u), np.tanh(30 * u), np.tanh(3 * bright), size - size.mean()])


def candidates(
    x: Samples,
    y: Samples,
    reach: int,
    origin: int = 0,
    clicks: int | None = None,
    recorded: tuple[int, int] | None = None,
) -> list[Candidate]:
    """Delays from 0 to `reach` that some method proposes, the one that explains most first.

    x, y: [T] each. `origin` is added to all delays that are returned. `clicks`: what clicks propose.
    `recorded`: see `Judge.information`.
    """
    shapes = features(x)
    found: dict[int, set[str]] = {}
    correlations = _whitened(shapes, y)
    for name, correlation in zip(NAMES, correlations, strict=True):
        for lag in _peaks(correlation, reach, TOP, GUARD):
            found.setdefault(lag, set()).add(name)
    for lag in _peaks(_plain(x, y), reach, TOP, GUARD):
        found.setdefault(lag, set()).add("plain")
    for lag in _peaks(_onsets(x, y), reach // HOP, ONSET_TOP, 3):
        found.setdefault(lag * HOP, set()).add("onsets")
    if clicks is not None and 0 <= clicks - origin <= reach:
        found.setdefault(clicks - origin, set()).add(CLICKS)
    judge = Judge(shapes)
    judged = [(judge.information(y, lag, recorded), lag, names) for lag, names in found.items()]
    judged.sort(key=lambda one: (-one[0], one[1]))
    return [Candidate(origin + lag, told, frozenset(names)) for told, lag, names in judged]


class Judge:
    """How much of a target the shapes of one input explain, whatever the delay."""

    def __init__(self, shapes: Samples) -> None:
        """`shapes`: [J, T]. Their spectra are computed once, for all delays."""
        self._starts = segment_starts(shapes.shape[-1], shapes.shape[-1], 0, SEGMENT, SEGMENTS)
        self._chance = len(shapes) / 0.6
        self._own = np.stack([_segments(shape, self._starts) for shape in shapes], 1)
        self._covariance = self._own.conj() @ self._own.transpose(0, 2, 1)
        trace = np.einsum("fjj->f", self._covariance).real
        ridge = 1e-6 * trace + 1e-12 * trace.max(initial=0) + 1e-300
        self._covariance += ridge[:, None, None] * np.eye(len(shapes))

    def information(self, y: Samples, delay: int, recorded: tuple[int, int] | None = None) -> float:
        """Mean over frequency of -log(1 - coherence), coherence of y with all shapes at once.

        For Gaussian signals that is twice their mutual information per frequency. What J shapes explain of
        noise by chance is subtracted. `recorded`: the first sample of y and the one after the last that
        are more than padding; an end that is not known to be one would be a click.
        """
        first, last = recorded or (0, len(y))
        at = self._starts + delay
        there = (at >= first) & (at + SEGMENT <= last)
        count = np.count_nonzero(there)
        if count < 8:
            return 0.0
        own, covariance = self._own, self._covariance
        if count < len(there):
            missing = own[:, :, ~there]
            own, covariance = own[:, :, there], covariance - missing.conj() @ missing.transpose(0, 2, 1)
        late = _segments(y, at[there])[..., None]
        power = np.square(np.abs(late)).sum((1, 2))
        cross = own.conj() @ late
        explained = (cross.conj() * np.linalg.solve(covariance, cross)).sum((1, 2)).real
        coherence = np.clip(explained / (power + 1e-300), 0, 1 - 1e-9)
        return float(np.mean(-np.log1p(-coherence)) - self._chance / count)


def _segments(x: Samples, starts: NDArray[np.intp]) -> NDArray[np.complex128]:
    """Spectra of the segments from `starts` on -> [frequency, segment]."""
    window = np.hanning(SEGMENT + 1)[:SEGMENT]
    spectra: NDArray[np.complex128] = rfft(x[starts[:, None] + np.arange(SEGMENT)] * window, axis=1)
    return np.ascontiguousarray(spectra.T)


def information(shapes: Samples, y: Samples, delay: int) -> float:
    """What all `shapes` [J, T] explain of y, late by `delay`: see `Judge`."""
    return Judge(shapes).information(y, delay)


def segment_starts(x_frames: int, y_frames: int, delay: int, size: int, most: int) -> NDArray[np.intp]:
    """Where segments begin that both have when y is late by `delay`; each overlaps the next by half."""
    common = min(x_frames - max(-delay, 0), y_frames - max(delay, 0))
    starts = np.arange(0, common - size + 1, size // 2)
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).astype(int)]
    return starts


def _whitened(shapes: Samples, y: Samples) -> Samples:
    """Correlation of each shape with y, spectra made even; lag k at index k."""
    size = next_fast_len(shapes.shape[-1] + len(y), real=True)

    def white(signal: Samples) -> NDArray[np.complex128]:
        spectrum = rfft(signal, size)
        flattened: NDArray[np.complex128] = spectrum / _envelope(spectrum)
        return flattened

    late = white(y)
    return np.stack([irfft(white(shape).conj() * late, size) for shape in shapes])


def flat(x: Samples) -> Samples:
    """x with an even spectrum: [T] -> [T]."""
    size = next_fast_len(2 * len(x), real=True)
    spectrum = rfft(x, size)
    return np.asarray(irfft(spectrum / _envelope(spectrum), size)[: len(x)])


def _envelope(spectrum: NDArray[np.complex128]) -> Samples:
    power = np.square(np.abs(spectrum))
    total = np.concatenate([[0.0], np.cumsum(power)])
    bins = np.arange(len(power))
    half = np.maximum(4, (bins * WIDTH).astype(int))
    low, high = np.maximum(0, bins - half), np.minimum(len(power), bins + half + 1)
    envelope: Samples = np.sqrt((total[high] - total[low]) / (high - low))
    return envelope + 1e-12 * envelope.max() + 1e-300


def _plain(x: Samples, y: Samples) -> Samples:
    size = next_fast_len(len(x) + len(y), real=True)
    return np.asarray(irfft(rfft(x, size).conj() * rfft(y, size), size))


def _onsets(x: Samples, y: Samples) -> Samples:
    """Correlation of how the level rises in several bands, in steps of HOP samples."""
    rises_x, rises_y = _rises(x), _rises(y)
    size = next_fast_len(rises_x.shape[1] + rises_y.shape[1], real=True)
    norms = np.linalg.norm(rises_x, axis=1) * np.linalg.norm(rises_y, axis=1) + 1e-9
    spectra = rfft(rises_x, size).conj() * rfft(rises_y, size) / norms[:, None]
    return np.asarray(irfft(spectra.sum(0), size))


def _rises(x: Samples) -> Samples:
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME)[::HOP]
    window = np.hanning(FRAME)
    edges = np.unique(np.geomspace(1, FRAME // 2, BANDS + 1).astype(int))[:-1]
    parts = []
    for start in range(0, len(frames), 4096):  # all at once would take eight times the recording
        power = np.square(np.abs(rfft(frames[start : start + 4096] * window, axis=1)))
        parts.append(np.add.reduceat(power, edges, axis=1))
    bands = np.concatenate(parts)
    level = np.log(bands + 1e-5 * bands.mean(0) + 1e-30).T
    rises = np.maximum(np.diff(level, axis=1), 0)
    return np.asarray(rises - rises.mean(1, keepdims=True))


def _peaks(correlation: Samples, reach: int, top: int, guard: int) -> list[int]:
    """The lags, from 0 to `reach`, of the highest peaks of either sign, highest first."""
    sizes = np.abs(correlation[: min(reach, (len(correlation) - 1) // 2) + 1])
    lags = []
    for _ in range(top):
        lag = int(np.argmax(sizes))
        if sizes[lag] <= 0:
            break
        lags.append(lag)
        sizes[max(0, lag - guard) : lag + guard + 1] = 0
    return lags
