"""The study file: what is searched, what for, by which sampler, and when it ends."""

import warnings
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from klann_lightning.configs import plain_name
from klann_lightning.errors import ConfigError

SCORES = ("val/esr_db", "val/mr_stft")
SIZES = ("cost", "parameters")  # multiply-adds per sample of the streaming form; trainable numbers


@dataclass
class Entry:
    """The range of one searched value, or of every element of a searched list."""

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None  # included
    log: bool = False  # sampled evenly on a logarithmic scale
    step: float | None = None
    choices: list[Any] | None = None  # of a categorical: numbers, words, true, false or null
    length: list[int] | None = None  # [least, most] elements: the value is a list of such a length
    when: dict[str, Any] = field(default_factory=dict)  # earlier keys and their value, or list of values


@dataclass
class Study:
    """A study file as it is written; docs/sweeps.md describes each field."""

    objectives: list[str]
    space: dict[str, Entry]
    name: str
    sampler: dict[str, Any]
    pruner: dict[str, Any] | None
    seed: int
    seeds: int
    trials: int | None
    minutes: float | None
    trial: dict[str, Any]
    constraints: dict[str, float]
    start: list[Path]
    retries: int
    grace_seconds: float

    def make_sampler(self, seed: int) -> BaseSampler:
        """The study's sampler with this seed."""
        arguments = {**self.sampler.get("init_args", {}), "seed": seed}
        return _component(BaseSampler, {**self.sampler, "init_args": arguments})

    def make_pruner(self) -> BasePruner | None:
        """The study's pruner, without memory."""
        return _component(BasePruner, self.pruner) if self.pruner else None


def read_study(path: Path) -> Study:
    """The checked study of a YAML file; ConfigError names the file and the mistake."""
    if not path.is_file():
        raise ConfigError(f"no such study file: {path}. Those that come with it lie in sweeps/search/.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objectives", type=list[str], required=True)
    parser.add_argument("--space", type=dict[str, Entry], required=True)
    parser.add_argument("--name", type=str, default=path.stem)
    parser.add_argument("--sampler", type=dict, default={"class_path": "optuna.samplers.TPESampler"})
    parser.add_argument("--pruner", type=dict | None, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trials", type=int | None, default=None)
    parser.add_argument("--minutes", type=float | None, default=None)
    parser.add_argument("--trial", type=dict, default={})
    parser.add_argument("--constraints", type=dict[str, float], default={})
    parser.add_argument("--start", type=list[Path], default=[])
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--grace_seconds", type=float, default=60.0)
    try:
        values = parser.parse_path(path)
        study = Study(**vars(values))
        study.space = {key: _entry(entry) for key, entry in study.space.items()}
        study.start = [path.parent / start for start in study.start]
        _check(study)
    except (ArgumentError, ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return study


def _entry(entry: Entry | Namespace) -> Entry:
    return entry if isinstance(entry, Entry) else Entry(**vars(entry))


def _check(study: Study) -> None:
    plain_name(study.name, "name")
    unknown = sorted(set(study.objectives) - {*SCORES, *SIZES})
    if unknown or not study.objectives:
        known = ", ".join([*SCORES, *SIZES])
        raise ConfigError(f"objectives: {', '.join(unknown) or 'none'}; there are {known}")
    if unmeasured := sorted(set(study.constraints) - set(SIZES)):
        raise ConfigError(
            f"constraints: {', '.join(unmeasured)} is not known before training; there are {', '.join(SIZES)}"
        )
    if study.pruner and (len(study.objectives) > 1 or study.objectives[0] not in SCORES):
        raise ConfigError(
            f"pruner: trials can be compared under way by one objective out of {', '.join(SCORES)}, "
            f"not by {', '.join(study.objectives)}; take the pruner out"
        )
    if study.seeds < 1 or study.retries < 0 or study.grace_seconds <= 0:
        raise ConfigError("seeds must be at least 1, retries at least 0, grace_seconds above 0")
    for key, entry in study.space.items():
        _check_entry(key, entry, list(study.space)[: list(study.space).index(key)])
    study.make_sampler(0)
    study.make_pruner()


def _check_entry(key: str, entry: Entry, earlier: list[str]) -> None:
    later = [other for other in entry.when if other not in earlier]
    if later:
        raise ConfigError(f"{key}: `when` names {', '.join(later)}, which is no earlier key of the space")
    if entry.length is not None and not (len(entry.length) == 2 and 1 <= entry.length[0] <= entry.length[1]):
        raise ConfigError(f"{key}: length {entry.length} is not [least, most] with 1 <= least <= most")
    if entry.type == "categorical":
        if not entry.choices:
            raise ConfigError(f"{key}: the range is empty, it has no choices")
        if bad := [choice for choice in entry.choices if isinstance(choice, list | dict)]:
            raise ConfigError(f"{key}: choice {bad[0]} is neither a number, a word, true, false nor null")
        return
    if entry.low is None or entry.high is None:
        raise ConfigError(f"{key}: give low and high")
    if entry.low > entry.high:
        raise ConfigError(f"{key}: the range is empty, low {entry.low:g} is above high {entry.high:g}")
    if entry.type == "int" and not (entry.low.is_integer() and entry.high.is_integer()):
        raise ConfigError(f"{key}: low and high of an int must be whole numbers")
    if entry.log and (entry.low <= 0 or entry.step is not None):
        raise ConfigError(f"{key}: a logarithmic range starts above 0 and has no step")
    if entry.step is not None and entry.step <= 0:
        raise ConfigError(f"{key}: step {entry.step:g} must be above 0")


def _component(kind: type, config: dict[str, Any]) -> Any:
    """A sampler or pruner from its class path and arguments."""
    name = kind.__name__.removeprefix("Base").lower()
    home = import_module(f"optuna.{name}s")
    path = str(config.get("class_path"))
    if "." not in path and not hasattr(home, path):
        known = [other for other in home.__all__ if other.endswith(name.capitalize()) and "Base" not in other]
        raise ConfigError(f"{name}: there is no {path}; optuna has {', '.join(known)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind, required=True)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # the study file has chosen it
    try:
        return parser.instantiate(parser.parse_object({name: config}))[name]
    except (ArgumentError, ModuleNotFoundError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
