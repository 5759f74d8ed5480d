"""Before any trial runs: the study against the experiment, and the study in its storage."""

import json
import secrets
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.study import StudyDirection

from klann_lightning.configs import differences
from klann_lightning.errors import ConfigError
from klann_lightning.fitting import write_config
from klann_lightning.resolving import recordings_of, resolve
from klann_lightning.sweep.ledger import START, Ledger, Watch
from klann_lightning.sweep.plan import Plan
from klann_lightning.sweep.space import Config, assign, extract, samples
from klann_lightning.sweep.storage import open_storage
from klann_lightning.sweep.study import Study
from klann_lightning.training.checkpoints import read_checkpoint

# Attributes of the study.
PREPARED = "prepared"  # its creator has asked for the trials to start from
DEFINITION = "definition"  # what a process that joins must agree with
TOKEN = "wandb"  # what the ids of its W&B runs begin with
PREPARING_SECONDS = 30.0  # that one who joins leaves to the creator
# What may differ between the processes of one study: where things lie, and what they run on.
PLACES = (
    *("config", "experiment", "scored", "media", "runs", "data.root", "data.num_workers"),
    *("trainer.accelerator", "trainer.devices", "trainer.logger", "trainer.enable_progress_bar"),
)

Start = tuple[str, dict[str, Any]]  # name of a configuration, and its parameters


def read_experiment(words: Sequence[str]) -> Config:
    """What fit's words configure, without what belongs to a single run."""
    experiment = resolve(words)
    experiment["trainer"].pop("enable_progress_bar", None)  # as the terminal is
    return experiment


def check(study: Study, file: Path, experiment: Config, words: Sequence[str], best: bool) -> list[Start]:
    """The configurations to start from, after everything was tried that a trial might stumble over."""
    if begun := experiment["model"].get("init_from"):
        read_checkpoint(Path(begun))
    recordings = recordings_of(experiment)
    recordings.setup("fit")
    if best:
        recordings.setup("test")
    recordings.teardown("fit")
    names = [path.stem for path in study.start]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{file}: two files to start from are called {twice.pop()}; rename one")
    try:
        for chosen in samples(study.space):
            _resolved(assign(assign(experiment, chosen), study.trial))
        return [_start(path, study, experiment, words) for path in study.start]
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def prepare(plan: Plan, starts: list[Start]) -> str:
    """Make the study with the trials it starts from, or join it; the token of its W&B runs."""
    storage = open_storage(plan.storage)
    definition = json.loads(json.dumps({"fit": plan.experiment, **define(plan.study)}))
    try:
        directions = [StudyDirection.MINIMIZE] * len(plan.study.objectives)
        study = optuna.create_study(study_name=plan.name, storage=storage, directions=directions)
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=plan.name, storage=storage)
        _await_creator(study, definition)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(plan.study.objectives)
        _clear(plan)
    for name, value in ((TOKEN, secrets.token_hex(4)), (DEFINITION, definition)):
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
    ledger = Ledger(study, storage, plan.study.retries, Watch(plan.study.grace_seconds))
    asked = {trial.user_attrs.get(START) for trial in ledger.trials()}
    for name, parameters in starts:
        if name not in asked:
            ledger.ask(parameters, **{START: name})
    if plan.budget is not None:
        ledger.top_up(plan.budget)
    study.set_user_attr(PREPARED, True)
    return str(study.user_attrs[TOKEN])


def _clear(plan: Plan) -> None:
    """A new study must not take an older one's trainings for its own: they are put aside."""
    for name in ("trials", "best"):
        old = plan.folder / name
        if old.exists():
            aside = plan.folder / f"{name}-until-{datetime.now():%Y-%m-%d_%H-%M-%S}"
            old.rename(aside)
            print(f"{old} was of another study: it is {aside} now")


def define(study: Study) -> dict[str, Any]:
    """What makes a study's trials comparable and repeatable."""
    whole = asdict(study)
    names = ("objectives", "space", "sampler", "pruner", "seed", "seeds", "trial", "constraints")
    return {name: whole[name] for name in names}


def _start(path: Path, study: Study, experiment: Config, words: Sequence[str]) -> Start:
    if not path.is_file():
        raise ConfigError(f"no such file to start from: {path}")
    wanted = resolve([*words, f"--config={path}"])
    try:
        chosen, parameters = extract(wanted, study.space)
    except ConfigError as error:
        raise ConfigError(
            f"{path} lies outside the space: {error}. Widen the range, or leave the file out."
        ) from error
    reached = assign(experiment, chosen)
    if differences(reached, wanted, PLACES) and (other := differences(_resolved(reached), wanted, PLACES)):
        raise ConfigError(f"{path} differs from the experiment in {other[0]}, which is not searched")
    return path.stem, parameters


def _resolved(config: Config) -> Config:
    """As fit would resolve it; ConfigError with what it would say against it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        write_config(path, config)
        return resolve([f"--config={path}"])


def _await_creator(study: optuna.Study, definition: dict[str, Any]) -> None:
    """Until the study is prepared; ConfigError if it searches something else."""
    end = time.monotonic() + PREPARING_SECONDS
    while not study.user_attrs.get(PREPARED) and time.monotonic() < end:
        time.sleep(0.2)
    begun, places = study.user_attrs.get(DEFINITION, definition), [f"fit.{place}" for place in PLACES]
    if other := [key.removeprefix("fit.") for key in differences(begun, definition, places)]:
        more = f" and {len(other) - 3} more" * (len(other) > 3)
        raise ConfigError(
            f"study {study.study_name} was begun with another {', '.join(other[:3])}{more}. "
            "Go on with what it was begun with, or give this one another name by --name."
        )
