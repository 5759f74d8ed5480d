"""Each term against its definition, and what a stage refuses."""

import auraloss
import pytest
import torch

from klann_lightning.losses import TERMS, MultiResolutionStft, StftResolutions


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OUTPUT, TARGET = noise(3, 4000, seed=0), noise(3, 4000, seed=1)
POWER = torch.tensor(1.0)


def test_mse_is_torchs():
    expected = torch.nn.functional.mse_loss(OUTPUT, TARGET)
    torch.testing.assert_close(TERMS["mse"](OUTPUT, TARGET, POWER).mean(), expected)


def test_l1_is_torchs():
    torch.testing.assert_close(
        TERMS["l1"](OUTPUT, TARGET, POWER).mean(), torch.nn.functional.l1_loss(OUTPUT, TARGET)
    )


def test_esr_is_auralosses():
    expected = auraloss.time.ESRLoss(reduction="none")(OUTPUT[:, None], TARGET[:, None])
    torch.testing.assert_close(TERMS["esr"](OUTPUT, TARGET, POWER), expected[:, 0])


def test_esr_of_a_long_row_is_the_mean_over_its_parts():
    output, target = noise(2, 20000, seed=2), noise(2, 20000, seed=3)
    target[:, 7000:12000] *= 0.1
    parts = [slice(0, 6667), slice(6667, 13334), slice(13334, 20000)]
    errors = torch.stack([((output - target)[:, part] ** 2).sum(-1) for part in parts])
    energies = torch.stack([(target[:, part] ** 2).sum(-1) for part in parts])
    torch.testing.assert_close(TERMS["esr"](output, target, POWER * 1e-6), (errors / energies).mean(0))


def test_dc_is_auralosses():
    expected = auraloss.time.DCLoss(reduction="none")(OUTPUT[:, None], TARGET[:, None])
    torch.testing.assert_close(TERMS["dc"](OUTPUT, TARGET, POWER), expected.flatten(), rtol=1e-4, atol=1e-9)


def test_esr_pre_is_esr_after_a_first_order_high_pass():
    emphasised = [part[:, 1:] - 0.85 * part[:, :-1] for part in (OUTPUT, TARGET)]
    expected = ((emphasised[0] - emphasised[1]) ** 2).sum(-1) / (emphasised[1] ** 2).sum(-1)
    torch.testing.assert_close(TERMS["esr_pre"](OUTPUT, TARGET, POWER), expected)


@pytest.mark.parametrize("name", ["esr", "esr_pre", "dc"])
def test_a_silent_segment_does_not_outweigh_the_others(name):
    quiet = torch.zeros(1, 4000)
    output = torch.full((1, 4000), 0.1)
    value = TERMS[name](output, quiet, torch.tensor(2.0))
    assert 0 < value.item() <= 0.01 / (2.0 * 1e-2) * 1.001


@pytest.mark.parametrize("name", list(TERMS))
def test_every_term_is_zero_for_a_perfect_output_and_has_a_gradient_else(name):
    assert TERMS[name](TARGET, TARGET, POWER).abs().max() == 0
    output = OUTPUT.clone().requires_grad_()
    TERMS[name](output, TARGET, POWER).sum().backward()
    assert output.grad.abs().sum() > 0


def test_mr_stft_is_auralosses_with_the_papers_resolutions():
    reference = auraloss.freq.MultiResolutionSTFTLoss(
        fft_sizes=[1024, 512, 256], hop_sizes=[120, 50, 25], win_lengths=[600, 240, 100]
    )
    output = OUTPUT.clone().requires_grad_()
    ours = MultiResolutionStft(StftResolutions())(output, TARGET)
    ours.backward()
    again = OUTPUT.clone().requires_grad_()
    theirs = reference(again[:, None], TARGET[:, None])
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(output.grad, again.grad)


def test_mr_stft_survives_silence():
    output = torch.zeros(1, 4000, requires_grad=True)
    MultiResolutionStft(StftResolutions())(output, torch.zeros(1, 4000)).backward()
    assert torch.isfinite(output.grad).all()
