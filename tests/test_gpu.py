"""The same training on a GPU: the losses of the CPU's, and going on there."""

import signal

import pytest
import torch
from test_keeper import at_step, tell
from test_stages import TIME, fit

from klann_lightning.errors import HaltedError
from klann_lightning.training.module import EffectModule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STAGES = f"[{TIME.replace('3', '25', 1)}]"  # 25 epochs of 4 steps
GPU = ("--trainer.accelerator=gpu", "--trainer.devices=1", "--media=false", "--scored=val")


def test_a_gpu_takes_the_steps_of_the_cpu(tiny_root, tmp_path, monkeypatch):
    losses: dict[str, list[float]] = {}
    taken = EffectModule.training_step

    def step(self, batch):
        loss = taken(self, batch)
        losses.setdefault(self.device.type, []).append(float(loss.detach()))
        return loss

    monkeypatch.setattr(EffectModule, "training_step", step)
    fit(tiny_root, tmp_path / "cpu", STAGES, "--trainer.accelerator=cpu", *GPU[2:])
    fit(tiny_root, tmp_path / "gpu", STAGES, *GPU)
    assert len(losses["cpu"]) == 100
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


def test_a_training_goes_on_on_a_gpu(tiny_root, tmp_path, monkeypatch):
    whole = fit(tiny_root, tmp_path / "whole", STAGES, *GPU).switch.finished["stage-1-time"]
    with monkeypatch.context() as patch:
        at_step(patch, 50, tell(signal.SIGTERM))
        with pytest.raises(HaltedError):
            fit(tiny_root, tmp_path / "part", STAGES, *GPU)
    again = fit(tiny_root, tmp_path / "part", STAGES, *GPU, "--resume").switch.finished["stage-1-time"]
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-5)
