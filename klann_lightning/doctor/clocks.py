"""Delay against time: a clock that runs differently, and places where samples were lost or doubled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import uniform_filter1d

from klann_lightning.doctor.alignment import Jump
from klann_lightning.doctor.coarse import Judge, candidates, features, flat, information
from klann_lightning.doctor.fine import Fine, locate
from klann_lightning.doctor.source import Source
from klann_lightning.doctor.warp import Line, warp

Samples = NDArray[np.float64]

WINDOW = 1 << 16  # samples in which one delay is sought
MOST_WINDOWS = 48
REACH = 4096  # samples by which a delay may jump
PREFERENCE = 1.2  # times as much must be explained by a delay that is not the expected one
ENOUGH = 0.5  # of the excerpt's information, where no other delay is sought
CLEAR, LEAST_PEAK = 0.6, 0.3  # of a peak
MOST_DRIFT = 1e-3
LEAST_JUMP = 1.5  # samples
PART = 1 << 13  # samples in which even the greatest drift is small
STEERED = 320  # samples around the expected delay
STEEPER = 1.15  # times what no drift explains must be explained by one
BAD = 3.0  # samples of standard deviation: nothing is known


class Sounding(NamedTuple):
    """The delay at one place."""

    at: float  # sample of the input
    delay: float  # samples that the target is late there
    sd: float
    peak: float  # from 0 to 1, how well one delay explains the phase there
    information: float  # nats, mean over frequency of what the input gives of the target


class Clock(NamedTuple):
    """t(n) - n = delay + drift n + (sum of the jumps up to n), see `Alignment`."""

    delay: float
    drift: float  # samples per sample
    jumps: tuple[Jump, ...]
    drift_sd: float
    soundings: tuple[Sounding, ...]

    def delay_at(self, n: float) -> float:
        return self.delay + self.drift * n + sum(jump.by for jump in self.jumps if n >= jump.at)


class Ear(NamedTuple):
    """What all windows of a pair are heard with."""

    x: Source
    y: Source
    fine: Fine  # what the device does, by an excerpt

    def sound(self, start: int, expected: float, drift: float, reach: int) -> Sounding | None:
        """The delay in the window from `start` on, where about `expected` is, in the window's middle.

        y is read along the drift that is known so far, so that the window holds one delay. Only where it is
        not found as expected is it sought within `reach`.
        """
        frames = min(WINDOW, self.x.frames - start)
        if drift == 0:  # y is read as it is
            expected = round(expected)
        own, middle = self.x.read(start, frames), start + frames / 2
        late = read_along(self.y, start - reach, frames + 2 * reach, expected - drift * middle, drift)
        if not own.any() or not late.any():
            return None
        found = self._at(own, late, reach)
        if found is None or found.information < ENOUGH * self.fine.information or found.peak < CLEAR:
            usual = information(features(own), late, reach)
            for other in candidates(own, late, 2 * reach):
                if other.information > PREFERENCE * usual + 0.02:
                    found = self._at(own, late, other.delay) or found
                    break
        if found is None or found.sd > BAD or found.peak < LEAST_PEAK:
            return None
        return found._replace(at=middle, delay=expected + found.delay - reach, sd=max(found.sd, 0.003))

    def _at(self, own: Samples, late: Samples, coarse: int) -> Sounding | None:
        found = locate(self.fine, own, late, coarse)
        return Sounding(0.0, *found) if found else None


def read_along(source: Source, start: int, frames: int, delay: float, drift: float) -> Samples:
    """The source at  delay + (1 + drift) n  for n from `start` on -> [frames]."""
    position = delay + (1 + drift) * start
    if drift == 0:
        return source.read(round(position), frames)
    beside = 256
    first = int(position) - beside
    part = source.read(first, int(frames * (1 + drift)) + 2 * beside)
    line = Line(0, position - first, 1 + drift)
    return np.concatenate(list(warp([part.astype(np.float32)], [line], frames))).astype(np.float64)


def steer(own: Samples, y: Source, start: int, delay: float) -> tuple[float, float]:
    """Delay in the middle of an excerpt, near `delay`, and drift: along the line on which all parts agree.

    `own`: the input from sample `start` on. The cross-correlations of short parts are added up along lines of
    every slope; parts are so short that they hold about one delay. The shape of the input counts whose sum is
    highest over what noise makes.
    """
    count = len(own) // PART
    if count < 4:
        return delay, 0.0
    lags = round(MOST_DRIFT * len(own) / 2) + STEERED
    size = next_fast_len(PART + 2 * lags, real=True)
    at = range(0, count * PART, PART)
    parts = [y.read(start + round(delay) + place - lags, PART + 2 * lags) for place in at]
    late = rfft(np.stack(parts), size)
    late /= np.sqrt(_even(late))
    slopes = np.linspace(-MOST_DRIFT, MOST_DRIFT, 2 * round(MOST_DRIFT * len(own)) + 1)
    # [slope, part]
    moved = np.rint(slopes[:, None] * (np.array(at) - (count - 1) * PART / 2)).astype(int) + lags
    best, found = 0.0, (delay, 0.0)
    for shape in features(own):
        spectra = rfft(shape[: count * PART].reshape(count, PART), size)
        correlations = irfft(late * (spectra / np.sqrt(_even(spectra))).conj(), size)
        near = np.arange(-STEERED, STEERED + 1)
        sums = np.abs(sum(correlations[part][moved[:, part, None] + near] for part in range(count)))
        height = sums.max() / np.sqrt(np.mean(np.square(sums)))
        if height > best:
            straight = len(slopes) // 2
            slope, lag = divmod(int(np.argmax(sums)), len(near))
            if sums.max() < STEEPER * sums[straight].max():
                slope, lag = straight, int(np.argmax(sums[straight]))
            best, found = float(height), (round(delay) + float(near[lag]), float(slopes[slope]))
    return found


def _even(spectra: NDArray[np.complex128]) -> Samples:
    """The mean power of parts at every frequency, never near zero: divided by it, their spectrum is even."""
    power = np.square(np.abs(spectra)).mean(0)
    return np.asarray(uniform_filter1d(power, 9) + 1e-5 * power.max() + 1e-300)


def answered(x: Source, y: Source, delay: int) -> tuple[int, int]:
    """The first sample of x that y has an answer to, late by `delay`, and the one after the last."""
    return max(0, -delay), min(x.frames, y.frames - delay)


def follow(ear: Ear, at: int, delay: float, drift: float) -> list[Sounding]:
    """The delay at places all over the recordings, from `at` on outwards, each from its neighbour's."""
    x = ear.x
    hop = max((x.frames - WINDOW) / (MOST_WINDOWS - 1), WINDOW / 4)
    begin, end = answered(x, ear.y, round(delay))
    places = np.arange(begin, max(end - WINDOW, begin) + 1, hop)
    nearest = int(np.argmin(np.abs(places - at)))
    found = []
    for way in (places[nearest:], places[:nearest][::-1]):
        last, last_at = delay, at + WINDOW / 2
        for place in way:
            middle = place + WINDOW / 2
            one = ear.sound(int(place), last + drift * (middle - last_at), drift, REACH)
            if one is not None:
                found.append(one)
                last, last_at = one.delay, one.at
    return sorted(found)


def clock(ear: Ear, soundings: Sequence[Sounding], drift: float) -> Clock:
    """Drift and jumps that the soundings tell of; `drift` is where to begin."""
    at = np.array([one.at for one in soundings])
    delay = np.array([one.delay for one in soundings])
    weight = np.array([one.sd for one in soundings]) ** -2.0
    if len(at) < 3:
        middle = float(np.median(delay - drift * at)) if len(at) else 0.0
        return Clock(middle, drift, (), np.inf, tuple(soundings))
    apart = int(np.ceil(WINDOW / 2 / max(float(np.median(np.diff(at))), 1)))  # windows that do not overlap
    steps = [
        step
        for step in _steps(at, delay)
        if _is_jump(
            ear,
            soundings[max(step - apart - 3, 0) : max(step - apart, 1)],
            soundings[min(step + apart, len(at) - 1) : step + apart + 3],
            _slope(at, delay),
        )
    ]
    slope, offsets, sd = _lines(at, delay, weight, _groups(steps, len(at)))
    if small := {step for step, by in zip(steps, np.diff(offsets), strict=True) if abs(by) < LEAST_JUMP}:
        steps = [step for step in steps if step not in small]
        slope, offsets, sd = _lines(at, delay, weight, _groups(steps, len(at)))
    jumps = []
    for step, before, after in zip(steps, offsets, offsets[1:], strict=False):
        first, last = soundings[step - 1].at - WINDOW / 2, soundings[step].at + WINDOW / 2
        place = _place(ear, first, last, (before, after), slope)
        jumps.append(Jump(place, float(after - before)))
    return Clock(float(offsets[0]), slope, tuple(jumps), sd, tuple(soundings))


def _groups(steps: Sequence[int], count: int) -> NDArray[np.intp]:
    """How many of the steps have been passed at each of `count` soundings."""
    return np.searchsorted(np.asarray(steps, int), np.arange(count), side="right")


def _is_jump(ear: Ear, before: Sequence[Sounding], after: Sequence[Sounding], drift: float) -> bool:
    """Whether two delays explain the windows on both sides together better than either of them alone."""
    starts = [round(one.at - WINDOW / 2) for one in (*before, *after)]
    judge = Judge(features(np.concatenate([ear.x.read(start, WINDOW) for start in starts])))
    # the middle one of each side: a single one may be wrong
    first, last = (float(np.median([one.delay - drift * one.at for one in side])) for side in (before, after))
    if abs(last - first) < LEAST_JUMP:
        return False

    def explained(delays: Sequence[float]) -> float:
        late = [
            read_along(ear.y, start, WINDOW, round(delay + drift * one.at), 0.0)
            for start, delay, one in zip(starts, delays, (*before, *after), strict=True)
        ]
        return judge.information(np.concatenate(late), 0)

    alone = max(explained([delay] * len(starts)) for delay in (first, last))
    return explained([first] * len(before) + [last] * len(after)) > 1.05 * alone + 0.02


def _place(ear: Ear, first: float, last: float, delays: tuple[float, float], drift: float) -> int:
    """The sample between two others where one delay gives way to the other."""
    start, frames = round(first), max(round(last - first), 1)
    own = flat(ear.x.read(start, frames))
    before, after = (flat(read_along(ear.y, start, frames, delay, drift)) for delay in delays)
    gain = np.cumsum(own * (before - after) * ear.fine.polarity)
    return start + int(np.argmax(gain)) + 1


def _steps(at: Samples, delay: Samples) -> list[int]:
    """Indices from which on the delay is another one, drift aside."""
    level = delay - _slope(at, delay) * at
    noise = 1.4826 * float(np.median(np.abs(np.diff(level)))) + 0.05
    found = []
    for index in range(1, len(level)):
        before, after = level[max(0, index - 3) : index], level[index : index + 3]
        by = float(np.median(after) - np.median(before))
        edge = abs(level[index] - level[index - 1])
        if min(abs(by), edge) > max(LEAST_JUMP, 6 * noise) and len(after) > 1 and len(before) > 1:
            found.append(index)
    return [index for index in found if index - 1 not in found]


def _slope(at: Samples, delay: Samples) -> float:
    return float(np.median(np.diff(delay) / np.diff(at)))


def _lines(
    at: Samples, delay: Samples, weight: Samples, group: NDArray[np.intp]
) -> tuple[float, Samples, float]:
    """One slope and an offset for each group: least squares, where what lies apart counts less (Cauchy)."""
    groups = int(group.max()) + 1
    middle = at.mean()
    design = np.column_stack([at - middle, *(group == one for one in range(groups))]).astype(float)
    scaled = design * np.array([1e-4] + [1.0] * groups)
    trust = np.minimum(weight, 100 * np.median(weight))
    robust = np.ones(len(at))
    for _ in range(30):
        both = trust * robust
        normal = scaled.T @ (scaled * both[:, None]) + 1e-12 * np.eye(groups + 1)
        solution = np.linalg.solve(normal, scaled.T @ (both * delay))
        error = delay - scaled @ solution
        scale = 1.4826 * float(np.median(np.abs(error))) + 1e-4
        robust = 1 / (1 + np.square(error / (3 * scale)))
    sd = float(
        np.sqrt(np.linalg.inv(normal)[0, 0] * np.average(np.square(error), weights=both) * both.mean())
    )
    slope = float(solution[0]) * 1e-4
    offsets: Samples = solution[1:] - slope * middle
    return slope, offsets, sd * 1e-4
