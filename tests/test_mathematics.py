"""The formulas of docs/mathematics.md, each written out again and held against the code."""

import math

import numpy as np
import pytest
import torch
from conftest import error_db

from klann_lightning.dsp.filtering import filter_scan, filter_streaming, unroll
from klann_lightning.dsp.poles import modes, response
from klann_lightning.dsp.svf import (
    SvfControls,
    controls_from_raw,
    response_on_circle,
    state_space_from_controls,
)
from klann_lightning.losses import ESR_FLOOR, StftResolutions, esr, magnitude_stfts, mr_stft
from klann_lightning.models.base import AudioModel
from klann_lightning.models.oversampled import Oversampled

F, BLOCK, NYQUIST = 6, 64, math.pi


@pytest.fixture
def drawn() -> SvfControls:
    """Any filters, [6]."""
    draw = torch.Generator().manual_seed(0)
    raw = [torch.randn(F, generator=draw) * spread for spread in (3, 2)]
    return controls_from_raw(*raw, torch.randn(F, 3, generator=draw))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_state_space(drawn):
    a, b, c, d = state_space_from_controls(drawn)
    g, r, (m_l, m_b, m_h) = drawn.g, drawn.r, drawn.mix.unbind(-1)
    e = 1 / (1 + 2 * r * g + g**2)
    k = m_b - 2 * r * m_h + g * (m_l - m_h)
    close(a.flatten(1), torch.stack([2 * e - 1, -2 * g * e, 2 * g * e, 1 - 2 * g**2 * e], -1))
    close(b, torch.stack([2 * g * e, 2 * g**2 * e], -1))
    close(c, torch.stack([k * e, m_l - m_h - k * g * e], -1))
    close(d, m_h + k * g * e)


def test_response_and_poles(drawn):
    omega = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    g, r, (m_l, m_b, m_h) = drawn.g[:, None], drawn.r[:, None], drawn.mix[..., None].unbind(1)
    w = 1j * torch.tan(omega / 2)
    expected = (m_h * w**2 + m_b * g * w + m_l * g**2) / (w**2 + 2 * r * g * w + g**2)
    close(response_on_circle(drawn, omega), expected)
    root = (r**2 - 1).to(torch.complex128).sqrt()
    in_w = torch.cat([g * (-r + root), g * (-r - root)], 1)
    in_z = (1 + in_w) / (1 - in_w)
    a = state_space_from_controls(drawn).a
    close(in_z.sum(1).real, a.diagonal(dim1=-2, dim2=-1).sum(1))
    close(in_z.prod(1).real, torch.linalg.det(a))
    assert in_z.abs().max() < 1


def test_a_block_of_the_scan_and_the_state_after(drawn):
    a, b, c, d = state_space_from_controls(drawn)
    x, s = torch.randn(F, BLOCK, dtype=torch.float64), torch.randn(F, 2, dtype=torch.float64)
    power = [torch.linalg.matrix_power(a, n) for n in range(BLOCK + 1)]
    h = [d, *(torch.einsum("fi,fij,fj->f", c, power[n - 1], b) for n in range(1, BLOCK))]
    expected = [
        sum(h[t - j] * x[:, j] for j in range(t + 1)) + torch.einsum("fi,fij,fj->f", c, power[t], s)
        for t in range(BLOCK)
    ]
    v = sum(torch.einsum("fij,fj->fi", power[BLOCK - 1 - j], b) * x[:, j, None] for j in range(BLOCK))
    y, after = filter_scan(x[None], unroll(drawn, torch.float64), s[None])
    close(y[0], torch.stack(expected, -1))
    close(after[0], torch.einsum("fij,fj->fi", power[BLOCK], s) + v)


def test_what_sampling_a_response_repeats(drawn):
    """The slowest of the six has fallen to nothing after so many times the length."""
    n_fft, times = 256, 400
    impulse = torch.zeros(1, F, n_fft * times, dtype=torch.float64)
    impulse[..., 0] = 1
    h, _ = filter_scan(impulse, unroll(drawn, torch.float64), torch.zeros(1, F, 2, dtype=torch.float64))
    grid = torch.linspace(0, NYQUIST, n_fft // 2 + 1, dtype=torch.float64)
    close(torch.fft.irfft(response_on_circle(drawn, grid), n_fft), h[0].view(F, times, n_fft).sum(1))


def test_the_adjoint_recursion(drawn):
    a, b, c, d = state_space_from_controls(drawn)
    x = torch.randn(1, F, 100, dtype=torch.float64, requires_grad=True)
    before = torch.randn(1, F, 2, dtype=torch.float64, requires_grad=True)
    y, after = filter_streaming(x, drawn, before)
    given, state_given = torch.randn_like(y), torch.randn_like(after)
    x_grad, before_grad = torch.autograd.grad((y * given).sum() + (after * state_given).sum(), [x, before])
    adjoint = state_given[0]
    for t in reversed(range(x.shape[-1])):
        close(d * given[0, :, t] + (b * adjoint).sum(-1), x_grad[0, :, t])
        adjoint = torch.einsum("fij,fi->fj", a, adjoint) + c * given[0, :, t, None]
    close(adjoint, before_grad[0])


def test_settled_state(drawn):
    a, b, c, d = state_space_from_controls(drawn)
    settled = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - a, b)
    close(settled, torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(F, 2))
    close((c * settled).sum(-1) + d, drawn.mix[:, 0])


def test_esr_in_parts():
    output, target, power = torch.randn(2, 20000), torch.randn(2, 20000), torch.tensor(2.0)
    target[:, :6667] *= 0.01  # below the floor
    parts = [slice(0, 6667), slice(6667, 13334), slice(13334, None)]  # the last one is a sample shorter
    ratios = [
        (output - target)[:, part].square().sum(1)
        / target[:, part].square().sum(1).clamp(min=ESR_FLOOR * power * 20000 / 3)
        for part in parts
    ]
    torch.testing.assert_close(esr(output, target, power), sum(ratios) / 3)


def test_mr_stft():
    output, target = torch.randn(2, 1, 9000)
    total = 0.0
    for n_fft, hop, window in ((1024, 120, 600), (512, 50, 240), (256, 25, 100)):
        ours, theirs = (
            torch.stft(x, n_fft, hop, window, torch.hann_window(window), return_complex=True)
            .abs()
            .clamp(min=1e-4)
            for x in (output, target)
        )
        convergence = (theirs - ours).norm() / theirs.norm()
        total += float(convergence + (theirs.log() - ours.log()).abs().mean()) / 3
    found = mr_stft(torch.stack([stft.sums(output, target) for stft in magnitude_stfts(StftResolutions())]))
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_partial_fractions_of_a_cascade(drawn):
    omega = np.linspace(0.1, 3, 50)
    cascade = SvfControls(*(part[:2] for part in drawn))
    parts = float(drawn.mix[:2, 2].prod()) + sum(mode.response(omega) for mode in modes(cascade, 44100.0))
    np.testing.assert_allclose(parts, response(cascade, omega), rtol=1e-9)


class Filters(AudioModel):
    """A linear model: the sum of six filters."""

    controls: SvfControls

    def init_state(self, batch):
        return (torch.zeros(batch, F, 2, dtype=torch.float64),)

    def step(self, x, state):
        y, after = filter_scan(x[:, None].repeat(1, F, 1), unroll(self.controls, x.dtype), state[0])
        return y.sum(1), (after,)


@pytest.mark.parametrize("factor", [2, 4])
def test_oversampling_leaves_a_linear_model_as_it_is(drawn, factor):
    model = Filters().double()
    model.controls = drawn
    spectrum = torch.fft.rfft(torch.randn(1, 20000, dtype=torch.float64))
    spectrum[:, 9000:] = 0
    x = torch.fft.irfft(spectrum)
    late = Oversampled(model, factor).double()(x)
    assert error_db(late[:, 2064:], model(x)[:, 2000:-64]) < -90
