"""A training that is killed, and goes on, ends as one that was not; tests/soak_resume.py does it for long."""

import multiprocessing
import random
import signal

import numpy as np
import pytest
import torch
from soak_resume import Soak
from test_keeper import QUICK, STAGES, at_step, tell
from test_stages import TIME, fit

from klann_lightning.errors import HaltedError
from klann_lightning.training.module import EffectModule, _share


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork"
)
def test_trainings_that_are_killed_end_as_if_they_had_not_been(tmp_path):
    """At random moments, and within the writing of checkpoints; weights, optimizer and log to the bit."""
    soak = Soak(tmp_path, seed=3)
    rounds = [soak.round(str(number), kills=2) for number in range(3)]
    assert all(done.endswith("equal") for done in rounds), rounds
    assert any("went on 0 x" not in done for done in rounds), rounds


@pytest.mark.parametrize(("there", "here"), [(1, 2), (3, 2), (2, 4), (3, 1)])
def test_readers_are_shared_out_anew(there, here):
    """Each rank has every so-and-so-many-th of all; eight of them, with two tensors of state each."""
    whole = torch.arange(8.0)[:, None], torch.arange(24.0).view(8, 3)
    states = [tuple(part[rank::there] for part in whole) for rank in range(there)]
    for rank in range(here):
        for found, part in zip(_share(states, rank, here), whole, strict=True):
            assert torch.equal(found, part[rank::here])


def test_readers_that_one_rank_has_forgotten_are_forgotten_by_all():
    state = (torch.zeros(4, 2),)
    assert _share([state, None], 0, 2) is None
    assert _share([state, (torch.zeros(1, 2),)], 0, 1) is None  # five cannot have been shared out so


def test_random_numbers_go_on_where_they_were(tiny_root, tmp_path, monkeypatch):
    """Of torch, numpy and Python: a loss drawn by all three, in a training that is stopped at step 6."""
    drawn = EffectModule.training_step

    def step(self, batch):
        return drawn(self, batch) * float(torch.rand(()) + np.random.rand() + random.random())

    monkeypatch.setattr(EffectModule, "training_step", step)
    stages = f"[{TIME}]"
    whole = fit(tiny_root, tmp_path / "whole", stages, "--media=false").switch.finished["stage-1-time"]
    with monkeypatch.context() as patch:
        at_step(patch, 5, tell(signal.SIGTERM))
        with pytest.raises(HaltedError):
            fit(tiny_root, tmp_path / "part", stages, "--media=false")
    again = fit(tiny_root, tmp_path / "part", stages, "--media=false", "--resume").switch.finished[
        "stage-1-time"
    ]
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    other = fit(tiny_root, tmp_path / "other", stages, "--media=false").switch.finished["stage-1-time"]
    assert all(torch.equal(other[key], value) for key, value in whole.items())


def test_a_training_that_has_ended_is_only_scored(tiny_root, tmp_path):
    """One that was killed after its last epoch, which here its patience ended, and before its scores."""
    stages = f'[{TIME}, {{"name": "still", "weights": {{"esr": 1.0}}, "lr": 0.0, "patience": 2}}]'
    whole = fit(tiny_root, tmp_path, stages, *QUICK)
    left = [(tmp_path / name).read_text() for name in ("scores.json", "metrics.csv")]
    (tmp_path / "scores.json").unlink()
    again = fit(tiny_root, tmp_path, stages, *QUICK, "--resume")
    assert (again.trainer.current_epoch, again.trainer.global_step) == (5, 20)
    assert [(tmp_path / name).read_text() for name in ("scores.json", "metrics.csv")] == left
    for name, weights in whole.switch.finished.items():
        assert all(torch.equal(again.switch.finished[name][key], value) for key, value in weights.items())


@pytest.mark.parametrize(
    "more", ["--data.num_workers=1", "--trainer.max_steps=18", "--trainer.accumulate_grad_batches=2"]
)
def test_a_training_goes_on_however_it_is_fed_and_counted(more, tiny_root, tmp_path, monkeypatch):
    """Stopped within an epoch, and at the end of one."""
    whole = fit(tiny_root, tmp_path / "whole", STAGES, *QUICK, more)
    for step in (5, 7):
        with monkeypatch.context() as patch:
            at_step(patch, step, tell(signal.SIGTERM))
            with pytest.raises(HaltedError):
                fit(tiny_root, tmp_path / str(step), STAGES, *QUICK, more)
        again = fit(tiny_root, tmp_path / str(step), STAGES, *QUICK, more, "--resume")
        assert again.trainer.global_step == whole.trainer.global_step
        for name, weights in whole.switch.finished.items():
            assert all(torch.equal(again.switch.finished[name][key], value) for key, value in weights.items())
