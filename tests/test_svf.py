"""Every finite raw parameter makes a stable filter, and all its forms are the same filter."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.signal import butter, freqz

from klann_lightning.dsp.svf import (
    SvfControls,
    biquad_from_controls,
    controls_from_raw,
    cutoff_hz,
    raw_from_cutoff_hz,
    response_on_circle,
    state_space_from_controls,
)

FLOAT32 = torch.finfo(torch.float32)
EXTREMES = [
    FLOAT32.min,
    -1e6,
    -100.0,
    -16.0,
    -15.0,
    -1.0,
    -FLOAT32.tiny,
    0.0,
    1.0,
    15.0,
    16.0,
    100.0,
    FLOAT32.max,
]


def raw(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value]) for value in values]


@pytest.mark.parametrize("raw_cutoff", EXTREMES)
@pytest.mark.parametrize("raw_damping", EXTREMES)
def test_poles_stay_inside_the_unit_circle(raw_cutoff, raw_damping):
    """Jury's criterion in exact arithmetic: root finding errs by more than the slowest pole's margin."""
    controls = controls_from_raw(*raw(raw_cutoff, raw_damping), torch.ones(1, 3))
    a11, a12, a21, a22 = (
        Fraction(entry) for entry in state_space_from_controls(controls).a.flatten().tolist()
    )
    trace, determinant = a11 + a22, a11 * a22 - a12 * a21
    assert abs(determinant) < 1
    assert abs(trace) < 1 + determinant
    a0, a1, a2 = (Fraction(entry) for entry in biquad_from_controls(controls)[1].flatten().tolist())
    assert abs(a2) < a0
    assert abs(a1) < a0 + a2


def test_poles_stay_inside_for_random_parameters():
    generator = torch.Generator().manual_seed(0)
    raws = 8 * torch.randn(2, 2000, generator=generator)
    a = state_space_from_controls(controls_from_raw(raws[0], raws[1], torch.ones(2000, 3))).a
    assert torch.linalg.eigvals(a).abs().max() < 1


@pytest.mark.parametrize("value", EXTREMES)
def test_every_control_and_gradient_is_finite(value):
    parameters = [torch.full((1,), value, requires_grad=True) for _ in range(2)]
    controls = controls_from_raw(*parameters, torch.ones(1, 3))
    assert controls.g.item() > 0
    assert controls.r.item() > 0
    (controls.g + controls.r).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters)


def test_zero_raw_parameters_are_the_papers_start():
    controls = controls_from_raw(*raw(0.0, 0.0), torch.ones(1, 3))
    assert controls.g.item() == pytest.approx(1.0)
    assert controls.r.item() == pytest.approx(np.log(2))
    assert cutoff_hz(controls, 44100).item() == pytest.approx(11025)


def test_cutoff_survives_the_way_to_raw_and_back():
    hertz = torch.tensor([0.5, 20.0, 1000.0, 20000.0], dtype=torch.float64)
    controls = controls_from_raw(raw_from_cutoff_hz(hertz, 44100), torch.zeros(4), torch.ones(4, 3))
    torch.testing.assert_close(cutoff_hz(controls, 44100), hertz, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("kind", "mix"), [("lowpass", [1, 0, 0]), ("highpass", [0, 0, 1])])
def test_butterworth_damping_gives_scipys_butterworth(kind, mix):
    g = torch.tan(torch.tensor([torch.pi * 1000 / 44100], dtype=torch.float64))
    controls = SvfControls(g, torch.tensor([0.5**0.5], dtype=torch.float64), torch.tensor([mix]).double())
    b, a = biquad_from_controls(controls)
    expected_b, expected_a = butter(2, 1000, kind, fs=44100)
    np.testing.assert_allclose((b / a[:, :1])[0], expected_b, rtol=1e-9)
    np.testing.assert_allclose((a / a[:, :1])[0], expected_a, rtol=1e-9)


def test_state_space_and_biquad_have_one_response(controls):
    omega = torch.tensor([1e-4, 0.01, 0.3, 3.0], dtype=torch.float64)
    a, b, c, d = state_space_from_controls(controls)
    z = torch.exp(1j * omega)[:, None, None, None] * torch.eye(2)
    states = torch.linalg.solve(z - a, b.to(z.dtype)[..., None].expand(4, -1, -1, -1))[..., 0]
    from_states = (c * states).sum(-1) + d
    torch.testing.assert_close(response_on_circle(controls, omega), from_states.T, rtol=1e-6, atol=1e-9)


def test_response_matches_scipys_freqz(controls):
    omega = np.geomspace(0.01, 3.1, 50)
    b, a = biquad_from_controls(controls)
    expected = np.stack([freqz(*filters, omega)[1] for filters in zip(b.numpy(), a.numpy(), strict=True)])
    np.testing.assert_allclose(
        response_on_circle(controls, torch.from_numpy(omega)).numpy(), expected, rtol=1e-7
    )
