"""How the target lies against the input: delay, polarity, drift, jumps, and how sure that is."""

from math import erf, hypot, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from klann_lightning.doctor.alignment import Alignment, Jump
from klann_lightning.doctor.clocks import Clock, Ear, clock, first_drift, follow, read_along
from klann_lightning.doctor.coarse import SEGMENT, Candidate, candidates, features, information
from klann_lightning.doctor.fine import Fine, refine
from klann_lightning.doctor.levels import WINDOW_SECONDS, busiest, levels, offsets
from klann_lightning.doctor.source import Source

Samples = NDArray[np.float64]

EXCERPT = 1 << 19  # samples in which the delay is sought
REACH = 16384  # samples in which it lies as a rule
FAR_REACH = 2048  # around what the levels propose elsewhere
HEARD, SURE = 0.06, 0.5  # nats, and that there is something to follow with less of them
APART = 64  # samples between two delays that are different ones
DRIFT_SEEN = 1e-6 / 3  # samples per sample; a drift that is believed has more, and
DRIFT_SIGMAS = 12.0  # a distortion's own wandering has less
SAME = 3.0  # samples


class Aligned(NamedTuple):
    """An alignment, and what it rests on."""

    alignment: Alignment
    sd: float  # samples; of the delay, as far as the shapes of the input that tell of it disagree
    information: float  # nats for each frequency that the input gives of the target there
    rival: float  # the same, of the best other delay
    backwards: float  # the same, of the input that the target gives
    sure_of_place: float  # from 0 to 1: that it is not another delay, however exactly this one is known
    start: int  # where the excerpt begins that was looked at, sample of the input
    frames: int
    drift_sd_ppm: float
    clock: Clock | None


def align(x: Source, y: Source) -> Aligned | None:
    """Where y, the target, answers x, the input; both at one rate. None if either is too short or silent."""
    best, rival, start, frames = _coarse(x, y)
    if best is None:
        return None
    own = x.read(start, frames)
    fine = _fine(own, y, start, best.delay, 0.0)
    if fine is None:
        return None
    told = best.information > HEARD or _sure_of_place(best, rival, frames) > SURE
    found = _clock(Ear(x, y, fine), start + frames // 2, fine.delay) if told else None
    drift = found.drift if found else 0.0
    middle = start + frames / 2
    if found:
        near = found.delay_at(middle)
        if drift or abs(near - fine.delay) > SAME:
            fine = _fine(own, y, start, near, drift)
    if fine is None:
        return None
    delay = fine.delay - drift * middle
    jumps: tuple[Jump, ...] = ()
    if found:
        jumps = found.jumps
        delay = found.delay if jumps else delay  # the excerpt may hold several delays
    if drift:  # which hid from the first look what both have in common
        late = read_along(y, start - FAR_REACH, frames + 2 * FAR_REACH, fine.delay - drift * middle, drift)
        best, rival = _judged(candidates(own, late, 2 * FAR_REACH), best, rival)
    place = _sure_of_place(best, rival, frames)
    answer = read_along(y, start, frames, fine.delay - drift * middle, drift)
    forwards, backwards = information(features(own), answer, 0), information(features(answer), own, 0)
    alignment = Alignment(
        delay=delay,
        confidence=place * _sure_of_fraction(fine),
        polarity=fine.polarity,
        polarity_confidence=place * _sure_of_polarity(fine),
        drift_ppm=drift * 1e6,
        jumps=jumps,
    )
    return Aligned(
        alignment,
        sd=hypot(fine.sd * fine.misfit, fine.spread),
        information=max(forwards, best.information),
        rival=rival,
        backwards=backwards,
        sure_of_place=place,
        start=start,
        frames=frames,
        drift_sd_ppm=found.drift_sd * 1e6 if found else np.inf,
        clock=found,
    )


def _coarse(x: Source, y: Source) -> tuple[Candidate | None, float, int, int]:
    """The best whole delay, what the best other one explains, and the excerpt's start and length."""
    x_levels, y_levels = levels(x), levels(y)
    window = x.sample_rate * WINDOW_SECONDS
    reach = round(REACH / window)
    proposed = [0, *(one for one in offsets(x_levels, y_levels) if abs(one) > reach)]
    frames = min(EXCERPT, x.frames)
    found: list[tuple[Candidate, int]] = []
    for offset in proposed:
        start = min(
            round(busiest(x_levels, y_levels, offset, int(frames / window)) * window), x.frames - frames
        )
        own = x.read(start, frames)
        far = REACH if offset == 0 else FAR_REACH
        late = y.read(start + round(offset * window) - far, frames + 2 * far)
        if not own.any() or not late.any():
            continue
        at = round(offset * window) - far
        for one in candidates(own, late, 2 * far, at):
            if at <= one.delay <= at + 2 * far:
                found.append((one, start))
    if not found:
        return None, 0.0, 0, 0
    best, start = max(found, key=lambda pair: pair[0].information)
    others = [one.information for one, _ in found if abs(one.delay - best.delay) > APART]
    return best, max(others, default=0.0), start, frames


def _fine(own: Samples, y: Source, start: int, delay: float, drift: float) -> Fine | None:
    """In the excerpt that `own` is, the delay in its middle."""
    beside, middle = 512, start + len(own) / 2
    expected = round(delay)
    late = read_along(y, start - beside, len(own) + 2 * beside, expected - drift * middle, drift)
    fine = refine(own, late, beside)
    return fine and fine._replace(delay=expected + fine.delay - beside)


def _clock(ear: Ear, at: int, delay: float) -> Clock | None:
    """Drift and jumps all over the recordings; None where nothing is known of them."""
    x = ear.x
    delay, drift = first_drift(ear, at, delay, 512)
    found = None
    for _ in range(2):
        soundings = follow(ear, at, delay, drift)
        if len(soundings) < 4:
            return None
        found = clock(ear, soundings, drift)
        done = abs(found.drift - drift) * x.frames < 0.5
        drift, delay = found.drift, found.delay_at(at)
        if done:
            break
    if found and (abs(found.drift) < DRIFT_SEEN or abs(found.drift) < DRIFT_SIGMAS * found.drift_sd):
        found = found._replace(drift=0.0, delay=found.delay + found.drift * at)
    return found


def _judged(again: list[Candidate], best: Candidate, rival: float) -> tuple[Candidate, float]:
    """The best candidate and its rival's information, of a look at FAR_REACH or else of the first one."""
    near = [one for one in again if abs(one.delay - FAR_REACH) <= APART]
    if not near or near[0].information < best.information:
        return best, rival
    others = [one.information for one in again if abs(one.delay - FAR_REACH) > APART]
    return near[0], max(others, default=0.0)


def _sure_of_place(best: Candidate, rival: float, frames: int) -> float:
    """That no other delay is the right one: by how much more this one explains, in standard deviations."""
    segments = min(400, 2 * frames / SEGMENT)
    noise = sqrt(8 * max(best.information, 0.02) / (0.6 * segments * SEGMENT / 2))
    return erf(max(best.information - rival, 0) / noise / 6)


def _sure_of_fraction(fine: Fine) -> float:
    """That the error is below a sample: what the model leaves out makes it larger than its sd says."""
    return erf(1 / (hypot(10 * fine.sd, fine.spread) + 1e-6) / sqrt(2))


def _sure_of_polarity(fine: Fine) -> float:
    return 1 - 1 / fine.margin**2
