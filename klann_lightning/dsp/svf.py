"""The state-variable filter: raw parameters -> controls -> state space or biquad.

Trapezoidal SVF (Huhtala, Juvela, Schlecht 2024; Zavalishin, The Art of VA Filter Design, chapter 4); its
equations are derived in docs/mathematics.md. Leading dimensions `...` are any set of filters.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# Bounds on the raw parameters. Inside them every float64 coefficient keeps its poles inside the unit
# circle; outside, a cutoff would round to 0 Hz or Nyquist, or a damping to none.
RAW_CUTOFF_LIMIT = 16.0  # 0.0025 Hz to within 0.0025 Hz of Nyquist, at 44.1 kHz
RAW_DAMPING_LIMITS = (-16.0, 100.0)


class SvfControls(NamedTuple):
    """What a filter is, in the units of its equations; every field is float64 and already valid."""

    g: Tensor  # tan(pi * cutoff_hz / sample_rate), > 0, shape [...]
    r: Tensor  # damping, > 0; 1/sqrt(2) is Butterworth, shape [...]
    mix: Tensor  # weights of the low-, band- and high-pass outputs, shape [..., 3]


class StateSpace(NamedTuple):
    """s' = a s + b x, y = c s + d x, with two states a filter."""

    a: Tensor  # [..., 2, 2]
    b: Tensor  # [..., 2]
    c: Tensor  # [..., 2]
    d: Tensor  # [...]


def controls_from_raw(raw_cutoff: Tensor, raw_damping: Tensor, mix: Tensor) -> SvfControls:
    """Map any finite raw parameters to a stable filter: [...], [...], [..., 3] -> float64 controls.

    g = tan(pi/2 sigmoid(raw_cutoff)), R = softplus(raw_damping). Computed in float64: in float32
    tan(pi/2 sigmoid(20)) is negative, and a 5 Hz pole is rounded by a tenth of its distance to 1.
    The gradient is zero beyond the limits above.
    """
    cutoff = raw_cutoff.double().clamp(-RAW_CUTOFF_LIMIT, RAW_CUTOFF_LIMIT)
    damping = raw_damping.double().clamp(*RAW_DAMPING_LIMITS)
    return SvfControls(torch.tan(math.pi / 2 * cutoff.sigmoid()), functional.softplus(damping), mix.double())


def raw_from_cutoff_hz(cutoff_hz: Tensor, sample_rate: float) -> Tensor:
    """The raw cutoff of a frequency strictly between 0 Hz and Nyquist: Hz [...], Hz [] -> [...].

    It undoes `controls_from_raw` and `cutoff_hz`. At 0 Hz and at Nyquist it is infinite, beyond it is nan.
    """
    return torch.logit(cutoff_hz / (sample_rate / 2))


def cutoff_hz(controls: SvfControls, sample_rate: float) -> Tensor:
    """Cutoff frequencies in Hz, [...]: atan(g) sample_rate / pi, `sample_rate` in Hz."""
    return torch.atan(controls.g) * sample_rate / math.pi


def state_space_from_controls(controls: SvfControls) -> StateSpace:
    """The two-state machine whose states are the SVF's integrators.

    With e = 1 / (1 + 2 R g + g^2) the SVF reads
      bp = e (g x + s1 - g s2);  lp = s2 + g bp;  hp = x - 2 R bp - lp
      s1 <- 2 bp - s1;           s2 <- 2 lp - s2
    which is written out for s1 and s2. Its poles lie inside the unit circle for every g > 0 and R > 0.
    """
    g, r, mix = controls
    m_lp, m_bp, m_hp = mix.unbind(-1)
    e = 1 / (1 + 2 * r * g + g**2)
    ge = g * e
    # 1 - 2 g^2 e, written without the cancellation
    a = torch.stack([2 * e - 1, -2 * ge, 2 * ge, (1 + 2 * r * g - g**2) * e], -1)
    b = torch.stack([2 * ge, 2 * g * ge], -1)
    # y = m_hp x + k bp + (m_lp - m_hp) s2
    k = m_bp - 2 * r * m_hp + g * (m_lp - m_hp)
    c = torch.stack([k * e, m_lp - m_hp - k * ge], -1)
    return StateSpace(a.unflatten(-1, (2, 2)), b, c, m_hp + k * ge)


def biquad_from_controls(controls: SvfControls) -> tuple[Tensor, Tensor]:
    """Direct-form coefficients (b, a), each [..., 3], a not normalised: H(z) = B(z) / A(z) in z^-1.

    For oracles, plots and the sampled path, in float64. Never run it in float32: a 20 Hz low-pass
    is then wrong at -45 dB.
    """
    g, r, mix = controls
    m_lp, m_bp, m_hp = mix.unbind(-1)
    b = torch.stack(
        [g**2 * m_lp + g * m_bp + m_hp, 2 * g**2 * m_lp - 2 * m_hp, g**2 * m_lp - g * m_bp + m_hp], -1
    )
    a = torch.stack([g**2 + 2 * r * g + 1, 2 * g**2 - 2, g**2 - 2 * r * g + 1], -1)
    return b, a


def response_on_circle(controls: SvfControls, omega: Tensor) -> Tensor:
    """H(e^(j omega)), complex128: controls [...], omega [N] in radians a sample -> [..., N].

    By the direct form in float64: of a low-pass at 1 Hz, 44.1 kHz, that leaves about eight digits at 0 Hz.
    """
    b, a = biquad_from_controls(controls)
    powers = torch.exp(-1j * omega.double() * torch.arange(3, device=omega.device)[:, None])
    return (b.to(powers.dtype) @ powers) / (a.to(powers.dtype) @ powers)
