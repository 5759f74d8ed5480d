"""How much of a device is a gain that changes, and what it follows: the level now, or the level past."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d

from klann_lightning.doctor.blocks import Samples, Signal, powers, typical_error
from klann_lightning.doctor.linear import short_filter

SMOOTH_SECONDS = 0.02
LEVELLED_TAPS = 32, 256  # before and from zero
STEP_SECONDS = 0.005
ATTACKS = 0.002, 0.005, 0.01, 0.02, 0.04  # s
RELEASES = 0.002, 0.01, 0.03, 0.045, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1, 1.6, 2.4, 4.0
KNOTS = 10
SLOW = 0.3, 0.6, 1.0, 2.0, 4.0  # s, of a second detector
ALIKE = 1.2  # times the least that a detector leaves: their times are averaged
MORE = 0.6  # of what the first leaves unexplained: the second must leave less
SURE = 0.6  # of a gain's variance: a detector that explains less is none
SLOWER = 0.75  # of what the level of the moment leaves unexplained: a detector must leave less
FLATTEST_DB = 0.1  # of a gain's changes: below, there is nothing to explain
LIMIT_DB = 30.0  # from the median: farther off, a gain is that of a pause


class Gain(NamedTuple):
    """What a gain, looked at in steps of 5 ms, follows. Shares are of its variance."""

    at_once: float  # share that the level of the moment explains
    explained: float  # share that the best detector of level explains, at most 1; may be negative
    attack: float  # of that detector, s
    release: float
    memory: float  # of a second detector, if that explains a good deal of the rest, otherwise 0, s

    @property
    def follows_level(self) -> bool:
        """Whether it follows a level that is remembered: more than the level of the moment would explain."""
        return self.explained > SURE and 1 - self.explained < SLOWER * (1 - self.at_once)


def gain_error(x: Samples, y: Samples, linear: Samples, sample_rate: int) -> float:
    """What a gain that follows the target's own envelope typically leaves, as `typical_error`.

    The least of three: a gain fitted in windows of 20 ms, to the input and to the linear guess; and a filter
    between both signals once each has been levelled by its own envelope. Near zero for compressors, gates
    and tremolos; not for what makes new partials.
    """
    left = [typical_error(y - _followed(source, y, sample_rate), y, y) for source in (x, linear)]
    source, target = (_levelled(signal, sample_rate) for signal in (x, y))
    fit = short_filter(source, target, *LEVELLED_TAPS)
    return min(*left, typical_error(target - fit.prediction, target, y))


def gain_follows(x: Signal, y: Signal, sample_rate: int) -> Gain | None:
    """Which detector of level explains the gain best: attack and release from a grid, and any curve after it.

        s' = (|x| - s) / (attack where |x| > s, else release)       gain in dB = h(log s)
    fed from the input or, as in a feedback compressor, from the output. h: piecewise straight over ten
    quantiles, fitted to every second eighth of the recording and tried on the others, and back. Then a second
    detector, equally slow both ways, is tried beside the best. Times are geometric means over all detectors
    that explain nearly as much. None where next to nothing is heard.
    """
    size = max(1, round(STEP_SECONDS * sample_rate))
    drives = [powers(np.asarray(signal, np.float64), size) for signal in (x, y)]
    if drives[0].size < 40 or not drives[0].any() or not drives[1].any():
        return None
    smooth = [np.convolve(power, [0.25, 0.5, 0.25], "same") for power in drives]
    heard = (smooth[0] > 1e-5 * smooth[0].max()) & (smooth[1] > 1e-6 * smooth[1].max())
    if np.count_nonzero(heard) < 40:
        return None
    gain_db = 10 * np.log10(smooth[1][heard] / smooth[0][heard])
    middle = float(np.median(gain_db))
    gain_db = np.clip(gain_db, middle - LIMIT_DB, middle + LIMIT_DB)
    spread = float(gain_db.var())
    if spread < FLATTEST_DB**2:
        return Gain(0.0, 0.0, 0.0, 0.0, 0.0)
    at_once = 1 - _unexplained(np.log(smooth[0][heard]), gain_db) / spread
    times = np.array([(a, r) for a in ATTACKS for r in RELEASES if a <= r]).T  # [2, detectors]
    states = np.concatenate(
        [_detected(drive, times[0], times[1], size / sample_rate)[heard].T for drive in drives]
    )
    left = np.array([_unexplained(state, gain_db) for state in states]) / spread
    held, least = states[left.argmin()], float(left.min())
    alike = np.tile(np.log(times), len(drives))[:, left <= ALIKE * least]
    attack, release = np.exp(alike.mean(1)).tolist()
    best = Gain(at_once, 1 - least, attack, release, 0.0)
    slow = np.array([seconds for seconds in SLOW if seconds > 2 * best.release])
    if slow.size:
        most = MORE * least * spread
        for drive in drives:
            for state, seconds in zip(
                _detected(drive, slow, slow, size / sample_rate)[heard].T, slow, strict=True
            ):
                rest = _unexplained(held, gain_db, state)
                if rest < most:
                    most, best = rest, best._replace(memory=float(seconds))
    return best


def _levelled(x: Samples, sample_rate: int) -> Samples:
    """x over its own envelope: RMS over 20 ms, smooth, not below -50 dB of its maximum."""
    power = _smooth(np.square(x), sample_rate)
    return x / np.sqrt(power + 1e-5 * power.max(initial=0) + 1e-300)


def _followed(x: Samples, y: Samples, sample_rate: int) -> Samples:
    """x, times the gain that brings it nearest to y around each sample."""
    own = _smooth(np.square(x), sample_rate)
    return x * _smooth(x * y, sample_rate) / np.maximum(own, 1e-9 * own.max(initial=0) + 1e-300)


def _smooth(x: Samples, sample_rate: int) -> Samples:
    """Three boxes, nearly a bell."""
    size = max(1, round(SMOOTH_SECONDS * sample_rate / 3))
    positive = bool((x >= 0).all())
    for _ in range(3):
        x = uniform_filter1d(x, size)
    return np.maximum(x, 0) if positive else x  # its running sum rounds


def _detected(power: Samples, attack: Samples, release: Samples, step: float) -> Samples:
    """Logs of the states of many detectors at once: [steps] -> [steps, detectors]."""
    up, down = 1 - np.exp(-step / attack), 1 - np.exp(-step / release)
    held, course = np.zeros(attack.size), np.empty((power.size, attack.size))
    for n, value in enumerate(np.sqrt(power / power.max()).tolist()):
        change = value - held
        held = held + np.where(change > 0, up, down) * change
        course[n] = held
    return np.log(course + 1e-5)


def _unexplained(state: Samples, gain_db: Samples, *others: Samples) -> float:
    """Mean square of what the best sum of curves over states leaves, where it was not fitted."""
    bases = [basis for basis in map(_basis, (state, *others)) if basis is not None]
    if not bases:
        return float(gain_db.var())
    basis = np.concatenate(bases, axis=1)
    fold = (np.arange(state.size) * 8 // state.size) % 2
    total = 0.0
    for left_out in (0, 1):
        shown, tried = basis[fold != left_out], basis[fold == left_out]
        wanted = gain_db[fold != left_out]
        middle = wanted.mean()
        gram = shown.T @ shown
        gram[np.diag_indices_from(gram)] += 1e-3 * gram.trace() / len(gram)
        curve = np.linalg.solve(gram, shown.T @ (wanted - middle))
        total += float(np.square(gain_db[fold == left_out] - middle - tried @ curve).sum())
    return total / state.size


def _basis(state: Samples) -> Samples | None:
    """Hats over ten quantiles, [steps, knots]; None for a state that stands still."""
    knots = np.unique(np.quantile(state, np.linspace(0, 1, KNOTS)))
    if knots.size < 3:
        return None
    places = np.interp(state, knots, np.arange(knots.size))
    below = np.minimum(places.astype(int), knots.size - 2)
    basis = np.zeros((state.size, knots.size))
    rows = np.arange(state.size)
    basis[rows, below], basis[rows, below + 1] = 1 - (places - below), places - below
    return basis
