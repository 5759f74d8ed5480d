"""The worked examples of docs/extending.md, each used as the page says."""

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import error_db
from torch.autograd import gradcheck

from klann_lightning import losses
from klann_lightning.cli import main
from klann_lightning.data import devices
from klann_lightning.data.audio import read_audio
from klann_lightning.errors import CheckpointError
from klann_lightning.training import module
from klann_lightning.training.checkpoints import load_model

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
QUICK = [
    "--data.train=klann_lightning.data.feeds.Readers",
    "--data.train.readers=2",
    "--data.train.length=2048",
    "--data.train.batches_per_epoch=2",
    "--data.context_seconds=0.1",
    "--data.align=off",
    "--media=false",
    "--scored=val",
    "--trainer.logger=klann_lightning.training.logs.RunLog",
]
SMALL = [
    "--model.model=klann_lightning.models.klann.ParallelKlann",
    "--model.model.hidden=[3]",
    "--model.model.lift_dim=2",
]


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name; what it adds to the package is taken back afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(module, "FileScores", module.FileScores)
    before = dict(losses.TERMS), dict(devices.DEVICES)

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    yield load
    for registry, content in zip((losses.TERMS, devices.DEVICES), before, strict=True):
        registry.clear()
        registry.update(content)
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def fit(device, root, run, *more, **weights):
    """Two epochs of two batches each."""
    stages = json.dumps([{"name": "one", "weights": weights, "epochs": 2, "lr": 0.01}])
    where = f"--data.device={device}", f"--data.root={root}", f"--trainer.default_root_dir={run}"
    main(["fit", *more, *where, *QUICK, f"--model.stages={stages}"])
    return run / "stage-1-one.ckpt"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_a_system_of_ones_own_trains_by_its_import_path(tiny_root, tmp_path, example, monkeypatch):
    own = example("wiener_hammerstein")
    config = f"--config={EXAMPLES / 'wiener_hammerstein.yaml'}"
    checkpoint = fit("tiny", tiny_root, tmp_path / "run", config, esr=1.0)
    model = load_model(checkpoint)
    assert isinstance(model, own.WienerHammerstein)
    assert sum(part.numel() for part in model.parameters()) == 61
    assert model.multiply_adds() == 68
    x = torch.randn(2, 1000)
    with torch.inference_mode():
        whole, blocks = model(x), torch.cat(list(model.play(x.split(300, -1))), -1)
    assert error_db(blocks, whole) < -100
    monkeypatch.delitem(sys.modules, "wiener_hammerstein")
    with pytest.raises(CheckpointError, match=r"wiener_hammerstein\.WienerHammerstein.* not imported here"):
        load_model(checkpoint)


def test_a_loss_of_ones_own_leads_a_stage(tiny_root, tmp_path, example):
    example("level_loss")
    checkpoint = fit("tiny", tiny_root, tmp_path / "run", *SMALL, esr=1.0, level_db=0.01)
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    levels = [float(row["train/level_db"]) for row in rows if row["train/level_db"]]
    assert len(levels) == 2
    assert levels[1] < levels[0]
    assert any(row["val/loss"] for row in rows)
    load_model(checkpoint)  # a model knows nothing of what it was trained by


def test_the_loss_is_zero_at_equal_levels_and_has_a_gradient(example):
    level = example("level_loss").level
    x, y = torch.randn(2, 2, 100, dtype=torch.float64)
    power = torch.tensor(1e-9, dtype=torch.float64)
    assert level(-y, y, power).abs().max() < 1e-12
    torch.testing.assert_close(level(10 * y, y, power), torch.full((2,), 400.0, dtype=torch.float64))
    assert gradcheck(lambda x: level(x, y, power), x.requires_grad_())


def test_the_loss_over_whole_files_is_what_training_sees(example):
    """But for the floor: of one file, given in blocks."""
    own = example("level_loss")
    output, target = 0.5 * torch.randn(1, 8192), torch.randn(1, 8192)
    scores = own.Scores(losses.StftResolutions())
    for part, last in ((slice(0, 5000), False), (slice(5000, None), True)):
        scores.update(output[:, part], target[:, part], last)
    expected = own.level(output, target, torch.tensor(0.0))[0].double()
    torch.testing.assert_close(scores.compute()["level_db"], expected, rtol=1e-5, atol=0)


def test_a_device_of_ones_own_is_simulated_and_trained_on(tmp_path, example, capsys):
    own = example("crossover_device")
    root = tmp_path / "data"
    main(["simulate", "crossover", str(root), "--seconds", "5"])
    assert capsys.readouterr().out.count("crossover-{input,target}.wav") == 3
    source, target = (read_audio(root / "test" / f"crossover-{side}.wav") for side in ("input", "target"))
    np.testing.assert_allclose(target, own.crossover(source.astype(np.float64), 44100), atol=1e-6)
    assert load_model(fit("crossover", root, tmp_path / "run", *SMALL, esr=1.0)).output_level != 1
