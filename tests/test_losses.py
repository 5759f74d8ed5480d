"""Each term against its definition, and that several ranks have those of the whole batch."""

import auraloss
import pytest
import torch

from klann_lightning import losses
from klann_lightning.losses import TERMS, AddedUp, StftResolutions, batch_terms, magnitude_stfts, mr_stft


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OUTPUT, TARGET = noise(3, 4000, seed=0), noise(3, 4000, seed=1)
POWER = torch.tensor(1.0)
STFTS = magnitude_stfts(StftResolutions())


@pytest.fixture(params=["as it is", "plain"])
def either_path(request, monkeypatch):
    """The compiled passes where they can be, and the plain ones, which GPUs run."""
    if request.param == "plain":
        monkeypatch.setattr(losses, "compilable", lambda *_: False)


def spectral(output, target):
    return mr_stft(torch.stack([stft.sums(output, target) for stft in STFTS]))


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


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_mr_stft_is_auralosses_with_the_papers_resolutions(dtype, within):
    reference = auraloss.freq.MultiResolutionSTFTLoss(
        fft_sizes=[1024, 512, 256], hop_sizes=[120, 50, 25], win_lengths=[600, 240, 100]
    )
    output, target = OUTPUT.to(dtype).requires_grad_(), TARGET.to(dtype)
    ours, theirs = spectral(output, target), reference(output[:, None], target[:, None])
    assert ours.item() == pytest.approx(theirs.item(), rel=within)
    found, expected = (torch.autograd.grad(value, output)[0] for value in (ours, theirs))
    assert found.dtype == dtype
    assert (found - expected).norm() < within * expected.norm()


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("target", [torch.zeros(1, 4000), TARGET], ids=["silence", "sound"])
def test_equal_spectra_have_neither_distance_nor_gradient(target):
    output = target.clone().requires_grad_()
    value = spectral(output, target)
    value.backward()
    assert value.item() == 0
    assert (output.grad == 0).all()


WEIGHT = torch.tensor([1.0, 0.1, 0.1, 1.0])


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("names", [*([name] for name in (*TERMS, "mr_stft")), ["mse", "esr", "mr_stft"]])
@pytest.mark.parametrize("shares", [[[0, 2, 3], [1]], [[0], [1, 3], [2]], [[0, 1, 2, 3]] * 2])
def test_ranks_have_the_terms_and_gradients_of_the_whole_batch(names, shares):
    """Also of unequal shares, and where each has all rows; DDP's mean of gradients is taken by hand."""
    output, target = noise(4, 4000, seed=4).double().requires_grad_(), noise(4, 4000, seed=5).double()

    def terms(rows, total):
        return batch_terms(names, output[rows], target[rows], WEIGHT[rows], POWER, STFTS, total)

    def gradient(values):
        return torch.autograd.grad(torch.stack(list(values.values())).sum(), output)[0]

    expected, own = terms([0, 1, 2, 3], lambda sums: sums), []
    for rows in shares:
        terms(rows, lambda sums: own.append(sums.detach()) or sums)
    ranks = [
        terms(rows, lambda sums: AddedUp.apply(sums, lambda _: torch.stack(own).sum(0), len(shares)))
        for rows in shares
    ]
    for found in ranks:
        assert {name: value.item() for name, value in found.items()} == pytest.approx(
            {name: expected[name].item() for name in names}, rel=1e-12
        )
    mean, wanted = torch.stack([gradient(found) for found in ranks]).mean(0), gradient(expected)
    assert (mean - wanted).norm() < 1e-12 * wanted.norm()


def test_rows_count_by_their_weight():
    values = TERMS["mse"](OUTPUT, TARGET, POWER).double()
    (found,) = batch_terms(["mse"], OUTPUT, TARGET, WEIGHT[:3], POWER, [], lambda sums: sums).values()
    torch.testing.assert_close(found, (values * WEIGHT[:3]).sum() / 1.2)
