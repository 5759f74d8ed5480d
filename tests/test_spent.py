"""What a training has cost is what was evaluated, in all its parts."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from test_stages import FED, TIME, fit

from klann_lightning.handshake import SPENT
from klann_lightning.training import spent
from klann_lightning.training.module import EffectModule
from klann_lightning.training.spent import Spent

LOGGED = "--trainer.callbacks+=klann_lightning.training.spent.Spent", "--media=false", "--scored=val"
SAMPLES = 2 * 2048  # of a step of `fit`


def trainer_at(folder, **more) -> SimpleNamespace:
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(default_root_dir=folder, global_step=7, strategy=cpu, callbacks=[], **more)


def cost(folder) -> dict:
    return json.loads((folder / SPENT).read_text())


def test_every_sample_that_is_fed_counts(tiny_root, tmp_path):
    """Three epochs of four steps of two readers, then two epochs of three rounds of all, warm-up too."""
    begun = time.monotonic()
    fit(tiny_root, tmp_path, f"[{TIME}, {FED}]", *LOGGED)
    told = cost(tmp_path)
    row = 512 + -(-(44100 - 512) // 2)
    assert told["samples"] == 12 * SAMPLES + 6 * 2 * row
    assert told["steps"] == 18
    assert told["threads"] == torch.get_num_threads()
    assert not told["ran_out"]
    assert 0 < told["seconds"] < time.monotonic() - begun


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_batch_counts_as_often_as_it_is_evaluated(tiny_root, tmp_path, monkeypatch, accumulated):
    """L-BFGS asks for a batch again and again; accumulated gradients make fewer steps of as many batches."""
    evaluations = []
    plain = EffectModule.training_step

    def training_step(self, batch):
        evaluations.append(batch["input"].numel())
        return plain(self, batch)

    monkeypatch.setattr(EffectModule, "training_step", training_step)
    lbfgs = '"optimizer": {"class_path": "torch.optim.LBFGS", "init_args": {"max_iter": 4}}, "epochs": 2'
    stage = TIME.replace('"epochs": 3', lbfgs if accumulated == 1 else '"epochs": 2')
    fit(tiny_root, tmp_path, f"[{stage}]", *LOGGED, f"--trainer.accumulate_grad_batches={accumulated}")
    assert cost(tmp_path)["samples"] == sum(evaluations)
    assert len(evaluations) > 8 if accumulated == 1 else len(evaluations) == 8


def test_a_resumed_training_has_cost_what_its_parts_have(tiny_root, tmp_path):
    fit(tiny_root, tmp_path / "part", f"[{TIME}]", *LOGGED, "--trainer.max_epochs=2")
    first = cost(tmp_path / "part")
    last = f"--ckpt_path={tmp_path / 'part' / 'last.ckpt'}"
    fit(tiny_root, tmp_path / "rest", f"[{TIME}]", *LOGGED, last)
    assert cost(tmp_path / "rest")["samples"] == 12 * SAMPLES
    assert cost(tmp_path / "rest")["seconds"] > 0
    assert first["samples"] == 8 * SAMPLES


def test_seconds_of_the_parts_add_up_and_the_pause_does_not_count(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(spent, "time", SimpleNamespace(monotonic=lambda: now))
    trainer = trainer_at(tmp_path, is_global_zero=True)
    first = Spent()
    now += 3.0  # the recordings are checked
    first.on_train_start(trainer, None)
    now += 20.0
    kept = first.state_dict()
    now += 500.0  # lost with the process, and a pause
    second = Spent()
    second.load_state_dict(kept)
    now += 4.0
    second.on_train_start(trainer, None)
    now += 5.0
    second.on_train_end(trainer, None)
    second.on_fit_end(trainer, None)
    assert cost(tmp_path)["seconds"] == pytest.approx(25.0)


def test_only_the_first_rank_writes(tmp_path):
    trainer = trainer_at(tmp_path, is_global_zero=False)
    Spent().on_fit_end(trainer, None)
    assert not (tmp_path / SPENT).exists()
