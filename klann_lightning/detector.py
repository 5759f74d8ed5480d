"""Which compressor would have made this of that: a level detector and a gain curve, fitted to a recording.

No sine can be played through a device that is there as a recording alone, but its gain can be seen, and what
gain a textbook compressor would have had. Grey-box modelling as in Wright, Välimäki (DAFx 2022), without a
network: in blocks of 0.7 ms with mean squares p of the input, and q of the output,

    e = p or q, or its square root               feedforward or feedback; senses power or amplitude
    fast' = (e - fast) / attack, or / release where e < fast
    slow' = (fast - slow) / charge, or / memory where fast < slow        only where that explains more
    gain in dB = h(log((1 - share) fast + share slow))                   h: any curve, piecewise straight

The output is at hand, so a feedback loop need not be run: its detector is fed with what was recorded. For
given time constants the best h is linear least squares; the time constants are found around that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.ndimage import convolve1d
from scipy.optimize import least_squares

from klann_lightning.fidelity import Samples, Signal

BLOCK_SECONDS = 32 / 44100
SMOOTHED = 7  # blocks, of input and output alike: phase shifts between them then matter less
KERNEL = np.hanning(SMOOTHED + 2)[1:-1] / np.hanning(SMOOTHED + 2).sum()
CHOOSING_SECONDS = 15.0  # of a recording by which the kind is chosen
LONGEST_SECONDS = 120.0  # by which its times are then found: slow ones need some of them
FLOOR = 1e-5  # of the loudest block's power: what is quieter says nothing of the gain
KNOTS = 10
LOUDEST_WEIGHT = 3.0  # times the median
STARTS = ([0.005, 0.1], [0.02, 0.5])  # attack and release, s
MEMORY_STARTS = ([2.0, 1.0], [3.0, 3.0])  # charge and memory
LIMITS = 2e-4, 20.0  # s
DELAY_START, DELAY_LIMIT = 0.5, 4.0  # blocks
STEPS = 20
TOLERANCE = 1e-3
BETTER = 0.7  # of the error of one stage: what a second one must come below
FLATTEST_DB = 0.1  # RMS of a gain's changes: below, there is nothing to explain
NEARLY = 1.25  # times the least error: up to there another kind is not ruled out
EXPLAINED = 0.8  # of the gain's variance: what explains less is no such compressor

Topology: TypeAlias = Literal["feedforward", "feedback"]
Senses: TypeAlias = Literal["power", "amplitude"]
KINDS: Sequence[tuple[Topology, Senses]] = (
    ("feedforward", "power"),
    ("feedforward", "amplitude"),
    ("feedback", "power"),
    ("feedback", "amplitude"),
)


@dataclass(frozen=True)
class Detector:
    """A compressor's level detector; times in seconds."""

    topology: Topology
    senses: Senses
    attack: float
    release: float
    charge: float | None  # of the second stage, if it has one
    memory: float | None  # in which that one falls
    share: float  # of the second stage, 0 to 1
    error_db: float  # RMS of what the gain is beside it
    explained: float  # share of the gain's variance
    rival: "Detector | None" = None  # of another kind, whose error is hardly larger

    @property
    def kind(self) -> str:
        """In words."""
        return f"{self.topology}, sensing {self.senses}"

    @property
    def fits(self) -> bool:
        """Whether the recording looks like such a compressor's: its gain follows a level, not at once."""
        return self.explained >= EXPLAINED and self.release > 2 * BLOCK_SECONDS


class _Seen(NamedTuple):
    """A recording in blocks."""

    seconds: float  # of a block
    source: Samples  # mean squares, [blocks]
    output: Samples
    smooth: tuple[Samples, Samples]  # the same, smoothed
    heard: np.ndarray[tuple[int], np.dtype[np.bool_]]
    gain_db: Samples  # where it is heard
    weights: Samples  # the same


def fit_detector(
    source: Signal, output: Signal, sample_rate: int, context: int = 0, like: Detector | None = None
) -> Detector | None:
    """The detector that comes nearest to a recording, [T] and [T]; of the same kind as `like`, if given.

    The first `context` samples only bring its state about, which is zero before them. None for less than a
    second after these, and for what is silent or not finite. Looks at the first two minutes; in some seconds
    alone, a time constant of seconds may be found half as long, or twice. It is meant for what averages over
    about a millisecond before it attacks, as most detectors of level do.
    """
    seen = _seen(source, output, sample_rate, context, LONGEST_SECONDS)
    if seen is None:
        return None
    if like is None:
        opening = _seen(source, output, sample_rate, context, CHOOSING_SECONDS) or seen
        like, second, *_ = sorted((_best(opening, *kind) for kind in KINDS), key=_error)
        rival = second if second.error_db < NEARLY * like.error_db else None
        if len(source) > CHOOSING_SECONDS * sample_rate:
            like = _fitted(seen, like.topology, like.senses, like)
        return replace(like, rival=rival)
    return _fitted(seen, like.topology, like.senses, like)


def _best(seen: _Seen, topology: Topology, senses: Senses) -> Detector:
    one = min((_fitted(seen, topology, senses, _start(*start)) for start in STARTS), key=_error)
    starts = [_start(one.attack, one.release, *memory) for memory in MEMORY_STARTS]
    two = min((_fitted(seen, topology, senses, start) for start in starts), key=_error)
    return two if two.error_db < BETTER * one.error_db else one


def _error(detector: Detector) -> float:
    return detector.error_db


def _start(
    attack: float, release: float, charge: float | None = None, memory: float | None = None
) -> Detector:
    return Detector("feedforward", "power", attack, release, charge, memory, 0.5, math.inf, 0.0)


def _fitted(seen: _Seen, topology: Topology, senses: Senses, start: Detector) -> Detector:
    drive = seen.source if topology == "feedforward" else seen.output
    drive = drive if senses == "power" else np.sqrt(drive)
    levels = (drive / drive.mean()).tolist()
    times = [start.attack, start.release]
    if start.charge is not None and start.memory is not None:
        times += [start.charge, start.memory]

    def error(values: Samples) -> Samples:
        return _gain_error(seen, _state(levels, seen.seconds, values))

    share = min(max(start.share, 0.05), 0.95)
    begin = [
        *np.log(np.clip(times, *LIMITS)),
        DELAY_START,
        *([math.log(share / (1 - share))] * (len(times) > 2)),
    ]
    low = [*[math.log(LIMITS[0])] * len(times), 0.0, *[-5.0] * (len(times) > 2)]
    high = [*[math.log(LIMITS[1])] * len(times), DELAY_LIMIT, *[5.0] * (len(times) > 2)]
    found = least_squares(
        error,
        begin,
        diff_step=[1e-3],
        bounds=(low, high),
        loss="soft_l1",
        ftol=TOLERANCE,
        xtol=TOLERANCE,
        max_nfev=STEPS,
    )
    left = error(found.x)
    mean_db = np.average(seen.gain_db, weights=np.square(seen.weights))
    spread_db, error_db = (
        float(np.sqrt(np.square(x).sum() / np.square(seen.weights).sum()))
        for x in (seen.weights * (seen.gain_db - mean_db), left)
    )
    attack, release, *memory = np.exp(found.x[: len(times)]).tolist()
    charge, falls = memory or (None, None)
    return Detector(
        topology,
        senses,
        attack,
        release,
        charge,
        falls,
        1 / (1 + math.exp(-found.x[-1])) if memory else 0.0,
        error_db,
        1 - (error_db / spread_db) ** 2 if spread_db > FLATTEST_DB else 0.0,
    )


def _seen(source: Signal, output: Signal, sample_rate: int, context: int, longest_s: float) -> _Seen | None:
    size = max(1, round(BLOCK_SECONDS * sample_rate))
    frames = min(len(source), round(longest_s * sample_rate)) // size * size
    if frames < sample_rate or not (
        np.isfinite(source[:frames]).all() and np.isfinite(output[:frames]).all()
    ):
        return None
    powers = [np.square(x[:frames], dtype=np.float64).reshape(-1, size).mean(1) for x in (source, output)]
    smooth = [convolve1d(power, KERNEL, mode="constant") for power in powers]
    heard = np.logical_and(*(power > FLOOR * power.max() for power in smooth))
    heard[: context // size] = False
    if np.count_nonzero(heard) < 0.1 / BLOCK_SECONDS:
        return None
    gain_db = 10 * np.log10(smooth[1][heard] / smooth[0][heard])
    weights = np.sqrt(smooth[0][heard])
    weights = np.minimum(weights / np.median(weights), LOUDEST_WEIGHT)
    return _Seen(size / sample_rate, powers[0], powers[1], (smooth[0], smooth[1]), heard, gain_db, weights)


def _state(levels: Sequence[float], step: float, values: Samples) -> Samples:
    """What the gain depends on, block by block. Values: logs of times, delay in blocks, logit of share."""
    two = len(values) > 3
    rates = [1 - math.exp(-step / math.exp(log)) for log in values[: 4 if two else 2]]
    attack, release = rates[:2]
    charge, memory = rates[2:] if two else (0.0, 0.0)
    fasts = _follow(levels, attack, release)
    share = 1 / (1 + math.exp(-values[-1])) if two else 0.0
    state = (1 - share) * np.array(fasts)
    if two:
        state += share * np.array(_follow(fasts, charge, memory))
    places = np.arange(len(levels))
    return np.interp(places - values[4 if two else 2], places, state)


def _follow(levels: Sequence[float], up: float, down: float) -> list[float]:
    """One pole with two rates."""
    held, course = 0.0, []
    for level in levels:
        held += (up if level > held else down) * (level - held)
        course.append(held)
    return course


def _gain_error(seen: _Seen, state: Samples) -> Samples:
    """Weighted error in dB of the best curve over the state, where the gain is heard.

    Gains are of smoothed powers. The log of a mean of gains is, to second order, the mean of their logs
    weighted by the geometric mean of both powers: so the curve stays linear least squares.
    """
    logs = np.log(np.maximum(state, 1e-12))
    knots = np.unique(np.quantile(logs[seen.heard], np.linspace(0, 1, KNOTS)))
    places = np.clip(np.interp(logs, knots, np.arange(knots.size)), 0, knots.size - 1)
    below = np.minimum(places.astype(int), knots.size - 2)
    basis = np.zeros((logs.size, knots.size))
    basis[np.arange(logs.size), below] = 1 - (places - below)
    basis[np.arange(logs.size), below + 1] = places - below
    weights = np.sqrt(seen.source * seen.output)
    smooth = convolve1d(weights[:, None] * basis, KERNEL, axis=0, mode="constant")
    columns = smooth[seen.heard] / np.maximum(smooth[seen.heard].sum(1, keepdims=True), 1e-300)
    weighted = columns * seen.weights[:, None]
    wanted = seen.gain_db * seen.weights
    normal = weighted.T @ weighted
    normal[np.diag_indices_from(normal)] += 1e-9 * np.trace(normal)
    curve = np.linalg.solve(normal, weighted.T @ wanted)
    return np.asarray(weighted @ curve - wanted, dtype=np.float64)
