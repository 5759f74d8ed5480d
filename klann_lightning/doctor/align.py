"""How the target lies against the input: delay, polarity, drift, jumps, and how sure that is."""

from itertools import accumulate, pairwise
from math import erf, hypot, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from klann_lightning.doctor.alignment import Alignment, Jump
from klann_lightning.doctor.clicks import Clicks, heard_clicks
from klann_lightning.doctor.clocks import (
    MOST_DRIFT,
    PREFERENCE,
    Clock,
    Ear,
    answered,
    clock,
    follow,
    read_along,
    steer,
)
from klann_lightning.doctor.coarse import (
    CLICKS,
    SEGMENT,
    Candidate,
    Judge,
    candidates,
    features,
    information,
)
from klann_lightning.doctor.fine import Fine, refine
from klann_lightning.doctor.levels import WINDOW_SECONDS, busiest, levels, offsets
from klann_lightning.doctor.source import Source

Samples = NDArray[np.float64]

EXCERPT = 1 << 19  # samples in which the delay is sought
REACH = 16384  # samples in which it lies as a rule
FAR_REACH = 2048  # around what the levels propose elsewhere
HEARD, SURE = 0.06, 0.5  # nats, and that there is something to follow with less of them
LEAST_SHARE, LEAST_FRAMES = 0.5, 1 << 16  # of the shorter recording, which answer the other one
CLICKS_REACH, BELIEVED = 1 << 16, 0.7  # samples; of what another delay explains
APART = 64  # samples between two delays that are different ones
BLOCK, RIVALS = 1 << 15, 8  # samples in which so many delays are compared,
LIKELY = 0.3  # which explain that much of what the best one does
DRIFT_SEEN = 1e-6 / 3  # samples per sample; a drift that is believed has more, and
DRIFT_SIGMAS = 12.0  # a distortion's own wandering has less
SAME = 3.0  # samples
NEARLY_WHOLE = 0.25  # samples


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
    clicks: int  # of those at the opening that say the same of the place


class _Excerpt(NamedTuple):
    """A part of the input, and the target to look for it in."""

    own: Samples
    y: Source
    start: int  # sample of the input

    @property
    def middle(self) -> int:
        return self.start + len(self.own) // 2

    def fine(self, delay: float, drift: float) -> Fine | None:
        """What it tells of the delay in its middle, near the given one."""
        beside, middle = 512, self.start + len(self.own) / 2
        expected = round(delay)
        frames = len(self.own) + 2 * beside
        late = read_along(self.y, self.start - beside, frames, expected - drift * middle, drift)
        fine = refine(self.own, late, beside)
        return fine and fine._replace(delay=expected + fine.delay - beside)

    def answer(self, delay: float, drift: float, beside: int = 0) -> Samples:
        """The target, late by `delay` in the middle, with samples on either side."""
        frames = len(self.own) + 2 * beside
        return read_along(self.y, self.start - beside, frames, delay - drift * self.middle, drift)


def align(x: Source, y: Source) -> Aligned | None:
    """Where y, the target, answers x, the input; both at one rate. None if either is too short or silent."""
    clicks = heard_clicks(x, y, CLICKS_REACH)
    ranked, start, frames = _coarse(x, y, clicks)
    if not ranked:
        return None
    start, frames = _answered(x, y, ranked[0].delay, start, frames)
    part = _Excerpt(x.read(start, frames), y, start)
    ranked, (held, length) = _steady(part, ranked)
    best, rival = ranked[0], _rival(ranked)
    fine = _Excerpt(part.own[held : held + length], y, start + held).fine(best.delay, 0.0)
    if fine is None:
        return None
    found, at = None, start + held + length // 2
    if best.information > HEARD or _sure_of_place(best, rival, frames) > SURE:
        found, fine, at = _followed(x, part, fine, at, best.delay)
    best, rival = _judged(part, ranked, found, fine)
    agreeing = clicks.agreeing if clicks and abs(clicks.delay - best.delay) <= APART else 0
    place = 1.0 if agreeing else _sure_of_place(best, rival, frames)
    answer = part.answer(fine.delay, found.drift if found else 0.0)
    return Aligned(
        _alignment(part, found, fine, at, place),
        sd=hypot(fine.sd * fine.misfit, fine.spread),
        information=max(information(features(part.own), answer, 0), best.information),
        rival=rival,
        backwards=information(features(answer), part.own, 0),
        sure_of_place=place,
        start=start,
        frames=frames,
        drift_sd_ppm=found.drift_sd * 1e6 if found else np.inf,
        clock=found,
        clicks=agreeing,
    )


def _coarse(x: Source, y: Source, clicks: Clicks | None) -> tuple[list[Candidate], int, int]:
    """Whole delays, the one that explains most first, and the excerpt's start and length."""
    x_levels, y_levels = levels(x), levels(y)
    window = x.sample_rate * WINDOW_SECONDS
    reach = round(REACH / window)
    proposed = [0, *(one for one in offsets(x_levels, y_levels) if abs(one) > reach)]
    frames = min(EXCERPT, x.frames)
    least = min(LEAST_SHARE * min(x.frames, y.frames), LEAST_FRAMES)
    found: list[tuple[Candidate, int]] = []
    for offset in proposed:
        start = min(
            round(busiest(x_levels, y_levels, offset, int(frames / window)) * window), x.frames - frames
        )
        own = x.read(start, frames)
        far = REACH if offset == 0 else FAR_REACH
        at = round(offset * window) - far
        late, recorded = y.read(start + at, frames + 2 * far), y.recorded(start + at, frames + 2 * far)
        if not own.any() or not late.any():
            continue
        for one in candidates(own, late, 2 * far, at, clicks and clicks.delay, recorded):
            first, last = answered(x, y, one.delay)
            if last - first >= least:
                found.append((one, start))
    if not found:
        return [], 0, 0
    start = max(found, key=lambda pair: pair[0].information)[1]
    ranked = sorted((one for one, _ in found), key=lambda one: -one.information)
    told = [one for one in ranked if CLICKS in one.votes]
    if told and told[0].information > BELIEVED * ranked[0].information:
        ranked = [told[0], *(one for one in ranked if one is not told[0])]
    return ranked, start, frames


def _steady(part: _Excerpt, ranked: list[Candidate]) -> tuple[list[Candidate], tuple[int, int]]:
    """The candidates, and the stretch of the excerpt, start and length, in which the first is the delay.

    A recorder that has lost samples changes the delay within the excerpt. No delay is right then for all of
    it, and one in between may explain most of the whole: what counts is which explains most of each part.
    """
    own, y, start = part
    most = max(one.information for one in ranked)
    if most < HEARD:
        return ranked, (0, len(own))
    near = [one for one in ranked if one.information > LIKELY * most][:RIVALS]
    others = [one for one in ranked if one not in near]
    shapes, edges = features(own), [*range(0, max(len(own) - BLOCK, 1), BLOCK), len(own)]
    parts = [(a, b - a, Judge(shapes[:, a:b])) for a, b in pairwise(edges)]
    told = np.array(
        [
            [judge.information(y.read(start + a + one.delay, length), 0) for a, length, judge in parts]
            for one in near
        ]
    )
    highest = told.max(0)
    if highest.mean() < PREFERENCE * told[0].mean() + HEARD:
        return ranked, (0, len(own))
    wins = np.where(told == highest, told, 0).sum(1)
    winner = int(np.argmax(wins))
    there = PREFERENCE * told[winner] + HEARD >= highest
    bounds = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int))).reshape(-1, 2)
    first, last = max(bounds.tolist(), key=lambda run: run[1] - run[0])
    ranked = [near[winner], *(one for one in near if one is not near[winner]), *others]
    return ranked, (edges[first], edges[last] - edges[first])


def _answered(x: Source, y: Source, delay: int, start: int, frames: int) -> tuple[int, int]:
    """The excerpt moved, and cut if it must be, to where y has an answer: an end of y alone is a click."""
    first, last = answered(x, y, delay)
    frames = min(frames, last - first)
    return min(max(start, first), last - frames), frames


def _followed(x: Source, part: _Excerpt, fine: Fine, at: int, delay: int) -> tuple[Clock | None, Fine, int]:
    """Drift and jumps, what the device does, and the sample at which that knows the delay.

    `fine` and `at` are the last two so far; all of the excerpt is late by about `delay`, unless it drifts.
    """
    near, drift = steer(part.own, part.y, part.start, delay)
    along = part.fine(near, drift) if drift else None
    if along and along.worth > fine.worth:  # and no jumps that look like a drift
        at, fine = part.middle, along
    else:
        drift = 0.0
    found, fine = _clock(x, part.y, fine, at, drift)
    if found and not found.jumps:
        there = found.delay_at(part.middle)
        if found.drift or abs(there - fine.delay) > SAME:
            fine = part.fine(there, found.drift) or fine
    return found, fine, at


def _clock(x: Source, y: Source, fine: Fine, at: int, drift: float) -> tuple[Clock | None, Fine]:
    """Drift and jumps all over the recordings, from what is known of sample `at`; None where nothing is.

    Also what the device does there, known better now.
    """
    delay, found = fine.delay, None
    for _ in range(2):
        ear = Ear(x, y, fine)
        soundings = follow(ear, at, delay, drift)
        if len(soundings) < 4:
            return None, fine
        found = clock(ear, soundings, drift)
        if abs(found.drift) > MOST_DRIFT:  # few soundings, of which some are wrong
            return None, fine
        done = abs(found.drift - drift) * x.frames < 0.5
        drift, delay = found.drift, found.delay_at(at)
        if done:
            break
        frames = min(EXCERPT, x.frames)
        start, frames = _answered(x, y, round(delay), at - frames // 2, frames)
        if not found.jumps:
            part = _Excerpt(x.read(start, frames), y, start)
            fine = part.fine(found.delay_at(start + frames / 2), drift) or fine
    if found and (abs(found.drift) < DRIFT_SEEN or abs(found.drift) < DRIFT_SIGMAS * found.drift_sd):
        found = found._replace(drift=0.0, delay=found.delay + found.drift * at)
    return found, fine


def _whole(jump: Jump) -> Jump:
    """A recorder loses whole samples, unless it has another rate."""
    whole = float(round(jump.by))
    return jump._replace(by=whole) if abs(jump.by - whole) < NEARLY_WHOLE else jump


def _rival(ranked: list[Candidate]) -> float:
    """What the best explains that is another delay than the first."""
    first, *others = ranked
    return max((one.information for one in others if abs(one.delay - first.delay) > APART), default=0.0)


def _judged(
    part: _Excerpt, ranked: list[Candidate], found: Clock | None, fine: Fine
) -> tuple[Candidate, float]:
    """The best candidate and what its rival explains, once drift and jumps are known."""
    best, rival = ranked[0], _rival(ranked)
    if found and found.drift:  # which hid from the first look what both have in common
        again = candidates(part.own, part.answer(fine.delay, found.drift, FAR_REACH), 2 * FAR_REACH)
        near = [one for one in again if abs(one.delay - FAR_REACH) <= APART]
        if near and near[0].information >= best.information:
            best = near[0]
            others = [one.information for one in again if abs(one.delay - FAR_REACH) > APART]
            rival = max(others, default=0.0)
    if found and found.jumps:  # each of its delays is the right one somewhere
        held_by = [found.delay_at(0), *(found.delay_at(jump.at) for jump in found.jumps)]
        right = [one for one in ranked if any(abs(one.delay - delay) <= APART for delay in held_by)]
        best = max([best, *right], key=lambda one: one.information)
        rival = max((one.information for one in ranked if one not in right), default=0.0)
    return best, rival


def _alignment(part: _Excerpt, found: Clock | None, fine: Fine, at: int, place: float) -> Alignment:
    """As of the input's first sample. `at`: where `fine` knows the delay; `place`: how sure its place is."""
    drift = found.drift if found else 0.0
    jumps = tuple(_whole(jump) for jump in found.jumps) if found else ()
    delay = fine.delay - drift * part.middle
    if found and jumps:  # the excerpt may hold several delays; where `fine` has looked it is known best
        later = [0.0, *accumulate(jump.by for jump in jumps)]
        known = [fine.delay - drift * at - by for by in later]
        nearest = min(known, key=lambda one: abs(one - found.delay))
        delay = nearest if abs(nearest - found.delay) < SAME else found.delay
    return Alignment(
        delay=delay,
        confidence=place * _sure_of_fraction(fine),
        polarity=fine.polarity,
        polarity_confidence=place * _sure_of_polarity(fine),
        drift_ppm=drift * 1e6,
        jumps=jumps,
    )


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
