"""Poles, zeros, time constants and kinds of filters, against scipy and by hand."""

import math

import numpy as np
import pytest
import torch
from conftest import low_pass
from scipy.signal import freqz, lfilter, tf2zpk

from klann_lightning.dsp.poles import biquads, modes, response, shape
from klann_lightning.dsp.svf import SvfControls, biquad_from_controls

RATE = 44100


def filters(*rows):
    """Of (cutoff in Hz, R, low, band, high), [S]."""
    hz, r, *mix = (torch.tensor(part, dtype=torch.float64) for part in zip(*rows, strict=True))
    return SvfControls(torch.tan(torch.pi * hz / RATE), r, torch.stack(mix, -1))


def product(controls):
    """A cascade as one polynomial over another."""
    b, a = np.ones(1), np.ones(1)
    for above, below in zip(*(part.numpy() for part in biquad_from_controls(controls)), strict=True):
        b, a = np.convolve(b, above), np.convolve(a, below)
    return b, a


def test_poles_and_zeros_are_scipys(controls):
    found = biquads(controls, RATE)
    for one, b, a in zip(found, *(part.numpy() for part in biquad_from_controls(controls)), strict=True):
        zeros, poles, _ = tf2zpk(b, a)
        for ours, theirs in ((one.poles, poles), (one.zeros, zeros)):
            assert np.poly(ours) == pytest.approx(np.poly(theirs), abs=1e-12)
            assert all(np.abs(theirs - root).min() < 1e-6 for root in ours)


@pytest.mark.parametrize(
    ("mix", "zeros"),
    [
        ((1, 0, 0), [-1, -1]),  # a low-pass blocks Nyquist
        ((0, 0, 1), [1, 1]),  # a high-pass 0 Hz
        ((0, 1, 0), [-1, 1]),
        ((0, 0, 0), []),
    ],
)
def test_zeros_of_pure_outputs(mix, zeros):
    (one,) = biquads(filters((1000.0, 0.5, *mix)), RATE)
    assert sorted(zero.real for zero in one.zeros) == zeros
    assert not any(zero.imag for zero in one.zeros)


def test_a_zero_at_infinity_is_none():
    """Where g^2 m_lp + g m_bp + m_hp = 0 the polynomial above starts a sample later."""
    controls = filters((RATE / 4, 0.5, 1.0, -1.0, 0.0))  # g = 1
    (one,) = biquads(controls, RATE)
    assert len(one.zeros) == 1
    b, _ = biquad_from_controls(controls)
    assert one.zeros[0] == pytest.approx(np.roots(np.round(b[0].numpy(), 12))[0])


@pytest.mark.parametrize("hz", [0.0025, 0.2, 30.0])
def test_time_constants_keep_their_digits(hz):
    """A pair falls by exp(-R 2 pi f) a second; the polynomial's roots near 1 have lost that."""
    (one,) = biquads(filters((hz, 0.5, 1.0, 0.0, 0.0)), RATE)
    expected = 1000 / (0.5 * 2 * math.pi * hz)
    assert one.time_constants_ms == pytest.approx((expected, expected), rel=1e-5)


def test_time_constants_are_what_an_impulse_shows():
    controls = filters((50.0, 3.0, 1.0, 0.0, 0.0))
    b, a = product(controls)
    impulse = lfilter(b, a, np.eye(1, RATE)[0])
    late = impulse[4000:4100]  # the fast pole has gone
    seen_ms = -1000 / RATE / np.polyfit(np.arange(100), np.log(np.abs(late)), 1)[0]
    (one,) = biquads(controls, RATE)
    assert max(one.time_constants_ms) == pytest.approx(seen_ms, rel=1e-3)


def test_response_is_freqz():
    controls = filters(
        (20.0, 0.7, 1.0, 0.3, 0.1), (3000.0, 0.05, 0.2, -1.0, 0.8), (15000.0, 4.0, 1.0, 1.0, 1.0)
    )
    omega = np.linspace(0, np.pi, 300)
    _, expected = freqz(*product(controls), omega)
    np.testing.assert_allclose(response(controls, omega), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "rows",
    [
        [(20.0, 0.7, 1.0, 0.3, 0.1), (3000.0, 0.05, 0.2, -1.0, 0.8)],
        [(100.0, 1.0, 1.0, 0.0, 0.0)],  # a double pole
        [(100.0, 2.0, 1.0, 0.0, 0.5), (100.0, 2.0, 0.0, 0.5, 1.0)],  # two
    ],
)
def test_modes_add_up_to_the_response(rows):
    controls = filters(*rows)
    omega = np.geomspace(1e-5, 3.1, 200)
    parts = sum(mode.response(omega) for mode in modes(controls, RATE))
    expected = response(controls, omega) - response(controls, np.array([np.pi]))
    assert np.abs(parts - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_pole_under_a_zero_has_no_part():
    """Low-pass at 1 Hz, undone by the next section but for a thousandth, and a low-pass at 500 Hz."""
    slow, undone = (1.0, 1.5, 1.0, 0.0, 0.0), (1.0, 1.5, 1.0, 3.0, 1.001)
    lone = {mode.time_constant_ms: abs(mode.residue) for mode in modes(filters(slow), RATE)}
    flat = {mode.time_constant_ms: abs(mode.residue) for mode in modes(filters(undone), RATE)}
    assert max(flat) == pytest.approx(max(lone))
    assert flat[max(flat)] < 0.01 * lone[max(lone)]


def test_a_mode_rings_at_its_frequency():
    (mode,) = modes(filters((1200.0, 0.01, 0.0, 1.0, 0.0)), RATE)
    assert mode.frequency_hz == pytest.approx(1200, rel=1e-3)
    assert mode.quality == pytest.approx(50)


@pytest.mark.parametrize(
    ("rows", "kind", "low_hz", "high_hz"),
    [
        ([(200.0, 3.0, 1.0, 0.0, 0.0)], "low-pass", None, None),
        ([(500.0, 0.5**0.5, 1.0, 0.0, 0.0)], "low-pass", None, 500),
        ([(0.5, 0.5**0.5, -2.0, 0.0, 0.0)], "low-pass", None, 0.5),
        ([(80.0, 0.5**0.5, 0.0, 0.0, 1.0)], "high-pass", 80, None),
        ([(1000.0, 0.05, 0.0, 1.0, 0.0)], "band-pass", 951.2, 1051.2),
        ([(80.0, 0.5**0.5, 0.0, 0.0, 1.0), (5000.0, 0.5**0.5, 1.0, 0.0, 0.0)], "band-pass", 80, 5000),
        ([(1000.0, 0.5, 1.0, 0.0, 1.0)], "notch", None, None),
        ([(1000.0, 0.005, 1.0, 0.0, 1.0)], "notch", None, None),
        ([(1000.0, 0.1, 1.0, 0.8, 1.0)], "peak", None, None),
        ([(1000.0, 0.7, 2.0, 2.0, 1.0)], "low shelf", None, None),
        ([(1000.0, 0.7, 1.0, 2.0, 2.0)], "high shelf", None, None),
        ([(1000.0, 0.5, 1.0, -1.0, 1.0)], "all-pass", None, None),
        ([(1000.0, 0.5, 0.3, 0.3, 0.3)], "gain", None, None),
        ([(1000.0, 0.5, 0.0, 0.0, 0.0)], "nothing", None, None),
    ],
)
def test_kinds_and_limits(rows, kind, low_hz, high_hz):
    found = shape(filters(*rows), RATE)
    assert found.kind == kind
    for limit, expected in ((found.low_hz, low_hz), (found.high_hz, high_hz)):
        if expected is not None:
            assert limit == pytest.approx(expected, rel=0.005)


def test_limits_are_half_the_power():
    controls = low_pass([700.0])
    high_hz = shape(controls, RATE).high_hz
    assert abs(response(controls, np.array([2 * np.pi * high_hz / RATE]))[0]) ** 2 == pytest.approx(
        0.5, rel=0.01
    )
