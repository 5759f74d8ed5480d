"""A whole training led through its stages."""

import csv
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from klann_lightning.cli import main
from klann_lightning.errors import ConfigError
from klann_lightning.training.checkpoints import load_model
from klann_lightning.training.module import EffectModule
from klann_lightning.training.recipe import LossStage
from klann_lightning.training.stages import StageSwitch

TIME = '{"name": "time", "weights": {"esr": 1.0}, "epochs": 3, "lr": 0.01}'
SPECTRAL = '{"name": "spectral", "weights": {"esr": 1.0, "mr_stft": 0.01}, "epochs": 2, "lr": 0.002}'

SMALL = [
    "--data.train=klann_lightning.data.feeds.Readers",
    "--data.train.readers=2",
    "--data.train.length=2048",
    "--data.train.batches_per_epoch=4",
    "--model.model=klann_lightning.models.klann.ParallelKlann",
    "--model.model.hidden=[3]",
    "--model.model.lift_dim=2",
]


def fit(root: Path, runs: Path, stages: str = f"[{TIME}, {SPECTRAL}]", *more: str):
    """A small training; its Experiment."""
    return main(
        [
            "fit",
            "--data.device=tiny",
            f"--data.root={root}",
            *SMALL,
            f"--model.stages={stages}",
            f"--trainer.default_root_dir={runs}",
            "--trainer.logger=false",
            "--keep_share=1",  # every checkpoint, however short the epochs are
            "--media=false",
            *more,
        ]
    )


def state_of(checkpoint: Path) -> dict:
    saved = torch.load(checkpoint, weights_only=True)
    return saved["callbacks"]["StageSwitch"] | {"weights": saved["state_dict"], "saved_epoch": saved["epoch"]}


def test_every_stage_keeps_its_own_best(tiny_root, tmp_path):
    switch = fit(tiny_root, tmp_path).switch
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "last.ckpt",
        "stage-1-time.ckpt",
        "stage-2-spectral.ckpt",
    ]
    first, second = state_of(tmp_path / "stage-1-time.ckpt"), state_of(tmp_path / "stage-2-spectral.ckpt")
    assert (first["index"], second["index"]) == (0, 1)
    assert first["saved_epoch"] < 3 <= second["saved_epoch"]
    for name, state in (("stage-1-time", first), ("stage-2-spectral", second)):
        assert all(torch.equal(state["weights"][key], value) for key, value in switch.finished[name].items())


def test_a_stage_starts_from_the_best_of_the_one_before(tiny_root, tmp_path):
    """With a learning rate of zero nothing moves away from it."""
    frozen = '{"name": "frozen", "weights": {"mse": 1.0}, "epochs": 1, "lr": 0.0, "start_from": "best"}'
    # so fast that its last weights are not its best
    wild = '{"name": "wild", "weights": {"mse": 1.0}, "epochs": 6, "lr": 3.0}'
    switch = fit(tiny_root, tmp_path, f"[{wild}, {frozen}]").switch
    wild_best, kept = switch.finished["stage-1-wild"], switch.finished["stage-2-frozen"]
    assert state_of(tmp_path / "stage-1-wild.ckpt")["saved_epoch"] < 5
    assert all(torch.equal(wild_best[key], value) for key, value in kept.items())
    switch = fit(tiny_root, tmp_path / "last", f"[{wild}, {frozen.replace('best', 'last')}]").switch
    wild_best, kept = switch.finished["stage-1-wild"], switch.finished["stage-2-frozen"]
    assert not all(torch.equal(wild_best[key], value) for key, value in kept.items())


STARTS = '{"name": "time", "weights": {"esr": 1.0}, "epochs": 9, "lr": 0.01, "schedule": "cosine", \
"starts": 3, "start_epochs": 2}'
CSV_LOGGER = '{"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "", "version": ""}}'


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.parametrize("weights", ['{"mse": 1.0}', '{"esr": 1.0, "mr_stft": 0.1}'])
def test_a_stage_never_ends_worse_than_it_began(tiny_root, tmp_path, weights):
    """What it started from counts as its own until it is beaten, also in its checkpoint."""
    calm = '{"name": "calm", "weights": {"mse": 1.0}, "epochs": 4, "lr": 0.01}'
    wild = f'{{"name": "wild", "weights": {weights}, "epochs": 2, "lr": 1000.0}}'
    switch = fit(tiny_root, tmp_path, f"[{calm}, {wild}]").switch
    begun, ended = switch.finished["stage-1-calm"], switch.finished["stage-2-wild"]
    saved = state_of(tmp_path / "stage-2-wild.ckpt")["weights"]
    for key, value in begun.items():
        assert torch.equal(ended[key], value)
        assert torch.equal(saved[key], value)


def test_relative_weights_are_in_units_of_what_the_stage_began_with(tiny_root, tmp_path):
    """Also in a run that is resumed within the stage."""
    relative = SPECTRAL.replace('"mr_stft": 0.01', '"mr_stft": 2.0').replace("{", '{"relative": true, ', 1)
    stages = f"[{TIME}, {relative}]"
    whole = fit(tiny_root, tmp_path / "whole", stages)

    def expected(folder):
        begun = state_of(tmp_path / folder / "stage-1-time.ckpt")["best_scores"]
        return {"esr": 1.0, "mr_stft": 2.0 * begun["esr"] / begun["mr_stft"]}

    assert whole.model.stage.weights == pytest.approx(expected("whole"))
    best = state_of(tmp_path / "whole" / "stage-2-spectral.ckpt")
    loss = sum(weight * best["best_scores"][name] for name, weight in expected("whole").items())
    assert best["best_score"] == pytest.approx(loss)

    fit(tiny_root, tmp_path / "parts", stages, "--trainer.max_epochs=4")
    again = fit(tiny_root, tmp_path / "parts", stages, f"--ckpt_path={tmp_path / 'parts' / 'last.ckpt'}")
    assert again.model.stage.weights == pytest.approx(expected("parts"))


@pytest.mark.parametrize(
    ("stages", "more", "said"),
    [
        (["relative"], [], "stage 'spectral' is the first: nothing is there"),
        (["time", "relative"], ["--trainer.limit_val_batches=0"], "relative to scores on val"),
    ],
)
def test_a_relative_stage_needs_scores_before_it(tiny_root, tmp_path, stages, more, said):
    parts = {"time": TIME, "relative": SPECTRAL.replace("{", '{"relative": true, ', 1)}
    with pytest.raises(ConfigError, match=said):
        fit(tiny_root, tmp_path, f"[{', '.join(parts[name] for name in stages)}]", *more)


def test_the_best_of_several_starts_trains_on(tiny_root, tmp_path):
    """With a learning rate of zero every start stays where it began, and so does what follows them."""
    still = STARTS.replace("0.01", "0.0")
    switch = fit(tiny_root, tmp_path, f"[{still}]", f"--trainer.logger={CSV_LOGGER}").switch
    losses = column(tmp_path, "val/loss")
    assert losses[0:6:2] == losses[1:6:2]
    assert len(set(losses[:6])) == 3
    assert losses[6:] == [min(losses[:6])] * 3
    assert switch.best_epoch == losses.index(min(losses))


def test_every_start_has_a_schedule_of_its_own(tiny_root, tmp_path):
    fit(tiny_root, tmp_path, f"[{STARTS}]", f"--trainer.logger={CSV_LOGGER}")
    rates = column(tmp_path, "lr")
    assert rates[:2] == rates[2:4] == rates[4:6]
    assert rates[0] > rates[1]
    assert rates[6] > rates[7] > rates[8]
    assert rates[6] > rates[0]  # a longer course falls more slowly


def test_the_end_of_every_start_and_stage_is_validated(tiny_root, tmp_path):
    """However rarely validations are asked for: there the learning rate has fallen."""
    more = ("--trainer.check_val_every_n_epoch=100", f"--trainer.logger={CSV_LOGGER}")
    fit(tiny_root, tmp_path, f"[{STARTS}, {SPECTRAL}]", *more)
    rows = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert [int(row["epoch"]) for row in rows if row["val/loss"]] == [1, 3, 5, 8, 10]


def test_a_run_resumed_among_its_starts_ends_as_if_it_had_never_stopped(tiny_root, tmp_path):
    whole = fit(tiny_root, tmp_path / "whole", f"[{STARTS}]").switch.finished["stage-1-time"]
    fit(tiny_root, tmp_path / "part", f"[{STARTS}]", "--trainer.max_steps=12")  # one epoch into start 2
    last = f"--ckpt_path={tmp_path / 'part' / 'last.ckpt'}"
    resumed = fit(tiny_root, tmp_path / "rest", f"[{STARTS}]", last).switch.finished["stage-1-time"]
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_a_plateau_ends_a_stage(tiny_root, tmp_path, caplog):
    still = '{"name": "still", "weights": {"mse": 1.0}, "patience": 2, "lr": 0.0}'
    experiment = fit(tiny_root, tmp_path, f"[{still}, {SPECTRAL}]")
    assert state_of(tmp_path / "stage-1-still.ckpt")["saved_epoch"] == 0
    assert experiment.switch.first_epoch == 3  # the first is the best, two more without a gain
    assert experiment.trainer.current_epoch == 5


# Uphill: of every validation after the first none is a gain.
PLATEAUS = '{"name": "time", "weights": {"mse": 1.0}, "epochs": 13, "lr": 0.015625, "schedule": "plateau", \
"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"maximize": true}}}'


def test_the_rate_halves_after_five_validations_without_a_gain(tiny_root, tmp_path):
    """The first one is the best. A new stage starts anew, with five of its own; a resumed run goes on."""
    again = PLATEAUS.replace('"epochs": 13', '"epochs": 6')
    more = (f"--trainer.logger={CSV_LOGGER}", "--scored=val")
    fit(tiny_root, tmp_path / "whole", f"[{PLATEAUS}, {again}]", *more)
    rates = column(tmp_path / "whole", "lr")
    assert rates[:13] == [2**-6] * 6 + [2**-7] * 5 + [2**-8] * 2
    assert rates[13:] == [2**-6] * 5 + [2**-7]

    fit(tiny_root, tmp_path / "part", f"[{PLATEAUS}]", *more, "--trainer.max_steps=32")
    last = f"--ckpt_path={tmp_path / 'part' / 'last.ckpt'}"
    fit(tiny_root, tmp_path / "rest", f"[{PLATEAUS}]", *more, last)
    assert column(tmp_path / "rest", "lr") == rates[8:13]


def test_a_gain_does_not_undo_a_plateau_but_starts_the_count_anew(monkeypatch):
    switch = StageSwitch(SimpleNamespace(write=lambda *_: True))
    module = SimpleNamespace(stage=LossStage("x", {"mse": 1.0}, epochs=99), val_scores={}, state_dict=dict)
    trainer = SimpleNamespace(sanity_checking=False, state=SimpleNamespace(fn="fit"), current_epoch=0)
    plateaus = []
    for loss in [5.0] * 6 + [4.0] + [4.5] * 4 + [3.0] + [3.0] * 5:
        trainer.callback_metrics = {"val/loss": loss}
        switch.on_validation_end(trainer, module)
        plateaus.append(switch.plateaus)
    assert plateaus == [0] * 5 + [1] + [1] * 10 + [2]
    kept = StageSwitch(None)
    kept.load_state_dict(switch.state_dict())
    assert (kept.plateaus, kept.stale) == (2, 5)


def test_what_is_said_where_starts_and_stages_end(tiny_root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    switch = fit(tiny_root, tmp_path, f"[{STARTS}, {SPECTRAL}]", f"--trainer.logger={CSV_LOGGER}").switch
    losses = column(tmp_path, "val/loss")
    of_starts, at = min(losses[:6]), losses.index(min(losses[:9]))
    assert [line for line in caplog.messages if "start" in line or "ended" in line] == [
        f"the best of the random starts (val/loss {of_starts:.5g}) trains on",
        f"stage-1-time ended after epoch 8, best at epoch {at} (val/loss {losses[at]:.5g}); "
        "stage-2-spectral starts from its best weights, learning rate 0.002, loss 1 esr + 0.01 mr_stft",
        f"stage-2-spectral ended after epoch 10, best at epoch {switch.best_epoch} (val/loss "
        f"{switch.best_score:.5g})",
    ]
    assert column(tmp_path, "stage") == [1.0] * 9 + [2.0] * 2


def test_a_stage_without_epochs_is_none(tiny_root, tmp_path):
    experiment = fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]", "--trainer.max_epochs=1")
    assert list(experiment.switch.finished) == ["stage-1-time"]
    assert experiment.trainer.current_epoch == 1


def test_a_stage_without_validations_keeps_what_it_ends_with(tiny_root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    switch = fit(tiny_root, tmp_path, f"[{TIME}]", "--trainer.limit_val_batches=0").switch
    assert "stage-1-time ended after epoch 2, no validation fell into it" in caplog.messages
    assert state_of(tmp_path / "stage-1-time.ckpt")["saved_epoch"] == switch.best_epoch == 2


@pytest.mark.parametrize(
    ("known", "score"),
    [({"mse": 3.0, "esr": 0.5}, 6.0), ({"esr": 0.5}, math.inf), ({"mse": math.nan}, math.inf)],
)
def test_what_a_stage_starts_from_counts_where_it_was_measured(known, score):
    switch = StageSwitch(None)
    switch.best_scores = known
    assert switch._score_of(LossStage("x", {"mse": 2.0}, epochs=1)) == score


def test_losses_of_two_stages_are_never_compared(tiny_root, tmp_path):
    """Stage 2's loss is far above stage 1's; its best is its own all the same."""
    heavy = '{"name": "heavy", "weights": {"mr_stft": 1000.0}, "epochs": 2, "lr": 0.002}'
    switch = fit(tiny_root, tmp_path, f"[{TIME}, {heavy}]").switch
    assert (tmp_path / "stage-2-heavy.ckpt").exists()
    assert math.isfinite(switch.best_score)
    assert switch.best_score > 100


def test_a_resumed_run_goes_on_in_its_stage(tiny_root, tmp_path, monkeypatch):
    whole = fit(tiny_root, tmp_path / "whole").switch
    fit(
        tiny_root, tmp_path / "part", f"[{TIME}, {SPECTRAL}]", "--trainer.max_steps=16"
    )  # one epoch into stage 2
    state = state_of(tmp_path / "part" / "last.ckpt")
    assert (state["index"], state["first_epoch"]) == (1, 3)
    assert state["best_score"] < math.inf
    resumed = fit(
        tiny_root,
        tmp_path / "resumed",
        f"[{TIME}, {SPECTRAL}]",
        f"--ckpt_path={tmp_path / 'part' / 'last.ckpt'}",
    )
    assert resumed.trainer.current_epoch == 5
    assert list(resumed.switch.finished) == list(whole.finished) == ["stage-1-time", "stage-2-spectral"]
    first = "stage-1-time"
    assert all(
        torch.equal(resumed.switch.finished[first][key], value)
        for key, value in whole.finished[first].items()
    )


FED = '{"name": "polish", "weights": {"mse": 1.0}, "epochs": 2, "lr": 0.01, "feed": \
{"class_path": "FullBatch", "init_args": {"rows": 2, "warmup": 512, "rounds": 3}}}'


def test_a_stage_may_bring_its_own_feed(tiny_root, tmp_path):
    """The stage after it is fed by the data's again: 3 epochs of 4 steps, 2 of 3, 2 of 4."""
    stages = f"[{TIME}, {FED}, {SPECTRAL}]"
    whole = fit(tiny_root, tmp_path / "whole", stages)
    assert whole.trainer.global_step == 12 + 6 + 8
    assert whole.trainer.reload_dataloaders_every_n_epochs == 0
    for steps in (15, 18, 22):  # within the stage, at its end, and in the one after
        part, rest = tmp_path / f"part-{steps}", tmp_path / f"rest-{steps}"
        fit(tiny_root, part, stages, f"--trainer.max_steps={steps}")
        resumed = fit(tiny_root, rest, stages, f"--ckpt_path={part / 'last.ckpt'}")
        assert resumed.trainer.global_step == 12 + 6 + 8
        for name, weights in whole.switch.finished.items():
            again = resumed.switch.finished[name]
            assert all(torch.equal(again[key], value) for key, value in weights.items())


GCNTF = [
    "--model.model=klann_lightning.models.gcn.Gcn",
    *(f"--model.model.{name}" for name in ("blocks=1", "layers=2", "channels=3", "film_block=128")),
]


def test_a_checkpoint_holds_of_the_readers_what_they_need(tiny_root, tmp_path):
    """The last samples of each layer's input, not the whole batch that they are a view of."""
    fit(tiny_root, tmp_path, f"[{TIME}]", *GCNTF, "--trainer.max_epochs=1")
    (rank,) = torch.load(tmp_path / "last.ckpt", weights_only=True)["ranks"]
    readers = rank["readers"]
    assert [tuple(part.shape) for part in readers[:5]] == [(2,), (2, 1, 2), (2, 3), (2, 3), (2, 3, 4)]
    for part in readers:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_readers_that_stop_within_a_block_are_refused(tiny_root, tmp_path):
    said = "go on by 1000 samples, but Gcn works on blocks of 128; set data.train.length to a multiple of 128"
    with pytest.raises(ConfigError, match=said):
        fit(tiny_root, tmp_path, f"[{TIME}]", *GCNTF, "--data.train.length=1000")


def test_a_training_that_is_told_to_stop_keeps_its_best(tiny_root, tmp_path):
    switch = fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]", "--trainer.max_steps=6").switch
    assert list(switch.finished) == ["stage-1-time"]
    assert (tmp_path / "stage-1-time.ckpt").exists()


def test_the_checkpoint_is_the_trained_model(tiny_root, tmp_path):
    experiment = fit(tiny_root, tmp_path)
    x = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
    model = load_model(tmp_path / "stage-2-spectral.ckpt")
    assert model.output_level != 1
    assert torch.equal(model(x), experiment.model.model(x))
    module = EffectModule.load_from_checkpoint(tmp_path / "stage-2-spectral.ckpt")
    assert torch.equal(module.model(x), experiment.model.model(x))


def test_two_runs_with_one_seed_are_equal_to_the_bit(tiny_root, tmp_path):
    runs = [fit(tiny_root, tmp_path / name).switch.finished["stage-2-spectral"] for name in ("one", "two")]
    assert all(torch.equal(runs[1][key], value) for key, value in runs[0].items())
    other = fit(tiny_root, tmp_path / "other", f"[{TIME}, {SPECTRAL}]", "--seed_everything=1")
    assert not torch.equal(
        other.switch.finished["stage-2-spectral"]["model.down.last.weight"], runs[0]["model.down.last.weight"]
    )
