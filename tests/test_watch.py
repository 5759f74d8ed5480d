"""Numbers that are none, silence, and a model upside down: what a training makes of them."""

import math

import numpy as np
import pytest
import torch
from conftest import write_root
from test_stages import CSV_LOGGER, SPECTRAL, TIME, column, fit, state_of

from klann_lightning.errors import DivergedError
from klann_lightning.training.module import EffectModule
from klann_lightning.training.watch import RETRIES

LONG = TIME.replace('"epochs": 3', '"epochs": 6')
QUICK = ("--media=false", "--scored=val")


def at_steps(monkeypatch, steps, spoil):
    """Have the loss of these steps spoilt, whenever they are taken."""
    taken = EffectModule.training_step

    def step(self, batch):
        loss = taken(self, batch)
        return spoil(self, loss) if self.trainer.global_step in steps else loss

    monkeypatch.setattr(EffectModule, "training_step", step)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_costs_half_the_rate(bad, tiny_root, tmp_path, monkeypatch, caplog):
    """Step 9 is in epoch 2: back to the weights after epoch 1, and on to the end."""
    at_steps(monkeypatch, {9}, lambda _, loss: loss * bad)
    more = (f"--trainer.logger={CSV_LOGGER}", *QUICK)
    switch = fit(tiny_root, tmp_path, f"[{LONG}]", *more).switch
    said = f"train/loss is {bad} in epoch 2, step 10: back to the weights of epoch 1, with half the learning"
    assert said in caplog.text
    assert column(tmp_path, "lr") == [0.01, 0.01, 0.005, 0.005, 0.005, 0.005]
    assert all(weight.isfinite().all() for weight in switch.finished["stage-1-time"].values())
    assert column(tmp_path, "val/loss")[-1] < column(tmp_path, "val/loss")[0]


def test_weights_that_are_no_numbers_are_found_at_the_epochs_end(tiny_root, tmp_path, monkeypatch, caplog):
    """Their step had a loss."""

    def spoil(module, loss):
        next(module.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
        return loss

    at_steps(monkeypatch, {7}, spoil)  # the last of epoch 1
    stage = LONG.replace('"epochs": 6', '"epochs": 2')
    switch = fit(tiny_root, tmp_path, f"[{stage}]", *QUICK).switch
    assert "back to the weights of epoch 0" in caplog.text
    assert all(weight.isfinite().all() for weight in switch.finished["stage-1-time"].values())


def test_a_training_that_diverges_again_and_again_ends(tiny_root, tmp_path, caplog):
    stages = '[{"name": "time", "weights": {"mse": 1e38}, "epochs": 5, "lr": 1e30}]'
    said = rf"diverged: .*/loss is (nan|inf) in epoch \d+, step \d+, for the {RETRIES + 1}th time in stage 't"
    with pytest.raises(DivergedError, match=said):
        fit(tiny_root, tmp_path, stages, *QUICK)
    assert caplog.text.count("with half the learning rate") == RETRIES


def test_another_stage_has_its_whole_rate(tiny_root, tmp_path, monkeypatch):
    at_steps(monkeypatch, {5}, lambda _, loss: loss * math.nan)
    fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]", f"--trainer.logger={CSV_LOGGER}", *QUICK)
    assert column(tmp_path, "lr") == [0.01, 0.005, 0.005, 0.002, 0.002]


def test_a_resumed_training_knows_that_it_went_back(tiny_root, tmp_path, monkeypatch):
    at_steps(monkeypatch, {5, 17}, lambda _, loss: loss * math.nan)
    whole = fit(tiny_root, tmp_path / "whole", f"[{LONG}]", *QUICK).switch.finished["stage-1-time"]
    fit(tiny_root, tmp_path / "part", f"[{LONG}]", *QUICK, "--trainer.max_steps=12")
    last = tmp_path / "part" / "last.ckpt"
    resumed = fit(tiny_root, tmp_path / "part", f"[{LONG}]", *QUICK, f"--ckpt_path={last}").switch
    assert torch.load(last, weights_only=True)["callbacks"]["Watch"]["times"] == 2
    assert all(torch.equal(resumed.finished["stage-1-time"][key], value) for key, value in whole.items())


def test_a_model_that_stays_silent_is_named_once(tiny_root, tmp_path, caplog):
    """Its last layer is nought, and nothing moves at a rate of zero."""
    still = LONG.replace('"epochs": 6', '"epochs": 12').replace("0.01", "0.0")
    root = write_root(tmp_path / "loud", lambda x: 100 * np.tanh(2 * x))
    experiment = fit(root, tmp_path / "run", f"[{still}]", *QUICK, "--model.normalise=false")
    assert experiment.model.val_scores["level"] < 1e-3
    assert caplog.text.count("The model is silent, for 5 validations now: its output is") == 1
    assert "upside down" not in caplog.text


def test_a_model_that_runs_against_the_target_is_named(tiny_root, tmp_path, caplog):
    """A loss of spectra alone is as low for the target upside down: go on from such a model."""
    fit(tiny_root, tmp_path / "first", f"[{LONG}]", *QUICK)
    upright = tmp_path / "first" / "stage-1-time.ckpt"
    content = torch.load(upright, weights_only=True)
    for part in ("weight", "bias"):
        content["state_dict"][f"model.down.last.{part}"] *= -1
    torch.save(content, tmp_path / "inverted.ckpt")
    deaf = '{"name": "deaf", "weights": {"mr_stft": 1.0}, "epochs": 6, "lr": 0.0}'
    inverted = f"--model.init_from={tmp_path / 'inverted.ckpt'}"
    fit(tiny_root, tmp_path / "second", f"[{deaf}]", *QUICK, inverted)
    assert "The model is upside down, for 5 validations now: its output runs against the" in caplog.text
    assert "correlation -0." in caplog.text


def test_an_ordinary_training_names_nothing(tiny_root, tmp_path, caplog):
    fit(tiny_root, tmp_path, f"[{LONG}]", *QUICK)
    assert "The model is" not in caplog.text
    assert state_of(tmp_path / "last.ckpt")["index"] == 0
