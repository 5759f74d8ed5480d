"""The compiled sums against their plain twins, and against auraloss, in value and in gradient."""

import pytest
import torch
from conftest import needs_compiler

from klann_lightning import losses
from klann_lightning.losses import StftResolutions, esr, magnitude_stfts, mr_stft, part_energies
from klann_lightning.native.losses import Energies, SpectralSums, compilable

pytestmark = needs_compiler

PRECISIONS = [
    pytest.param(torch.float64, 1e-12, id="float64"),
    pytest.param(torch.float32, 1e-4, id="float32"),
]
precisions = pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
STFTS = magnitude_stfts(StftResolutions([1024, 256, 64], [120, 25, 64], [600, 100, 64]))


def pair(rows, samples, dtype):
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
    output = 0.8 * target + 0.2 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return output.to(dtype).requires_grad_(), target.to(dtype)


def distance_of(stft, output, target):
    return mr_stft(stft.sums(output, target)[None])


def relative(found, expected):
    return float((found - expected).detach().norm() / expected.detach().norm())


@precisions
@pytest.mark.parametrize(
    ("rows", "samples", "size"), [(1, 1, 1), (3, 1000, 1000), (2, 1001, 77), (1, 64, 100)]
)
def test_energies_are_the_plain_ones(dtype, within, rows, samples, size):
    output, target = pair(rows, samples, dtype)
    found, expected = Energies.apply(output, target, size), part_energies(output, target, size)
    weights = torch.rand(expected[0].shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for ours, plain in zip(found, expected, strict=True):
        assert relative(ours, plain) < within
    gradients = [torch.autograd.grad((part[0] * weights).sum(), output)[0] for part in (found, expected)]
    assert relative(*gradients) < within


@precisions
@pytest.mark.parametrize("stft", STFTS, ids=["1024", "256", "64"])
@pytest.mark.parametrize(("rows", "samples"), [(3, 4000), (1, 514), (2, 2051)])
def test_spectral_distance_is_auralosses(dtype, within, stft, rows, samples):
    output, target = pair(rows, samples, dtype)
    with torch.no_grad():
        target[:, 300:500] = 0  # where powers reach the floor
    assert compilable(output, target)
    found, expected = distance_of(stft, output, target), stft(output[:, None], target[:, None])
    assert relative(found, expected) < within
    gradients = [torch.autograd.grad(value, output)[0] for value in (found, expected)]
    assert relative(*gradients) < within


@precisions
@pytest.mark.parametrize("stft", STFTS, ids=["1024", "256", "64"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("rows", "samples"), [(3, 4000), (1, 1024)])
def test_spectral_sums_are_the_plain_ones(monkeypatch, dtype, within, stft, center, rows, samples):
    output, target = pair(rows, samples, dtype)
    found = stft.sums(output, target, center)
    monkeypatch.setattr(losses, "compilable", lambda *_: False)
    expected = stft.sums(output, target, center)
    weights = torch.tensor([1.0, 0.0, 0.3, 0.0], dtype=torch.float64)
    for ours, plain in zip(found, expected, strict=True):
        assert relative(ours, plain) < within
    gradients = [torch.autograd.grad((sums * weights).sum(), output)[0] for sums in (found, expected)]
    assert relative(*gradients) < within


def test_gradients_are_those_of_finite_differences():
    output, target = pair(2, 60, torch.float64)
    assert torch.autograd.gradcheck(lambda x: Energies.apply(x, target, 17)[0], output)
    window = torch.hann_window(16, dtype=torch.float64)
    for center in (True, False):
        arguments = output, target, window, 5, 1e-8, center
        assert torch.autograd.gradcheck(SpectralSums.apply, arguments)


def test_equal_spectra_are_at_no_distance():
    _, target = pair(2, 1000, torch.float32)
    output = target.clone().requires_grad_()
    distance = distance_of(STFTS[1], output, target)
    distance.backward()
    assert distance.item() == 0
    assert (output.grad == 0).all()


def test_silence_has_a_finite_distance():
    output, target = pair(1, 1000, torch.float32)
    for ours, theirs in (
        (output, torch.zeros_like(target)),
        (torch.zeros_like(output).requires_grad_(), target),
    ):
        distance = distance_of(STFTS[1], ours, theirs)
        distance.backward()
        assert torch.isfinite(distance)
        assert torch.isfinite(ours.grad).all()
        assert relative(distance, STFTS[1](ours[:, None], theirs[:, None])) < 1e-4


def test_what_is_not_a_number_is_not_hidden():
    output, target = pair(1, 1000, torch.float32)
    with torch.no_grad():
        output[0, 500] = torch.nan
    assert distance_of(STFTS[0], output, target).isnan()
    assert esr(output, target, torch.ones(())).isnan()


def test_threads_do_not_change_a_bit():
    output, target = pair(4, 5000, torch.float32)
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            distance = distance_of(STFTS[1], output, target)
            runs.append((distance.detach(), *torch.autograd.grad(distance, output)))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(*values) for run in runs[1:] for values in zip(runs[0], run, strict=True))


def test_a_target_that_is_trained_too_takes_the_plain_path():
    output, target = pair(1, 1000, torch.float64)
    target.requires_grad_()
    assert not compilable(output, target)
    distance_of(STFTS[1], output, target).backward()
    assert target.grad.abs().sum() > 0


@pytest.mark.parametrize("shapes", [((4, 1000), (1, 1000)), ((1000,), (1000,)), ((2, 3, 1000), (2, 3, 1000))])
def test_other_shapes_take_the_plain_path(shapes):
    output, target = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    assert not compilable(output, target)
    expected = (output - target).square().sum(-1) / target.square().sum(-1)
    torch.testing.assert_close(esr(output, target, torch.tensor(1e-9)), expected)


def test_any_layout_is_read_right():
    output, target = pair(3, 2000, torch.float64)
    for view in (lambda x: x[:, 100:], lambda x: x[:, ::2], lambda x: x[:1].expand(2, -1)):
        ours, theirs = view(output), view(target)
        expected = STFTS[1](ours[:, None], theirs[:, None])
        assert relative(distance_of(STFTS[1], ours, theirs), expected) < 1e-12
        found, expected = Energies.apply(ours, theirs, 99), part_energies(ours, theirs, 99)
        assert relative(found[0], expected[0]) < 1e-12
