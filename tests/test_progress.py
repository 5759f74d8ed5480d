"""What a training tells the program that has started it, and that it goes on exactly where it was killed."""

import csv
import json
import math
import os

import pytest
import torch
from test_stages import SPECTRAL, TIME, fit, state_of

from klann_lightning.handshake import PARENT, PROGRESS
from klann_lightning.training.module import EffectModule
from klann_lightning.training.progress import AbandonedError, ProgressLog

LOG = "--trainer.callbacks+=klann_lightning.training.progress.ProgressLog"


def lines(run):
    return [json.loads(line) for line in (run / PROGRESS).read_text().splitlines()]


def test_every_validation_is_a_line(tiny_root, tmp_path):
    logger = '{"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "", "version": ""}}'
    fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]", LOG, f"--trainer.logger={logger}")
    told = lines(tmp_path)
    assert [(line["epoch"], line["stage"], line["since"]) for line in told] == [
        *((1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 2, 3), (5, 2, 3))
    ]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    for name in ("val/loss", "val/esr_db", "val/mr_stft"):
        logged = [float(row[name]) for row in rows if row[name]]
        assert [line[name] for line in told] == pytest.approx(logged)


def test_a_training_without_its_starter_ends(tiny_root, tmp_path, monkeypatch):
    monkeypatch.setenv(PARENT, str(os.getpid()))
    with pytest.raises(AbandonedError, match="is gone"):
        fit(tiny_root, tmp_path, f"[{TIME}]", LOG)


def test_a_checkpoint_goes_on_to_the_bit(tiny_root, tmp_path, monkeypatch):
    """From the end of an epoch, with readers in the middle of a recording and an optimizer under way."""
    long = TIME.replace('"epochs": 3', '"epochs": 6')
    stages = f"[{long}, {SPECTRAL}]"
    whole = fit(tiny_root, tmp_path / "whole", stages)
    seen = {}

    def stop(self, trainer, module, *_):
        if trainer.current_epoch == 4:
            seen["readers"] = [float(part.abs().sum()) for part in module._readers]
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLog, "on_train_batch_start", stop)
    with pytest.raises(SystemExit):
        fit(tiny_root, tmp_path / "killed", stages, LOG)
    last = tmp_path / "killed" / "last.ckpt"
    assert state_of(last)["saved_epoch"] == 3
    assert all(math.isfinite(value) and value > 0 for value in seen["readers"])
    resumed = fit(tiny_root, tmp_path / "killed", stages, f"--ckpt_path={last}")
    for name, weights in whole.switch.finished.items():
        for key, value in resumed.switch.finished[name].items():
            assert torch.equal(value, weights[key]), (name, key)


def test_other_readers_than_the_checkpoints_start_anew(tiny_root, tmp_path, monkeypatch):
    """From the initial state, and from then on each from its own; the epochs are counted on."""
    fit(tiny_root, tmp_path, f"[{TIME}]", "--trainer.max_epochs=1")
    states, step = [], EffectModule.training_step

    def training_step(self, batch):
        states.append(self._before and len(self._before[0]))
        return step(self, batch)

    monkeypatch.setattr(EffectModule, "training_step", training_step)
    resumed = fit(
        tiny_root, tmp_path, f"[{TIME}]", f"--ckpt_path={tmp_path / 'last.ckpt'}", "--data.train.readers=3"
    )
    assert states == [None, *[3] * 7]
    assert (resumed.trainer.current_epoch, resumed.trainer.global_step) == (3, 12)
