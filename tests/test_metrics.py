"""Whole-file scores do not depend on how the files were cut, nor on who counted which file."""

import math

import auraloss
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from klann_lightning.losses import StftResolutions
from klann_lightning.metrics import ErrorRatios, FileScores, WholeFileStft


def noise(frames, seed, scale=1.0):
    return scale * torch.randn(1, frames, generator=torch.Generator().manual_seed(seed))


OUTPUT, TARGET = noise(30000, 0), noise(30000, 1)


def fed(metric, output, target, block):
    parts = list(zip(output.split(block, -1), target.split(block, -1), strict=True))
    for index, part in enumerate(parts):
        metric.update(*part, last=index == len(parts) - 1)
    return metric


def test_ratios_are_their_definitions():
    scores = fed(ErrorRatios(), OUTPUT, TARGET, 30000).compute()
    error, target = (OUTPUT - TARGET).double(), TARGET.double()
    assert scores["mse"].item() == pytest.approx(error.square().mean().item())
    assert scores["l1"].item() == pytest.approx(error.abs().mean().item())
    assert scores["esr"].item() == pytest.approx((error.square().sum() / target.square().sum()).item())
    assert scores["dc"].item() == pytest.approx((error.mean() ** 2 / target.square().mean()).item())
    error, target = (part[:, 1:] - 0.85 * part[:, :-1] for part in (error, target))
    assert scores["esr_pre"].item() == pytest.approx((error.square().sum() / target.square().sum()).item())


def test_level_and_correlation_are_numpys():
    mixed = 0.3 * OUTPUT - 0.8 * TARGET
    scores = fed(ErrorRatios(), mixed, TARGET, 7000).compute()
    assert scores["level"].item() == pytest.approx((mixed.square().sum() / TARGET.square().sum()).item())
    cosine = (mixed * TARGET).sum() / (mixed.norm() * TARGET.norm())
    assert scores["correlation"].item() == pytest.approx(cosine.item(), abs=1e-6)


def test_esr_in_decibels():
    scores = FileScores(StftResolutions())
    scores.update(1.1 * TARGET, TARGET)
    found = scores.compute()
    assert found["esr_db"].item() == pytest.approx(-20, abs=1e-4)
    assert found["mr_stft"].item() == pytest.approx(0.1 + math.log(1.1), rel=0.01)
    assert set(found) == {"mse", "esr", "esr_pre", "l1", "dc", "level", "correlation", "mr_stft", "esr_db"}


@pytest.mark.parametrize("make", [ErrorRatios, lambda: WholeFileStft(StftResolutions())])
def test_a_file_ends_where_nothing_else_is_said(make):
    """Nothing of it, such as the sample before for the pre-emphasis, goes over into the next."""
    whole, alone = make(), make()
    for one in (OUTPUT, 3 * OUTPUT):
        whole.update(one, TARGET)
    parts = []
    for one in (OUTPUT, 3 * OUTPUT):
        alone.reset()
        alone.update(one, TARGET, last=True)
        parts.append(alone.sums)
    assert torch.allclose(whole.sums, parts[0] + parts[1], rtol=1e-12)
    assert (whole.sums[..., -1] > 0).all()


def test_esr_divides_once():
    """Not the mean of the ratios of a loud and a quiet file."""
    metric = ErrorRatios()
    metric.update(torch.full((1, 10), 2.0), torch.full((1, 10), 1.0))
    metric.update(torch.full((1, 10), 0.2), torch.full((1, 10), 0.1))
    assert metric.compute()["esr"].item() == pytest.approx((10 + 0.1) / (10 + 0.1))
    metric.update(torch.full((1, 10), 0.0), torch.full((1, 10), 0.1))
    metric.update(torch.full((1, 10), 3.0), torch.full((1, 10), 1.0))
    assert metric.compute()["esr"].item() == pytest.approx((10.1 + 0.1 + 40) / (10.1 + 0.1 + 10))


def test_mr_stft_is_auralosses_on_the_whole_file():
    reference = auraloss.freq.MultiResolutionSTFTLoss([1024, 512, 256], [120, 50, 25], [600, 240, 100])
    expected = reference(OUTPUT[None], TARGET[None]).item()
    assert fed(WholeFileStft(StftResolutions()), OUTPUT, TARGET, 30000).compute().item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("block", [513, 1000, 4096, 29999])
def test_blocks_do_not_change_a_score(block):
    whole = fed(FileScores(StftResolutions()), OUTPUT, TARGET, 30000).compute()
    cut = fed(FileScores(StftResolutions()), OUTPUT, TARGET, block).compute()
    for name, value in whole.items():
        assert cut[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_reset_forgets_an_unfinished_file():
    metric = FileScores(StftResolutions())
    metric.update(noise(5000, 2), noise(5000, 3), last=False)
    metric.reset()
    again = fed(metric, OUTPUT, TARGET, 4096).compute()
    expected = fed(FileScores(StftResolutions()), OUTPUT, TARGET, 4096).compute()
    assert all(again[name] == value for name, value in expected.items())


def _score_share(rank, address, results):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    metric = FileScores(StftResolutions())
    for seed in range(rank, 3, 2):  # 2 files here, 1 there
        fed(metric, noise(9000, seed, seed + 1), noise(9000, seed + 10), 4096)
    results[rank] = {name: value.item() for name, value in metric.compute().items()}
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    metric = FileScores(StftResolutions())
    for seed in range(3):
        fed(metric, noise(9000, seed, seed + 1), noise(9000, seed + 10), 4096)
    expected = {name: value.item() for name, value in metric.compute().items()}
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_score_share, (f"file://{tmp_path}/meet", results), nprocs=2)
        for rank in range(2):
            assert results[rank] == pytest.approx(expected, rel=1e-6)
