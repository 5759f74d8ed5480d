"""Scan, sampled and streaming are one filter, and it is scipy's."""

import numpy as np
import pytest
import torch
import torchaudio
from conftest import error_db, low_pass
from scipy.signal import lfilter
from torch.autograd import gradcheck, gradgradcheck

from klann_lightning.dsp.filtering import filter_sampled, filter_scan, filter_streaming, unroll
from klann_lightning.dsp.svf import SvfControls, biquad_from_controls, controls_from_raw


def noise(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def scan(x, controls, block=64, state=None):
    start = x.new_zeros(*x.shape[:2], 2) if state is None else state
    return filter_scan(x, unroll(controls, x.dtype, block), start)


def in_blocks(run, x, controls, block):
    """The output and the state after, of a path that is given `block` samples at once."""
    state, outputs = x.new_zeros(*x.shape[:2], 2), []
    for part in x.split(block, -1):
        output, state = run(part, controls, state=state)
        outputs.append(output)
    return torch.cat(outputs, -1), state


def scipys(x, controls):
    """[B, F, T] through scipy's direct form in float64."""
    b, a = (part.numpy() for part in biquad_from_controls(controls))
    filtered = [lfilter(b[f], a[f], x[:, f].double().numpy()) for f in range(x.shape[1])]
    return torch.from_numpy(np.stack(filtered, 1))


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 5000])
@pytest.mark.parametrize("block", [16, 64, 100])
def test_scan_path_matches_scipy(controls, samples, block):
    x = noise(2, 4, samples)
    assert error_db(scan(x, controls, block)[0], scipys(x, controls)) < -240


@pytest.mark.parametrize("cutoff", [5.0, 20.0, 100.0, 1000.0])
def test_low_cutoff_survives_float32(cutoff):
    x = noise(1, 1, 3 * 44100)
    controls = low_pass([cutoff])
    expected = scipys(x, controls)
    assert error_db(scan(x.float(), controls)[0], expected) < -100
    assert (
        error_db(
            filter_streaming(x[..., :4410].float(), controls, torch.zeros(1, 1, 2))[0], expected[..., :4410]
        )
        < -100
    )


def test_scan_path_matches_torchaudio(controls):
    x = noise(2, 4, 3000).clamp(-4, 4) / 1000
    b, a = biquad_from_controls(controls)
    expected = torchaudio.functional.lfilter(x, a / a[:, :1], b / a[:, :1], clamp=False)
    assert error_db(scan(x, controls)[0], expected) < -200


@pytest.mark.parametrize(("n_fft", "floor_db"), [(1024, -5), (4096, -40), (16384, -150), (65536, -200)])
def test_sampled_path_converges_to_scan_path(n_fft, floor_db):
    """The slower the filter, the larger the FFT must be; 100 Hz here."""
    controls = low_pass([100.0])
    x = noise(1, 1, 20000)
    errors = [
        error_db(filter_sampled(x, controls, size), scan(x, controls)[0]) for size in (n_fft, 4 * n_fft)
    ]
    assert errors[0] < floor_db
    assert errors[1] < max(errors[0] - 20, -220)


def test_sampled_path_equals_the_formulas_by_fft():
    """B(z)/A(z) of docs/mathematics.md on the FFT grid, written out here in numpy float64."""
    raw = noise(3, 5, seed=1).float()
    x = noise(2, 5, 32768).float()
    g, r = (
        np.tan(np.pi / 2 / (1 + np.exp(-raw[0].double().numpy()))),
        np.log1p(np.exp(raw[1].double().numpy())),
    )
    m_lp, m_bp, m_hp = np.random.default_rng(0).normal(size=(3, 5))
    z = np.exp(-2j * np.pi * np.arange(32769) / 65536)[:, None]
    b = (
        (g**2 * m_lp + g * m_bp + m_hp)
        + (2 * g**2 * m_lp - 2 * m_hp) * z
        + (g**2 * m_lp - g * m_bp + m_hp) * z**2
    )
    a = (g**2 + 2 * r * g + 1) + (2 * g**2 - 2) * z + (g**2 - 2 * r * g + 1) * z**2
    expected = np.fft.irfft(np.fft.rfft(x.double().numpy(), 65536) * (b / a).T, 65536)[..., :32768]
    controls = controls_from_raw(raw[0], raw[1], torch.tensor(np.stack([m_lp, m_bp, m_hp], 1)))
    assert error_db(filter_sampled(x, controls), torch.from_numpy(expected)) < -100


def test_sampled_path_adds_up_over_blocks():
    controls = low_pass([3000.0, 8000.0])
    x = noise(2, 2, 5000)
    assert error_db(filter_sampled(x, controls, 1024), scan(x, controls)[0]) < -200


@pytest.mark.parametrize("block", [1, 7, 64, 512])
@pytest.mark.parametrize(("dtype", "floor_db"), [(torch.float32, -100), (torch.float64, -240)])
def test_scan_in_blocks_equals_offline(controls, block, dtype, floor_db):
    x = noise(2, 4, 1500, dtype=dtype)
    expected, last = scan(x, controls)
    output, state = in_blocks(scan, x, controls, block)
    assert error_db(output, expected) < floor_db
    assert error_db(state, last) < floor_db


@pytest.mark.parametrize(("dtype", "floor_db"), [(torch.float32, -100), (torch.float64, -240)])
def test_scan_equals_the_plain_recursion(controls, dtype, floor_db):
    x = noise(2, 4, 1500, dtype=dtype)
    expected, last = filter_streaming(x, controls, x.new_zeros(2, 4, 2))
    output, state = scan(x, controls)
    assert error_db(output, expected) < floor_db
    assert error_db(state, last) < floor_db


@pytest.mark.parametrize("block", [1, 7, 64, 512])
def test_streaming_blocks_do_not_change_a_bit(controls, block):
    x = noise(2, 4, 1100, dtype=torch.float32)
    expected, last = filter_streaming(x, controls, x.new_zeros(2, 4, 2))
    output, state = in_blocks(filter_streaming, x, controls, block)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    torch.testing.assert_close(state, last, rtol=0, atol=0)


def test_state_goes_in(controls):
    """A bare state, no input: the impulse response's tail."""
    x = torch.zeros(1, 4, 300, dtype=torch.float64)
    x[..., 0] = 1.0
    whole, _ = scan(x, controls)
    _, state = scan(x[..., :100], controls)
    tail, _ = scan(x[..., 100:], controls, state=state)
    assert error_db(tail, whole[..., 100:]) < -240


def test_nothing_in_nothing_out(controls):
    state = noise(2, 4, 2)
    for run in (scan, filter_streaming):
        output, after = run(torch.zeros(2, 4, 0, dtype=torch.float64), controls, state=state)
        assert output.shape == (2, 4, 0)
        torch.testing.assert_close(after, state, rtol=0, atol=0)


def raw_parameters():
    return [part.requires_grad_() for part in (noise(2, seed=1), noise(2, seed=2), noise(2, 3, seed=3))]


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_scan_path_has_the_right_gradients(check):
    x, state = noise(1, 2, 16).requires_grad_(), noise(1, 2, 2).requires_grad_()
    assert check(
        lambda x, state, *raw: scan(x, controls_from_raw(*raw), 5, state), (x, state, *raw_parameters())
    )


def test_sampled_path_has_the_right_gradients():
    x = noise(1, 2, 16).requires_grad_()
    assert gradcheck(lambda x, *raw: filter_sampled(x, controls_from_raw(*raw), 16), (x, *raw_parameters()))


def test_filters_can_be_chosen(controls):
    x = noise(2, 4, 200)
    unrolled = unroll(controls, x.dtype)
    chosen, _ = filter_scan(x[:, 1:3], unrolled.select(slice(1, 3)), x.new_zeros(2, 2, 2))
    assert error_db(chosen, scan(x, controls)[0][:, 1:3]) < -280


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(controls):
    x = noise(2, 4, 5000, dtype=torch.float32)
    on_gpu = SvfControls(*(part.cuda() for part in controls))
    assert error_db(scan(x.cuda(), on_gpu)[0].cpu(), scan(x, controls)[0]) < -110
    assert error_db(filter_sampled(x.cuda(), on_gpu).cpu(), filter_sampled(x, controls)) < -110
