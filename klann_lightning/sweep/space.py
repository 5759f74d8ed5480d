"""A search space over configurations: suggest values, write them into an experiment, read them from one.

Keys are dotted paths into the configuration; a number is the place in a list: `model.stages.1.lr`.
"""

import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib import import_module
from math import isclose
from typing import Any, Protocol

from klann_lightning.errors import ConfigError
from klann_lightning.sweep.study import Entry

Config = dict[str, Any]
Space = Mapping[str, Entry]


class Trial(Protocol):
    """What suggests: an optuna Trial, or anything with its three methods."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


def suggest(trial: Trial, space: Space) -> Config:
    """One value for every key that is searched under the values before it."""
    chosen: Config = {}
    for key, entry in space.items():
        if not all(chosen.get(other) in _values(wanted) for other, wanted in entry.when.items()):
            continue
        if entry.length is None:
            chosen[key] = _one(trial, key, entry)
        else:
            least, most = entry.length
            count = trial.suggest_int(f"{key}.length", least, most, step=1, log=False)
            chosen[key] = [_one(trial, f"{key}.{place}", entry) for place in range(count)]
    return chosen


def assign(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of the configuration with the values written into it.

    Where another class is named, arguments of the former that it does not have are dropped.
    """
    config = deepcopy(config)
    for key, value in values.items():
        holder, last = _holder(config, key)
        if last == "class_path" and value != holder.get(last):
            accepted = _accepts(value)
            given = holder.get("init_args") or {}
            holder["init_args"] = {name: given[name] for name in given if name in accepted}
        holder[last] = value  # type: ignore[index]
    return config


def extract(config: Config, space: Space) -> tuple[Config, dict[str, Any]]:
    """What the space would have to choose for this configuration, and the parameters by which a sampler
    knows it; ConfigError if it lies outside.
    """
    known = _Known(config)
    return suggest(known, space), known.parameters


def samples(space: Space) -> Iterator[Config]:
    """Assignments that together reach every entry at both its ends, or with all its choices."""
    found: list[Config] = []
    for key, entry in space.items():
        for option in entry.choices if entry.type == "categorical" and entry.choices else (LOW, HIGH):
            sample = suggest(_Forced({**_conditions(key, space), key: option}), space)
            if sample not in found:
                found.append(sample)
                yield sample


def look_up(config: Config, key: str) -> Any:
    """The value at a dotted key; ConfigError if there is none."""
    holder, last = _holder(config, key)
    try:
        return holder[last]  # type: ignore[index]
    except (KeyError, IndexError) as error:
        raise ConfigError(f"{key}: the experiment has no such value") from error


def _one(trial: Trial, name: str, entry: Entry) -> Any:
    if entry.type == "categorical":
        return trial.suggest_categorical(name, entry.choices or [])
    low, high = entry.low or 0.0, entry.high or 0.0
    if entry.type == "int":
        return trial.suggest_int(name, int(low), int(high), step=int(entry.step or 1), log=entry.log)
    return trial.suggest_float(name, low, high, step=entry.step, log=entry.log)


def _values(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _holder(config: Config, key: str) -> tuple[Config, str | int]:
    """The dictionary or list that holds the key's value, and its name or place there."""
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    here: Any = config
    for part in path:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"{key}: the experiment has no {part!r} there") from error
    if not isinstance(here, list if isinstance(last, int) else dict):
        raise ConfigError(f"{key}: the experiment has no {last!r} there")
    return here, last  # type: ignore[return-value]


def _accepts(class_path: str) -> set[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return set(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no class {class_path}") from error


def _conditions(key: str, space: Space) -> Config:
    """Values of earlier keys under which a key is searched."""
    forced: Config = {}
    for other, wanted in space[key].when.items():
        forced |= {**_conditions(other, space), other: _values(wanted)[0]}
    return forced


class _Known:
    """Suggests what a configuration has, and keeps it as parameters."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.parameters: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return self._within(name, low, high, step)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._within(name, low, high, step))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        value = look_up(self.config, name)
        if value not in choices:
            raise ConfigError(f"{name} is {value}, which is not among the choices")
        self.parameters[name] = value
        return value

    def _within(self, name: str, low: float, high: float, step: float | None) -> float:
        key, _, last = name.rpartition(".")
        holder = look_up(self.config, key) if key else self.config
        value = len(holder) if isinstance(holder, list) and last == "length" else look_up(self.config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"{name} is {value}, outside {low:g} to {high:g}")
        if step is not None and not isclose((value - low) / step, round((value - low) / step), abs_tol=1e-8):
            raise ConfigError(f"{name} is {value}, which is no step of {step:g} from {low:g}")
        self.parameters[name] = value
        return value


LOW, HIGH = object(), object()  # ends of a range


class _Forced:
    """Suggests the given values and ends, elsewhere the low end or the first choice."""

    def __init__(self, forced: Config) -> None:
        self.forced = forced

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        chosen: Any = self.forced.get(name, self.forced.get(name.rpartition(".")[0], LOW))
        if chosen is HIGH:
            return high
        return low if chosen is LOW else float(chosen)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self.suggest_float(name, low, high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.forced.get(name, choices[0])
