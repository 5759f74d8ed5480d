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
from test_stages import CSV_LOGGER, GCNTF, SMALL, SPECTRAL, TIME, column, fit

from klann_lightning.cli import main
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.errors import PairError
from klann_lightning.evaluate import score
from klann_lightning.handshake import SPENT
from klann_lightning.losses import StftResolutions
from klann_lightning.training.checkpoints import load_model

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
    """Two batches of each stage of a shipped configuration, on the tiny device; nothing is drawn."""
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
            "--media=false",
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
        more = ("--data.train.readers=1", "--data.train.length=1024")
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
    assert feed.batches([44100 * 7]) == 44100 * 7 // 1024 // 50
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
    more = ("--trainer.fast_dev_run=true", f"--model.model.{smaller}")
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
    more = (f"--trainer.logger={CSV_LOGGER}", "--media=true")
    experiment = train_shipped(tiny_root, tmp_path, SWEEPS / "la2a.yaml", more=more)
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
    for header in (
        "train/loss",
        "train/esr",
        "train/mr_stft",
        "val/esr_db",
        "val/mr_stft",
        "lr",
        "stage",
        "test/esr_db",
    ):
        assert any(row[header] for row in rows), header
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
    assert {"track", "levels", "harmonics", "curves", "poles", "costs"} <= media


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


# Of every kind that is added up over ranks, with rows of unequal weight.
EVERY_SUM = """[
{name: time, weights: {mse: 1.0, esr: 0.5}, epochs: 2, lr: 0.01},
{name: spectral, weights: {esr: 1.0, mr_stft: 0.1}, epochs: 2, lr: 0.005},
{name: polish, weights: {mse: 1.0, mr_stft: 0.01}, epochs: 1, lr: 1.0,
 optimizer: {class_path: torch.optim.LBFGS, init_args: {max_iter: 2, line_search_fn: strong_wolfe}},
 feed: {class_path: FullBatch, init_args: {rows: 3, warmup: 512}}}]"""


def trained_by_one_and_by_two(folder: Path, *more: str) -> list[Path]:
    """The runs of one configuration; of rows and of files the shares are unequal, one has none to test on."""
    root = write_root(folder / "data", lambda x: np.tanh(2 * x))
    for name, frames in (("tiny-b", 9000), ("tiny-c", 15001)):
        for side in ("input", "target"):
            samples = read_audio(root / "val" / f"tiny-{side}.wav")[-frames:]
            write_audio(root / "val" / f"{name}-{side}.wav", samples, 44100)
    words = [
        *("fit", "--data.device=tiny", f"--data.root={root}", *SMALL, "--data.train.readers=3"),
        *(f"--model.stages={EVERY_SUM}", f"--trainer.logger={CSV_LOGGER}", "--media=false"),
        *("--trainer.accelerator=cpu", "--trainer.callbacks+=klann_lightning.training.spent.Spent", *more),
    ]
    one, two = folder / "one", folder / "two"
    main([*words, f"--trainer.default_root_dir={one}", "--trainer.devices=1"])
    ranks = [f"--trainer.default_root_dir={two}", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "klann_lightning", *words, *ranks]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [one, two]


def assert_same_training(runs: list[Path], within: float) -> None:
    """All losses and scores of every epoch, relative or absolute."""
    for run in runs:
        assert {path.name for path in run.glob("*.ckpt")} == {
            *("last.ckpt", "stage-1-time.ckpt", "stage-2-spectral.ckpt", "stage-3-polish.ckpt")
        }
    epochs = dict.fromkeys(("lr", "stage", "train/loss", "val/loss", "val/esr_db", "val/mr_stft"), 5)
    for name, count in {**epochs, "test/esr_db": 1}.items():
        one, two = (column(run, name) for run in runs)
        assert len(one) == count, name
        assert two == pytest.approx(one, rel=within, abs=within), name
    one, two = (json.loads((run / SPENT).read_text())["samples"] for run in runs)
    assert two == one


@pytest.fixture(scope="module")
def klann_runs(tmp_path_factory):
    return trained_by_one_and_by_two(tmp_path_factory.mktemp("ranks"))


def test_two_processes_train_as_one(klann_runs):
    """Up to the order of summation in float32: 1e-8 of a loss, and 5e-7 by the end.

    Adam and L-BFGS make more of it, dividing by gradients that may be small, so the bound is a wide one.
    """
    assert_same_training(klann_runs, within=1e-4)


def test_two_processes_train_as_one_in_float64(tmp_path):
    """Where nothing grows into sight: 2e-12 by the end."""
    runs = trained_by_one_and_by_two(tmp_path, *GCNTF, "--trainer.precision=64-true")
    assert_same_training(runs, within=1e-9)


def test_two_processes_validate_as_one(klann_runs):
    """Three files of different lengths, shared out: to 1e-6, in dB and in MR-STFT."""
    _, run = klann_runs
    data = PairedDataModule("tiny", run.parent / "data")
    data.setup("validate")
    expected = score(load_model(run / "stage-1-time.ckpt"), data.whole_files("val"), StftResolutions())
    losses = column(run, "val/loss")[:2]
    best = losses.index(min(losses))
    for name in ("esr_db", "mr_stft"):
        assert column(run, f"val/{name}")[best] == pytest.approx(expected[name], rel=0, abs=1e-6), name
