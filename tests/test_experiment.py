"""fit, validate, test, predict from the command line: what a run leaves behind, what every config does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import error_db, write_root
from test_baselines import PARAMETERS as BASELINES
from test_stages import CSV_LOGGER, GCNTF, SPECTRAL, TIME, fit

from klann_lightning.cli import main
from klann_lightning.data.audio import read_audio
from klann_lightning.errors import PairError
from klann_lightning.evaluate import score
from klann_lightning.losses import StftResolutions

SWEEPS = Path(__file__).parents[1] / "sweeps"
DEVICES = sorted(SWEEPS.glob("*.yaml"))
SYSTEMS = sorted((SWEEPS / "systems").glob("*.yaml"))
RECIPES = sorted((SWEEPS / "recipes").glob("*.yaml"))
PARAMETERS = {
    "small_parallel": 291,
    "small_parallel_series": 435,
    "large_parallel": 1701,
    "large_parallel_series": 3185,
    "small_stacked": 475,
    "large_stacked": 1777,
}


def stem(path: Path) -> str:
    return path.stem


def train_shipped(tiny_root: Path, runs: Path, *configs: Path, more: tuple[str, ...] = ()):
    """Two batches of each stage of a shipped configuration, on the tiny device."""
    return main(
        [
            "fit",
            *(f"--config={config}" for config in configs),
            "--data.device=tiny",
            f"--data.root={tiny_root}",
            "--data.context_seconds=0.1",
            f"--runs={runs}",
            "--trainer.max_epochs=3",
            "--trainer.limit_train_batches=2",
            "--trainer.logger=false",
            *more,
        ]
    )


def stages_of(experiment) -> list[str]:
    """The names under which all of its stages should have finished."""
    return [f"stage-{index}-{stage.name}" for index, stage in enumerate(experiment.model.stages, 1)]


@pytest.mark.parametrize("config", DEVICES, ids=stem)
def test_every_shipped_device_trains(config, tiny_root, tmp_path):
    experiment = train_shipped(tiny_root, tmp_path, config)
    assert stages_of(experiment) == list(experiment.switch.finished)
    assert experiment.trainer.default_root_dir.startswith(str(tmp_path / config.stem))


@pytest.mark.parametrize("config", SYSTEMS, ids=stem)
def test_every_shipped_system_trains_at_its_size(config, tiny_root, tmp_path):
    configs, more = [SWEEPS / "la2a.yaml", config], ()
    if config.stem in BASELINES:
        configs.append(SWEEPS / "recipes" / "baseline.yaml")
        more = ("--data.train.readers=1", "--data.train.length=1024", "--media=false")
    experiment = train_shipped(tiny_root, tmp_path, *configs, more=more)
    assert stages_of(experiment) == list(experiment.switch.finished)
    sizes = PARAMETERS | BASELINES
    assert sum(part.numel() for part in experiment.model.model.parameters()) == sizes[config.stem]


@pytest.mark.parametrize("config", RECIPES, ids=stem)
def test_every_shipped_recipe_trains(config, tiny_root, tmp_path):
    smaller = {"paper": ["batch=2"], "comunita": ["batch=2", "length=16384"]}.get(config.stem, [])
    more = tuple(f"--data.train.{size}" for size in smaller)
    experiment = train_shipped(tiny_root, tmp_path, SWEEPS / "la2a.yaml", config, more=more)
    assert stages_of(experiment) == list(experiment.switch.finished)


@pytest.mark.parametrize("device", DEVICES, ids=stem)
def test_the_papers_recipe_is_the_papers(device, tiny_root, tmp_path):
    """Also on top of a device's file, whose own fields must not shine through."""
    configs = device, SWEEPS / "recipes" / "paper.yaml"
    more = ("--trainer.fast_dev_run=true",)
    experiment = train_shipped(tiny_root, tmp_path, *configs, more=more)
    module, feed = experiment.model, experiment.datamodule.feed
    assert (feed.length, feed.warmup, feed.batch, feed.hop) == (1024, 31744, 50, 1024)
    assert feed.batches([44100 * 7], 1) == 44100 * 7 // 1024 // 50
    assert (module.train_path, module.normalise) == ("sampled", False)
    assert [stage.weights for stage in module.stages] == [{"mse": 1.0}, {"mse": 1.0, "mr_stft": 0.001}]
    for stage in module.stages:
        assert (stage.epochs, stage.patience, stage.start_from) == (1000, None, "best")
        assert (stage.lr, stage.warmup_steps, stage.schedule) == (1e-3, 0, "constant")
        assert (stage.optimizer, stage.feed) == (None, None)
    assert (module.model.bank.cutoff.abs().max() < 0.01, module.model.initial) == (
        True,
        "zero",
    )  # one step on
    assert experiment.trainer.gradient_clip_val is None
    assert experiment.config.fit.trainer.check_val_every_n_epoch == 2
    assert module.model.output_level == 1


@pytest.mark.parametrize(("system", "smaller"), [("gcntf_1", "channels=2"), ("lstm_32", "hidden=2")])
def test_the_baselines_recipe_is_the_published_one(system, smaller, tmp_path):
    """Comunita et al. 2022, also on top of a device's file."""
    own = ["recipes/comunita_lstm"] if system == "lstm_32" else []
    names = ["la2a", f"systems/{system}", "recipes/comunita", *own]
    root = write_root(tmp_path / "long", np.tanh, train_seconds=2.6)
    more = ("--trainer.fast_dev_run=true", "--media=false", f"--model.model.{smaller}")
    experiment = train_shipped(root, tmp_path, *(SWEEPS / f"{name}.yaml" for name in names), more=more)
    module, feed = experiment.model, experiment.datamodule.feed
    if own:
        assert (feed.readers, feed.length, feed.opening_weight) == (6, 2048, 1.0)
    else:
        assert (feed.length, feed.warmup, feed.batch, feed.hop) == (112640, 0, 6, None)
    (stage,) = module.stages
    assert stage.weights == {"l1": 0.5, "mr_stft": 0.5}
    assert (stage.lr, stage.schedule, stage.epochs, stage.patience) == (5e-3, "plateau", None, 50)
    assert (module.train_path, module.normalise) == ("scan", False)
    (group,) = module.configure_optimizers().param_groups
    assert group["weight_decay"] == 1e-4
    assert module.resolutions == StftResolutions([1024, 2048, 512], [120, 240, 50], [600, 1200, 240])
    assert experiment.trainer.gradient_clip_val is None


@pytest.mark.parametrize("config", DEVICES, ids=stem)
def test_every_device_has_a_shipped_recipe(config):
    """It stands in the device's file, so that each is complete; here they are held together."""
    device = yaml.safe_load(config.read_text())
    name = {"mcompressor": "short", "facebender": "distortion"}.get(config.stem, "fast")
    recipe = yaml.safe_load((SWEEPS / "recipes" / f"{name}.yaml").read_text())

    def held(part: dict, whole: dict, place: str) -> None:
        for key, value in part.items():
            assert key in whole, f"{config.name} lacks {place}{key}"
            if isinstance(value, dict):
                held(value, whole[key], f"{place}{key}.")
            else:
                assert whole[key] == value, f"{config.name} differs from {name}.yaml in {place}{key}"

    held(recipe, device, "")


def test_a_run_leaves_everything_in_its_folder(tiny_root, tmp_path, capsys):
    experiment = train_shipped(
        tiny_root,
        tmp_path,
        SWEEPS / "la2a.yaml",
        more=(f"--trainer.logger={CSV_LOGGER}",),
    )
    (run,) = (tmp_path / "la2a").iterdir()
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "scores.json", "last.ckpt", "stage-1-time.ckpt"} <= names
    for stage in ("stage-1-time", "stage-2-polish", "stage-3-spectral"):
        files = {path.name for path in (run / stage).iterdir()}
        assert files == {
            *("waveform.png", "spectrogram.png", "filters.png"),
            *("output.wav", "target.wav", "residual.wav"),
        }
        heard, rate = soundfile.read(run / stage / "output.wav", dtype="float32")
        wanted = read_audio(tiny_root / "val" / "tiny-target.wav", 4410)
        assert (len(heard), rate) == (len(wanted), 44100)
        np.testing.assert_allclose(heard - wanted, read_audio(run / stage / "residual.wav"), atol=1e-6)
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    for column in (
        "train/loss",
        "train/esr",
        "train/mr_stft",
        "val/esr_db",
        "val/mr_stft",
        "lr",
        "stage",
        "test/esr_db",
    ):
        assert any(row[column] for row in rows), column
    printed = capsys.readouterr().out
    scores = json.loads((run / "scores.json").read_text())
    assert [row["name"] for row in scores] == [
        *("input as it is", "best gain", "best 512-tap filter"),
        *("stage-1-time", "stage-2-polish", "stage-3-spectral"),
    ]
    for row in scores:
        assert f"{row['esr_db']:.2f}" in printed
    assert [row["train_esr_db"] for row in scores[:3]] == [None] * 3
    experiment.datamodule.setup("fit")
    train = score(experiment.model.model, experiment.datamodule.whole_files("train"), StftResolutions())
    assert scores[-1]["train_esr_db"] == pytest.approx(train["esr_db"], abs=1e-4)
    test_esr_db = next(float(row["test/esr_db"]) for row in rows if row["test/esr_db"])
    assert scores[-1]["esr_db"] == pytest.approx(test_esr_db, abs=1e-3)
    assert str(run) in printed
    assert experiment.trainer.default_root_dir == str(run)


def test_a_fit_checks_the_test_files_before_it_trains(tiny_root, tmp_path):
    (tiny_root / "test" / "tiny-target.wav").unlink()
    with pytest.raises(PairError, match=r"tiny-input\.wav has no target"):
        train_shipped(tiny_root, tmp_path, SWEEPS / "la2a.yaml")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_run_can_be_scored_on_val_and_leave_no_media(tiny_root, tmp_path, capsys):
    """As a search does, which must not look at the test recordings."""
    more = ("--scored=val", "--media=false", f"--trainer.logger={CSV_LOGGER}")
    experiment = train_shipped(tiny_root, tmp_path, SWEEPS / "la2a.yaml", more=more)
    (run,) = (tmp_path / "la2a").iterdir()
    assert not [path for path in run.iterdir() if path.is_dir()]
    assert "test/" not in (run / "metrics.csv").read_text()
    assert "tiny, val" in capsys.readouterr().out
    scores = json.loads((run / "scores.json").read_text())
    experiment.datamodule.setup("validate")
    again = score(experiment.model.model, experiment.datamodule.whole_files("val"), StftResolutions())
    assert scores[-1]["esr_db"] == pytest.approx(again["esr_db"], abs=1e-4)


def test_wandb_is_logged_offline(tiny_root, tmp_path):
    """In a process of its own: W&B starts one, and sets environment variables."""
    stages = "[{name: time, weights: {esr: 1.0}, epochs: 1}]"
    command = [
        *(sys.executable, "-m", "klann_lightning", "fit", f"--config={SWEEPS / 'la2a.yaml'}"),
        *("--data.device=tiny", f"--data.root={tiny_root}", "--data.context_seconds=0", f"--runs={tmp_path}"),
        *(
            "--trainer.limit_train_batches=1",
            f"--model.stages={stages}",
            "--trainer.check_val_every_n_epoch=1",
        ),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("la2a/*/wandb/offline-run-*")
    media = {path.name.split("_")[0] for path in (folder / "files" / "media").rglob("*.*")}
    assert {"waveform", "spectrogram", "filters", "output", "target", "residual"} <= media


def test_a_saved_config_repeats_the_run(tiny_root, tmp_path):
    first = train_shipped(tiny_root, tmp_path / "a", SWEEPS / "la2a.yaml")
    (saved,) = (tmp_path / "a").rglob("config.yaml")
    second = main(["fit", f"--config={saved}", f"--trainer.default_root_dir={tmp_path / 'b'}"])
    ours, theirs = (run.switch.finished["stage-3-spectral"] for run in (first, second))
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())


def test_test_and_validate_repeat_the_scores_of_the_run(tiny_root, tmp_path):
    fit(tiny_root, tmp_path)
    again = main(
        [
            *("test", "--data.device=tiny", f"--data.root={tiny_root}", f"--runs={tmp_path}"),
            *("--model.model=klann_lightning.models.klann.ParallelSeriesKlann", "--model.model.hidden=[7]"),
            *("--model.model.lift_dim=1", "--model.model.mid_width=1", f"--model.stages=[{TIME}]"),
            f"--ckpt_path={tmp_path / 'stage-2-spectral.ckpt'}",
        ]
    )
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert float(again.trainer.callback_metrics["test/esr_db"]) == pytest.approx(
        scores[-1]["esr_db"], abs=1e-3
    )


def test_predict_writes_what_the_model_plays(tiny_root, tmp_path):
    experiment = fit(tiny_root, tmp_path)
    main(
        [
            *("predict", "--data.device=tiny", f"--data.root={tiny_root}"),
            *("--model.model=klann_lightning.models.klann.ParallelKlann", "--model.model.hidden=[3]"),
            *("--model.model.lift_dim=2", f"--model.stages=[{TIME}]"),
            *(f"--ckpt_path={tmp_path / 'stage-2-spectral.ckpt'}", f"--trainer.default_root_dir={tmp_path}"),
        ]
    )
    heard = torch.from_numpy(read_audio(tmp_path / "predictions" / "tiny-output.wav"))
    source = torch.from_numpy(read_audio(tiny_root / "test" / "tiny-input.wav"))
    assert error_db(heard, experiment.model.model(source[None])[0]) < -100


def test_training_learns_the_tiny_device(tiny_root, tmp_path):
    """A soft clip: far better than any gain after a few seconds."""
    stages = '[{"name": "time", "weights": {"esr": 1.0}, "epochs": 30, "lr": 0.02, "schedule": "cosine"}]'
    experiment = fit(tiny_root, tmp_path, stages, "--data.train.batches_per_epoch=10")
    rows = {row["name"]: row["esr_db"] for row in json.loads((tmp_path / "scores.json").read_text())}
    assert rows["stage-1-time"] < rows["best 512-tap filter"] - 6
    experiment.datamodule.setup("test")
    scores = score(experiment.model.model, experiment.datamodule.whole_files("test"), StftResolutions())
    assert scores["esr_db"] == pytest.approx(rows["stage-1-time"], abs=1e-4)


def test_carried_state_equals_one_long_pass(tiny_root, tmp_path):
    """What the readers' second batch gives is what one pass over both batches gives there."""
    module = fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]").model.double()
    x = torch.randn(2, 600, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batches = [
        {
            "input": part,
            "target": part,
            "fresh": [first, first],
            "weight": torch.ones(2),
            "skip": 0,
        }
        for part, first in zip(x.split(300, 1), (True, False), strict=True)
    ]
    module.stage = module.stages[0]
    module._readers = None
    module.on_train_batch_start(batches[0], 0)
    module.training_step(batches[0])
    module.on_train_batch_start(batches[1], 1)
    module.training_step(batches[1])
    second = module.training_step(batches[1])  # again, as L-BFGS would
    output = module.model(x)[:, 300:]
    expected = ((output - x[:, 300:]) ** 2).mean(-1) / (x[:, 300:] ** 2).mean(-1)
    assert second.item() == pytest.approx(expected.mean().item(), rel=1e-9)


@pytest.mark.parametrize("model", [(), GCNTF], ids=["klann", "gcntf"])
def test_two_processes_train_as_one(model, tiny_root, tmp_path):
    """Same readers in all, same steps, same stages: the same losses up to the order of summation.

    With a single file to validate on, the second process is fed an empty block.
    """
    stages = (
        "[{name: time, weights: {mse: 1.0}, epochs: 2, starts: 1}, "
        "{name: spectral, weights: {mse: 1.0}, epochs: 1, relative: false}]"
    )
    tables = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        command = [
            *(sys.executable, "-m", "klann_lightning", "fit", f"--config={SWEEPS / 'la2a.yaml'}"),
            *("--data.device=tiny", f"--data.root={tiny_root}", "--data.context_seconds=0"),
            *(
                f"--data.train.readers={4 // ranks}",
                "--data.train.length=2048",
                "--data.train.batches_per_epoch=3",
            ),
            *("--data.train.opening_weight=1", f"--model.stages={stages}", f"--trainer.logger={CSV_LOGGER}"),
            *(f"--trainer.default_root_dir={run}", "--trainer.accelerator=cpu", f"--trainer.devices={ranks}"),
            *(("--trainer.strategy=ddp",) if ranks == 2 else ()),
            *model,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {path.name for path in run.glob("*.ckpt")} == {
            *("last.ckpt", "stage-1-time.ckpt", "stage-2-spectral.ckpt")
        }
        tables.append(list(csv.DictReader((run / "metrics.csv").read_text().splitlines())))
    for column, within in (("train/loss", 1e-4), ("val/esr_db", 1e-3), ("stage", 0), ("test/esr_db", 1e-3)):
        one, two = ([float(row[column]) for row in table if row[column]] for table in tables)
        assert two == pytest.approx(one, rel=within), column
