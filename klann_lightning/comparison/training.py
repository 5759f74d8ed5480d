"""A cell's training: begun, gone on with, or there already."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from klann_lightning.comparison.grid import Cell
from klann_lightning.configs import differences
from klann_lightning.errors import ConfigError
from klann_lightning.fitting import TRIAL_CONFIG, fit_command, run_fit, write_config
from klann_lightning.handshake import LAST, SCORES_FILE, SPENT
from klann_lightning.resolving import OF_ONE_RUN, resolve
from klann_lightning.sizing import model_size

CELLS = "cells"  # in a comparison's folder: one for every training
DESCRIBED = "experiment.yaml"  # in a cell's folder: its complete configuration
SPENT_LOG = "klann_lightning.training.spent.Spent"
# By the grid, and by compare.
FIXED = ("seed_everything", "trainer.max_time", "trainer.max_epochs", "scored", "media", "trainer.logger")


class Trained(NamedTuple):
    """A training that has come to its end."""

    folder: Path
    config: dict[str, Any]  # complete, as fit has resolved it


def resolved(cell: Cell, minutes: float) -> dict[str, Any]:
    """A cell's complete configuration; ConfigError with the cell's name and what fit would say."""
    fixed = {**TRIAL_CONFIG, "seed_everything": cell.seed, "trainer.max_time": _clock(minutes)}
    try:
        return resolve([*cell.words, *(f"--{name}={_word(value)}" for name, value in fixed.items())])
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from error


def refuse_fixed(words: Sequence[str]) -> None:
    """ConfigError for options of fit that are not open here: they would be overruled without a word."""
    for word in words:
        name = word.partition("=")[0].lstrip("-").removesuffix("+")
        if any(name == fixed or name.startswith(f"{fixed}.") for fixed in (*FIXED, *OF_ONE_RUN[1:])):
            raise ConfigError(
                f"--{name} is not open in a comparison: seeds, minutes and epochs stand in the grid file, "
                "test recordings are looked at after the training, its log is metrics.csv, and it goes on by "
                "itself"
            )


def check_cost(cell: Cell, config: dict[str, Any]) -> None:
    """ConfigError with the cell's name if its model cannot be made, or does not say what it costs."""
    try:
        model_size(config)
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from error


def train(cell: Cell, config: dict[str, Any], out: Path) -> tuple[Trained, str | None, bool]:
    """Train, go on, or find it trained; beside it why it failed, and whether we were told to stop."""
    folder = out / CELLS / cell.name
    described = folder / DESCRIBED
    trained = Trained(folder, config)
    if finished(folder):
        return trained, None, False
    if not described.is_file():
        write_config(described, config)
    checkpoint = folder / LAST
    words = fit_command(described, folder, cell.seed, checkpoint if checkpoint.is_file() else None)
    fit, told = run_fit([*words, f"--trainer.callbacks+={SPENT_LOG}"], folder)
    return trained, None if told else fit.failure(), told


def check_begun(cell: Cell, config: dict[str, Any], out: Path) -> None:
    """ConfigError if the cell's folder was begun with another configuration: its results are another's."""
    described = out / CELLS / cell.name / DESCRIBED
    if not described.is_file():
        return
    begun = yaml.safe_load(described.read_text(encoding="utf-8"))
    if others := differences(begun, config):
        raise ConfigError(
            f"{described.parent} was begun with another configuration: {', '.join(others[:5])}"
            f"{' and more' * (len(others) > 5)} differ. Remove that folder, or give this comparison another "
            "one by --out."
        )


def finished(folder: Path) -> bool:
    """Whether its training has come to its end."""
    return (folder / SCORES_FILE).is_file() and (folder / SPENT).is_file()


def last_stage(folder: Path) -> Path:
    """The checkpoint of the best of the last stage that was trained."""
    return max(folder.glob("stage-*.ckpt"), key=lambda path: int(path.name.split("-")[1]))


def spent(folder: Path) -> dict[str, Any]:
    """What the training has cost: seconds, samples, steps; on what; and whether its time ran out."""
    cost: dict[str, Any] = json.loads((folder / SPENT).read_text(encoding="utf-8"))
    return cost


def _clock(minutes: float) -> str:
    """As Lightning writes a duration: days, hours, minutes, seconds.

    >>> _clock(90.5)
    '00:01:30:30'
    """
    seconds = max(1, round(60 * minutes))
    parts = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60, seconds % 60
    return ":".join(f"{part:02}" for part in parts)


def _word(value: Any) -> str:
    """As an option's value on fit's command line."""
    return value if isinstance(value, str) else json.dumps(value)
