"""The delay to a fraction of a sample, told apart from the phase that the device's own filters bring.

A causal filter without needless delay (minimum phase) has a phase that follows from its magnitude. So the
transfer function H is modelled as

    log H(w) = sum_k a_k g_k(w) - j w d + j pi p,

where each g_k is itself the logarithm of a minimum-phase function: powers of an allpass, the cepstrum on a
warped frequency axis (Oppenheim and Johnson 1972, Proc. IEEE 60(6)); one zero at 0 Hz and one at the Nyquist
frequency; and poles or zeros on the real axis, which carry a slope on where the signal ends. The real part
sees only the a_k, the imaginary part these and the delay d: one least-squares fit of both gives d and how
certain it is. Weights are the coherence's, g^2 / (1 - g^2) for each segment averaged.
"""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from klann_lightning.doctor.coarse import features, segment_starts

Samples = NDArray[np.float64]
Spectrum = NDArray[np.complex128]

SIZE = 4096  # samples of a segment
SEGMENTS = 400
WARP = 0.9  # of the allpass: half of the axis lies below 800 Hz at 44.1 kHz
POWERS = 60
POLES = 19
# What a coefficient is before anything is known, one standard deviation.
CEPSTRUM_SD, EDGE_SD, POLE_SD = 0.15, 3.0, 0.3
MOST_WEIGHT = 1e4  # spectra of parts are not trusted beyond -40 dB
LEAST_WEIGHT = 10.0  # below, the magnitude is that of the noise
LOWEST = 1e-3  # cycles per sample
HIGHEST = 0.45  # above, converters end a spectrum steeply by filters of linear phase
REACH = 64  # samples around the coarse delay that are searched
FAR_REACH = 512  # the same, once the device's response is known
FINER = 16  # steps in a sample
LEVEL = 256  # samples over which levels are compared
ENOUGH = 0.4  # of the most that any shape tells
NEARLY = 0.2  # of the best shape's worth
SOFT = 0.0, 0.05, 0.1, 0.15, 0.2, 0.4  # shares of the segments, by their level
SOFTER = 2.0  # times as much must a distortion of the input tell, which cannot know what comes before it
SOFT_SHAPE = 0  # the input itself
SILENT = 2e-4  # of the loudest segment
ODD_SHAPES = 4  # of the features, those that turn over with the input


class Spectra(NamedTuple):
    """Means over segments, for each frequency."""

    own: Samples  # power of x
    late: Samples  # power of y
    cross: Spectrum  # conj(X) Y
    segments: float  # that are independent


class Fine(NamedTuple):
    """What one shape of the input tells of the delay."""

    delay: float  # samples
    sd: float  # samples; how far the fit leaves it open, if its model holds
    spread: float  # samples; how far those shapes are apart that tell nearly as much
    polarity: int  # 1 or -1
    margin: float  # height of the correlation's best peak over the best of the other sign, >= 1
    peak: float  # from 0 to 1: how well one delay explains the phase
    information: float  # nats, mean of -log(1 - coherence)
    misfit: float  # rms error of log H in standard deviations, at least 1
    response: Spectrum  # the fitted log H without the delay, [SIZE / 2 + 1]
    weight: Samples  # of each frequency
    shape: int  # of the features; -1 for the input itself, the target brought to its level

    @property
    def worth(self) -> float:
        return self.peak**2 / (self.sd * self.misfit + 1e-4)


def refine(x: Samples, y: Samples, coarse: int) -> Fine | None:
    """The delay near `coarse` of y behind x, both [T], from the shape of x that tells most of it.

    None where the recordings are too short or have nothing in common there.
    """
    shapes = features(x)
    fits = [_fit(-1, shapes[0], _levelled(shapes[0], y, coarse), coarse)]
    fits += [_fit(index, shape, y, coarse) for index, shape in enumerate(shapes)]
    there = [fit for fit in fits if fit is not None]
    if not there:
        return None
    told = max(fit.information for fit in there)
    everywhere = max((fit for fit in there if fit.information >= ENOUGH * told), key=lambda fit: fit.worth)
    soft = [fit for fit in _soft(shapes[0], y, coarse) if fit.information >= ENOUGH * told]
    bar = everywhere.worth / (SOFTER if everywhere.shape > 0 else 1.0)
    softest = max(soft, key=lambda fit: fit.worth, default=everywhere)
    best = softest if softest.worth > bar else everywhere
    spread = _spread(best, [*there, *soft])
    best = _told_by(best, everywhere)._replace(spread=spread)
    if best.shape < ODD_SHAPES:
        return best
    odd = [fit for fit in there if fit.shape < ODD_SHAPES]
    if not odd:
        return best._replace(polarity=1, margin=1.0)
    surest = max(odd, key=lambda fit: fit.information)
    return best._replace(polarity=surest.polarity, margin=surest.margin)


def _soft(x: Samples, y: Samples, coarse: int) -> list[Fine]:
    """What soft moments tell, in which a distortion hardly distorts: of the softest of them, and of the next.

    Every segment counts as much as another, at whatever level it is.
    """
    common = min(len(x) - max(-coarse, 0), len(y) - max(coarse, 0))
    starts = np.arange(0, common - SIZE + 1, SIZE // 4)
    peaks = maximum_filter1d(_level(x), SIZE, origin=-SIZE // 2)[starts + max(-coarse, 0)]
    starts = starts[np.argsort(peaks)][np.count_nonzero(peaks <= SILENT * peaks.max(initial=0)) :]
    edges = [round(share * len(starts)) for share in SOFT]
    found = []
    for low, high in pairwise(edges):
        spectra = _spectra_at(starts[low:high], x, y, coarse, alike=True)
        fit = _fitted(SOFT_SHAPE, spectra, coarse) if spectra else None
        if fit:
            found.append(fit)
    return found


def _told_by(best: Fine, everywhere: Fine) -> Fine:
    """The delay of the one, with the response of the other, by which other parts of a recording are heard."""
    if best is everywhere:
        return best
    later = -1j * _basis()[0] * (everywhere.delay - best.delay)
    return everywhere._replace(
        delay=best.delay,
        sd=best.sd,
        peak=best.peak,
        misfit=best.misfit,
        response=everywhere.response + later,
    )


def _spread(best: Fine, fits: list[Fine]) -> float:
    near = [fit for fit in fits if fit.worth >= NEARLY * best.worth]
    squares = [fit.worth * (fit.delay - best.delay) ** 2 for fit in near]
    return float(np.sqrt(sum(squares) / sum(fit.worth for fit in near)))


def locate(fine: Fine, x: Samples, y: Samples, coarse: int) -> tuple[float, float, float, float] | None:
    """Delay near `coarse`, its sd, the peak and the information, in other parts x, y of the same recordings.

    The response is taken as known, so that a short part is enough. None where they have nothing in common.
    """
    shape = features(x)[max(fine.shape, 0)]
    spectra = cross_spectra(shape, _levelled(shape, y, coarse) if fine.shape < 0 else y, coarse)
    if spectra is None:
        return None
    own, late, cross, count = spectra
    coherence = _coherence(own, late, cross, count)
    w = _basis()[0]
    weight = np.minimum(_weight(coherence, count), fine.weight)
    if np.count_nonzero(weight) < 8:
        return None
    turned = cross / (np.abs(cross) + 1e-300) * np.exp(-1j * fine.response.imag) * fine.polarity
    delay, polarity, _, peak = _peak(turned, weight, FAR_REACH)
    if polarity < 0:
        return None
    for _ in range(5):
        error = np.angle(turned * np.exp(1j * w * delay))
        trust = weight * np.exp(-0.5 * np.square(error))
        delay -= float(np.sum(trust * w * error) / np.sum(trust * w * w))
    misfit = max(1.0, float(np.sqrt(np.sum(trust * np.square(error)) / np.count_nonzero(weight))))
    sd = misfit / float(np.sqrt(np.sum(trust * w * w)))
    return coarse + delay, sd, peak, float(np.mean(-np.log1p(-coherence)))


def _levelled(x: Samples, y: Samples, coarse: int) -> Samples:
    """y as if the device had passed every moment of x at one level: [T] -> [T].

    A gain that falls while the sound is loud turns the phase of the mean transfer function. Only where
    dynamics are all that a device does is more of y explained this way.
    """
    start, stop = max(-coarse, 0), min(len(x), len(y) - coarse)
    levelled = np.zeros_like(y)
    gain = _level(y[start + coarse : stop + coarse]) / _level(x[start:stop])
    levelled[start + coarse : stop + coarse] = y[start + coarse : stop + coarse] / gain
    return levelled


def _level(x: Samples) -> Samples:
    power = uniform_filter1d(uniform_filter1d(np.square(x), LEVEL), LEVEL)
    return np.asarray(np.sqrt(power + 1e-8 * power.max() + 1e-300))


def cross_spectra(x: Samples, y: Samples, delay: int) -> Spectra | None:
    """Of segments all over both, y late by `delay`; None where there are too few."""
    return _spectra_at(segment_starts(len(x), len(y), delay, SIZE, SEGMENTS), x, y, delay)


def _spectra_at(
    starts: NDArray[np.intp], x: Samples, y: Samples, delay: int, alike: bool = False
) -> Spectra | None:
    """Of the segments from `starts` on; `alike`: each brought to one level of x."""
    if len(starts) < 4:
        return None
    window = np.hanning(SIZE + 1)[:SIZE]
    at = starts[:, None] + np.arange(SIZE)
    own = rfft(x[at + max(-delay, 0)] * window, axis=1)
    late = rfft(y[at + max(delay, 0)] * window, axis=1)
    if alike:
        level = np.sqrt(np.square(np.abs(own)).mean(1, keepdims=True))
        heard = level[:, 0] > 1e-9 * np.abs(x).max()
        if np.count_nonzero(heard) < 4:
            return None
        own, late = own[heard] / level[heard], late[heard] / level[heard]
    cross = (own.conj() * late).mean(0)
    own_power, late_power = (np.square(np.abs(spectra)).mean(0) for spectra in (own, late))
    return Spectra(own_power, late_power, cross, (0.3 if alike else 0.6) * len(own))


def _fit(shape: int, x: Samples, y: Samples, coarse: int) -> Fine | None:
    spectra = cross_spectra(x, y, coarse)
    return _fitted(shape, spectra, coarse) if spectra else None


def _fitted(shape: int, spectra: Spectra, coarse: int) -> Fine | None:
    own, late, cross, count = spectra
    coherence = _coherence(own, late, cross, count)
    weight = _weight(coherence, count)
    w, real, imaginary, precision = _basis()
    if np.count_nonzero(weight) < 8:
        return None
    response = cross / (own + 1e-300)
    level = np.log(np.abs(response) + 1e-300)
    level -= np.average(level, weights=weight)
    seen = np.count_nonzero(weight)

    misfit = 1.0
    for _ in range(3):
        trust = weight / misfit
        a = np.linalg.solve(real.T @ (real * trust[:, None]) + np.diag(precision), real.T @ (trust * level))
        misfit = max(misfit, misfit * float(np.sum(trust * np.square(level - real @ a))) / seen)
    turned = response / (np.abs(response) + 1e-300) * np.exp(-1j * (imaginary @ a))
    delay, polarity, margin, peak = _peak(turned, weight)

    for _ in range(5):
        trust = weight / misfit
        phase = imaginary @ a - w * delay
        error = np.angle(polarity * response * np.exp(-1j * phase))
        trust_phase = trust * np.exp(-0.5 * np.square(error))  # what is turned by more than 1 rad counts less
        along = np.hstack([imaginary, -w[:, None]])
        normal = along.T @ (along * trust_phase[:, None])
        normal[:-1, :-1] += real.T @ (real * trust[:, None]) + np.diag(precision)
        right = along.T @ (trust_phase * (phase + error))
        right[:-1] += real.T @ (trust * level)
        solution = np.linalg.solve(normal, right)
        a, delay = solution[:-1], float(solution[-1])
        error = np.angle(polarity * response * np.exp(-1j * (imaginary @ a - w * delay)))
        squares = np.square(level - real @ a) + np.square(error) * np.exp(-0.5 * np.square(error))
        misfit = max(1.0, float(np.sum(weight * squares)) / (2 * seen))
    sd = float(np.sqrt(np.linalg.inv(normal)[-1, -1]))
    told = float(np.mean(-np.log1p(-coherence)))
    fitted = (real + 1j * imaginary) @ a
    return Fine(
        delay=coarse + delay,
        sd=sd,
        spread=0.0,
        polarity=polarity,
        margin=margin,
        peak=peak,
        information=told,
        misfit=float(np.sqrt(misfit)),
        response=fitted,
        weight=weight,
        shape=shape,
    )


def _coherence(own: Samples, late: Samples, cross: Spectrum, count: float) -> Samples:
    """Squared, without what `count` segments have by chance."""
    coherence = np.square(np.abs(cross)) / (own * late + 1e-300)
    return np.clip((coherence - 1 / count) / (1 - 1 / count), 0, 1 - 1e-6)


def _weight(coherence: Samples, count: float) -> Samples:
    """Inverse variance of each frequency's phase; 0 where it is known too badly to tell its magnitude."""
    weight = np.minimum(coherence / (1 - coherence) * count, MOST_WEIGHT)
    weight[weight < LEAST_WEIGHT] = 0
    weight[: int(LOWEST * SIZE)] = 0
    weight[int(HIGHEST * SIZE) :] = 0
    return weight


def _peak(turned: Spectrum, weight: Samples, within: int = REACH) -> tuple[float, int, float, float]:
    """Delay and polarity of a phase that is a delay's only, the polarity's margin, and the peak's height."""
    trust = np.minimum(weight, 100)
    size = SIZE * FINER
    correlation = irfft(trust * turned, size) * size / (2 * trust.sum())
    reach = within * FINER
    near = np.concatenate([correlation[-reach:], correlation[: reach + 1]])
    index = int(np.argmax(np.abs(near)))
    polarity = 1 if near[index] > 0 else -1
    height = abs(float(near[index]))
    other = max(float((-polarity * near).max()), 1e-9)
    return (index - reach) / FINER, polarity, height / other, height


@lru_cache(maxsize=1)
def _basis() -> tuple[Samples, Samples, Samples, Samples]:
    """Frequencies w [F], real and imaginary part of every g_k(w) [F, K], precision of each a_k [K]."""
    w = 2 * np.pi * np.arange(SIZE // 2 + 1) / SIZE
    warped = w + 2 * np.arctan2(WARP * np.sin(w), 1 - WARP * np.cos(w))
    powers = np.arange(POWERS + 1)
    allpass = np.exp(-1j * np.outer(warped, powers))
    delayed = np.exp(-1j * np.clip(w, 1e-9, np.pi - 1e-9))[:, None]
    edges = np.log(1 + delayed * np.array([-1, 1]))
    cutoffs = np.geomspace(7e-4, 0.45, POLES)  # cycles per sample
    poles = np.log(1 - delayed * np.exp(-2 * np.pi * cutoffs))
    basis = np.hstack([allpass, edges, poles])
    precision = np.concatenate(
        [
            [1e-4],
            np.square(powers[1:] / CEPSTRUM_SD),
            np.full(2, EDGE_SD**-2.0),
            np.full(POLES, POLE_SD**-2.0),
        ]
    )
    return w, basis.real.copy(), basis.imag.copy(), precision
