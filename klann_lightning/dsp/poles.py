"""A cascade of state-variable filters, read: poles, zeros, time constants, and what it lets through.

With w = (z - 1) / (z + 1), which is j tan(omega / 2) on the unit circle, a section is
  H(w) = (m_hp w^2 + m_bp g w + m_lp g^2) / (w^2 + 2 R g w + g^2).
Its poles are found in w: near z = 1, where all slow ones lie, the roots of the polynomial in z cancel.
All in float64.
"""

import cmath
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from klann_lightning.dsp.svf import SvfControls, cutoff_hz

Values = NDArray[np.floating[Any]]
Complex = NDArray[np.complex128]

BLOCKED_DB = 20.0  # below the loudest frequency
FLAT_DB = 1.0
HUMP_DB = 3.0
ALL_PASS_DEGREES = 10.0
AT_INFINITY = 1e-12  # of 1 - w for a zero: the rest is rounding
CLOSEST = 1e-6  # of two poles, relatively: a double pole has no partial fractions


class Biquad(NamedTuple):
    """One section."""

    cutoff_hz: float
    damping: float  # R; 1/sqrt(2) is Butterworth, the quality factor is 1 / (2 R)
    poles: tuple[complex, ...]  # in the z-plane
    zeros: tuple[complex, ...]  # the same; one that lies at infinity is left out
    time_constants_ms: tuple[float, ...]  # in which each pole falls to 1/e: -1 / (sample_rate ln|p|)
    shape: "Shape"


class Mode(NamedTuple):
    """A real pole or a conjugate pair, and its partial fraction residue / (w - pole) [+ the conjugate]."""

    pole: complex  # in w
    residue: complex
    time_constant_ms: float
    frequency_hz: float  # at which it rings; 0 for a real pole

    @property
    def quality(self) -> float:
        """1 / (2 R) of the pair; 1/2 or less for what does not ring."""
        return abs(self.pole) / (-2 * self.pole.real)

    def response(self, omega: Values) -> Complex:
        """Of this part alone, omega [N] in radians a sample, below pi -> [N]."""
        w = 1j * np.tan(omega / 2)
        response = self.residue / (w - self.pole)
        if self.pole.imag:
            response = response + self.residue.conjugate() / (w - self.pole.conjugate())
        return response


class Shape(NamedTuple):
    """What a filter lets through."""

    kind: str  # low-pass, high-pass, band-pass, notch, peak, low shelf, high shelf, all-pass, gain, nothing
    low_hz: float | None  # limits of what passes, 3 dB down; None where there is no limit
    high_hz: float | None


def biquads(controls: SvfControls, sample_rate: float) -> list[Biquad]:
    """The sections of one cascade, controls [S]."""
    sections = []
    for index, hz in enumerate(cutoff_hz(controls, sample_rate).tolist()):
        one = SvfControls(*(part[index : index + 1] for part in controls))
        (poles, zeros) = _section(one)
        sections.append(
            Biquad(
                hz,
                float(one.r),
                tuple((1 + pole) / (1 - pole) for pole in poles),
                tuple(_on_z(zero) for zero in zeros if abs(1 - zero) > AT_INFINITY),
                tuple(_time_constant_ms(pole, sample_rate) for pole in poles),
                shape(one, sample_rate),
            )
        )
    return sections


def modes(controls: SvfControls, sample_rate: float) -> list[Mode]:
    """A cascade [S] as a sum: H(w) = H(infinity) + these. Poles too close for that are drawn apart."""
    poles: list[complex] = []
    factors: list[tuple[float, float, float]] = []
    for g, r, (low, band, high) in zip(*(part.tolist() for part in controls), strict=True):
        factors.append((high, band * g, low * g * g))
        for root in _roots(1.0, 2 * r * g, g * g):
            pole = root
            while any(abs(pole - other) < CLOSEST * abs(pole) for other in poles):
                pole *= 1 + 2 * CLOSEST
            poles.append(pole)
    found = []
    for index, pole in enumerate(poles):
        if pole.imag < 0:  # the conjugate stands for it
            continue
        residue = complex(1)
        for high, band, low in factors:
            residue *= (high * pole + band) * pole + low
        for other in poles[:index] + poles[index + 1 :]:
            residue /= pole - other
        frequency = sample_rate / math.pi * math.atan2(pole.imag, 1) if pole.imag else 0.0
        found.append(Mode(pole, residue, _time_constant_ms(pole, sample_rate), frequency))
    return found


def response(controls: SvfControls, omega: Values) -> Complex:
    """H of a cascade [S] at omega [N] in radians a sample -> [N]; also at 0 and pi."""
    # divided by 1 + |w|^2, so that nothing is infinite at pi
    sine, cosine = 1j * np.sin(omega / 2), np.cos(omega / 2)
    result = np.ones(len(omega), complex)
    for g, r, (low, band, high) in zip(*(part.tolist() for part in controls), strict=True):
        above = high * sine**2 + band * g * sine * cosine + low * g**2 * cosine**2
        result *= above / (sine**2 + 2 * r * g * sine * cosine + g**2 * cosine**2)
    return result


def level_db(response: Complex) -> NDArray[np.float64]:
    """Of a response [N], 20 log10 |H|; -300 dB for what is nothing."""
    return 20 * np.log10(np.maximum(np.abs(response), 1e-15)).astype(np.float64)


def shape(controls: SvfControls, sample_rate: float) -> Shape:
    """What a cascade [S] is, by its response from 0 Hz to Nyquist.

    Blocked is what lies 20 dB below the loudest frequency. Limits lie 3 dB below the open end of a low-pass
    or a high-pass, or below the top of a band-pass.
    """
    cutoffs, nyquist = cutoff_hz(controls, sample_rate).numpy(), sample_rate / 2
    hertz = np.geomspace(min(cutoffs.min() / 100, nyquist / 100), nyquist, 3000)
    near = np.outer(cutoffs, np.linspace(0.9, 1.1, 201)).ravel()  # where a sharp resonance or notch lies
    hertz = np.unique(np.concatenate([[0.0], hertz, near[near < nyquist]]))
    heard = response(controls, 2 * np.pi * hertz / sample_rate)
    if not heard.any():
        return Shape("nothing", None, None)
    level = level_db(heard)
    top, low, high = level.max(), level[0], level[-1]
    open_below, open_above = low > top - BLOCKED_DB, high > top - BLOCKED_DB
    if open_below and open_above:
        return Shape(_of_open_ends(level, heard), None, None)
    if open_below:
        passing = level >= low - HUMP_DB
        return Shape("low-pass", None, _crossing(hertz, level, int(np.flatnonzero(passing)[-1]), low, 1))
    if open_above:
        passing = level >= high - HUMP_DB
        return Shape("high-pass", _crossing(hertz, level, int(np.flatnonzero(passing)[0]), high, -1), None)
    (passing,) = np.nonzero(level >= top - HUMP_DB)
    first, last = (int(passing[place]) for place in (0, -1))
    limits = _crossing(hertz, level, first, top, -1), _crossing(hertz, level, last, top, 1)
    return Shape("band-pass", *limits)


def _of_open_ends(level: Values, heard: Complex) -> str:
    low, high = level[0], level[-1]
    dip, hump, step = min(low, high) - level.min(), level.max() - max(low, high), abs(low - high)
    if max(dip, hump) > max(step, FLAT_DB):
        return "notch" if dip > hump else "peak"
    if step > FLAT_DB:
        return "low shelf" if low > high else "high shelf"
    turned = np.degrees(np.ptp(np.unwrap(np.angle(heard))))
    return "all-pass" if turned > ALL_PASS_DEGREES else "gain"


def _crossing(hertz: Values, level: Values, inside: int, reference: float, step: int) -> float:
    """Between the last frequency inside a limit and its neighbour outside, linear in log f and in dB."""
    outside = min(max(inside + step, 0), len(hertz) - 1)
    if outside == inside or hertz[outside] == 0:
        return float(hertz[inside])
    share = (level[inside] - (reference - HUMP_DB)) / (level[inside] - level[outside])
    return float(hertz[inside] * (hertz[outside] / hertz[inside]) ** share)


def _section(one: SvfControls) -> tuple[list[complex], list[complex]]:
    """Poles and zeros of one section [1], in w; a zero may be infinite."""
    g, r = float(one.g), float(one.r)
    low, band, high = one.mix[0].tolist()
    return _roots(1.0, 2 * r * g, g * g), _roots(high, band * g, low * g * g)


def _roots(a: float, b: float, c: float) -> list[complex]:
    """Of a w^2 + b w + c, without cancellation; infinite ones where a or b is 0, none where all are."""
    if not (a or b or c):
        return []
    inner = b * b - 4 * a * c
    if inner < 0:
        pair = complex(-b / (2 * a), math.sqrt(-inner) / (2 * abs(a)))
        return [pair.conjugate(), pair]
    q = -(b + math.copysign(math.sqrt(inner), b)) / 2
    infinity = complex(math.inf)
    if q == 0:  # b = 0 and a c = 0
        return [0j, 0j] if a else [infinity, infinity]
    return [complex(q / a) if a else infinity, complex(c / q)]


def _on_z(w: complex) -> complex:
    return complex(-1) if cmath.isinf(w) else (1 + w) / (1 - w)


def _time_constant_ms(pole: complex, sample_rate: float) -> float:
    """Of a pole in w: ln|z| = ln|1 + w| - ln|1 - w|, which keeps its digits for the slowest."""
    square = abs(pole) ** 2
    fall = (math.log1p(2 * pole.real + square) - math.log1p(-2 * pole.real + square)) / 2
    return -1000 / (sample_rate * fall)
