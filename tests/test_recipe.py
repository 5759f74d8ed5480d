"""Stages in numbers: their epochs, their learning rates, and those that are refused."""

import pytest

from klann_lightning.errors import ConfigError
from klann_lightning.training.recipe import LossStage, learning_rate, stage_epochs


@pytest.mark.parametrize(
    ("epochs", "max_epochs", "expected"),
    [
        ([60, 20], -1, [60, 20]),
        ([60, 20], 100, [60, 20]),
        ([60, 20], 8, [6, 2]),
        ([60, 20], 3, [2, 1]),
        ([60, 20], 2, [1, 1]),
        ([60, 20], 1, [1, 0]),
        ([1000, 1, 1], 4, [2, 1, 1]),
        ([50, 1, 50], 6, [3, 1, 2]),
        ([1, 1, 1000], 3, [1, 1, 1]),
    ],
)
def test_max_epochs_shortens_all_stages(epochs, max_epochs, expected):
    stages = [LossStage("x", {"mse": 1.0}, epochs=count) for count in epochs]
    assert stage_epochs(stages, max_epochs) == expected


def test_stages_that_end_on_a_plateau_are_not_shortened():
    stages = [LossStage("x", {"mse": 1.0}, patience=3), LossStage("y", {"mse": 1.0}, epochs=10)]
    assert stage_epochs(stages, 4) == [None, 10]


def test_learning_rate_rises_and_falls():
    stage = LossStage("x", {"mse": 1.0}, epochs=1, lr=0.1, warmup_steps=10, schedule="cosine", final_lr=0.01)
    rates = [learning_rate(stage, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[:9] == sorted(rates[:9])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(stage, 100, 100) == pytest.approx(0.001)
    assert rates[50] == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))


def test_a_constant_rate_is_constant():
    stage = LossStage("x", {"mse": 1.0}, epochs=1, lr=0.1)
    assert {learning_rate(stage, step, 100) for step in range(100)} == {0.1}


def test_a_rate_halves_at_every_plateau_of_its_schedule_alone():
    stage = LossStage("x", {"mse": 1.0}, patience=9, lr=0.4, warmup_steps=4, schedule="plateau")
    assert [learning_rate(stage, 50, 100, plateaus) for plateaus in range(4)] == [0.4, 0.2, 0.1, 0.05]
    assert learning_rate(stage, 1, 100, plateaus=1) == pytest.approx(0.4 * 2 / 4 / 2)
    constant = LossStage("x", {"mse": 1.0}, patience=9, lr=0.4)
    assert learning_rate(constant, 50, 100, plateaus=3) == 0.4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weights": {"esrr": 1.0}, "epochs": 1}, "stage 'time' weighs esrr; the loss terms are mse, esr"),
        ({"weights": {}, "epochs": 1}, "stage 'time' weighs nothing"),
        ({"weights": {"mse": 1.0}}, "stage 'time' never ends: give it epochs or patience"),
        ({"weights": {"mse": 1.0}, "patience": 3, "schedule": "cosine"}, "a cosine needs to know its length"),
        (
            {"weights": {"mse": 1.0}, "epochs": 9, "starts": 2},
            "2 starts of 0 epochs; both must be at least 1",
        ),
        (
            {"weights": {"mse": 1.0}, "epochs": 9, "starts": 3, "start_epochs": 3},
            "3 starts of 3 epochs leave none of its 9; give it more",
        ),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        LossStage("time", **fields)
