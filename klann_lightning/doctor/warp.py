"""Samples of a recording at other moments than those at which it was sampled, block by block.

Between samples, x(t) = sum_j x[j] g(t - j) with g(s) = sinc(s) w(s / (REACH + 1/2)), w a Kaiser window. With
t = i + d, |d| <= 1/2, each of the 2 REACH + 1 weights g(d + i - j) is a smooth function of d, so a polynomial
c_0 + c_1 d + ... + c_D d^D stands for it. The sum becomes D + 1 ordinary filters, the same for all t, and one
polynomial in d for each sample (Farrow's structure). Up to 0.9 of the Nyquist frequency the error is below
-120 dB (test_between_samples).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.signal import oaconvolve

REACH = 64  # samples on each side of a moment that count
DEGREE = 9  # of the polynomials: 2 J_10(pi / 2), about what they leave out, is -146 dB
BETA = 12.3  # of the Kaiser window: -120 dB beside it
STEP = 1 << 15  # samples that are computed at once
FADE = 128  # samples of the crossfade from one line to the next


class Line(NamedTuple):
    """From result sample `start` on, result sample n is the source at  position(n) = offset + slope n."""

    start: int
    offset: float  # samples of the source
    slope: float = 1.0

    @property
    def copies(self) -> bool:
        """Whether all its positions are samples."""
        return self.slope == 1 and self.offset == round(self.offset)


def warp(
    blocks: Iterable[NDArray[np.float32]], lines: Sequence[Line], frames: int
) -> Iterator[NDArray[np.float32]]:
    """A source, in blocks of any size, along lines that follow each other -> `frames` samples, in blocks.

    Where all positions of a line are samples, they are copied bit by bit. From line to line there is a
    crossfade of FADE samples, half of it on either side. What lies outside the source is zero.
    The slopes must be near 1: nothing is filtered out here. However long the source is, a few hundred
    thousand samples are in memory at once, and as many as lines go back.
    """
    source = _Window(blocks, _way_back(lines))
    for start in range(0, frames, STEP):
        stop = min(start + STEP, frames)
        block = np.zeros(stop - start)
        for line, end in zip(lines, [*(line.start for line in lines[1:]), None], strict=True):
            first = start if line is lines[0] else max(start, line.start - FADE // 2)
            last = stop if end is None else min(stop, end + FADE // 2)
            if first < last:
                part = _along(source, line, first, last)
                rises = None if line is lines[0] else line.start
                block[first - start : last - start] += part * _weight(first, last, rises, end)
        yield block.astype(np.float32)


def _weight(first: int, last: int, rises: int | None, falls: int | None) -> NDArray[np.float64] | float:
    """What samples `first` to `last` of a line count; those of all lines add up to 1."""
    weight: NDArray[np.float64] | float = 1.0
    for at, sign in ((rises, 1), (falls, -1)):
        if at is not None and first < at + FADE // 2 and last > at - FADE // 2:
            done = np.clip((np.arange(first, last) + 0.5 - at) / FADE + 0.5, 0, 1)
            weight = weight - (1 - done if sign > 0 else done)
    return weight


def _along(source: "_Window", line: Line, first: int, last: int) -> NDArray[np.float64]:
    """Result samples `first` to `last` of one line -> [last - first]."""
    if line.copies:
        offset = round(line.offset)
        return source.take(first + offset, last + offset).astype(np.float64)
    if line.slope == 1:
        whole = round(line.offset)
        low = first + whole
        samples = source.take(low - REACH, low + last - first + REACH).astype(np.float64)
        weights = (line.offset - whole) ** np.arange(DEGREE + 1) @ FILTERS
        return oaconvolve(samples, weights, mode="valid")
    positions = line.offset + line.slope * np.arange(first, last)
    nearest = np.rint(positions).astype(np.int64)
    low = int(nearest[0])
    samples = source.take(low - REACH, int(nearest[-1]) + REACH + 1).astype(np.float64)
    filtered = oaconvolve(samples[None], FILTERS, mode="valid", axes=1)
    d, at = positions - nearest, nearest - low
    value = filtered[DEGREE][at]
    for power in range(DEGREE - 1, -1, -1):
        value = value * d + filtered[power][at]
    return value


def _filters() -> NDArray[np.float64]:
    """The coefficients of d^0, d^1 ... for each weight, for a convolution: [DEGREE + 1, 2 REACH + 1]."""
    taps = np.arange(-REACH, REACH + 1)

    def weights(twice_d: NDArray[np.float64]) -> NDArray[np.float64]:
        moments = taps[:, None] + twice_d / 2
        edge = np.sqrt(np.maximum(0, 1 - (moments / (REACH + 0.5)) ** 2))
        return (np.sinc(moments) * np.i0(BETA * edge) / np.i0(BETA)).T

    nodes = chebyshev.chebpts1(4 * DEGREE)
    fitted = chebyshev.chebfit(nodes, weights(nodes), DEGREE)
    powers = np.stack(
        [np.pad(column := chebyshev.cheb2poly(one), (0, DEGREE + 1 - len(column))) for one in fitted.T]
    )
    return powers.T * (2.0 ** np.arange(DEGREE + 1))[:, None]


FILTERS = _filters()


class _Window:
    """Parts of a stream; each may begin at most `back` samples before the latest one's end."""

    def __init__(self, blocks: Iterable[NDArray[np.float32]], back: int) -> None:
        self._blocks, self._back = iter(blocks), back
        self._start, self._samples = 0, np.zeros(0, np.float32)  # the first one there, and what is there

    def take(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples `start` to `stop`; zeros for those outside the stream."""
        parts, end = [self._samples], self._start + len(self._samples)
        while end < stop and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            end += len(block)
            while len(parts) > 1 and self._start + len(parts[0]) <= start - self._back:
                self._start += len(parts.pop(0))
        self._samples = np.concatenate(parts)
        spare = max(0, min(start - self._back - self._start, len(self._samples)))
        self._start, self._samples = self._start + spare, self._samples[spare:]
        inside = self._samples[max(0, start - self._start) : max(0, stop - self._start)]
        before = min(max(0, self._start - start), stop - start)
        return np.pad(inside, (before, stop - start - before - len(inside)))


def _way_back(lines: Sequence[Line]) -> int:
    """Samples of the source that any line may need again after others went further."""
    back = 0.0
    furthest = -np.inf
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        back = max(back, furthest - (line.offset + line.slope * (line.start - FADE)))
        if after is not None:
            furthest = max(furthest, line.offset + line.slope * (after.start + FADE))
    return int(back) + STEP + 2 * (REACH + FADE)
